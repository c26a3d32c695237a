"""Features out of the fold are, to the bit, those of the independent program `tests/oracle.py`, for any declaration and events."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamer.core.features import feature
from streamer.core.model import features_as_of
from tests import oracle
from tests.corekit import Stream, log, opened, valid
from tests.properties.strategies import declarations, events, instants


@given(st.data())
def test_features_equal_the_oracle_s_to_the_bit(data: st.DataObject) -> None:
    tree = data.draw(declarations(mixed_gaps=True))
    rows = data.draw(events(tree))
    as_of = data.draw(instants(rows, tree))
    cuts = data.draw(st.lists(st.integers(1, 45), max_size=4))
    stream = Stream.of(tree)
    stream.fold_all(log(valid(rows, tree)), cuts)
    expected = oracle.features(oracle.frame(rows), tree, as_of)
    assert list(expected.index) == sorted(customer for _, customer in stream.profiles)
    for customer, row in expected.iterrows():
        work = opened(stream.plan, [stream.profiles[0, str(customer)]])
        actual = features_as_of(stream.plan, work, as_of[str(customer)])[0]
        assert bits(row.to_numpy(dtype=np.float64)) == bits(actual), (row.to_dict(), actual.tolist())


@given(st.data())
def test_one_pass_over_the_tiles_computes_what_each_feature_is_defined_to_be(data: st.DataObject) -> None:
    tree = data.draw(declarations(mixed_gaps=True))
    rows = data.draw(events(tree, refusable=False))
    as_of = data.draw(instants(rows, tree))
    stream = Stream.of(tree)
    stream.fold_all(log(rows))
    for customer, t in as_of.items():
        work = opened(stream.plan, [stream.profiles[0, customer]])
        defined = [feature(stream.plan, work, 0, f, t) for f in range(len(stream.plan.kind))]
        assert bits(np.array(defined)) == bits(features_as_of(stream.plan, work, t)[0])


@given(st.data())
def test_eligibility_equals_the_oracle_s(data: st.DataObject) -> None:
    tree = data.draw(declarations())
    rows = data.draw(events(tree))
    stream = Stream.of(tree)
    stream.fold_all(log(valid(rows, tree)))
    lifetime = {measure.name: i for i, measure in enumerate(stream.declaration.lifetimes)}
    work = stream.work()
    actual = [all(work.life[u, lifetime[name]] >= least for name, least in stream.declaration.eligibility) for u in range(len(work.found))]
    assert oracle.eligible(oracle.frame(rows), tree).tolist() == actual


def bits(values: Any) -> list[int]:
    """Give doubles as their bit patterns, so that 0 and -0 differ."""
    patterns: list[int] = np.ascontiguousarray(values, np.float64).view(np.int64).tolist()
    return patterns
