"""A declaration laid out as arrays."""

from __future__ import annotations

import pickle

import numpy as np

from streamer.core.declaration import Kind, declare
from streamer.core.plan import COUNTED, horizon_ms, plan
from tests.corekit import DAY_MS, hashed, packaged

TREE = {
    "duplicates": {"ids_max": 5, "age": "3d"},
    "measures": {
        "buys": {"count": ["buy", "käufe"]},
        "spend": {"sum": "amount", "of": "buy"},
        "fees": {"max": "properties.fee", "decimals": 2},
        "unused": {"min": "quantity"},
        "kinds": {"distinct": "category", "of": "look"},
        "events": {"lifetime_count": "any"},
        "spent": {"lifetime_sum": "amount", "of": "käufe"},
        "seen": {"last": "look"},
    },
    "features": {
        "order_value": {"ratio": ["spend", "buys"], "window": "9d", "prior": 2, "weight": 3, "default": -1, "transform": "log1p"},
        "fees_6h": {"max": "fees", "window": "6h"},
        "kinds_99d": {"distinct": "kinds", "window": "99d"},
        "active": {"active_days": "4d"},
        "since": {"recency": "seen", "cap": "2d"},
        "fees_2h": {"max": "fees", "window": "2h", "default": 4},
        "buys_4d": {"sum": "buys", "window": "4d"},
    },
    "eligibility": {"events": 1},
}


def test_a_plan_has_what_the_declaration_says() -> None:
    declaration = declare(TREE)
    made = plan(declaration)
    assert (int(declaration.version[:8], 16), 5, 3 * DAY_MS) == (made.tag, made.ids_max, made.ids_age_ms)
    assert (99, 6, 1) == (made.horizon_days, made.horizon_hours, made.distincts)
    assert 100 * DAY_MS == horizon_ms(made)
    assert (0b0011, 0b0100) == (made.day_mask, made.hour_mask)
    assert "buykäufelook".encode() == made.type_bytes.tobytes()
    assert [0, 3, 9, 13] == made.type_bounds.tolist()
    assert [hashed(name) for name in ("buy", "käufe", "look")] == made.type_hashes.tolist()
    assert [0b1111, 0b1101, 0b1100, 0b1100] == made.tile_mask.tolist()
    assert [0b001, 0b011, 0b101, 0b001] == made.life_mask.tolist()
    assert [0, 0, 1, 0] == made.distinct_mask.tolist()
    assert ([COUNTED, 0, 1, 2], [COUNTED, 0, COUNTED]) == (made.tile_source.tolist(), made.life_source.tolist())
    assert [Kind.RATIO, Kind.WINDOW, Kind.DISTINCT, Kind.ACTIVE_DAYS, Kind.RECENCY, Kind.WINDOW, Kind.WINDOW] == made.kind.tolist()
    assert ([1, 2, 0, COUNTED, 2, 2, 0], [0, *[COUNTED] * 6]) == (made.first.tolist(), made.second.tolist())
    assert ([9, 6, 99, 4, 0, 2, 4], [0, 1, 0, 0, 0, 1, 0]) == (made.window.tolist(), made.hourly.tolist())
    assert ([2.0, 3.0, -1.0], [1, 0]) == ([made.prior[0], made.weight[0], made.default[0]], made.transform[:2].tolist())


def test_features_without_tiles_come_first_then_those_of_days_and_of_hours_by_window() -> None:
    made = plan(declare(TREE))
    assert ([2, 4, 3, 6, 0, 5, 1], 2, 5) == (made.order.tolist(), made.days_from, made.hours_from)


def test_every_feature_of_the_packaged_declaration_is_computed_once() -> None:
    made = plan(declare(packaged()))
    assert list(range(len(made.kind))) == sorted(made.order.tolist())
    assert np.all(np.diff(made.window[made.order[made.days_from : made.hours_from]]) >= 0)
    assert len(made.kind) == made.hours_from


def test_a_plan_sent_to_another_process_is_of_the_same_types() -> None:
    """Else whatever takes one would be compiled anew there."""
    made = plan(declare(TREE))
    sent = pickle.loads(pickle.dumps(made))
    of_types = [[(one.dtype, one.flags.writeable) for one in whose if isinstance(one, np.ndarray)] for whose in (made, sent)]
    assert of_types[0] == of_types[1]
