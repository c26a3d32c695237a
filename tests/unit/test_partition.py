"""What a partition's owner keeps: packing, adopting, adding up, laying side by side."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamer.core.declaration import declare
from streamer.core.fold import FINER, VOTE_MAX
from streamer.core.model import Segment
from streamer.core.partition import (
    DONE,
    Announcement,
    Learned,
    PartitionData,
    adopt_epoch,
    adopt_version,
    next_centroids,
    pack_state,
    stack_judge,
    stack_sums,
    unpack_state,
    unstack_sums,
)
from streamer.core.profile import NEVER
from tests.corekit import packaged, version_of

DECLARATION = declare(packaged())
F = len(DECLARATION.features)
whole = st.integers(-(2**63), 2**63 - 1)


def lists(data: Any) -> dict[str, Any]:
    """Give a dataclass as comparable values."""
    values = {f.name: getattr(data, f.name) for f in fields(data)}
    return {name: v.tolist() if isinstance(v, np.ndarray) else lists(v) if isinstance(v, Learned) else v for name, v in values.items()}


@st.composite
def states(draw: st.DrawFn) -> PartitionData:
    k, f = draw(st.integers(1, 4)), draw(st.integers(1, 3))

    def array(*shape: int) -> Any:
        return draw(arrays(np.int64, shape, elements=whole))

    cursor = draw(st.sampled_from([DONE, "0", "184467"]))
    plain = PartitionData(draw(st.text()), watermark=draw(whole), began=draw(whole), cursor=cursor)
    if draw(st.booleans()):
        return plain
    learned = Learned(array(k), array(k, f), array(k, f), array(k + 1))
    model, epoch, as_of, at_offset = draw(st.integers(1, 2**62)), draw(whole), draw(whole), draw(whole)
    return replace(plain, model=model, epoch=epoch, as_of=as_of, at_offset=at_offset, centroids=array(k, f), learned=learned)


@given(states())
def test_a_state_survives_packing(data: PartitionData) -> None:
    assert lists(data) == lists(unpack_state(pack_state(data)))
    assert pack_state(data) == pack_state(unpack_state(pack_state(data)))


@given(states(), st.data())
def test_a_state_cut_short_is_refused(data: PartitionData, drawn: st.DataObject) -> None:
    packed = pack_state(data)
    with pytest.raises(ValueError, match=r"."):
        unpack_state(packed[: drawn.draw(st.integers(0, len(packed) - 1))])


def test_another_layout_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="has layout 02, this program reads 1"):
        unpack_state(b"\2" + pack_state(PartitionData("v"))[1:])
    with pytest.raises(ValueError, match="has layout none"):
        unpack_state(b"")


def test_a_state_with_numbers_too_many_is_refused() -> None:
    data = adopt_version(PartitionData("v"), version_of(DECLARATION, np.zeros((2, F))), 0, 0, 0)
    with pytest.raises(ValueError, match="has 102 numbers where 2 segments and 16 features need 101"):
        unpack_state(pack_state(data) + bytes(8))


# Adoption


def test_adopting_a_version_begins_sums_and_a_sweep_with_the_centroids_of_its_fit() -> None:
    version = version_of(
        DECLARATION, [[0.5] * F, [1.0] * F, [9.0] * F], 4, segments=(Segment(1, "a"), Segment(2, "b", retired=True), Segment(6, "c"))
    )
    old = PartitionData("v", watermark=5, began=2, model=3, epoch=8, cursor=DONE)
    data = adopt_version(old, version, 9, 77, 99)
    assert (4, 9, 9, 99, 77, "0", False, 5, 2) == (
        data.model,
        data.epoch,
        data.first_epoch,
        data.as_of,
        data.at_offset,
        data.cursor,
        data.swept,
        data.watermark,
        data.began,
    )
    assert data.centroids is not None
    assert data.learned is not None
    assert [[1 << 19] * F, [VOTE_MAX * FINER] * F] == data.centroids.tolist()
    assert ([0, 0], [0, 0, 0], (2, F)) == (data.learned.count.tolist(), data.learned.members.tolist(), data.learned.square.shape)


def test_adopting_an_epoch_keeps_the_sums() -> None:
    data = adopt_version(PartitionData("v"), version_of(DECLARATION, np.zeros((2, F))), 0, 0, 0)
    moved = adopt_epoch(data, 3, np.ones((2, F), np.int64))
    assert (3, data.learned, [[1] * F] * 2) == (moved.epoch, moved.learned, None if moved.centroids is None else moved.centroids.tolist())
    assert PartitionData("v").swept


# The next epoch


def learned(count: list[int], total: list[list[int]]) -> Learned:
    k, f = np.array(total).shape
    return Learned(np.array(count), np.array(total), np.zeros((k, f), np.int64), np.zeros(k + 1, np.int64))


def test_centroids_move_to_the_mean_of_all_partitions_votes_and_those_without_votes_stay() -> None:
    parts = [learned([1, 0], [[10, -4], [0, 0]]), learned([2, 0], [[20, 1], [0, 0]])]
    assert [[10 * FINER, -FINER], [5, 6]] == next_centroids(np.array([[1, 2], [5, 6]]), parts, FINER).tolist()
    assert [[1, 2]] == next_centroids(np.array([[1, 2]]), [], FINER).tolist()


def test_means_are_rounded_to_the_nearest_halves_up_below_zero_too() -> None:
    parts = [learned([4], [[1, 2, 3, -1, -2, -3, 6, -6]])]
    assert [[0, 1, 1, 0, 0, -1, 2, -1]] == next_centroids(np.zeros((1, 8), np.int64), parts, 1).tolist()


@given(st.integers(1, 2**20), st.integers(-VOTE_MAX, VOTE_MAX), st.integers(1, 64))
def test_the_largest_votes_of_millions_of_customers_add_up_exactly(count: int, vote: int, parts: int) -> None:
    assert VOTE_MAX**2 * 2**20 * 64 < 2**63
    each = learned([count], [[vote * count, VOTE_MAX * count]])
    assert [[vote * FINER, VOTE_MAX * FINER]] == next_centroids(np.zeros((1, 2), np.int64), [each] * parts, FINER).tolist()


# Side by side


def test_partitions_with_other_versions_stand_side_by_side_and_come_apart_again() -> None:
    small = version_of(DECLARATION, np.full((2, F), 0.5), 1, eligibility=(("events", 3), ("purchases_ever", 1)))
    large = version_of(DECLARATION, np.full((3, F), 0.25), 2, eligibility=())
    data = [
        adopt_version(PartitionData("v"), small, 0, 5, 50),
        PartitionData("v"),
        adopt_epoch(adopt_version(PartitionData("v"), large, 8, 6, 60), 9, np.full((3, F), 7, np.int64)),
    ]
    rng = np.random.default_rng(1)
    for i in (0, 2):
        k = 2 + i // 2
        shapes = ((k,), (k, F), (k, F), (k + 1,))
        data[i] = replace(data[i], learned=Learned(*(rng.integers(-9, 9, shape) for shape in shapes)))
    judge = stack_judge(data, {1: small, 2: large}, DECLARATION)
    assert ([1, 0, 2], [0, 0, 9], [50, NEVER, 60], [5, 0, 6]) == tuple(
        column.tolist() for column in (judge.version, judge.epoch, judge.as_of, judge.at_offset)
    )
    assert ([2, 0, 3], [[1, 2, 0], [0, 0, 0], [1, 2, 3]]) == (judge.size.tolist(), judge.number.tolist())
    assert (1 << 19, 0, 7) == (judge.centroid[0, 1, 0], judge.centroid[0, 2, 0], judge.centroid[2, 2, 0])
    places = {measure.name: i for i, measure in enumerate(DECLARATION.lifetimes)}
    assert [[places["events"], 3], [places["purchases_ever"], 1]] == judge.eligible[0].tolist()
    assert [np.iinfo(np.int64).min] * 4 == judge.eligible[1:, :, 1].ravel().tolist()
    sums = stack_sums(data, judge)
    assert data[0].learned is not None
    assert data[0].learned.members.tolist()[-1] == sums.members[0, 3]
    assert [0] * 4 == sums.members[1].tolist()
    for i, k in ((0, 2), (2, 3)):
        kept = data[i].learned
        assert kept is not None
        assert lists(kept) == lists(unstack_sums(sums, i, k))


def test_without_partitions_or_versions_there_is_nothing_to_judge_by() -> None:
    judge = stack_judge([], {}, DECLARATION)
    assert (0, 1, F) == judge.centroid.shape
    assert (0, 1) == stack_sums([], judge).count.shape
    assert [0] == stack_judge([PartitionData("v")], {}, DECLARATION).version.tolist()


@given(whole, whole, whole, arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 3)), elements=whole))
def test_an_announcement_survives_packing(model: int, epoch: int, first: int, centroids: Any) -> None:
    said = Announcement.unpack(Announcement(model, epoch, first, centroids).pack())
    assert (model, epoch, first, centroids.tolist()) == (said.model, said.epoch, said.first_epoch, said.centroids.tolist())
