"""The segment model as river sees it: river's own checks, the checks that river keeps for other estimators, and every refusal."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import random
import subprocess
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from river import checks, cluster, compose, datasets, preprocessing
from river.checks import common

from streamer.core.estimator import Rule, SegmentModel, Votes
from streamer.core.fold import CENTROID_ONE, VOTE_MAX, VOTE_ONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAMES = ("recency", "spend", "views", "orders")
CENTROIDS = [[0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0], [-3.0, 1.0, 0.0, 4.0]]

PHISHING = tuple(
    ({name: 2 * value - 1 for name, value in x.items()}, y) for x, y in islice(datasets.Phishing(), 150)
)  # nine features of 0, 0.5 and 1
TRUMP = tuple(({name: value / 100 for name, value in x.items()}, y) for x, y in islice(datasets.TrumpApproval(), 100))
GAUSS = tuple(({name: random.Random(f"{row}{name}").gauss(0, 3) for name in NAMES}, None) for row in range(150))
STREAMS = {"phishing": PHISHING, "trump": TRUMP, "gauss": GAUSS}

MODELS: dict[str, Callable[[tuple[Any, ...]], SegmentModel]] = {
    "river, open": lambda names: SegmentModel(n_clusters=3, seed=7),  # noqa: ARG005
    "river, closed": lambda names: SegmentModel(n_clusters=3, seed=7, features=names),
    "one vote": lambda names: SegmentModel(n_clusters=3, seed=7, features=names, rule="one_vote"),
    "one vote, epochs": lambda names: SegmentModel(n_clusters=3, seed=7, features=names, rule="one_vote", epoch_every=5),
    "one vote, fewer features": lambda names: SegmentModel(n_clusters=3, seed=7, features=names[1:], rule="one_vote"),
}

RIVER_DATASET_CHECKS = (
    common.check_learn_one,
    common.check_pickling,
    common.check_shuffle_features_no_impact,
    common.check_emerging_features,
    common.check_disappearing_features,
    common.check_radically_disappearing_features,
    common.check_no_state_aliasing_with_input,
    common.check_clone_is_independent,
    common.check_seeding_is_idempotent,
    common.check_bounded_memory_growth,
)


def river_checks() -> Iterator[Any]:
    """List every check that river yields for each set of parameters that the model is to be checked with."""
    for i, parameters in enumerate(SegmentModel._unit_test_params()):
        model = SegmentModel(**parameters)
        for check in checks.yield_checks(model):
            yield pytest.param(check, model, id=f"{i}-{check.__name__}")


@pytest.fixture(params=[(model, stream) for model in MODELS for stream in STREAMS], ids=" over ".join)
def case(request: pytest.FixtureRequest) -> tuple[SegmentModel, tuple[tuple[dict[Any, float], Any], ...]]:
    """Give a fresh model and a stream for it."""
    model, stream = request.param
    return MODELS[model](tuple(STREAMS[stream][0][0])), STREAMS[stream]


@pytest.fixture
def voting() -> SegmentModel:
    """Give a model of three clusters that counts votes."""
    return SegmentModel.from_centroids(NAMES, CENTROIDS)


def plain(votes: Votes) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """Take the arrays for lists, which compare."""
    return votes.count.tolist(), votes.total.tolist(), votes.square.tolist()


def learn(model: SegmentModel, stream: tuple[tuple[dict[Any, float], Any], ...]) -> SegmentModel:
    """Learn a whole stream."""
    for x, _ in stream:
        model.learn_one(x)
    return model


# River's checks


@pytest.mark.parametrize(("check", "model"), list(river_checks()))
def test_river_s_checks_for_estimators_hold(check: Callable[[SegmentModel], None], model: SegmentModel) -> None:
    check(model.clone())


def test_river_s_entry_point_to_its_checks_passes() -> None:
    checks.check_estimator(SegmentModel())


@pytest.mark.parametrize("check", RIVER_DATASET_CHECKS, ids=lambda check: check.__name__)
def test_river_s_checks_over_data_which_it_runs_for_other_estimators_hold_too(
    check: Callable[..., None], case: tuple[SegmentModel, Any]
) -> None:
    random.seed(1)  # river's checks shuffle and choose by the global source
    model, stream = case
    check(model, stream)


# What river does not check for clusterers


def test_predicting_changes_neither_the_model_nor_its_input(case: tuple[SegmentModel, Any]) -> None:
    model, stream = case
    learn(model, stream[:20])
    before = pickle.dumps(model)
    for x, _ in stream:
        given = dict(x, unheard_of=1e6)
        model.predict_one(given)
        model.distances(given)
        assert dict(x, unheard_of=1e6) == given
    assert before == pickle.dumps(model)


def test_a_fresh_model_predicts() -> None:
    assert SegmentModel().predict_one({"recency": 1.0}) == 0


def test_a_clone_has_the_same_parameters_and_none_of_the_learning(case: tuple[SegmentModel, Any]) -> None:
    model, stream = case
    fresh = pickle.dumps(model)
    learn(model, stream)
    clone = model.clone()
    assert model._get_params() == clone._get_params()
    assert fresh == pickle.dumps(clone)


def test_a_clone_can_take_the_learning_along(case: tuple[SegmentModel, Any]) -> None:
    model, stream = case
    clone = learn(model, stream).clone(include_attributes=True)
    assert model.centers == clone.centers
    assert plain(model.votes()) == plain(clone.votes())
    clone.centers[0][model.names[0]] += 1
    assert model.centers != clone.centers


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"])
def test_a_copy_predicts_and_goes_on_learning_as_the_original(
    case: tuple[SegmentModel, Any], duplicate: Callable[[SegmentModel], SegmentModel]
) -> None:
    model, stream = case
    other = duplicate(learn(model, stream[:50]))
    for x, _ in stream[50:]:
        assert model.distances(x) == other.distances(x)
        assert model.learn_predict_one(x) == other.learn_predict_one(x)
    assert model.centers == other.centers


def test_the_order_of_the_features_never_shows(case: tuple[SegmentModel, Any]) -> None:
    model, stream = case
    other = model.clone()
    shuffle = random.Random(3).shuffle
    for x, _ in stream:
        names = list(x)
        shuffle(names)
        shuffled = {name: x[name] for name in names}
        assert model.distances(x) == other.distances(shuffled)
        assert model.learn_predict_one(x) == other.learn_predict_one(shuffled)
    assert model.centers == other.centers


def test_a_missing_feature_counts_as_zero(case: tuple[SegmentModel, Any]) -> None:
    model, stream = case
    learn(model, stream[:20])
    for x, _ in stream:
        name = next(iter(x))
        assert model.distances({**x, name: 0}) == model.distances({key: value for key, value in x.items() if key != name})


def test_an_unknown_feature_is_ignored_until_an_open_model_learns_it() -> None:
    model = SegmentModel(n_clusters=2, seed=1, centers={0: {"spend": 0.0}, 1: {"spend": 4.0}})
    x = {"spend": 3.0, "views": 100.0}
    assert model.distances({"spend": 3.0}) == model.distances(x)
    model.learn_one(x)
    assert ("spend", "views") == model.names
    assert [("spend", "views")] * 2 == [tuple(centre) for centre in model.centers.values()]
    assert model.distances({"spend": 3.0}) != model.distances(x)


@pytest.mark.parametrize("rule", ["river", "one_vote"])
def test_a_closed_model_never_learns_an_unknown_feature(rule: Rule) -> None:
    model = SegmentModel(n_clusters=2, seed=1, rule=rule, features=("spend",))
    twin = model.clone()
    model.learn_one({"spend": 3.0, "views": math.nan})
    twin.learn_one({"spend": 3.0})
    assert model.centers == twin.centers
    assert plain(model.votes()) == plain(twin.votes())


def test_another_process_draws_and_learns_the_same() -> None:
    script = (
        "import json, sys; from streamer.core.estimator import SegmentModel\n"
        "models = [SegmentModel(seed=42), SegmentModel(seed=42, rule='one_vote', features=tuple('dacb'), epoch_every=7)]\n"
        "seen = [[m.learn_predict_one({n: (i * 7 % 11 - 5) / 3 + j for j, n in enumerate('abcd')}) for i in range(50)] for m in models]\n"
        "centers = [sorted((c, n, v.hex()) for c, centre in m.centers.items() for n, v in centre.items()) for m in models]\n"
        "json.dump([seen, centers], sys.stdout)"
    )
    answers = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, timeout=120
            ).stdout
        )
        for seed in ("1", "2")
    ]
    assert answers[0] == answers[1]


def test_without_a_seed_two_models_are_the_same_to_the_byte() -> None:
    assert pickle.dumps(SegmentModel(features=NAMES)) == pickle.dumps(SegmentModel(features=NAMES))


def test_drawn_coordinates_follow_the_normal_distribution_and_the_seed() -> None:
    names = tuple(range(1000))
    drawn, other = (SegmentModel(n_clusters=2, mu=3, sigma=2, seed=seed, features=names).centers for seed in (1, 2))
    values = [value for centre in drawn.values() for value in centre.values()]
    assert abs(float(np.mean(values)) - 3) < 0.15
    assert abs(float(np.std(values)) - 2) < 0.15
    assert len(set(values)) == 2000
    assert drawn != other
    assert {3.0} == set(SegmentModel(mu=3, sigma=0, features=names).centers[0].values())


def test_it_ends_a_river_pipeline(voting: SegmentModel) -> None:
    pipeline = compose.Select(*NAMES) | preprocessing.StandardScaler() | voting
    for x, _ in GAUSS:
        pipeline.learn_one({**x, "other": "text"})
    assert len(GAUSS) == voting.votes().count.sum()
    assert pipeline.predict_one(GAUSS[0][0]) in voting.centers


def test_the_halflife_can_be_changed_while_learning() -> None:
    model = SegmentModel(n_clusters=1, features=("spend",), centers={0: {"spend": 0.0}})
    model.mutate({"halflife": 1.0})
    model.learn_one({"spend": 5.0})
    assert model.centers == {0: {"spend": 5.0}}


# Distances


def test_distances_are_powers_without_a_root() -> None:
    x = {"recency": 1, "spend": -2}
    assert SegmentModel.from_centroids(NAMES[:2], [[0, 0], [1, 1]]).distances(x) == {0: 5.0, 1: 9.0}
    assert SegmentModel.from_centroids(NAMES[:2], [[0, 0], [1, 1]], p=1).distances(x) == {0: 3.0, 1: 3.0}


def test_of_centres_at_the_same_distance_the_lowest_number_wins() -> None:
    assert SegmentModel.from_centroids(("spend",), [[1], [-1], [1]]).predict_one({}) == 0


def test_a_vote_is_measured_as_it_is_kept_rounded_and_clipped() -> None:
    model = SegmentModel.from_centroids(("spend",), [[0.0]])
    assert model.distances({"spend": 1.4 / VOTE_ONE}) == {0: VOTE_ONE**-2}
    assert model.distances({"spend": -1e300}) == {0: (VOTE_MAX / VOTE_ONE) ** 2}
    assert model.clone({"rule": "river"}).distances({"spend": 100}) == {0: 10_000.0}


# Votes


def test_centres_are_rounded_to_the_stream_s_fixed_point_when_votes_count() -> None:
    centers = {0: {"spend": 1 / 3}}
    model = SegmentModel(n_clusters=1, rule="one_vote", centers=centers)
    assert model.centers == {0: {"spend": round(CENTROID_ONE / 3) / CENTROID_ONE}}
    assert model.clone({"rule": "river"}).centers == centers


def test_votes_are_whole_steps(voting: SegmentModel) -> None:
    voting.learn_one({"recency": 0.5, "spend": -0.25, "views": 100, "orders": True})
    steps = [VOTE_ONE // 2, -VOTE_ONE // 4, VOTE_MAX, VOTE_ONE]
    assert plain(voting.votes()) == ([0, 1, 0], [[0] * 4, steps, [0] * 4], [[0] * 4, [step * step for step in steps], [0] * 4])


def test_centres_stand_still_until_the_epoch_ends(voting: SegmentModel) -> None:
    before = copy.deepcopy(voting.centers)
    assert voting.learn_predict_one({"recency": 2.0, "spend": 3.0, "views": 2.0, "orders": 2.0}) == 1
    assert before == voting.centers
    assert voting.epoch == 0
    assert voting.refresh() == 1.0
    assert voting.epoch == 1
    assert {**before, 1: {"recency": 2.0, "spend": 3.0, "views": 2.0, "orders": 2.0}} == voting.centers
    assert voting.refresh() == 0.0


def test_a_cluster_that_lost_its_votes_stays_at_its_last_centre(voting: SegmentModel) -> None:
    voting.replace("ann", dict.fromkeys(NAMES, 2.5))
    voting.refresh()
    last = dict(voting.centers[1])
    voting.replace("ann", dict.fromkeys(NAMES, 0.0))
    voting.refresh()
    assert last == dict.fromkeys(NAMES, 2.5)
    assert last == voting.centers[1]
    assert voting.votes().count.tolist() == [1, 0, 0]


def test_an_epoch_can_begin_by_itself_after_so_many_votes() -> None:
    model = SegmentModel.from_centroids(("spend",), [[0.0]], epoch_every=3)
    epochs = []
    for i in range(7):
        if i % 2:
            model.learn_one({"spend": i})
        else:
            model.replace("ann", {"spend": i})
        epochs.append(model.epoch)
    assert epochs == [0, 0, 1, 1, 1, 2, 2]


def test_a_customer_has_one_vote(voting: SegmentModel) -> None:
    twin = voting.clone()
    for x, _ in GAUSS:
        voting.replace("ann", x)
    assert voting.replace("bob", GAUSS[0][0]) == twin.learn_predict_one(GAUSS[0][0])
    twin.learn_one(GAUSS[-1][0])
    assert plain(twin.votes()) == plain(voting.votes())


def test_a_forgotten_customer_has_no_vote(voting: SegmentModel) -> None:
    empty = plain(voting.votes())
    voting.replace("ann", GAUSS[0][0])
    voting.forget("ann")
    voting.forget("nobody")
    assert empty == plain(voting.votes())


def test_a_full_model_refuses_one_customer_more_and_stays_as_it_was() -> None:
    model = SegmentModel.from_centroids(("spend",), [[0.0]], customers_max=1)
    model.replace("ann", {"spend": 1})
    before = plain(model.votes())
    with pytest.raises(OverflowError, match="customer 'bob' is one more than customers_max=1"):
        model.replace("bob", {"spend": 1})
    assert before == plain(model.votes())
    model.replace("ann", {"spend": 2})
    model.forget("ann")
    assert model.replace("bob", {"spend": 1}) == 0


@pytest.mark.parametrize("cluster_voted", [None, 1])
def test_a_reverted_vote_leaves_no_trace(voting: SegmentModel, cluster_voted: int | None) -> None:
    learn(voting, GAUSS[:10])
    before = pickle.dumps(voting)
    voting.learn_one(dict.fromkeys(NAMES, 2.1))
    voting.revert(dict.fromkeys(NAMES, 2.1), cluster_voted)
    assert before == pickle.dumps(voting)


@pytest.mark.parametrize(
    ("votes", "x", "cluster_voted"),
    [
        ([], {"spend": 0.0}, 0),
        ([1.0], {"spend": 1.0}, 9),
        ([1.0], {"spend": 0.5}, 0),
        ([1.0], {"spend": -1.0}, 0),
        ([1.0, 0.5], {"spend": 2.0}, 0),
    ],
    ids=["no votes", "no such cluster", "the only vote is longer", "the only vote is another", "longer than all votes"],
)
def test_a_vote_that_was_never_given_is_not_taken_back(votes: list[float], x: dict[Any, float], cluster_voted: int) -> None:
    model = SegmentModel.from_centroids(("spend",), [[0.0]])
    for vote in votes:
        model.learn_one({"spend": vote})
    before = plain(model.votes())
    with pytest.raises(ValueError, match="this vector is not among them"):
        model.revert(x, cluster_voted)
    assert before == plain(model.votes())


@pytest.mark.parametrize(
    "call",
    [lambda model: model.revert({}), lambda model: model.replace("ann", {}), lambda model: model.refresh()],
    ids=["revert", "replace", "refresh"],
)
def test_river_s_rule_has_no_votes_to_handle(call: Callable[[SegmentModel], None]) -> None:
    with pytest.raises(ValueError, match="for the rule one_vote"):
        call(SegmentModel())
    assert plain(SegmentModel(n_clusters=2, features=NAMES).votes()) == ([0, 0], [[], []], [[], []])


def test_inertia_is_the_squared_distance_to_the_means() -> None:
    model = SegmentModel.from_centroids(("spend", "views"), [[0, 0], [5, 5], [-7, 7]])
    for spend, views in [(1, 0), (-1, 2), (5, 5), (5, 7)]:
        model.learn_one({"spend": spend, "views": views})
    assert model.votes().inertia() == 2 + 2 + 2


# In and out


def test_a_model_from_centroids_is_closed_and_counts_votes(voting: SegmentModel) -> None:
    assert ("one_vote", NAMES, 3) == (voting.rule, voting.names, voting.n_clusters)
    assert [list(centre.values()) for centre in voting.centers.values()] == CENTROIDS
    assert SegmentModel.from_centroids(NAMES, np.array(CENTROIDS), rule="river", halflife=0.1).halflife == 0.1


def test_votes_take_the_features_from_the_centres_when_none_are_named() -> None:
    model = SegmentModel(n_clusters=2, rule="one_vote", mu=9, sigma=0, centers={0: {"spend": 1}, 1: {"views": 2}})
    assert model.centers == {0: {"spend": 1.0, "views": 9.0}, 1: {"spend": 9.0, "views": 2.0}}
    assert model.names == ("spend", "views")


def test_every_centre_gets_every_feature_at_construction() -> None:
    model = SegmentModel(n_clusters=2, features=NAMES, centers={0: {"spend": 1.0}, 1: {}})
    assert [NAMES, NAMES] == [tuple(centre) for centre in model.centers.values()]
    assert model.centers[0]["spend"] == 1.0
    assert SegmentModel(n_clusters=2, features=NAMES).centers[1] == model.centers[1]


def test_the_given_centres_are_copied() -> None:
    centers = {0: {"spend": 1.0}}
    model = SegmentModel(n_clusters=1, rule="one_vote", centers=centers)
    model.learn_one({"spend": 3.0})
    model.refresh()
    assert centers == {0: {"spend": 1.0}}
    centers[0]["spend"] = 9.0
    assert model.clone().centers == {0: {"spend": 1.0}}


def test_a_stock_river_model_comes_out_complete(voting: SegmentModel) -> None:
    learn(voting, GAUSS).refresh()
    stock = voting.to_river()
    before = pickle.dumps(stock)
    assert type(stock) is cluster.KMeans
    assert voting.centers == {number: dict(centre) for number, centre in stock.centers.items()}
    whole = [{name: round(value * VOTE_ONE) / VOTE_ONE for name, value in x.items()} for x, _ in GAUSS]
    inside = [x for x in whole if max(map(abs, x.values())) < 7.9]
    assert [voting.predict_one(x) for x in inside] == [stock.predict_one(x) for x in inside]
    assert before == pickle.dumps(stock)
    stock.learn_one(inside[0])
    assert {number: dict(centre) for number, centre in stock.centers.items()} != voting.centers


# Refusals


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rule": "two_votes"}, "rule is 'two_votes'"),
        ({"n_clusters": 0}, "at least one cluster"),
        ({"n_clusters": 2, "centers": {0: {"spend": 1.0}}}, r"has the clusters \[0\]"),
        ({"n_clusters": 1, "centers": {1: {"spend": 1.0}}}, r"has the clusters \[1\]"),
        ({"p": 0}, "p is 0"),
        ({"features": ("spend", "spend")}, "name one twice"),
        ({"features": ()}, "features is empty"),
        ({"n_clusters": 1, "features": ("views",), "centers": {0: {"spend": 1.0}}}, r"\['spend'\], which features does not name"),
        ({"n_clusters": 1, "centers": {0: {"spend": math.nan}}}, "feature 'spend' is nan: give a finite number"),
        ({"rule": "one_vote"}, "needs features or centers"),
        ({"rule": "one_vote", "features": ("spend",), "epoch_every": 0}, "epoch_every is 0"),
        ({"epoch_every": 5}, "for the rule one_vote only"),
        ({"customers_max": -1}, "customers_max is -1"),
    ],
)
def test_parameters_that_contradict_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentModel(**parameters)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"p is -1.*customers_max is -2"):
        SegmentModel(p=-1, customers_max=-2)


@pytest.mark.parametrize("centroids", [[1.0, 2.0], [[1.0], [2.0]], np.zeros((2, 3, 4))])
def test_centroids_of_another_shape_are_refused(centroids: Any) -> None:
    with pytest.raises(ValueError, match="one row per cluster and one column for each of the 4 names"):
        SegmentModel.from_centroids(NAMES, centroids)


@pytest.mark.parametrize(("value", "error"), [(math.nan, ValueError), (-math.inf, ValueError), ("3", TypeError), (None, TypeError)])
@pytest.mark.parametrize("model", MODELS)
def test_what_is_not_a_finite_number_is_refused_and_nothing_is_learned(model: str, value: Any, error: type[Exception]) -> None:
    made = MODELS[model](("other", *NAMES))
    learn(made, GAUSS[:10])
    before = pickle.dumps(made)
    for call in (made.learn_one, made.predict_one, made.distances, made.learn_predict_one):
        with pytest.raises(error, match="feature 'spend' is"):
            call({"new": 1.0, "spend": value})
    assert before == pickle.dumps(made)
