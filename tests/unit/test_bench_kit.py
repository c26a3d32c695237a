"""The benchmarks' kit: what runs in turn, what a median and a ratio are of, and that results survive their file."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.bench import kit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def counting(log: list[str], name: str, values: list[float]) -> Callable[[], dict[str, float]]:
    left = iter(values)

    def measure() -> dict[str, float]:
        log.append(name)
        return {"cpu_us": next(left)}

    return measure


def test_cases_take_turns_and_a_ratio_is_taken_within_a_round() -> None:
    log: list[str] = []
    said: list[str] = []
    cases = {"floor": counting(log, "floor", [2.0, 20.0, 4.0]), "job": counting(log, "job", [1.0, 16.0, 3.0])}

    results = kit.run_in_turn(cases, runs=3, say=said.append)

    assert log == ["floor", "job"] * 3
    assert said[0] == "1/3 floor: cpu_us 2"
    assert results.median("job", "cpu_us") == 3.0
    assert results.spread("job", "cpu_us") == (1.0, 16.0)
    assert results.ratios("job", "floor", "cpu_us") == [0.5, 0.8, 0.75]
    assert results.ratio("job", "floor", "cpu_us") == 0.75


def test_results_survive_their_file_and_say_what_they_were_measured_on(tmp_path: Path) -> None:
    results = kit.run_in_turn({"one": lambda: {"bytes": 1.5}}, runs=2, about={"customers": 7}, say=lambda _: None)
    path = tmp_path / "new" / "one.json"
    results.json(path)
    assert results == kit.Results.read(path)
    assert results.about["customers"] == 7
    assert set(results.about) >= {"begun", "cores", "processor", "python", "libraries"}
    assert len(results.loads) == 2


def test_a_table_has_a_figure_only_where_its_case_has_it() -> None:
    results = kit.Results({"a": [{"x": 1.0}, {"x": 3.0}], "b": [{"y": 5.0}, {"y": 5.0}]}, [0.0, 0.0])
    columns = results.table().columns
    assert [["a", "b"], ["2 (1 to 3)", ""], ["", "5"]] == [list(column.cells) for column in columns]


def test_nothing_to_run_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to run: 0 cases, 5 rounds"):
        kit.run_in_turn({})


def test_a_child_tells_its_figures_in_its_last_line() -> None:
    assert kit.child([sys.executable, "-c", "print('begun'); print('{\"cpu_us\": 1.5}')"]) == {"cpu_us": 1.5}
    assert kit.child([sys.executable, "-c", ""]) == {}


@pytest.mark.parametrize(("value", "text"), [(4.7512, "4.75"), (0.7449, "0.745"), (154321.4, "154,321"), (45.678, "45.7"), (3.0, "3")])
def test_a_number_has_the_digits_that_count(value: float, text: str) -> None:
    assert kit.number(value) == text


def test_plots_are_written_as_png(tmp_path: Path) -> None:
    results = kit.Results({"floor": [{"cpu_us": 2.0}], "job": [{"cpu_us": 1.0}]}, [0.0])
    kit.plot_bars({"a": results, "b": results}, "cpu_us", tmp_path / "bars.png", title="CPU", limit=(1.5, "criterion"))
    kit.plot_lines({"job": [(1.0, 2.0), (10.0, 3.0)]}, tmp_path / "lines.png", title="latency", unit="ms", along="events/s", log=True)
    kit.plot_shares({"job": {"decode": 1.0, "fold": 2.0}, "floor": {"decode": 3.0}}, tmp_path / "shares.png", title="CPU", unit="us")
    for name in ("bars", "lines", "shares"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_results_are_plain_json(tmp_path: Path) -> None:
    kit.Results({"a": [{"x": 1.0}]}, [0.5], {"python": "3"}).json(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"runs": {"a": [{"x": 1.0}]}, "loads": [0.5], "about": {"python": "3"}}
