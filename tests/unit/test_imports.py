"""Imports point inward, the core is pure, and the check can fail."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What the core may import: arithmetic, containers and types. Nothing that reads a clock, a file, a socket or chance.
CORE_MAY = {
    "__future__",
    "abc",
    "array",
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "datetime",
    "decimal",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "heapq",
    "itertools",
    "json",
    "math",
    "operator",
    "re",
    "statistics",
    "string",
    "struct",
    "types",
    "typing",
    "zoneinfo",
    "numba",
    "numpy",
    "river",
    "sklearn",
    "streamer",
}
MAY_TOO = {"compiled.py": {"importlib"}}  # code that is cached is stamped with the sources that it was made from
IMPURE_CALLS = {"open", "print", "input", "now", "today", "utcnow", "default_rng", "fromfile", "loadtxt", "memmap"}

MODULES = (
    "streamer/__init__.py",
    "streamer/cli.py",
    "streamer/app/__init__.py",
    "streamer/app/worker.py",
    "streamer/adapters/__init__.py",
    "streamer/adapters/kafka.py",
    "streamer/adapters/redis/__init__.py",
    "streamer/adapters/redis/scripts.py",
    "streamer/core/__init__.py",
    "streamer/core/fold.py",
    "offline/__init__.py",
    "offline/fit.py",
    "schemas/__init__.py",
)


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command as c; c(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def lay_out(directory: Path, **contents: str) -> Path:
    """Write packages of our layout, with one import in each direction that is allowed."""
    allowed = {
        "streamer/cli.py": "import streamer.app.worker",
        "streamer/app/worker.py": "import streamer.adapters.kafka\nimport streamer.core.fold\nimport schemas",
        "streamer/adapters/redis/__init__.py": "import streamer.adapters.redis.scripts\nimport redis",
        "streamer/core/fold.py": "import numpy",
        "offline/fit.py": "import streamer.core.fold\nimport streamer.adapters.kafka",
    }
    for module in MODULES:
        path = directory / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{allowed.get(module, '')}\n{contents.get(module, '')}\n")
    return directory


def test_no_import_points_the_wrong_way() -> None:
    result = lint(ROOT)
    assert 0 == result.returncode, result.stdout


def test_the_check_passes_where_all_imports_point_inward(tmp_path: Path) -> None:
    result = lint(lay_out(tmp_path))
    assert 0 == result.returncode, result.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("streamer/app/worker.py", "streamer.cli"),
        ("streamer/adapters/kafka.py", "streamer.app.worker"),
        ("streamer/core/fold.py", "streamer.adapters.kafka"),
        ("streamer/core/fold.py", "streamer.app"),
        ("streamer/core/fold.py", "schemas"),
        ("streamer/core/fold.py", "confluent_kafka"),
        ("streamer/core/fold.py", "time"),
        ("streamer/core/fold.py", "logging"),
        ("streamer/core/fold.py", "os.path"),
        ("streamer/adapters/kafka.py", "streamer.adapters.redis"),
        ("streamer/adapters/redis/scripts.py", "streamer.adapters.kafka"),
        ("streamer/app/worker.py", "offline.fit"),
        ("offline/fit.py", "streamer.app.worker"),
        ("offline/fit.py", "streamer.cli"),
        ("schemas/__init__.py", "streamer.core"),
    ],
)
def test_the_check_fails_where_an_import_points_the_wrong_way(tmp_path: Path, module: str, imported: str) -> None:
    result = lint(lay_out(tmp_path, **{module: f"import {imported}"}))
    assert 1 == result.returncode, result.stdout
    assert "BROKEN" in result.stdout


def imports_of(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def impure_calls_of(source: str) -> set[str]:
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {name for call in calls if (name := call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "")) in IMPURE_CALLS}


@pytest.mark.parametrize("module", sorted(ROOT.glob("streamer/core/**/*.py")), ids=lambda path: str(path.name))
def test_the_core_imports_and_calls_nothing_that_is_not_pure(module: Path) -> None:
    source = module.read_text(encoding="utf-8")
    assert set() == imports_of(source) - CORE_MAY - MAY_TOO.get(module.name, set())
    assert set() == impure_calls_of(source)


def test_impure_imports_and_calls_are_seen_where_there_are_any() -> None:
    source = "import os.path\nfrom time import time\ndef f():\n    open('x')\n    datetime.now()\n"
    assert {"os", "time"} == imports_of(source)
    assert {"open", "now"} == impure_calls_of(source)
