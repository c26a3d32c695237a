"""Model versions: how they scale, name and number, and that the published record says all of it."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from streamer.core.declaration import Transform, declare
from streamer.core.fold import FINER, VOTE_MAX, VOTE_ONE
from streamer.core.model import (
    NEW,
    Decision,
    ModelVersion,
    Scaling,
    Segment,
    assemble,
    digest,
    from_record,
    label,
    scale,
    votes,
    within_squares,
)
from tests.corekit import packaged, version_of

DECLARATION = declare(packaged())
F = len(DECLARATION.features)


def a_version(**changed: Any) -> ModelVersion:
    """Make a version in which no two numbers are the same."""
    row = np.arange(1.0, F + 1)
    made = version_of(
        DECLARATION,
        [row / 8, -row / 4, row / 2],
        7,
        scaling=Scaling(row - 100, row + 100, row / 3, row / 7, row / 9),
        segments=(Segment(2, "two", 20), Segment(3, "three", 30, retired=True), Segment(5, "five", 50)),
        decision=Decision(0.2, 0.4, 1234),
    )
    return replace(made, created_at=11, as_of=12, quality={"inertia": 1.5}, provenance={"fit": "test"}, previous_version=6, **changed)


def same(one: Any, other: Any) -> bool:
    """Compare two dataclasses that have arrays in them."""
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, (ModelVersion, Scaling)):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return bool(one == other)


# Records


def test_a_version_survives_its_record() -> None:
    version = a_version()
    assert same(version, from_record(version.record()))
    first = replace(version, previous_version=None, eligibility=())
    assert same(first, from_record(first.record()))


def test_the_record_names_segments_by_stable_ids() -> None:
    record = a_version().record()
    assert ["seg_0002", "seg_0003", "seg_0005"] == [segment["segment_id"] for segment in record["segments"]]
    assert {"log1p", "none"} == {feature["transform"] for feature in record["features"]}
    assert "new" == NEW


def broken(**paths: Any) -> dict[str, Any]:
    """Give a version's record with some of its fields changed: `features__0__scale` is the scale of the first feature."""
    record = a_version().record()
    for path, value in paths.items():
        place: Any = record
        *steps, last = path.split("__")
        for step in steps:
            place = place[int(step) if step.isdigit() else step]
        place[last] = value
    return record


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"features__0__transform": "sqrt"}, "feature days_since_event has the transform 'sqrt', known are"),
        ({"features__1__scale": 0.0}, "feature days_since_purchase is scaled by"),
        ({"features__1__mean": float("nan")}, "feature days_since_purchase is scaled by"),
        ({"segments__1__number": 2}, r"segments are numbered \[2, 2, 5\]"),
        ({"segments__0__number": 0}, r"segments are numbered \[0, 3, 5\]"),
        ({"segments__0__retired": True, "segments__2__retired": True}, "every segment is retired"),
        ({"segments": []}, "every segment is retired"),
        ({"segments__2__centroid": [1.0]}, "segment 5 has 1 coordinates for 16 features"),
        ({"segments__2__centroid": [float("inf")] * F}, "segment 5 has the centroid"),
        ({"decision__margin": 1.5}, r"margins are \[1.5, 0.4\]"),
        ({"decision__margin_large": float("nan")}, r"margins are \[0.2, nan\]"),
    ],
)
def test_a_record_that_cannot_be_judged_by_is_refused_with_the_reason(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        from_record(broken(**changed))


def test_all_that_is_wrong_with_a_record_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"version 7 of model 'test' can't be used: feature .*; segments are .*; margins are .*: publish"):
        from_record(broken(features__0__scale=-1.0, segments__0__number=9, decision__margin=-0.1))


def test_centroids_are_rounded_to_the_fixed_point_clipped_to_where_votes_are_and_without_retired_ones() -> None:
    version = a_version(centroids=np.array([[0.25] * F, [9.0] * F, [-99.0] * F]))
    assert [[1 << 18] * F, [-VOTE_MAX * FINER] * F] == version.fixed_centroids().tolist()
    assert [2, 5] == [segment.number for segment in version.active]


# Scaling and votes


def test_scaling_makes_votes_of_mean_nothing_and_deviation_one() -> None:
    values = np.random.default_rng(1).lognormal(3, 1, (2000, 2))
    transforms = (Transform.NONE, Transform.LOG1P)
    found = scale(transforms, values)
    points = votes(transforms, found, values) / VOTE_ONE
    assert ([0.0, 0.0], [1.0, 1.0]) == (np.abs(points.mean(axis=0)).round(3).tolist(), points.std(axis=0).round(3).tolist())
    assert np.quantile(values, [0.005, 0.995], axis=0).tolist() == [found.low.tolist(), found.high.tolist()]


def test_a_constant_feature_has_no_weight_and_makes_votes_of_nothing() -> None:
    values = np.array([[5.0, 1.0], [5.0, 2.0], [5.0, 3.0]])
    found = scale((Transform.LOG1P, Transform.NONE), values)
    assert ([0.0, 1.0], 1.0) == (found.weight.tolist(), float(found.scale[0]))
    assert [0, 0, 0] == votes((Transform.LOG1P, Transform.NONE), found, values)[:, 0].tolist()
    assert [0] == votes((Transform.LOG1P, Transform.NONE), found, np.array([[99.0, 2.0]]))[:, 0].tolist()


def test_votes_of_arrays_in_any_layout_are_the_same() -> None:
    values = np.random.default_rng(2).normal(size=(40, 3))
    found = scale((Transform.NONE,) * 3, values)
    assert votes((Transform.NONE,) * 3, found, values).tolist() == votes((Transform.NONE,) * 3, found, np.asfortranarray(values)).tolist()


def test_inertia_sums_the_squares_to_the_nearest_centroid() -> None:
    vectors = np.array([[0, 0], [VOTE_ONE, 0], [4 * VOTE_ONE, VOTE_ONE]], np.int16)
    centroids = np.array([[0.0, 0.0], [4.0, 0.0]])
    assert 2.0 == within_squares(vectors, centroids)
    assert 18.0 == within_squares(vectors, centroids[:1])
    assert 0.0 == within_squares(np.zeros((0, 2), np.int16), centroids)


# Names and numbers


def test_a_segment_is_named_after_what_sets_it_apart() -> None:
    names = ("spend_90d", "views", "searches")
    assert "high spend 90d, low searches" == label(names, np.array([2.0, 0.5, -1.0]))
    assert "low views" == label(names, np.array([0.3, -0.35, 0.2]))
    assert "average" == label(names, np.array([0.3, -0.3, 0.2]))


def test_the_first_version_numbers_segments_by_size_and_tells_names_apart() -> None:
    rows = np.zeros((3, F))
    rows[0, 0], rows[1, 0], rows[2, 1] = 1.0, 2.0, -1.0
    scaling = Scaling(*(np.zeros(F) for _ in range(5)))
    made = {"created_at": 1, "as_of": 2, "quality": {}, "provenance": {}}
    version = assemble(DECLARATION, "shop", scaling, rows, np.array([5, 9, 7]), Decision(), made)
    names = ["high days since event (1)", "low days since purchase", "high days since event (3)"]
    assert names == [segment.name for segment in version.segments]
    assert ([1, 2, 3], [9, 7, 5]) == ([segment.number for segment in version.segments], [segment.members for segment in version.segments])
    assert [2.0, 0.0, 1.0] == version.centroids[:, 0].tolist()
    assert (1, "shop", None, DECLARATION.eligibility) == (version.version, version.name, version.previous_version, version.eligibility)


def test_a_version_s_bytes_are_known_by_their_sha_256() -> None:
    assert hashlib.sha256(b"body").digest() == digest(b"body")
