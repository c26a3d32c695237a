"""A declaration as flat arrays, for compiled code.

Shapes: `m` tile measures, `l` lifetime measures, `s` distinct measures, `f` features, `t` declared event types. Row or bit `t` stands for
every other type. Masks hold one bit per measure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from streamer.core.declaration import DAY_MS, Declaration, DistinctMeasure, Kind, LifetimeMeasure, TileMeasure
from streamer.core.hashing import xxh64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.columns import F64, I16, I64, U8, U64

COUNTED = -1  # the source of a measure that counts events
BUCKETS = 64
_TILED = (Kind.WINDOW, Kind.RATIO, Kind.ACTIVE_DAYS)


class Plan(NamedTuple):
    """What the kernels know of a declaration. Field comments give shapes; sources index rows of an event's values."""

    tag: int  # the first four bytes of the feature version, in every profile
    ids_max: int
    ids_age_ms: int
    horizon_days: int
    horizon_hours: int  # 0: no tiles of hours are kept
    day_mask: int  # measures kept in tiles of days
    hour_mask: int  # measures kept in tiles of hours
    distincts: int
    type_bytes: U8
    type_bounds: I64  # (t + 1,)
    type_hashes: U64  # (t,)
    tile_mask: I64  # (t + 1,) measures that an event of the type adds to
    tile_op: U8  # (m,)
    tile_source: I16  # (m,)
    life_mask: I64  # (t + 1,)
    life_op: U8  # (l,)
    life_source: I16  # (l,)
    distinct_mask: I64  # (t + 1,)
    kind: U8  # (f,)
    transform: U8  # (f,)
    first: I16  # (f,) measure, by kind
    second: I16  # (f,)
    third: I16  # (f,)
    window: I64  # (f,) in tiles
    hourly: U8  # (f,)
    cap_ms: I64  # (f,)
    prior: F64  # (f,)
    weight: F64  # (f,)
    default: F64  # (f,)
    order: I16  # (f,) features as they are computed: those without tiles, those of tiles of days, those of tiles of hours, by window
    days_from: int  # where in `order` those of tiles of days begin
    hours_from: int


def plan(declaration: Declaration) -> Plan:
    """Lay a declaration out as arrays."""
    types = declaration.types
    joined = b"".join(name.encode() for name in types)
    groups: tuple[Sequence[TileMeasure | LifetimeMeasure | DistinctMeasure], ...] = (
        declaration.tiles,
        declaration.lifetimes,
        declaration.distincts,
    )
    index = {measure.name: i for group in groups for i, measure in enumerate(group)}
    sources = {source: i for i, source in enumerate(declaration.sources)}
    features = declaration.features
    named = [[index[name] for name in feature.measures] + [COUNTED] * 3 for feature in features]
    granular = {hourly: {name for f in features if f.hourly is hourly for name in f.measures} for hourly in (False, True)}

    tiled = [f.kind in _TILED for f in features]
    order = sorted(range(len(features)), key=lambda f: (tiled[f], features[f].hourly, features[f].window if tiled[f] else 0, f))

    def kept(hourly: bool) -> int:  # noqa: FBT001  # private, named at both calls
        return sum(1 << i for i, m in enumerate(declaration.tiles) if m.name in granular[hourly])

    def source(measures: Sequence[TileMeasure | LifetimeMeasure]) -> I16:
        return np.array([COUNTED if m.source is None else sources[m.source] for m in measures], np.int16)

    return Plan(
        tag=int(declaration.version[:8], 16),
        ids_max=declaration.ids_max,
        ids_age_ms=declaration.ids_age_ms,
        horizon_days=declaration.horizon_days,
        horizon_hours=declaration.horizon_hours,
        day_mask=kept(hourly=False),
        hour_mask=kept(hourly=True),
        distincts=len(declaration.distincts),
        type_bytes=np.frombuffer(joined, np.uint8).copy(),  # read-only, it would not be in a process that a plan is sent to: compiled anew
        type_bounds=np.cumsum([0, *(len(name.encode()) for name in types)], dtype=np.int64),
        type_hashes=np.array([xxh64(np.frombuffer(name.encode(), np.uint8), 0, len(name.encode())) for name in types], np.uint64),
        tile_mask=_masks(types, declaration.tiles),
        tile_op=np.array([m.tiling for m in declaration.tiles], np.uint8),
        tile_source=source(declaration.tiles),
        life_mask=_masks(types, declaration.lifetimes),
        life_op=np.array([m.lifetime for m in declaration.lifetimes], np.uint8),
        life_source=source(declaration.lifetimes),
        distinct_mask=_masks(types, declaration.distincts),
        kind=np.array([f.kind for f in features], np.uint8),
        transform=np.array([f.transform for f in features], np.uint8),
        first=np.array([row[0] for row in named], np.int16),
        second=np.array([row[1] for row in named], np.int16),
        third=np.array([row[2] for row in named], np.int16),
        window=np.array([f.window for f in features], np.int64),
        hourly=np.array([f.hourly for f in features], np.uint8),
        cap_ms=np.array([f.cap_ms for f in features], np.int64),
        prior=np.array([f.prior for f in features], np.float64),
        weight=np.array([f.weight for f in features], np.float64),
        default=np.array([f.default for f in features], np.float64),
        order=np.array(order, np.int16),
        days_from=tiled.count(False),
        hours_from=len(features) - sum(f.hourly for f in features),
    )


def _masks(types: tuple[str, ...], measures: Sequence[TileMeasure | LifetimeMeasure | DistinctMeasure]) -> I64:
    """Give each type, and last any other type, the measures that name it."""
    rows = [sum(1 << i for i, m in enumerate(measures) if not m.of or name in m.of) for name in types]
    return np.array([*rows, sum(1 << i for i, m in enumerate(measures) if not m.of)], np.int64)


def horizon_ms(plan: Plan) -> int:
    """Give the age beyond which an event can't count in any window."""
    return (plan.horizon_days + 1) * DAY_MS


def hourly(plan: Plan) -> bool:
    """Tell whether time passes in hours, because a window does, or in days."""
    return plan.horizon_hours > 0
