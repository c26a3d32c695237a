"""A backtest: known outcomes of tiny histories, policies that differ as they must, the retail sample, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from offline import backtest_plots, policies
from offline.backtest import Case, Outcome, Period, backtest, first_version, run
from offline.cli import app
from offline.event_files import read_events
from offline.events import Reading
from offline.policies import POLICIES, chosen, grid
from offline.replaying import Log, log_of
from offline.session import end_of
from streamer.app import samples
from streamer.core.declaration import declare
from streamer.core.errors import BadInput, Misconfigured
from streamer.core.model import Decision
from tests.offlinekit import BEGIN_DAY, DAY_MS, batches, event, shop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

pytestmark = pytest.mark.compiled

TREE = {
    "money": {"currency": "EUR", "others": "refuse"},
    "duplicates": {"ids_max": 4, "age": "1d"},
    "measures": {"purchases": {"count": "purchase"}, "spend": {"sum": "amount", "of": "purchase"}},
    "features": {"spend_1d": {"sum": "spend", "window": "1d"}},
}
BEGIN = (BEGIN_DAY + 1) * DAY_MS
ALWAYS = policies.Policy("always", "", Decision(0.0, 0.0, 0))


def spends(days: Mapping[str, Sequence[int]]) -> Log:
    """Let customers spend an amount a day, at noon."""
    rows = [
        event(customer, "purchase", (BEGIN_DAY + n) * DAY_MS + DAY_MS // 2, f"{customer}{n}", amount)
        for customer, amounts in days.items()
        for n, amount in enumerate(amounts)
    ]
    return log_of(Reading(declare(TREE)), batches(sorted(rows, key=lambda row: int(row["occurred_at"]))))


def case_of(log: Log, days: int, k: int = 2, **period: Any) -> Case:
    return Case(log, first_version(log, BEGIN, k), Period(BEGIN, BEGIN + days * DAY_MS, **period))


def steady(days: int) -> dict[str, list[int]]:
    """Give two groups apart, each of customers who spend the same every day."""
    return {f"{group}{n}": [amount + n] * (days + 1) for group, amount in (("low", 100), ("high", 5000)) for n in range(5)}


def test_where_nothing_moves_the_model_is_the_best_refit_and_nobody_changes() -> None:
    found = run(case_of(spends(steady(10)), 10, refit_days=2), chosen(["default"])[0])
    ratios = [day.wcss_ratio for day in found.days]
    assert [None, pytest.approx(1.0, abs=1e-3)] * 5 == ratios
    assert [pytest.approx(1.0, abs=1e-3)] * 5 == [day.wcss_ratio_told for day in found.days if day.wcss_ratio_told is not None]
    assert (0, 100, 0.0, {}) == (found.changes, found.customer_days, found.flapping, found.causes)
    assert {"seg_0001": 0.5, "seg_0002": 0.5} == found.days[-1].share


def test_a_customer_who_flaps_is_counted_each_time_and_every_return_within_seven_days() -> None:
    days = 12
    to_and_fro = [100, 5000] * (days // 2) + [100]
    log = spends({**steady(days), "flapping": to_and_fro})
    found = run(case_of(log, days), ALWAYS)
    assert [1] * days == [day.changes for day in found.days]
    assert [0] + [1] * (days - 1) == [day.returned for day in found.days]
    assert {"behaviour": days // 2, "decay": days // 2} == found.causes  # a day's spend counts until the midnight after the next day
    assert days / (11 * days) == pytest.approx(found.churn)
    assert pytest.approx((days - 1) / days) == found.flapping


def test_a_return_after_more_than_seven_days_is_no_flapping() -> None:
    log = spends({**steady(12), "once": [100, 5000, *[5000] * 8, *[100] * 3]})
    found = run(case_of(log, 12), ALWAYS)
    assert (2, 0.0) == (found.changes, found.flapping)


def test_dwell_keeps_who_flaps_unless_the_other_segment_is_much_nearer() -> None:
    log = spends({**steady(12), "flapping": [100, 5000] * 6 + [100]})
    case = case_of(log, 12)
    kept = run(case, replace(ALWAYS, decision=Decision(0.0, 1.0, 3 * DAY_MS)))
    assert 0 < kept.changes < run(case, ALWAYS).changes
    assert run(case, ALWAYS).changes == run(case, replace(ALWAYS, decision=Decision(0.0, 0.3, 3 * DAY_MS))).changes


def test_silence_moves_a_customer_with_sweeps_alone() -> None:
    log = spends({**steady(6), "silent": [5000]})
    case = case_of(log, 6)
    assert {"decay": 1} == run(case, ALWAYS).causes
    assert {} == run(case, replace(ALWAYS, sweeps=False)).causes


def test_what_is_frozen_falls_behind_what_learns() -> None:
    rising = {f"rising{n}": [100 + 400 * day + n for day in range(15)] for n in range(5)}
    rising |= {f"steady{n}": [5000 + n] * 15 for n in range(5)}
    case = case_of(spends({**rising, "c": [2500] * 15}), 14, refit_days=7)
    learning, frozen = (run(case, replace(ALWAYS, learning=how)) for how in ("one vote", "none"))
    ratio = [one.mean("wcss_ratio") for one in (learning, frozen)]
    assert ratio[0] is not None
    assert ratio[1] is not None
    assert ratio[0] < ratio[1]


@pytest.fixture(scope="module")
def browsing() -> Case:
    """Let 90 customers of three personas shop for 50 days; the first model comes after 30."""
    rows = shop(50, 90)
    log = log_of(Reading(read_declaration()), batches(rows))
    begin = (BEGIN_DAY + 30) * DAY_MS
    return Case(log, first_version(log, begin, 5), Period(begin, begin + 15 * DAY_MS, refit_days=5))


def read_declaration() -> Any:
    from streamer.adapters.declaration_file import load  # noqa: PLC0415

    return load(None)


def test_every_policy_measures_every_day_and_they_differ(browsing: Case) -> None:
    found = {one.policy.name: one for one in backtest(browsing, POLICIES)}
    assert {15} == {len(one.days) for one in found.values()}
    assert {3} == {sum(day.wcss_ratio is not None for day in one.days) for one in found.values()}
    assert {1} == {round(sum(day.share.values()), 9) for one in found.values() for day in one.days}
    figures = [[(day.changes, day.wcss_ratio, day.share) for day in one.days] for one in found.values()]
    assert all(figures.index(one) == n for n, one in enumerate(figures))
    assert {"reseed", "reseed-new-scale", "reseed-cold"} == {name for name, one in found.items() if one.days[0].relabelled is not None}
    assert (found["river"].mean("wcss_ratio") or 0) > (found["default"].mean("wcss_ratio") or 9)
    assert found["default"].changes <= found["nearest"].changes
    assert "decay" not in found["no-sweep"].causes
    assert all("model_drift" not in found[name].causes for name in ("frozen",))
    counted = [one.changes == sum(one.causes.values()) for one in found.values()]
    assert [True] * len(POLICIES) == counted


def test_spend_is_explained_where_the_log_goes_on_for_thirty_days() -> None:
    log = spends(steady(40))
    days = run(case_of(log, 12), chosen(["default"])[0]).days
    known = [day.separation is not None for day in days]
    assert [True] * 9 + [False] * 3 == known
    assert pytest.approx(1.0, abs=0.01) == days[0].separation


def test_processes_cannot_show(browsing: Case) -> None:
    wanted = chosen(["default", "frozen", "no-dwell"])
    seen: list[int] = []
    assert backtest(browsing, wanted) == backtest(browsing, wanted, 2, seen.append)
    assert {0: 15, 1: 15, 2: 15} == {n: seen.count(n) for n in range(3)}


def test_the_events_votes_are_those_that_one_fold_leaves(browsing: Case) -> None:
    from offline.replaying import Replay  # noqa: PLC0415

    at = browsing.period.begin
    one, other = Replay(browsing.log), Replay(browsing.log)
    for replay in (one, other):
        replay.play(at)
        replay.adopt(browsing.version, at)
    moved = one.play(at + DAY_MS)
    again, votes = other.play_one_by_one(at + DAY_MS)
    assert len(moved.after) == len(again.after)
    assert len(votes) == np.count_nonzero(browsing.log.rows.time[at <= browsing.log.rows.time] < at + DAY_MS)
    assert one.midnight(at + DAY_MS).after.tolist() == other.midnight(at + DAY_MS).after.tolist()


def test_too_few_customers_no_days_and_no_events_are_told() -> None:
    log = spends(steady(3))
    with pytest.raises(BadInput, match="10 customers have enough behind them at the first model, of whom 10 differ: too few for 11"):
        first_version(log, BEGIN, 11)
    with pytest.raises(BadInput, match="there is no day after the first model"):
        backtest(replace(case_of(log, 1), period=Period(BEGIN, BEGIN)), POLICIES)
    with pytest.raises(BadInput, match="no event is valid of 0"):
        log_of(log.reading, [])


def test_grids_and_names() -> None:
    assert ["0%/3d/30%", "0%/7d/30%", "10%/3d/30%", "10%/7d/30%"] == [one.name for one in grid([0, 0.1], [3, 7])]
    assert [0.5, 0.5] == [one.decision.margin_large for one in grid([0.1], [0, 1], [0.5])]
    assert ["frozen"] == [one.name for one in chosen(["frozen", "frozen"])]
    with pytest.raises(Misconfigured, match="did you mean frozen"):
        chosen(["frosen"])


@pytest.fixture(scope="module")
def retail() -> list[Outcome]:
    """Backtest the packaged sample for six weeks, by recency, frequency and money."""
    read = read_events(samples.sample_path(), "online_retail", samples.sample_path().with_name("rfm_features.yaml"))
    log, period = log_of(Reading(read.declaration), read.batches), Period(end_of("2011-04-01"), end_of("2011-05-13"))
    return backtest(Case(log, first_version(log, period.begin, 4), period), chosen(["default", "nearest", "frozen", "no-sweep"]))


def test_on_the_retail_sample_learning_stays_near_the_refit_and_margin_calms(retail: list[Outcome]) -> None:
    usual, nearest, frozen, still = retail
    assert (usual.mean("wcss_ratio") or 9) < 1.05 < (still.mean("wcss_ratio") or 0)
    assert (usual.mean("wcss_ratio") or 9) < (frozen.mean("wcss_ratio") or 0)
    assert usual.changes < nearest.changes
    assert usual.flapping < nearest.flapping
    assert usual.causes["decay"] > usual.causes["behaviour"] > 0


def test_plots_are_drawn_for_policies_and_for_a_grid(tmp_path: Path, retail: list[Outcome]) -> None:
    files = backtest_plots.plot(retail, tmp_path)
    assert ["margin_dwell.png", "margin_dwell.svg", "policies.png", "policies.svg"] == sorted(file.name for file in files)
    assert all(file.stat().st_size > 10_000 for file in files)
    assert ["policies.png", "policies.svg"] == sorted(file.name for file in backtest_plots.plot(retail[2:], tmp_path))


def said(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "240"})
    assert 0 == result.exit_code, (result.output, result.exception)
    return str(result.stdout)


def test_the_command_prints_a_table_or_json_and_writes_figures(tmp_path: Path) -> None:
    declaration = samples.sample_path().with_name("rfm_features.yaml")
    common = ("backtest", samples.sample_path(), "-m", "online_retail", "--features", declaration, "--k", 4, "--first-model", "2011-04-01")
    shown = said(*common, "--until", "2011-04-08", "--policy", "default", "--policy", "frozen", "--refit-days", 7, "--out", tmp_path)
    assert all(word in shown for word in ("default", "frozen", "A-B-A in 7 days", "7 days, "))
    written = json.loads((tmp_path / "backtest.json").read_text())
    assert ["default", "frozen"] == [one["name"] for one in written["policies"]]
    assert ("2011-04-01", "2011-04-08", 4) == (written["first_model"], written["until"], written["k"])
    assert "2011-04-02" == written["policies"][0]["days"][0]["day"]
    body = json.loads(said(*common, "--until", "2011-04-03", "--margin", "0,20", "--dwell", "1", "--jobs", 1, "--json"))
    assert ["0%/1d/30%", "20%/1d/30%"] == [one["name"] for one in body["policies"]]


def test_wrong_options_are_told() -> None:
    def refused(*options: str) -> str:
        result = CliRunner().invoke(app, ["backtest", "x.csv", "--first-model", "2011-04-01", *options])
        assert isinstance(result.exception, Misconfigured)
        return str(result.exception)

    assert "--margin: 'a' is no list of numbers" in refused("--margin", "a")
    assert "a margin is from 0 to 100 percent" in refused("--margin-large", "130")
    assert "--dwell: '-1': a dwell is from 0" in refused("--dwell=-1")
