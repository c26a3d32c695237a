"""How many segments: every number of a range, judged by several criteria together.

Law: no criterion decides alone. A number of segments of which one is too small or one swallows nearly all is out, however well it scores:
a single outlier apart from everybody else has the best silhouette there is.

Criteria: the bend of the within-cluster squares (Thorndike, 1953), by the distance from the chord (Satopaa et al., 2011); silhouette on a
sample (Rousseeuw, 1987); Davies and Bouldin's index (1979); stability under the bootstrap (Hennig, 2007). Each ranks the candidates, and
the least mean rank wins, of equals the smaller number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from offline.fit import SEED, cold, different, sampled, shares, stability
from streamer.adapters.clustering import STARTS_MAX
from streamer.core.errors import BadInput
from streamer.core.fold import VOTE_ONE
from streamer.core.lloyd import assign

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.core.columns import F64, I16
    from streamer.core.lloyd import Clusters

K_RANGE = range(2, 11)
METRIC_SAMPLE = 2_000
CHOOSING_BOOTSTRAPS = 5
CRITERIA = {"elbow": True, "silhouette": True, "davies_bouldin": False, "stability": True}  # and whether more is better


@dataclass(frozen=True, slots=True)
class Choice:
    """The number chosen, its fit, and the table of all candidates: one row a `k`."""

    k: int
    clusters: Clusters
    table: pd.DataFrame


def choose(
    vectors: I16,
    candidates: Sequence[int] = K_RANGE,
    *,
    share_min: float = 0.0,
    share_max: float = 1.0,
    seed: int = SEED,
    starts_max: int = STARTS_MAX,
    progress: Callable[[int, int], None] | None = None,
) -> Choice:
    """Fit every candidate, each the best of up to `starts_max` starts, and choose one.

    Raises:
        BadInput: there are too few different customers, or every candidate has a segment that is too small or too large.

    """
    found = different(vectors, max(candidates))
    possible = [k for k in candidates if k <= found]
    if not possible:
        message = f"{found} different customers are too few for {min(candidates)} segments: give more customers or features that differ"
        raise BadInput(message)
    fits, rows = {}, []
    for done, k in enumerate(possible, 1):
        fits[k] = cold(vectors, k, seed, starts_max)
        rows.append({"k": k, "wcss": fits[k].inertia, **_measured(vectors, fits[k], seed)})
        if progress is not None:
            progress(done, len(possible))
    table = pd.DataFrame(rows)
    table.insert(2, "elbow", elbow(table["k"].to_numpy(np.float64), table["wcss"].to_numpy(np.float64)))
    table["allowed"] = (table["smallest"] >= share_min) & (table["largest"] <= share_max)
    if not table["allowed"].any():
        bounds = f"from {share_min:.1%} to {share_max:.1%} of the customers"
        message = f"with every k from {possible[0]} to {possible[-1]} some segment is outside {bounds}: name a k, or widen the bounds"
        raise BadInput(message)
    ranked = table[table["allowed"]]
    ranks = [(-ranked[name] if more else ranked[name]).rank(method="average") for name, more in CRITERIA.items()]
    table["rank"] = sum(ranks[1:], ranks[0]) / len(ranks)
    chosen = possible[int(np.nanargmin(table["rank"].to_numpy(np.float64)))]
    table["chosen"] = table["k"] == chosen
    return Choice(chosen, fits[chosen], table)


def elbow(k: F64, wcss: F64) -> F64:
    """Measure how far each point lies below the chord, both axes from 0 to 1; the greatest is at the bend."""
    if len(k) < 3 or wcss[0] <= wcss[-1]:  # noqa: PLR2004  # two points are a line
        return np.zeros(len(k))
    across = (k - k[0]) / (k[-1] - k[0])
    down = (wcss - wcss[-1]) / (wcss[0] - wcss[-1])
    below: F64 = 1.0 - across - down
    return below


def _measured(vectors: I16, found: Clusters, seed: int) -> dict[str, float]:
    from sklearn.metrics import davies_bouldin_score, silhouette_score  # noqa: PLC0415  # slow to import

    sample = np.ascontiguousarray(vectors[sampled(len(vectors), METRIC_SAMPLE, seed)])
    labels, points = assign(sample, found.centroids)[0], sample / VOTE_ONE
    apart = 1 < len(np.unique(labels)) < len(sample)  # else neither index is defined
    share = shares(found.members)
    return {
        "silhouette": float(silhouette_score(points, labels)) if apart else -1.0,
        "davies_bouldin": float(davies_bouldin_score(points, labels)) if apart else float("inf"),
        "stability": stability(vectors, found.centroids, seed=seed, bootstraps=CHOOSING_BOOTSTRAPS),
        "smallest": float(share.min()),
        "largest": float(share.max()),
    }
