"""Declarations: what is accepted, what it comes to, and what every wrong one is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from streamer.core import declaration as d
from streamer.core.declaration import DAY_MS, HOUR_MS, DeclarationError, Kind, Lifetime, Source, Tiling, Transform, declare
from tests.properties.strategies import declarations

Tree = dict[str, Any]


def tree(features: Tree | None = None, measures: Tree | None = None, **rest: Any) -> Tree:
    """A small right declaration, with parts of it replaced."""
    return {
        "measures": measures if measures is not None else {"views": {"count": "view"}, "events": {"lifetime_count": "any"}},
        "features": features if features is not None else {"views_7d": {"sum": "views", "window": "7d"}},
        **rest,
    }


MEASURES: Tree = {
    "n": {"count": "view"},
    "spend": {"sum": "amount"},
    "least": {"min": "quantity"},
    "most": {"max": "properties.fee", "decimals": 2},
    "kinds": {"distinct": "category"},
    "start": {"first": "any"},
    "end": {"last": "any"},
    "ever": {"lifetime_count": "any"},
    "total": {"lifetime_sum": "amount"},
}


def faults(wrong: object) -> list[tuple[str, str]]:
    """Where and why a declaration is refused."""
    with pytest.raises(DeclarationError) as caught:
        declare(wrong)
    return [(".".join(fault.path), fault.reason) for fault in caught.value.faults]


def fault(wrong: object) -> tuple[str, str]:
    """The only fault of a declaration."""
    found = faults(wrong)
    assert 1 == len(found), found
    return found[0]


def test_what_is_left_out_has_a_default() -> None:
    declared = declare(tree(money=None, duplicates=None, eligibility=None))
    assert ("EUR", True, 16, DAY_MS, ()) == (
        declared.currency,
        declared.refuse_other_currencies,
        declared.ids_max,
        declared.ids_age_ms,
        declared.eligibility,
    )


def test_every_measure_becomes_what_it_says_in_the_order_declared() -> None:
    declared = declare(tree(measures=MEASURES, features={"f": {"active_days": "1d"}}))
    assert [("n", Tiling.SUM, None), ("spend", Tiling.SUM, Source("amount")), ("least", Tiling.MIN, Source("quantity"))] == [
        (m.name, m.tiling, m.source) for m in declared.tiles[:3]
    ]
    assert ("most", Tiling.MAX, Source("properties.fee", 2)) == (declared.tiles[3].name, declared.tiles[3].tiling, declared.tiles[3].source)
    assert [("start", Lifetime.FIRST), ("end", Lifetime.LAST), ("ever", Lifetime.COUNT), ("total", Lifetime.SUM)] == [
        (m.name, m.lifetime) for m in declared.lifetimes
    ]
    assert [("kinds", "category")] == [(m.name, m.field) for m in declared.distincts]


def test_every_feature_becomes_what_it_says_in_the_order_declared() -> None:
    features = {
        "a": {"sum": "n", "window": "24h"},
        "b": {"min": "least", "window": "2d", "default": -1},
        "c": {"max": "most", "window": "730d", "transform": "log1p"},
        "d": {"ratio": ["spend", "n"], "window": "90d", "prior": 0.5, "weight": 2, "default": 1},
        "e": {"recency": "start", "cap": "36h"},
        "f": {"recency": "end", "cap": "90d"},
        "g": {"active_days": "30d"},
        "h": {"mean_gap": ["start", "end", "ever"], "cap": "9d"},
        "i": {"distinct": "kinds", "window": "3d"},
        "j": {"lifetime": "total"},
        "k": {"lifetime": "ever"},
    }
    declared = declare(tree(measures=MEASURES, features=features, eligibility={"ever": 3}))
    assert list(features) == [f.name for f in declared.features]
    kinds = (
        [Kind.WINDOW] * 3 + [Kind.RATIO, Kind.RECENCY, Kind.RECENCY, Kind.ACTIVE_DAYS, Kind.MEAN_GAP, Kind.DISTINCT] + [Kind.LIFETIME] * 2
    )
    assert kinds == [f.kind for f in declared.features]
    hours, least, most, ratio, first = declared.features[:5]
    assert (24, True, 0.0) == (hours.window, hours.hourly, hours.default)
    assert (2, False, -1.0) == (least.window, least.hourly, least.default)
    assert Transform.LOG1P == most.transform
    assert (("spend", "n"), 0.5, 2.0, 1.0) == (ratio.measures, ratio.prior, ratio.weight, ratio.default)
    assert 36 * HOUR_MS == first.cap_ms
    assert (730, 24) == (declared.horizon_days, declared.horizon_hours)
    assert (("ever", 3),) == declared.eligibility


def test_any_is_every_type_alone_or_alone_in_a_list() -> None:
    for anything in ("any", ["any"]):
        assert () == declare(tree(measures={"views": {"count": anything}})).tiles[0].of


def test_types_and_sources_are_told_once() -> None:
    measures = {
        "views": {"count": ["view", "b", "view"]},
        "x": {"sum": "properties.a.b", "of": "view"},
        "y": {"lifetime_sum": "properties.a.b", "of": "c"},
        "z": {"max": "properties.a.b", "decimals": 1},
    }
    declared = declare(tree(measures=measures))
    assert ("b", "c", "view") == declared.types
    assert (Source("properties.a.b"), Source("properties.a.b", 1)) == declared.sources


def test_the_version_is_of_16_hexadecimal_digits_and_changes_with_every_part() -> None:
    trees = [
        tree(),
        tree(money={"currency": "GBP"}),
        tree(money={"others": "ignore"}),
        tree(duplicates={"ids_max": 17}),
        tree(duplicates={"age": "2d"}),
        tree(features={"views_7d": {"sum": "views", "window": "8d"}}),
        tree(features={"views_8d": {"sum": "views", "window": "7d"}}),
        tree(features={"views_7d": {"sum": "views", "window": "7d", "transform": "log1p"}}),
        tree(eligibility={"events": 1}),
        tree(measures={"events": {"lifetime_count": "any"}, "views": {"count": "any"}}),
    ]
    versions = [declare(one).version for one in trees]
    assert len(trees) == len(set(versions))
    assert {16} == {len(version) for version in versions}
    assert versions[0] == declare(tree()).version
    int(versions[0], 16)


def test_the_version_changes_with_the_edition_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    before = declare(tree()).version
    monkeypatch.setattr(d, "RULES", d.RULES + 1)
    assert before != declare(tree()).version


@given(declarations(mixed_gaps=True))
def test_what_the_strategies_draw_is_accepted(drawn: Tree) -> None:
    assert list(drawn["features"]) == [f.name for f in declare(drawn).features]


@pytest.mark.parametrize("wrong", [None, [], "views", 3])
def test_a_declaration_is_a_mapping(wrong: object) -> None:
    assert ("", "must be a mapping with the keys money, duplicates, measures, features, eligibility") == fault(wrong)


@pytest.mark.parametrize("section", ["money", "duplicates", "measures", "features", "eligibility"])
def test_each_section_is_a_mapping(section: str) -> None:
    assert (section, "must be a mapping") in faults({**tree(), section: []})


WRONG: list[tuple[str, Tree, str]] = [
    ("moneys", tree(moneys={}), "unknown key; did you mean money?"),
    ("money.curency", tree(money={"curency": "EUR"}), "did you mean currency?"),
    ("money.currency", tree(money={"currency": "eur"}), "is not an ISO 4217 code"),
    ("money.currency", tree(money={"currency": "EUR\n"}), "is not an ISO 4217 code"),
    ("money.currency", tree(money={"currency": 978}), "is not an ISO 4217 code"),
    ("money.others", tree(money={"others": "convert"}), "neither `refuse`"),
    ("duplicates.ids_max", tree(duplicates={"ids_max": 4097}), "is not a whole number from 0 to 4096"),
    ("duplicates.ids_max", tree(duplicates={"ids_max": True}), "is not a whole number"),
    ("duplicates.age", tree(duplicates={"age": "1w"}), "is not a duration such as 30d or 6h"),
    ("duplicates.age", tree(duplicates={"age": "0d"}), "is not a duration"),
    ("duplicates.age", tree(duplicates={"age": 30}), "is not a duration"),
    ("duplicates.age", tree(duplicates={"age": "36501d"}), "from 1h to 36500d"),
    ("duplicates.age", tree(duplicates={"age": "1" * 5000 + "d"}), "is not a duration"),
    ("features", tree(features={}), "declare at least one feature"),
    ("features.Views", tree(features={"Views": {"active_days": "1d"}}), "lower-case letters"),
    ("features.True", tree(features={True: {"active_days": "1d"}}), "lower-case letters"),  # type: ignore[dict-item]
    ("features.f", tree(features={"f": None}), "must be a mapping such as {sum: ...}"),
    ("features.f", tree(features={"f": {}}), "must have exactly one of sum, min, max"),
    ("features.f", tree(features={"f": {"sum": "views", "max": "views"}}), "has sum, max"),
    ("features.f.windw", tree(features={"f": {"sum": "views", "window": "1d", "windw": "1d"}}), "did you mean window?"),
    ("features.f", tree(features={"f": {"sum": "views"}}), "`sum` needs `window`"),
    ("features.f.cap", tree(features={"f": {"sum": "views", "window": "1d", "cap": "1d"}}), "does not go with `sum`"),
    ("features.f.default", tree(features={"f": {"sum": "views", "window": "1d", "default": 1}}), "does not go with `sum`"),
    ("features.f.transform", tree(features={"f": {"active_days": "1d", "transform": "log"}}), "neither none nor log1p"),
    ("features.f.window", tree(features={"f": {"sum": "views", "window": "731d"}}), "731d is longer than 730d"),
    ("features.f.window", tree(features={"f": {"sum": "views", "window": "49h"}}), "49h is longer than 48h: give it in days"),
    ("features.f.sum", tree(features={"f": {"sum": "view", "window": "1d"}}), "no measure is named 'view'; did you mean views?"),
    ("features.f.sum", tree(features={"f": {"sum": "zzz", "window": "1d"}}), "no measure is named 'zzz'"),
    ("features.f.sum", tree(features={"f": {"sum": "events", "window": "1d"}}), "is not a count or sum"),
    ("features.f.min", tree(features={"f": {"min": "views", "window": "1d"}}), "is not a min"),
    ("features.f.max", tree(features={"f": {"max": "views", "window": "1d"}}), "is not a max"),
    ("features.f.distinct", tree(features={"f": {"distinct": "views", "window": "1d"}}), "is not a distinct"),
    ("features.f.lifetime", tree(features={"f": {"lifetime": "views"}}), "is not a lifetime_count or a lifetime_sum"),
    ("features.f.recency", tree(features={"f": {"recency": "events", "cap": "1d"}}), "is not a last or a first"),
    ("features.f.ratio", tree(features={"f": {"ratio": "views", "window": "1d"}}), "must be a list of 2 measures"),
    ("features.f.ratio", tree(features={"f": {"ratio": ["views"], "window": "1d"}}), "must be a list of 2 measures"),
    ("features.f.weight", tree(features={"f": {"ratio": ["views", "views"], "window": "1d", "weight": -1}}), "must not be negative"),
    ("features.f.prior", tree(features={"f": {"ratio": ["views", "views"], "window": "1d", "prior": "1e3"}}), "is not a number"),
    ("features.f.prior", tree(features={"f": {"ratio": ["views", "views"], "window": "1d", "prior": float("nan")}}), "is not a number"),
    ("features.f.default", tree(features={"f": {"ratio": ["views", "views"], "window": "1d", "default": True}}), "is not a number"),
    ("features.f.active_days", tree(features={"f": {"active_days": "24h"}}), "give the window in days"),
    ("features.f.mean_gap", tree(features={"f": {"mean_gap": ["a", "b"], "cap": "1d"}}), "must be a list of 3 measures"),
    ("eligibility.event", tree(eligibility={"event": 1}), "did you mean events?"),
    ("eligibility.views", tree(eligibility={"views": 1}), "is not a lifetime_count"),
    ("eligibility.events", tree(eligibility={"events": 0}), "is not a whole number from 1 to"),
]


@pytest.mark.parametrize(("path", "wrong", "reason"), WRONG)
def test_a_wrong_declaration_is_told_where_and_why(path: str, wrong: Tree, reason: str) -> None:
    found_path, found_reason = fault(wrong)
    assert path == found_path
    assert reason in found_reason


def measured(**measure: Any) -> Tree:
    return tree(measures={"m": measure, "views": {"count": "view"}})


WRONG_MEASURES: list[tuple[str, Tree, str]] = [
    ("measures.m.count", measured(count=[]), "name an event type"),
    ("measures.m.count", measured(count=["any", "view"]), "`any` stands alone"),
    ("measures.m.count", measured(count="$erase"), "$ begins commands"),
    ("measures.m.count", measured(count=""), "is not an event type"),
    ("measures.m.count", measured(count=404), "in quotes if YAML reads something else"),
    ("measures.m.count", measured(count="x" * 257), "1 to 256 bytes"),
    ("measures.m.count", measured(count="\ud800"), "is not an event type"),
    ("measures.m", measured(count="view", of="any"), "names the event types itself"),
    ("measures.m", measured(last="view", decimals=1), "names the event types itself"),
    ("measures.m", measured(of="view"), "must have exactly one of count"),
    ("measures.m.sum", measured(sum="price"), "is none of amount, quantity, properties.NAME"),
    ("measures.m.sum", measured(sum="category"), "is none of amount"),
    ("measures.m.sum", measured(sum="properties."), "is none of amount"),
    ("measures.m.sum", measured(sum=["amount"]), "is none of amount"),
    ("measures.m.distinct", measured(distinct="amount"), "is none of category, product_id, session_id, event_type, properties.NAME"),
    ("measures.m.decimals", measured(distinct="category", decimals=0), "distinct values are texts"),
    ("measures.m.decimals", measured(sum="amount", decimals=2), "is a whole number already"),
    ("measures.m.decimals", measured(sum="properties.fee", decimals=10), "is not a whole number from 0 to 9"),
    ("measures.m.of", measured(sum="amount", of=None), "is not an event type"),
]


@pytest.mark.parametrize(("path", "wrong", "reason"), WRONG_MEASURES)
def test_a_wrong_measure_is_told_where_and_why(path: str, wrong: Tree, reason: str) -> None:
    found_path, found_reason = fault(wrong)
    assert path == found_path
    assert reason in found_reason


def test_an_hourly_window_of_distinct_values_is_refused() -> None:
    wrong = tree(measures=MEASURES, features={"f": {"distinct": "kinds", "window": "24h"}})
    assert ("features.f.window", "distinct values are kept by the day: give the window in days") == fault(wrong)


def test_a_feature_of_a_wrong_measure_is_not_told_twice() -> None:
    wrong = tree(measures={"views": {"count": "view", "decimals": 1}})
    assert ["measures.views"] == [path for path, _ in faults(wrong)]
    wrong = tree(measures={"views": {"cuont": "view"}})
    assert {"measures.views", "measures.views.cuont"} == {path for path, _ in faults(wrong)}


def test_all_faults_are_told_at_once_in_the_order_of_their_lines() -> None:
    wrong = tree(money={"currency": "x"}, duplicates={"age": "x"}, features={"f": {"sum": "zzz", "window": "x"}})
    assert 4 == len(faults(wrong))
    with pytest.raises(DeclarationError) as caught:
        declare(wrong)
    lines = {("money",): 9, ("features", "f"): 2, ("duplicates",): 4}
    again = DeclarationError(caught.value.faults, lines, "mine.yaml")
    starts = [line.split(": ")[0] for line in str(again).splitlines()]
    assert ["mine.yaml:2", "mine.yaml:2", "mine.yaml:4", "mine.yaml:9"] == starts


def test_a_fault_of_no_line_is_told_without_one() -> None:
    assert "declaration: the declaration: no" == str(DeclarationError((d.Fault((), "no"),)))


LIMITS: list[tuple[str, Tree]] = [
    ("features", tree(features={f"f{i}": {"active_days": "1d"} for i in range(49)})),
    ("measures", tree(measures={"views": {"count": "any"}, **{f"m{i}": {"count": "any"} for i in range(48)}})),
    ("measures", tree(measures={"views": {"count": "any"}, **{f"m{i}": {"last": "any"} for i in range(33)}})),
    ("measures", tree(measures={"views": {"count": "any"}, **{f"m{i}": {"distinct": "category"} for i in range(9)}})),
    ("measures", tree(measures={"views": {"count": [f"t{i}" for i in range(201)]}})),
    (
        "measures",
        tree(
            measures={
                "views": {"count": "any"},
                **{f"t{i}": {"sum": f"properties.t{i}"} for i in range(40)},
                **{f"l{i}": {"lifetime_sum": f"properties.l{i}"} for i in range(9)},
            }
        ),
    ),
]


@pytest.mark.parametrize(("path", "wrong"), LIMITS)
def test_there_is_a_limit_to_everything(path: str, wrong: Tree) -> None:
    found_path, reason = fault(wrong)
    assert path == found_path
    assert "at most" in reason


def test_nothing_but_a_declaration_comes_out_of_odd_yaml() -> None:
    odd = {
        None: {},
        3: [],
        "features": {1: {"sum": None, "window": None}, None: 3},
        "measures": {2: {"distinct": 3, "of": {}}},
        "eligibility": {1: 1},
    }
    assert len(faults(odd)) > 5
