"""How groupings agree: as scikit-learn has it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from streamer.app.agreement import adjusted_rand, confusion


@pytest.mark.parametrize("seed", range(20))
def test_the_index_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 200))
    left = rng.integers(0, rng.integers(1, 8), n)
    right = np.where(rng.random(n) < rng.random(), left, rng.integers(0, 6, n))
    expected = adjusted_rand_score(left, right)
    assert expected == pytest.approx(adjusted_rand([str(x) for x in left], [f"s{x}" for x in right]), abs=1e-12)


@pytest.mark.parametrize("members", [[], ["a"], ["a", "a", "a"], ["a", "b", "c"]])
def test_equal_groupings_agree_wholly_however_small(members: list[str]) -> None:
    assert 1.0 == adjusted_rand(members, [f"other {member}" for member in members])


def test_everybody_is_counted_where_they_are() -> None:
    counted = confusion(["b", "a", "b"], ["y", "x", "x"])
    assert (("a", "b"), ("x", "y"), [[1, 0], [1, 1]]) == (counted.rows, counted.columns, counted.count.tolist())
