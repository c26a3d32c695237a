"""The command line: help that is quick and true, and errors of one line."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from offline import cli as offline_cli
from streamer import __version__, cli
from streamer.app.session import Session, session_of
from streamer.core.errors import BadInput, Corrupt, LostOwnership, Misconfigured, StreamerError, Unavailable
from streamer.core.exits import STATUSES, exit_status, message
from streamer.core.ports import ClientFailed, OffsetOutOfRange, Unclear

HEAVY = {"confluent_kafka", "numba", "numpy", "openpyxl", "pandas", "pyarrow", "redis", "river", "sklearn", "yaml"}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line as the console script does and give its exit status."""
    monkeypatch.setattr(sys, "argv", ["streamer", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"], obj=Session(environment={}))
    assert 0 == shown.exit_code
    assert [] == [name for name in cli.COMMANDS if name not in shown.output]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_says_of_itself_first_what_the_list_says_of_it(name: str) -> None:
    command = typer.main.get_command(importlib.import_module(cli.COMMANDS[name].module).app)
    listed = cli.COMMANDS[name].help
    assert listed.endswith(".")
    assert listed.removesuffix(".") == " ".join((command.help or "").split())[: len(listed) - 1]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_shows_its_help(name: str) -> None:
    shown = CliRunner().invoke(cli.app, [name, "--help"], obj=Session(environment={}), prog_name="streamer")
    assert 0 == shown.exit_code
    assert f"streamer {name}" in shown.output
    assert "completion" not in shown.output


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, streamer.cli, typer.testing as t; t.CliRunner().invoke(streamer.cli.app, ['--help']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set() == HEAVY & set(loaded)


def test_both_commands_tell_their_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(monkeypatch, "--version")
    assert f"streamer {__version__}\n" == capsys.readouterr().out
    assert f"offline {__version__}\n" == CliRunner().invoke(offline_cli.app, ["--version"]).output


def test_config_shows_each_value_with_its_origin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "streamer.yaml"
    file.write_text("model: {k: 3}\n")
    monkeypatch.setenv("STREAMER_CONFIG", str(file))
    monkeypatch.setenv("STREAMER_REDIS__PASSWORD", "hush")
    assert 0 == run(monkeypatch, "config", "--json")
    shown = json.loads(capsys.readouterr().out)
    assert {"value": 3, "origin": f"{file}:1"} == shown["model.k"]
    assert {"value": "***", "origin": "STREAMER_REDIS__PASSWORD"} == shown["redis.password"]
    assert 0 == run(monkeypatch, "config")
    assert ["model.k", "3", f"{file}:1"] in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_a_wrong_configuration_is_told_on_standard_error_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMER_MODEL__K", "many")
    assert 78 == run(monkeypatch, "config")
    told = "streamer: model.k: 'many' (STREAMER_MODEL__K) is not a whole number: give a whole number from 2 to 256\n"
    assert ("", told) == capsys.readouterr()
    assert 78 == run(monkeypatch, "--debug", "config")
    assert "Traceback" in capsys.readouterr().err


def test_an_unknown_command_or_option_is_a_fault_of_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 == run(monkeypatch, "confg")
    assert 2 == run(monkeypatch, "config", "--yaml")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BadInput("x"), 65),
        (OffsetOutOfRange(0, 1), 66),
        (Unavailable("x"), 69),
        (Unclear("x"), 69),
        (ClientFailed("x"), 71),
        (Corrupt("x"), 74),
        (LostOwnership("x"), 75),
        (Misconfigured("x"), 78),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("x"), 70),
    ],
)
def test_each_kind_of_error_has_a_status_of_its_own(error: BaseException, status: int) -> None:
    assert status == exit_status(error)


def test_only_a_fault_of_this_program_says_that_it_is_one() -> None:
    assert "the broker is away" == message(Unavailable("the broker is away"))
    assert "interrupted" == message(KeyboardInterrupt())
    assert "a fault of this program: ZeroDivisionError: x (--debug shows where)" == message(ZeroDivisionError("x"))
    assert {BadInput, Corrupt, LostOwnership, Misconfigured, Unavailable} <= set(StreamerError.__subclasses__())


def test_the_page_on_deployment_names_the_statuses_that_a_worker_ends_with() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    listed = {int(status) for status in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    usage = {STATUSES[BadInput], STATUSES[Unavailable], STATUSES[LostOwnership]}  # a worker waits for servers, and reads no files
    assert {0, exit_status(ZeroDivisionError()), *STATUSES.values()} - usage == listed


def test_a_command_outside_the_root_command_is_told_so() -> None:
    lone = typer.Typer()

    @lone.command()
    def command(context: typer.Context) -> None:
        session_of(context)

    command.__annotations__["context"] = typer.Context
    assert isinstance(CliRunner().invoke(lone, []).exception, TypeError)
