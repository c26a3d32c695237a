"""ADWIN over the stream's quantisation error: a change that lasts is counted once, what wavers is not, and it costs next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from streamer.app.error_drift import DOWN, EVERY_S, UP, ErrorDrift

if TYPE_CHECKING:
    from collections.abc import Hashable

OF = (1, (0, 1))


def fed(drift: ErrorDrift, values: np.ndarray, of: Hashable = OF, begin: int = 0) -> list[tuple[int, str]]:
    """Feed a value a minute; gives the minutes at which a change was found, and its direction."""
    found = []
    for minute, value in enumerate(values.tolist(), begin):
        told = drift.take(value, of, minute * EVERY_S)
        if told is not None:
            found.append((minute, told))
    return found


def wavering(mean: float, minutes: int, seed: int = 0) -> np.ndarray:
    return mean + np.random.default_rng(seed).normal(0, 0.002, minutes)


def test_an_error_that_wavers_does_not_drift() -> None:
    drift = ErrorDrift()
    assert [] == fed(drift, wavering(0.3, 3000))
    assert drift.mean is not None
    assert abs(drift.mean - 0.3) < 0.001


def test_a_lasting_rise_of_a_tenth_is_found_within_hours_and_counted_once() -> None:
    drift = ErrorDrift()
    assert [] == fed(drift, wavering(0.3, 1440))
    [(minute, direction)] = fed(drift, wavering(0.33, 1440, 1), begin=1440)
    assert UP == direction
    assert minute - 1440 < 360
    assert drift.mean is not None
    assert abs(drift.mean - 0.33) < 0.002


def test_learning_that_comes_nearer_is_a_change_too() -> None:
    drift = ErrorDrift()
    fed(drift, wavering(0.3, 1440))
    assert {DOWN} == {direction for _, direction in fed(drift, wavering(0.25, 1440, 1), begin=1440)}


def test_another_version_or_other_partitions_begin_anew() -> None:
    drift = ErrorDrift()
    fed(drift, wavering(0.3, 1000))
    assert [] == fed(drift, wavering(0.6, 1000), (2, (0, 1)), 1000)
    assert [] == fed(drift, wavering(0.3, 1000), (2, (0,)), 2000)


def test_it_is_due_once_a_minute() -> None:
    drift = ErrorDrift()
    assert drift.due(0.0)
    drift.take(0.3, OF, 0.0)
    assert not drift.due(EVERY_S - 1)
    assert drift.due(EVERY_S)


def test_before_the_first_value_there_is_no_mean_and_values_stay_within_bounds() -> None:
    drift = ErrorDrift()
    assert drift.mean is None
    drift.take(7.0, OF, 0.0)
    assert 1.0 == drift.mean
