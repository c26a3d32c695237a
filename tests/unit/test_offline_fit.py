"""Fits, the choice of k, matching and names: what comes out is right, repeatable, and keeps ids and names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from offline import choosing
from offline.events import Reading
from offline.features import compute
from offline.fit import cold, points_of, sampled, shares, stability, warm
from offline.identity import match, typical
from offline.naming import AVERAGE, name, named, plain_words, said_by, still_true, words_of
from streamer.adapters.declaration_file import load
from streamer.core.declaration import Transform
from streamer.core.errors import BadInput
from streamer.core.fold import VOTE_ONE
from streamer.core.lloyd import assign, fixed
from streamer.core.model import scale, votes
from tests.offlinekit import batches, end_of, event, shop

pytestmark = pytest.mark.compiled  # thousands of votes, and what is compiled has its own tests uncompiled

RNG = np.random.default_rng(8)
CENTRES = np.array([[-1.5, -1.5], [1.5, -1.5], [0.0, 1.8], [4.0, 4.0]])
POINTS = np.concatenate([RNG.normal(centre, 0.25, (60, 2)) for centre in CENTRES])
VECTORS = np.round(POINTS * VOTE_ONE).astype(np.int16)
TRUTH = np.repeat(np.arange(4), 60)
NOISE = np.round(RNG.normal(0, 1, (400, 2)) * VOTE_ONE).astype(np.int16)


# Fits


def test_a_cold_fit_finds_the_groups_the_largest_first_and_does_so_again() -> None:
    uneven = np.concatenate([VECTORS, VECTORS[:30]])
    found = cold(uneven, 4)
    assert [90, 60, 60, 60] == found.members.tolist()
    assert 1.0 == adjusted_rand_score(TRUTH, assign(VECTORS, found.centroids)[0])
    assert found.centroids.tolist() == cold(uneven, 4).centroids.tolist()


def test_a_warm_fit_keeps_each_cluster_in_its_place() -> None:
    start = fixed(CENTRES[::-1] + 0.2)
    found = warm(VECTORS, start)
    assert (3 - TRUTH).tolist() == assign(VECTORS, found.centroids)[0].tolist()
    assert found.inertia == pytest.approx(cold(VECTORS, 4).inertia)


def test_a_large_fit_starts_on_a_sample_that_a_seed_draws() -> None:
    assert [0, 1, 2] == sampled(3, 3, 0).tolist()
    drawn = sampled(1000, 10, 4)
    assert drawn.tolist() == sorted(set(drawn.tolist()))
    assert (10, drawn.tolist()) == (len(drawn), sampled(1000, 10, 4).tolist())
    assert [0.25, 0.75] == shares(np.array([1, 3])).tolist()


def test_groups_that_are_there_are_stable_and_a_cut_through_a_cloud_is_not() -> None:
    assert stability(VECTORS, fixed(CENTRES)) > 0.99
    assert stability(NOISE, cold(NOISE, 6).centroids) < 0.8


def test_what_is_clipped_is_counted_and_a_feature_without_variance_is_named() -> None:
    frame = pd.DataFrame({"spend": [*range(1, 1000), 10**9], "same": 3.0})
    points = points_of(frame, np.ones(1000, np.bool_), [Transform.LOG1P, Transform.NONE])
    assert (("same",), {"spend": 10}, 10) == (points.flat, points.clipped(), points.clipped_rows())
    eligible = np.arange(1000) < 10
    assert list(range(10)) == points_of(frame, eligible, points.transforms).customers.tolist()


# The number of segments


def test_the_number_that_is_there_is_chosen_by_all_criteria_together() -> None:
    told: list[tuple[int, int]] = []
    choice = choosing.choose(VECTORS, range(2, 8), progress=lambda done, of: told.append((done, of)))
    assert 4 == choice.k
    assert [2, 3, 4, 5, 6, 7] == choice.table["k"].tolist()
    assert choice.table.loc[choice.table["chosen"], "k"].tolist() == [4]
    assert (6, 6) == told[-1]
    assert set(choosing.CRITERIA) < set(choice.table.columns)
    assert (choice.table["wcss"].diff().dropna() < 0).all()


def test_silhouette_alone_never_decides() -> None:
    lonely = np.concatenate([NOISE // 8, np.full((2, 2), 7 * VOTE_ONE, np.int16)])
    table = choosing.choose(lonely, range(2, 6), share_max=0.9).table
    assert 0 == np.argmax(table["silhouette"].to_numpy())
    assert [2] == table.loc[~table["allowed"], "k"].tolist()
    assert [True] == table.loc[table["chosen"], "allowed"].tolist()


def test_too_few_customers_and_segments_that_are_always_too_small_are_refused() -> None:
    with pytest.raises(BadInput, match="1 different customers are too few for 2 segments"):
        choosing.choose(np.zeros((9, 2), np.int16))
    with pytest.raises(BadInput, match="with every k from 2 to 3 some segment is outside"):
        choosing.choose(VECTORS, range(2, 4), share_min=0.6)
    assert [2] == choosing.choose(VECTORS[[0, 0, 60]], range(2, 9)).table["k"].tolist()


def test_the_bend_is_the_point_farthest_below_the_chord() -> None:
    assert [0.0, 0.4, 0.0] == choosing.elbow(np.array([2.0, 3.0, 4.0]), np.array([10.0, 1.0, 0.0])).round(9).tolist()
    assert [0.0, 0.0] == choosing.elbow(np.array([2.0, 3.0]), np.array([10.0, 1.0])).tolist()


# Identity


def test_segments_are_matched_whatever_the_order_they_come_in() -> None:
    order = [2, 0, 3, 1]
    labels = np.array(order).argsort()[TRUTH].astype(np.int32)
    found = match(CENTRES, CENTRES[order] + 0.1, TRUTH.astype(np.int32), labels, [11, 12, 15, 17], 18)
    assert ((15, 11, 17, 12), (), ()) == (found.numbers, found.born, found.retired)
    assert {11, 12, 15, 17} == set(found.same)
    assert {1.0} == set(found.overlap.values())


def test_a_birth_gets_the_next_number_and_a_death_keeps_its_own() -> None:
    old_labels, new_labels = np.where(TRUTH == 3, 2, TRUTH).astype(np.int32), np.where(TRUTH == 1, 0, TRUTH).astype(np.int32)
    more = match(CENTRES[:3], CENTRES, old_labels, TRUTH.astype(np.int32), [1, 2, 5], 9)
    assert ((1, 2, 5, 9), (9,), ()) == (more.numbers, more.born, more.retired)
    fewer = match(CENTRES, CENTRES[[0, 2, 3]], TRUTH.astype(np.int32), np.array([0, 0, 1, 2], np.int32)[TRUTH], [1, 2, 5, 9], 10)
    assert ((1, 5, 9), (), (2,)) == (fewer.numbers, fewer.born, fewer.retired)
    assert new_labels.max() == 3


def test_near_centroids_with_other_customers_are_another_segment() -> None:
    labels = np.zeros(100, np.int32)
    labels[:5] = 1
    other = np.ones(100, np.int32)
    other[95:] = 0
    found = match(CENTRES[:2], CENTRES[:2], labels, other, [1, 2], 3)
    assert ((3, 4), (3, 4), (1, 2)) == (found.numbers, found.born, found.retired)


def test_a_centroid_in_the_features_own_units_is_what_was_scaled() -> None:
    values = np.array([[0.0, 1.0], [9.0, 2.0], [99.0, 3.0]])
    transforms = (Transform.LOG1P, Transform.NONE)
    scaling = scale(transforms, values)
    assert np.allclose(typical(transforms, scaling, votes(transforms, scaling, values) / VOTE_ONE), values, rtol=1e-2, atol=0.5)


# Names

DECLARATION = load(None)
WORDS = words_of(DECLARATION)
FEATURES = tuple(feature.name for feature in DECLARATION.features)


def centroid(**z: float) -> Any:
    found = np.zeros(len(FEATURES))
    for feature, value in z.items():
        found[FEATURES.index(feature)] = value
    return found


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        ({"purchases_30d": 2.0, "purchases_90d": 1.9, "days_since_event": -1.0}, "many purchases in 30 days, recent event"),
        ({"days_since_purchase": 2.0, "spend_90d": -1.0}, "long since purchase, low spend in 90 days"),
        ({"active_days_30d": 1.0, "categories_90d": -0.9}, "many active days in 30 days, few categories in 90 days"),
        ({"days_between_purchases": 1.0, "refund_rate": 0.9}, "long gaps between purchases, high refund rate"),
        ({"average_order_value": -1.0, "views_7d": -0.9}, "few views in 7 days, low average order value"),
        ({"views_7d": 0.3}, AVERAGE),
    ],
)
def test_a_segment_is_named_in_plain_words_after_what_sets_it_apart(z: dict[str, float], expected: str) -> None:
    assert expected == name(WORDS, centroid(**z))


def test_a_count_of_nothing_is_called_nothing() -> None:
    assert "no purchases in 90 days" == name(WORDS, centroid(purchases_90d=-1.0), np.zeros(len(FEATURES)))
    assert "few purchases in 90 days" == name(WORDS, centroid(purchases_90d=-1.0), np.ones(len(FEATURES)))


def test_of_nothing_it_is_said_once() -> None:
    z = centroid(spend_30d=-2.0, purchases_30d=-1.9, views_7d=1.0)
    assert "no spend in 30 days, many views in 7 days" == name(WORDS, z, np.where(z > 0, 9.0, 0.0))


def test_every_name_is_read_back_and_what_a_person_wrote_is_not() -> None:
    for f, word in enumerate(WORDS):
        assert [(f, 1)] == said_by(WORDS, FEATURES, word.much)
        assert [(f, -1)] == said_by(WORDS, FEATURES, f"{word.little} (3)")
    assert [] == said_by(WORDS, FEATURES, AVERAGE)
    assert said_by(WORDS, FEATURES, "Big spenders") is None
    assert [(4, 1), (8, -1)] == said_by(WORDS, FEATURES, "high spend 30d, low views 7d")  # as the stream's first model has it


def test_a_name_stays_while_it_is_true_and_one_that_a_person_gave_always() -> None:
    before = {1: "many purchases in 30 days", 2: "long since event", 3: "Big spenders"}
    weaker = centroid(purchases_30d=0.25, spend_30d=3.0)
    found = named(WORDS, FEATURES, {1: weaker, 2: centroid(views_7d=2.0), 3: centroid(views_7d=-2.0)}, before, {})
    assert {1: "many purchases in 30 days", 2: "many views in 7 days", 3: "Big spenders"} == found
    assert "VIP" == named(WORDS, FEATURES, {1: weaker}, before, {1: "VIP"})[1]
    assert still_true([], centroid(views_7d=0.4))
    assert not still_true([], centroid(views_7d=0.7))


def test_no_two_segments_have_one_name() -> None:
    alike = {1: centroid(views_7d=2.0, searches_30d=1.0, spend_30d=0.5), 2: centroid(views_7d=2.0, searches_30d=1.0)}
    words = "many views in 7 days, many searches in 30 days"
    assert {1: f"{words}, high spend in 30 days", 2: words} == named(WORDS, FEATURES, alike, {})
    same = named(WORDS, FEATURES, {4: centroid(views_7d=2.0), 7: centroid(views_7d=2.0)}, {})
    assert {4: "many views in 7 days (4)", 7: "many views in 7 days (7)"} == same
    assert "high visits a week" == name(plain_words(["visits_a_week"]), np.array([1.0]))


# Raw facts


def test_facts_of_raw_events_are_counted_by_customer_and_by_day() -> None:
    day = 86_400_000
    rows = [
        event("a", "purchase", 20_000 * day, "1", 100),
        event("a", "purchase", 20_000 * day + 5, "1", 100),
        event("a", "refund", 20_001 * day, "2", 150),
        event("b", "purchase", 20_001 * day, "1", 70),
        {**event("b", "purchase", 20_001 * day, "3", 900), "currency": "USD"},
        event("b", "view", 20_001 * day, "4"),
    ]
    found = compute(Reading(DECLARATION), batches(rows), end_of(rows))
    assert [[3, 1, 2, 200, 150], [2, 0, 2, 70, 0]] == found.facts[
        ["events", "repeated", "busiest_day", "purchased", "refunded"]
    ].to_numpy().tolist()
    assert {20_000: [2, 1, 200], 20_001: [3, 0, 70]} == {
        d: row.tolist() for d, row in zip(found.days.index, found.days.to_numpy(), strict=True)
    }
    assert {"rows": 6, "valid": 5, "refused: currency_refused": 1, "duplicate": 1, "late": 0} == found.counts
    assert compute(Reading(DECLARATION), [], 0).facts.empty


def test_personas_of_a_shop_are_found_from_its_history() -> None:
    rows = shop()
    found = compute(Reading(DECLARATION), batches(rows), end_of(rows))
    points = points_of(found.features, found.facts["eligible"].to_numpy(), [f.transform for f in DECLARATION.features])
    labels = assign(points.vectors, cold(points.vectors, 3).centroids)[0]
    assert adjusted_rand_score([int(str(c)[1:]) % 3 for c in points.customers], labels) > 0.9
