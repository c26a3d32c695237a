"""The report in a real browser, where there is one: nothing sticks out on a phone or on a desk, and each shows its own drawings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.test_offline_report import PAGE

if TYPE_CHECKING:
    from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PROBE = """<!doctype html><body style="margin:0"><iframe id="page" src="report.html" style="border:0;width:{width}px;height:900px"></iframe>
<pre id="found"></pre><script>
page.onload = () => {{
  const inside = page.contentDocument, shown = (query) => [...inside.querySelectorAll(query)].filter((one) => one.clientWidth > 0);
  const root = inside.documentElement;
  const out = [...inside.querySelectorAll("main p, h1, h2, h3, figure svg, .card")].filter(
    (one) => one.getBoundingClientRect().right > root.clientWidth + 1);
  found.textContent = JSON.stringify({{
    overflow: root.scrollWidth - root.clientWidth,
    outside: out.map((one) => one.outerHTML.slice(0, 80)),
    wide: shown("figure svg.wide").length, narrow: shown("figure svg.narrow").length,
    smallest: Math.min(...shown("figure svg[role=img]").map((one) => one.getBoundingClientRect().width / one.viewBox.baseVal.width)),
  }});
}};
</script>"""


def looked_at(directory: Path, width: int) -> dict[str, Any]:
    """Show the page in a frame of a width, and tell what is seen."""
    (directory / "report.html").write_text(PAGE, encoding="utf-8")
    probe = directory / f"probe-{width}.html"
    probe.write_text(PROBE.format(width=width), encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--allow-file-access-from-files", "--dump-dom"]
    command = [str(BROWSER), *options, f"--user-data-dir={directory / 'profile'}", "--virtual-time-budget=5000", probe.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    found = re.search(r'<pre id="found">(.+?)</pre>', shown, re.DOTALL)
    assert found is not None, shown[:2000]
    told: dict[str, Any] = json.loads(unescape(found[1]))
    return told


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH: install one to see the report in a browser")
@pytest.mark.parametrize(("width", "mine", "other"), [(360, "narrow", "wide"), (1100, "wide", "narrow")])
def test_nothing_sticks_out_and_drawings_are_in_their_own_size(tmp_path: Path, width: int, mine: str, other: str) -> None:
    found = looked_at(tmp_path, width)
    assert (0, []) == (found["overflow"], found["outside"])
    assert found[mine] == PAGE.count("<figure")
    assert 0 == found[other]
    assert found["smallest"] > 0.9
