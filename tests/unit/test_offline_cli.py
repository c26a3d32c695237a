"""The nightly job's command line: quick help, versions looked at, errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from offline.cli import app, main
from offline.reseed_command import Request, run
from offline.settings import Settings
from offline.shelf import Shelf
from tests.offlinekit import FakeHistory, end_of, shop

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"confluent_kafka", "numba", "numpy", "openpyxl", "pandas", "pyarrow", "redis", "river", "scipy", "sklearn", "yaml"}


def said(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert 0 == result.exit_code, (result.output, result.exception)
    return str(result.output)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep two versions and a refused candidate."""
    found = tmp_path_factory.mktemp("models")
    shelf, rows = Shelf(str(found), "segments"), shop(60, 60)

    def night(k: Any, digest: str, **request: Any) -> None:
        run(Request(end_of(rows), k=k, **request), FakeHistory(rows, digest), shelf, Settings(), lambda _s, _d, _o: None)

    night(3, "1" * 64)
    night(12, "2" * 64)
    night("auto", "3" * 64, forced="k was asked for")
    return found


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    shown = said("--help")
    assert all(name in shown for name in ("segment", "reseed", "backtest", "models"))
    code = "import sys, offline.cli, typer.testing as t; t.CliRunner().invoke(offline.cli.app, ['--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set() == HEAVY & set(loaded)


@pytest.mark.parametrize(
    "command", [("segment",), ("reseed",), ("backtest",), ("models",), ("models", "list"), ("models", "show"), ("models", "diff")]
)
def test_every_command_shows_its_help(command: tuple[str, ...]) -> None:
    assert "Usage" in said(*command, "--help")


def test_versions_are_listed_shown_and_compared(place: Path) -> None:
    listed = json.loads(said("models", "list", "--models", place, "--json"))
    versions = [one["version"] for one in listed]
    assert versions[:1] == [1]
    assert {"passed", "refused"} <= {one["gate"] for one in listed}
    assert "2024-12-02" in said("models", "list", "--models", place)
    shown = said("models", "show", 1, "--models", place)
    assert "The gate passes it." in shown
    assert "provenance.manifest: " + "1" * 64 in shown
    assert 1 == json.loads(said("models", "show", 1, "--models", place, "--json"))["version"]["version"]
    last = max(one["version"] for one in listed if one["gate"] != "refused")
    assert {"seg_0001"} <= {row["segment_id"] for row in json.loads(said("models", "diff", 1, last, "--models", place, "--json"))}
    assert "goes on" in said("models", "diff", 1, 1, "--models", place)


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (("models", "show", "9", "--models", "nowhere"), 78, "offline: there is no version 9 of segments in nowhere: there are none\n"),
        (("--settings", "none.yaml", "segment", "x.csv", "--k", "3"), 78, "offline: none.yaml: the settings can't be read"),
        (("reseed", "history", "--models", "m", "--force", " "), 78, "offline: --force: give the reason"),
        (("reseed", "history", "--models", "m", "--as-of", "2026-13-01"), 78, "offline: --as-of: '2026-13-01' is no day"),
        (("reseed", "history", "--models", "m", "--k", "many"), 78, "offline: --k: 'many' is neither `auto` nor"),
        (("segment", "none.csv", "--k", "3"), 65, "offline: none.csv: there is no such file\n"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    status: int,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for debug in ((), ("--debug",)):
        monkeypatch.setattr(sys, "argv", ["offline", *debug, *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert status == stopped.value.code
        err = capsys.readouterr().err
        assert reason in err
        assert ("Traceback" in err) == bool(debug)
