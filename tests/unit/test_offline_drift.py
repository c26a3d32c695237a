"""`offline drift`: what has not changed is told to be the same, what has is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from offline import drift_command
from offline.cli import app
from offline.drift import Drift
from offline.job_metrics import LAST_SUCCESS
from offline.reseed_command import Request
from offline.reseed_command import run as reseed
from offline.settings import DriftLimits, Settings
from offline.shelf import Kept, Shelf
from streamer.core.errors import BadInput, Misconfigured
from tests.offlinekit import DAY_MS, FakeHistory, end_of, shop
from tests.unit.test_offline_history import archive
from tests.unit.test_offline_job_metrics import read

if TYPE_CHECKING:
    from pathlib import Path

ROWS = shop(60, 90)
LATER = shop(75, 90)


def quiet(_step: str, _done: int, _of: int) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    shelf = Shelf(str(tmp_path_factory.mktemp("models")), "segments")
    return reseed(Request(end_of(ROWS), k=3), FakeHistory(ROWS), shelf, Settings(), quiet)


def found(kept: Kept, rows: list[dict[str, Any]], settings: Settings | None = None) -> Drift:
    return drift_command.run(kept, FakeHistory(rows), settings or Settings(), end_of(rows), None, quiet)


def test_the_customers_of_the_fit_have_not_drifted(kept: Kept) -> None:
    same = found(kept, ROWS)
    assert ((), 0.0) == (same.reasons, max(same.psi.values()))
    assert pytest.approx(1.0) == same.error_ratio
    assert all(one.shift == 0.0 for one in same.segments)
    assert same.customers == same.customers_before == int(kept.version.quality["customers"])


def test_what_stands_beside_a_version_is_what_the_history_gives(kept: Kept) -> None:
    beside, again = found(kept, ROWS), found(Kept(kept.version, kept.sha256, {}), ROWS)
    assert beside.psi == again.psi
    assert pytest.approx(beside.error_before) == again.error_before
    assert [one.before for one in beside.segments] == pytest.approx([one.before for one in again.segments])


def test_the_same_shop_five_days_later_is_the_same(tmp_path: Path) -> None:
    """Once every window is full, until when features grow with the days, and of enough customers for chance to say little."""
    rows = shop(102, 240)
    until = end_of(rows) - 5 * DAY_MS
    before = [row for row in rows if row["occurred_at"] < until]
    fitted = reseed(Request(end_of(before), k=3), FakeHistory(before), Shelf(str(tmp_path), "segments"), Settings(), quiet)
    assert () == found(fitted, rows).reasons


def test_a_shop_that_sells_ten_times_as_much_has_drifted_and_says_in_what(kept: Kept) -> None:
    rows = [{**row, "amount": None if row["amount"] is None else row["amount"] * 40} for row in ROWS]
    rows += [{**row, "event_id": f"more {n}"} for n, row in enumerate(rows) if row["event_type"] == "view"]
    much = found(kept, rows)
    told = " ".join(much.reasons)
    assert max(much.psi, key=lambda name: much.psi[name]) in told
    assert any("spend" in name or "order" in name for name, value in much.psi.items() if value > 0.25)
    assert much.error_ratio != pytest.approx(1.0)


def test_a_share_that_moves_is_named(kept: Kept) -> None:
    lost = {f"c{n:03d}" for n in range(0, 90, 3)}
    fewer = found(kept, [row for row in ROWS if row["customer_id"] not in lost])
    moved = max(fewer.segments, key=lambda one: abs(one.shift))
    assert abs(moved.shift) > 0.1
    assert any(moved.segment_id in reason for reason in fewer.reasons)
    assert pytest.approx(1.0) == sum(one.now for one in fewer.segments)


def test_limits_are_those_of_the_settings(kept: Kept) -> None:
    rows = [{**row, "amount": None if row["amount"] is None else row["amount"] * 40} for row in ROWS]
    assert found(kept, rows).reasons
    wide = Settings(drift=DriftLimits(psi_max=100, error_ratio_max=1e6, share_shift_max=1))
    assert () == found(kept, rows, wide).reasons


def test_nobody_eligible_is_an_error(kept: Kept) -> None:
    with pytest.raises(BadInput, match="none of 1 customers is eligible"):
        found(kept, [{**ROWS[0], "event_type": "view"}])


def test_another_declaration_is_refused(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "features.yaml"
    file.write_text("measures: {n: {lifetime_count: any}}\nfeatures: {events: {lifetime: n}}\neligibility: {n: 1}\n", encoding="utf-8")
    with pytest.raises(Misconfigured, match="give the version's own with --features"):
        drift_command.run(kept, FakeHistory(ROWS), Settings(), end_of(ROWS), file, quiet)


def test_the_command_shows_leaves_figures_and_has_a_status(tmp_path: Path) -> None:
    history, models, figures = archive(tmp_path / "history", LATER), tmp_path / "models", tmp_path / "drift.prom"
    day = "2024-12-02"
    made = CliRunner().invoke(
        app, ["reseed", history, "--models", str(models), "--as-of", day, "--k", "3", "--metrics-file", str(tmp_path / "reseed.prom")]
    )
    assert 0 == made.exit_code, (made.output, made.exception)
    assert {("offline_reseed_version",): 1.0, ("offline_reseed_refused",): 0.0}.items() <= read(tmp_path / "reseed.prom").items()
    arguments = ["drift", history, "--models", str(models), "--metrics-file", str(figures)]
    same = CliRunner().invoke(app, [*arguments, "--as-of", day, "--json"])
    assert 0 == same.exit_code, (same.output, same.exception)
    assert not json.loads(same.stdout)["drifted"]
    assert 0.0 == read(figures)["offline_drift_limits_passed",]
    assert (LAST_SUCCESS, "drift") in read(figures)
    strict = tmp_path / "strict.yaml"
    strict.write_text("offline: {drift: {error_ratio_max: 0.5}}\n", encoding="utf-8")
    shown = CliRunner().invoke(app, ["--settings", str(strict), *arguments, "--as-of", day], env={"COLUMNS": "200"})
    assert 1 == shown.exit_code
    assert "customers are farther from their centroids" in shown.output
    assert "seg_0001" in shown.output
    nothing = CliRunner().invoke(app, ["drift", history, "--models", str(tmp_path / "none"), "--as-of", day])
    assert isinstance(nothing.exception, Misconfigured)


def test_a_ratio_without_an_error_at_the_fit_is_told_in_json() -> None:
    made = Drift(1, 0, DAY_MS, 1, 1, {}, 1.0, 0.0, (), ())
    assert np.isinf(made.error_ratio)
    assert made.record()["quantisation_error_ratio"] is None
    assert 1.0 == Drift(1, 0, DAY_MS, 1, 1, {}, 0.0, 0.0, (), ()).error_ratio
