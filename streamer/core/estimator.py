"""The segment model as a river clusterer, for notebooks, backtests and checks.

Law: within an epoch the sums are a function of the set of votes, never of their order; taking a vote out restores them to the bit; nothing
is ever drawn at random, and predicting never changes the model.

Two rules of learning share the class:

- `river`: the closest centre moves by `halflife * (x - centre)` at every event, as in `river.cluster.KMeans`, event for event. A customer
  with a hundred events counts a hundred times.
- `one_vote`: each customer contributes its latest vector, in place of its previous one. The learned state is, per cluster, the count of
  votes, their sum and their sum of squares, over 16-bit fixed-point vectors, so adding and removing are exact. Centres stand still within
  an *epoch* and become `sum / count` when the next one begins. This is the stream's rule in the stream's fixed point, to the bit.

What `river.cluster.KMeans` does differently, and why this class does not: it draws a centre's unknown coordinates from a normal
distribution when they are first read, also while predicting, and it reads them in the order of a set. Strings hash differently in every
process, so the same `seed` deals the same numbers out to other features, and sums of distances round differently. Here a missing coordinate
is a function of the seed, the cluster and the feature's name, all centres always have the same features, and a distance is rounded once.
"""

from __future__ import annotations

import copy
import hashlib
import math
from array import array
from collections.abc import Hashable
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import numpy as np
from river.cluster import KMeans

from streamer.core.fold import CENTROID_ONE, FINER, VOTE_MAX, VOTE_ONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike

    from streamer.core.columns import I64

Feature: TypeAlias = Hashable
Row: TypeAlias = "Mapping[Any, Any]"  # feature -> number
Rule: TypeAlias = Literal["river", "one_vote"]

RULES: Final = ("river", "one_vote")
_DIGEST_BITS: Final = 52  # what fits a double's mantissa together with the half that keeps the draw off 0 and 1


@dataclass(frozen=True, slots=True)
class Votes:
    """The sums over all votes, for `k` clusters and `f` features in the order of `SegmentModel.names`.

    They add up: the sums of two models with the same centres, over different customers, are those of one model over all customers.
    """

    count: I64  # (k,)
    total: I64  # (k, f) in units of 1 / VOTE_ONE
    square: I64  # (k, f) in units of 1 / VOTE_ONE^2

    def inertia(self) -> float:
        """Sum the squared distances from each vote to the mean of its cluster's votes, in squared standard deviations.

        By sum |q - m|^2 = sum |q|^2 - |sum q|^2 / n, in integers until the last division.
        """
        parts = zip(self.count.tolist(), self.total.tolist(), self.square.tolist(), strict=True)
        return math.fsum((n * sum(square) - sum(t * t for t in total)) / n for n, total, square in parts if n) / VOTE_ONE**2


class SegmentModel(KMeans):
    """K-means that learns by river's rule or by one vote per customer.

    A feature that `x` lacks counts as 0, as in river. A feature that the model does not know is ignored; only `learn_one` under the rule
    `river` without `features` takes it in, and then for every centre at once. Numbers must be finite.

    Args:
        n_clusters: Number of clusters, numbered from 0. Of several centres at the same distance the lowest number wins.
        halflife: Share of the way that a centre moves towards an event (rule `river` only).
        mu: Mean of the coordinates that `centers` does not give. These are normally distributed and depend on the seed, the cluster and the
            feature's name only, so they are the same in every process.
        sigma: Their standard deviation.
        p: Power of the Minkowski metric: 1 for Manhattan, 2 for squared Euclidean distances.
        seed: Seed of those coordinates; None is a seed like any other.
        rule: `river` or `one_vote`.
        centers: Initial centres: cluster -> {feature: value}, rounded to the stream's fixed point under the rule `one_vote`. Afterwards the
            attribute of this name holds the current ones, as in river, and `clone` begins at the initial ones again.
        features: Names of all features. The model is then closed: it ignores any other. Rule `one_vote` is always closed, and takes the
            names from `centers` where `features` is left out.
        epoch_every: Begin a new epoch after every so many votes; None leaves that to `refresh` (rule `one_vote` only).
        customers_max: Most customers that `replace` remembers, at about 230 bytes and 2 more a feature each. One more is refused.

    Raises:
        ValueError: if a parameter contradicts another or is out of range, with every fault.
        TypeError: if a coordinate is not a number.

    Example:
        >>> model = SegmentModel.from_centroids(("recency", "spend"), [[0.0, 0.0], [2.0, 2.0]])
        >>> model.replace("ann", {"recency": 1.5, "spend": 2.5})
        1
        >>> model.replace("bob", {"recency": 2.5, "spend": 2.5})
        1
        >>> model.refresh()
        0.5
        >>> model.centers[1]
        {'recency': 2.0, 'spend': 2.5}
        >>> model.replace("ann", {"recency": 0.25})
        0
        >>> model.votes().count.tolist()
        [1, 1]

    """

    centers: dict[int, dict[Feature, float]]  # type: ignore[assignment]  # river's draw what is missing, ours miss nothing

    def __init__(  # river's parameters, in river's order; ours by name
        self,
        n_clusters: int = 5,
        halflife: float = 0.5,
        mu: float = 0,
        sigma: float = 1,
        p: float = 2,
        seed: int | None = None,
        *,
        rule: Rule = "river",
        centers: Mapping[int, Mapping[Any, float]] | None = None,
        features: Sequence[Feature] | None = None,
        epoch_every: int | None = None,
        customers_max: int = 1_000_000,
    ) -> None:
        """Place every centre."""
        super().__init__(n_clusters=n_clusters, halflife=halflife, mu=mu, sigma=sigma, p=p, seed=seed)
        del self._rng  # river's source of random coordinates
        self.rule = rule
        self.features = None if features is None else tuple(features)
        self.epoch_every = epoch_every
        self.customers_max = customers_max
        self._initial = None if centers is None else {cluster: dict(centre) for cluster, centre in centers.items()}
        given = self._initial or {}
        names = tuple(dict.fromkeys(name for centre in given.values() for name in centre)) if self.features is None else self.features
        self._refuse_contradictions(names)
        self._names = list(names)
        self._closed = self.features is not None or rule == "one_vote"
        self.centers = {cluster: {name: self._initially(cluster, name) for name in names} for cluster in range(n_clusters)}
        self.epoch = 0
        self._voted_in_epoch = 0
        width = len(names) if rule == "one_vote" else 0
        self._count = [0] * n_clusters
        self._total = [[0] * width for _ in range(n_clusters)]
        self._square = [[0] * width for _ in range(n_clusters)]
        self._latest: dict[Hashable, tuple[int, array[int]]] = {}

    @classmethod
    def from_centroids(cls, names: Iterable[Feature], centroids: ArrayLike, **parameters: Any) -> Self:  # noqa: ANN401  # the constructor's
        """Make a closed model from an array of centroids, (clusters, features), one column per name; rule `one_vote` unless said otherwise.

        Raises:
            ValueError: if the array has not one column per name, or a parameter is refused.

        """
        columns = tuple(names)
        rows = np.asarray(centroids, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(columns):
            message = f"centroids have the shape {rows.shape}: give one row per cluster and one column for each of the {len(columns)} names"
            raise ValueError(message)
        centers = {cluster: dict(zip(columns, row, strict=True)) for cluster, row in enumerate(rows.tolist())}
        return cls(**{"n_clusters": len(rows), "rule": "one_vote", "centers": centers, "features": columns, **parameters})

    @property
    def names(self) -> tuple[Feature, ...]:
        """Name the features of every centre, in the order of the columns of `votes`."""
        return tuple(self._names)

    def distances(self, x: Row) -> dict[int, float]:
        """Measure `sum |centre - x|^p` to every centre; no root is taken.

        Under the rule `one_vote`, `x` is rounded and clipped as its vote would be: a cluster follows from what is kept of a customer.

        Raises:
            TypeError, ValueError: if a known feature is not a finite number.

        """
        return self._measure(self._point(x))

    def predict_one(self, x: Row) -> int:
        """Tell the cluster of the closest centre, without changing the model. Raises as `distances` does."""
        return _closest(self.distances(x))

    def learn_one(self, x: Row) -> None:
        """Move the closest centre (rule `river`) or add a vote for it (rule `one_vote`). Raises as `distances` does."""
        self.learn_predict_one(x)

    def learn_predict_one(self, x: Row) -> int:
        """Learn as `learn_one` does, and tell the cluster that was moved or voted for: the closest *before* learning, as river does."""
        if self.rule == "one_vote":
            steps = self._steps(x)
            cluster = self._cluster_of(steps)
            self._tally(cluster, steps, 1)
            self._count_towards_epoch()
            return cluster
        moves = {name: _number(name, value) for name, value in x.items() if not self._closed or name in self.centers[0]}
        for name in [name for name in moves if name not in self.centers[0]]:
            self._names.append(name)
            for number, centre in self.centers.items():
                centre[name] = self._coordinate(number, name)
        cluster = self.predict_one(moves)
        centre = self.centers[cluster]
        for name, value in moves.items():
            centre[name] += self.halflife * (value - centre[name])
        return cluster

    def revert(self, x: Row, cluster: int | None = None) -> None:
        """Take a vote of `learn_one` out again, exactly. It does not undo an epoch that began meanwhile.

        `cluster` is what `learn_predict_one` answered; without it, the closest now, which is the same within one epoch. The votes of
        `replace` are taken out by `forget`.

        Raises:
            ValueError: if such a vote cannot be among the cluster's (nothing is changed then), or the rule is not `one_vote`.

        """
        self._refuse_other_rules("revert")
        steps = self._steps(x)
        voted = self._cluster_of(steps) if cluster is None else cluster
        count = self._count[voted] if voted in self.centers else 0
        longer = count and any(step * step > square for step, square in zip(steps, self._square[voted], strict=True))
        if not count or longer or (count == 1 and self._total[voted] != steps):
            message = f"cluster {voted} has {count} votes, and this vector is not among them: pass the vector and cluster that were learned"
            raise ValueError(message)
        self._tally(voted, steps, -1)

    def replace(self, key: Hashable, x: Row) -> int:
        """Give a customer's vote to the cluster closest to `x`, in place of its previous vote, and tell the cluster.

        Every customer's latest vote is kept in memory: at most `customers_max`.

        Raises:
            OverflowError: if the customer is new and the model is full.
            ValueError: if the rule is not `one_vote`, or as `distances` does.

        """
        self._refuse_other_rules("replace")
        steps = self._steps(x)
        cluster = self._cluster_of(steps)
        if key in self._latest:
            self._tally(*self._latest[key], -1)
        elif len(self._latest) >= self.customers_max:
            message = f"customer {key!r} is one more than customers_max={self.customers_max}: raise it, or keep the vectors and use revert"
            raise OverflowError(message)
        self._latest[key] = (cluster, array("h", steps))
        self._tally(cluster, steps, 1)
        self._count_towards_epoch()
        return cluster

    def forget(self, key: Hashable) -> None:
        """Take the vote that `replace` gave a customer out again; of an unknown customer there is none."""
        if key in self._latest:
            self._tally(*self._latest.pop(key), -1)

    def refresh(self) -> float:
        """Begin the next epoch: each centre becomes the mean of its cluster's votes, rounded to the stream's fixed point.

        A centre without votes stays where it is. Returns the greatest change of a coordinate: 0 when learning has converged.

        Raises:
            ValueError: if the rule is not `one_vote`.

        """
        self._refuse_other_rules("refresh")
        shift = 0.0
        for cluster, centre in self.centers.items():
            count = self._count[cluster]
            if not count:
                continue
            for name, total in zip(self._names, self._total[cluster], strict=True):
                mean = (2 * FINER * total + count) // (2 * count) / CENTROID_ONE  # to the nearest, half up, in whole numbers
                shift = max(shift, abs(mean - centre[name]))
                centre[name] = mean
        self.epoch += 1
        self._voted_in_epoch = 0
        return shift

    def votes(self) -> Votes:
        """Copy the sums over all votes."""
        return Votes(*(np.array(part, dtype=np.int64) for part in (self._count, self._total, self._square)))

    def to_river(self) -> KMeans:
        """Make a stock river model with the same parameters and centres: from here on it predicts the same, and learns by river's rule."""
        stock = KMeans(n_clusters=self.n_clusters, halflife=self.halflife, mu=self.mu, sigma=self.sigma, p=self.p, seed=self.seed)
        for cluster, centre in self.centers.items():
            stock.centers[cluster].update(centre)
        return stock

    def clone(self, new_params: dict[str, Any] | None = None, include_attributes: bool = False) -> Self:  # noqa: FBT001, FBT002  # river's
        """Make a model with the same parameters: without votes and at the initial centres, or with all that was learned."""
        fresh: Self = super().clone(new_params, include_attributes)
        if include_attributes:
            fresh.centers = copy.deepcopy(self.centers)  # river takes an attribute of a parameter's name for the parameter
        return fresh

    def _get_params(self) -> dict[str, Any]:
        return {**super()._get_params(), "centers": self._initial}

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        """List the parameters under which river's checks run."""
        yield {"n_clusters": 5}
        yield {"n_clusters": 3, "rule": "one_vote", "features": ("recency", "spend"), "seed": 42}

    def _refuse_contradictions(self, names: tuple[Feature, ...]) -> None:
        given = self._initial or {}
        strangers = [name for centre in given.values() for name in centre if name not in names]
        votes = self.rule == "one_vote"
        faults = (
            (self.rule not in RULES, f"rule is {self.rule!r}: choose one of {RULES}"),
            (self.n_clusters < 1, f"n_clusters is {self.n_clusters}: a model has at least one cluster"),
            (
                bool(given) and given.keys() != set(range(self.n_clusters)),
                f"n_clusters is {self.n_clusters} and centers has the clusters {list(given)}: number them from 0, one for each",
            ),
            (self.p <= 0, f"p is {self.p}: it is above 0"),
            (len(set(names)) < len(names), f"features {names} name one twice"),
            (bool(strangers), f"centers has the features {strangers}, which features does not name: add them there, or leave them out"),
            (self.features == (), "features is empty: name at least one, or leave it out"),
            (votes and not names, "rule one_vote needs features or centers: votes over changing features cannot be summed"),
            (
                self.epoch_every is not None and (self.epoch_every < 1 or not votes),
                f"epoch_every is {self.epoch_every}: it is at least 1, and for the rule one_vote only",
            ),
            (self.customers_max < 0, f"customers_max is {self.customers_max}: it is at least 0"),
        )
        message = "; ".join(message for wrong, message in faults if wrong)
        if message:
            raise ValueError(message)

    def _refuse_other_rules(self, method: str) -> None:
        if self.rule != "one_vote":
            message = f"{method} is for the rule one_vote, and this model learns by the rule {self.rule}, which keeps no votes"
            raise ValueError(message)

    def _initially(self, cluster: int, name: Feature) -> float:
        given = (self._initial or {}).get(cluster, {})
        value = _number(name, given[name]) if name in given else self._coordinate(cluster, name)
        return math.floor(value * CENTROID_ONE + 0.5) / CENTROID_ONE if self.rule == "one_vote" else value

    def _coordinate(self, cluster: int, name: Feature) -> float:
        """Draw from the normal distribution by hashing, so that neither the process nor the order of features can show."""
        digest = hashlib.blake2b(f"{self.seed}\x1f{cluster}\x1f{name}".encode(), digest_size=8).digest()
        uniform = ((int.from_bytes(digest, "big") >> (64 - _DIGEST_BITS)) + 0.5) / (1 << _DIGEST_BITS)
        return float(self.mu + self.sigma * NormalDist().inv_cdf(uniform))

    def _steps(self, x: Row) -> list[int]:
        return [_steps(_number(name, x[name])) if name in x else 0 for name in self._names]

    def _point(self, x: Row) -> list[float]:
        if self.rule == "one_vote":
            return [steps / VOTE_ONE for steps in self._steps(x)]
        return [_number(name, x[name]) if name in x else 0.0 for name in self._names]

    def _cluster_of(self, steps: list[int]) -> int:
        return _closest(self._measure([step / VOTE_ONE for step in steps]))

    def _measure(self, point: list[float]) -> dict[int, float]:
        named = list(zip(self._names, point, strict=True))
        return {
            cluster: math.fsum(abs(centre[name] - value) ** self.p for name, value in named) for cluster, centre in self.centers.items()
        }

    def _tally(self, cluster: int, steps: Iterable[int], sign: int) -> None:
        total, square = self._total[cluster], self._square[cluster]
        for column, step in enumerate(steps):
            total[column] += sign * step
            square[column] += sign * step * step
        self._count[cluster] += sign

    def _count_towards_epoch(self) -> None:
        if self.epoch_every is not None:
            self._voted_in_epoch += 1
            if self._voted_in_epoch >= self.epoch_every:
                self.refresh()


def _closest(distances: dict[int, float]) -> int:
    return min(distances, key=distances.__getitem__)


def _steps(value: float) -> int:
    """Clip and round to a vote's units, half up."""
    return math.floor(max(-VOTE_MAX, min(VOTE_MAX, value * VOTE_ONE)) + 0.5)


def _number(name: Feature, value: Any) -> float:  # noqa: ANN401  # whatever a caller has: that is the question
    try:
        finite = math.isfinite(value)
    except TypeError as error:
        message = f"feature {name!r} is {value!r}: give a number, or leave a missing feature out"
        raise TypeError(message) from error
    if not finite:
        message = f"feature {name!r} is {value!r}: give a finite number, or leave a missing feature out"
        raise ValueError(message)
    return float(value)
