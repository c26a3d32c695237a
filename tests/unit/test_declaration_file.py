"""Declaration files: the packaged one, wrong ones with their lines, and `streamer features`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from streamer.adapters.declaration_file import BYTES_MAX, load, packaged, parse
from streamer.app.features_command import app
from streamer.app.session import Session
from streamer.core.declaration import DeclarationError
from streamer.core.errors import Misconfigured
from streamer.core.exits import exit_status

if TYPE_CHECKING:
    from pathlib import Path


RIGHT = b"""\
measures:
  views: {count: view}
  spend:
    sum: properties.fee
    decimals: 2
    of: [purchase, refund]
  first: {first: any}
features:
  views_7d: {sum: views, window: 7d}
  spend_rate: {ratio: [spend, views], window: 24h, prior: 0.1, weight: 2, default: 1}
  age: {recency: first, cap: 36h}
"""


def refusal(content: bytes) -> str:
    with pytest.raises(Misconfigured) as caught:
        parse(content, "f.yaml")
    assert 78 == exit_status(caught.value)
    return str(caught.value)


def test_the_packaged_declaration_is_read_where_no_file_is_named() -> None:
    assert packaged() == load(None)
    assert "days_since_event" == packaged().features[0].name


def test_a_file_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + RIGHT)
    declared = load(path)
    assert ["views_7d", "spend_rate", "age"] == [f.name for f in declared.features]
    assert declared == parse(RIGHT, "other")


def test_every_fault_has_its_line() -> None:
    wrong = RIGHT.replace(b"sum: properties.fee", b"sum: fee").replace(b"window: 7d", b"window: 7w").replace(b"36h", b"36")
    lines = refusal(wrong).splitlines()
    starts = ["f.yaml:4: measures.spend.sum: ", "f.yaml:9: features.views_7d.window: ", "f.yaml:11: features.age.cap: "]
    assert [True] * 3 == [line.startswith(start) for line, start in zip(lines, starts, strict=True)]


def test_a_missing_key_has_the_line_of_what_lacks_it() -> None:
    assert refusal(RIGHT.replace(b", cap: 36h", b"")).startswith("f.yaml:11: features.age: `recency` needs `cap`")


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    assert refusal(RIGHT + b"features:\n").startswith("f.yaml:12: features: this key is there twice, first in line 8")
    twice = RIGHT.replace(b"  first:", b"  views: {count: x}\n  first:")
    assert refusal(twice).startswith("f.yaml:7: measures.views: this key is there twice, first in line 2")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "f.yaml: the file is empty"),
        (b"# nothing\n", "f.yaml: the file is empty"),
        (b"- 1\n", "f.yaml:1: the declaration: must be a mapping"),
        (b"features: [1\n", "f.yaml:2: not YAML: while parsing a flow sequence"),
        (b"features: {}\n---\nfeatures: {}\n", "f.yaml:2: not YAML"),
        (b"features: \xff\n", "f.yaml: not UTF-8"),
        (b"features: \x00\n", "f.yaml: not YAML"),
        (b"a: " + b"[" * 5000, "f.yaml"),
        (b"measures: {a: {count: 2024-13-01}}\n", "f.yaml:1: measures.a.count: '2024-13-01' is no value: month must be"),
        (b"measures: {a: !new view}\n", "f.yaml:1: measures.a: 'view' is no value: could not determine"),
        (b"? [a]\n: 1\n", "f.yaml:1: the declaration: has a key that is no text"),
        (b"measures: &m\n  a: *m\n", "nests deeper than 16"),
        (b"measures: {a: {count: on}}\n", "f.yaml:1: measures.a.count: True is not an event type"),
    ],
)
def test_what_is_no_declaration_is_refused(content: bytes, reason: str) -> None:
    assert reason in refusal(content)


def test_aliases_that_multiply_are_refused_at_once() -> None:
    rows = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    assert "more than 20000 values" in refusal(f"a0: &a0 [x]\n{rows}\n".encode())


def test_a_file_that_is_missing_a_directory_or_endless_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.yaml: the declaration can't be read: No such file"):
        load(tmp_path / "none.yaml")
    with pytest.raises(Misconfigured, match="Is a directory"):
        load(tmp_path)
    long = tmp_path / "long.yaml"
    long.write_bytes(b"#" * (BYTES_MAX + 1))
    with pytest.raises(Misconfigured, match=r"long\.yaml: longer than"):
        load(long)


# streamer features


def features(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), obj=Session(environment), env={"COLUMNS": "160"})


def test_the_command_shows_the_packaged_declaration_by_default() -> None:
    result = features()
    assert 0 == result.exit_code
    for word in (
        packaged().version,
        "default_features.yaml",
        "categories",
        "average_order_value",
        "spend, purchases",
        "log1p",
        "events of 2",
    ):
        assert word in result.output


def test_the_command_shows_the_configured_declaration_and_a_given_one_first(tmp_path: Path) -> None:
    mine, given = tmp_path / "mine.yaml", tmp_path / "given.yaml"
    mine.write_bytes(RIGHT)
    given.write_bytes(RIGHT.replace(b"views_7d", b"views_1w"))
    assert "views_7d" in features(STREAMER_FEATURES__DECLARATION=str(mine)).output
    output = features(str(given), STREAMER_FEATURES__DECLARATION=str(mine)).output
    for word in ("views_1w", "properties.fee, 2 decimals", "window 24h, prior 0.1, weight 2, default 1", "cap 36h", "purchase, refund"):
        assert word in output
    assert "views_7d" not in output


def test_the_command_writes_json() -> None:
    shown = json.loads(features("--json").output)
    assert packaged().version == shown["feature_version"]
    assert {"kind": "sum", "of": "amount", "types": ["purchase"]} == shown["measures"]["spend"]
    assert ["lifetime_count", "last", "distinct"] == [shown["measures"][name]["kind"] for name in ("events", "last_event", "categories")]
    assert [f.name for f in packaged().features] == list(shown["features"])
    assert ("sum", 30) == (shown["features"]["views_30d"]["kind"], shown["features"]["views_30d"]["window"])
    assert {"events": 2} == shown["eligibility"]


def test_the_command_refuses_a_wrong_declaration_with_line_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(RIGHT.replace(b"7d}", b"7x}"))
    error = features(str(path)).exception
    assert isinstance(error, DeclarationError)
    assert str(error).startswith(f"{path}:9: features.views_7d.window: '7x' is not a duration")


def test_the_command_line_ends_with_the_status_of_a_wrong_configuration(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(b"features: {}\n")
    code = "from streamer.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "features", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (78, f"streamer: {path}:1: features: declare at least one feature\n") == (done.returncode, done.stderr)
