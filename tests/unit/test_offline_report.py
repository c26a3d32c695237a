"""The report: its numbers are those of plain pandas, and its page can be read by everybody, whatever is in the data."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from offline import oneshot
from offline.backtest import first_version
from offline.cli import app
from offline.events import Reading
from offline.report import course, drawing, facts, once, page, palette, words
from offline.report.axes import Key, spaced, ticks
from offline.report.ledger import ledger_of
from offline.report.study import Study, Subject, of_log
from offline.report.told import COLUMNS, Told, read_told
from offline.settings import Settings
from streamer.adapters.declaration_file import load
from streamer.core.errors import BadInput, Misconfigured
from streamer.core.model import Segment
from tests.offlinekit import BEGIN_DAY, DAY_MS, batches, end_of, shop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from offline.report.ledger import Ledger

DECLARATION = load(None)
READING = Reading(DECLARATION)
ROWS = [{**one, "currency": "EUR"} for one in shop(60, 90)]
AS_OF = end_of(ROWS)
SETTINGS = Settings()
HOSTILE = "<script>alert('x')</script> & \"quotes\" $x_1$"


def ledger(rows: Sequence[dict[str, Any]] = ROWS, as_of: int = AS_OF, rows_max: int = 3_000_000) -> Ledger:
    return ledger_of(READING, batches(rows), as_of, rows_max)


LEDGER = ledger()
VERSION = first_version(LEDGER.log, AS_OF, 3)
ABOUT, WORDS = words.described(DECLARATION)


def studied(found: Ledger = LEDGER, as_of: int = AS_OF, told: Told | None = None, **subject: Any) -> Study:
    return of_log(replace(Subject(VERSION, ABOUT, WORDS), **subject), found, as_of, told, SETTINGS)


STUDY = studied()
PAGE = page.html(STUDY, "Customers")


def frame(rows: Sequence[dict[str, Any]] = ROWS) -> pd.DataFrame:
    return pd.DataFrame(rows).drop_duplicates(["customer_id", "event_id"])


def nearest(at: int, version: Any = VERSION) -> Any:
    """Place customers as of an instant by the plainest arithmetic: clip, logarithm, standardise, the nearest centroid."""
    from offline.features import compute  # noqa: PLC0415  # the nightly job's way to features, not the report's

    computed = compute(READING, batches([row for row in ROWS if row["occurred_at"] < at]), at)
    s = version.scaling
    values = np.clip(computed.features.to_numpy(), s.low, s.high)
    log = np.array([one.name == "LOG1P" for one in version.transforms])
    z = (np.where(log, np.sign(values) * np.log1p(np.abs(values)), values) - s.mean) / s.scale * s.weight
    place = ((z[:, None, :] - version.centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    return pd.Series(np.where(computed.facts["eligible"], place, facts.NEW).astype(np.int64), computed.features.index)


PLACE = nearest(AS_OF)


# Numbers


def test_sizes_are_those_of_the_nearest_centroids() -> None:
    assert STUDY.profile.customers.tolist() == [int((PLACE == k).sum()) for k in range(3)]
    assert STUDY.profile.new == int((PLACE == facts.NEW).sum())
    assert STUDY.sizes is not None
    assert STUDY.sizes.instants[-1] == AS_OF
    for at, row in list(zip(STUDY.sizes.instants, STUDY.sizes.customers.tolist(), strict=True))[::4]:
        there = nearest(at)
        assert row == [int((there == k).sum()) for k in (0, 1, 2, facts.NEW)]


def test_revenue_and_order_values_are_those_of_pandas() -> None:
    found = STUDY.revenue
    assert found is not None
    orders = frame().query("event_type == 'purchase'").assign(place=lambda f: f["customer_id"].map(PLACE))
    for k in range(3):
        own = orders[orders["place"] == k]
        assert (found.revenue[k], found.orders[k], found.buyers[k]) == (own["amount"].sum(), len(own), own["customer_id"].nunique())
        assert found.order_value[k].tolist() == pytest.approx(own["amount"].quantile([0.25, 0.5, 0.75]).tolist())
    assert found.days == 60


def test_an_order_that_was_sent_twice_counts_once() -> None:
    twice = ledger([*ROWS, *(row for row in ROWS if row["event_type"] == "purchase")])
    assert twice.orders.amount.sum() == LEDGER.orders.amount.sum()


def test_retention_is_that_of_pandas_and_looks_ahead_only() -> None:
    found = STUDY.retention
    assert found is not None
    assert (found.days, found.active.shape[1], found.what) == (7, 4, "bought")
    then = nearest(found.since)
    orders = frame().query("event_type == 'purchase'")
    for p in range(4):
        begin = found.since + p * 7 * DAY_MS
        seen = set(orders[orders["occurred_at"].between(begin, begin + 7 * DAY_MS - 1)]["customer_id"])
        for k in range(3):
            members = then.index[then == k]
            assert found.active[k, p] == pytest.approx(np.mean([one in seen for one in members]))


def test_the_grid_of_recency_and_frequency_is_that_of_pandas() -> None:
    found = STUDY.grid
    assert found is not None
    orders = frame().query("event_type == 'purchase'").groupby("customer_id")
    recency = (AS_OF - orders["occurred_at"].max()) // DAY_MS
    often, spent = orders.size(), orders["amount"].sum()
    assert found.customers.sum() == len(recency)
    for r, (near, far) in enumerate(found.recency_days):
        for c, (low, high) in enumerate(found.orders):
            inside = recency.between(near, far) & often.between(low, high)
            assert found.customers[r, c] == inside.sum()
            if inside.any():
                assert found.spent[r, c] == spent[inside].median()
                assert (PLACE[recency.index[inside]] == found.place[r, c]).sum() == PLACE[recency.index[inside]].value_counts().max()


def test_moves_are_counted_by_the_version_that_was_in_force_then() -> None:
    half = AS_OF - 20 * DAY_MS
    earlier = replace(first_version(LEDGER.log, half, 4), version=0)
    found = studied(previous=earlier).migration
    assert found is not None
    assert (found.before_ms, found.after_ms) == (half, AS_OF)
    before, after = nearest(half, earlier), PLACE
    everybody = pd.DataFrame({"before": before, "after": after}).fillna(facts.ABSENT).astype(int)
    counted = Counter(map(tuple, everybody.to_numpy().tolist()))
    rows, columns = found.customers.shape
    place = lambda p, size: p if p >= 0 else size - 2 if p == facts.NEW else size - 1  # noqa: E731
    for (a, b), n in counted.items():
        assert found.customers[place(a, rows), place(b, columns)] == n
    assert found.customers.sum() == len(everybody)


def test_without_an_earlier_version_moves_under_this_one_are_told() -> None:
    assert STUDY.migration is not None
    assert STUDY.since_version is None
    assert STUDY.migration.before_ms == AS_OF - 30 * DAY_MS


def test_what_subscribers_were_told_is_believed_and_the_greater_version_wins() -> None:
    ids = sorted({row["customer_id"] for row in ROWS})
    rows = [(one, 1, "entered", "seg_0001", "first_seen", AS_OF - 40 * DAY_MS) for one in ids]
    rows += [(ids[0], 2, "existing", "seg_0002", "behaviour", AS_OF - 5 * DAY_MS), (ids[1], 3, "exited", "seg_0001", "expired", AS_OF - 1)]
    told = Told(pd.DataFrame(rows[::-1], columns=list(COLUMNS)))
    found = studied(told=told)
    assert found.told
    assert found.profile.customers.tolist() == [len(ids) - 2, 1, 0]
    assert found.migration is not None
    assert (found.migration.customers[0, 1], found.migration.customers[0, -1]) == (1, 1)
    assert found.causes == {"behaviour": 1, "expired": 1}
    assert "As subscribers were told" in page.html(found, "x")
    lately = Told(pd.DataFrame([(*row[:5], AS_OF - 8 * DAY_MS) for row in rows[: len(ids)]], columns=list(COLUMNS)))
    moved = studied(told=lately).migration
    assert moved is not None
    assert (moved.before_ms, moved.customers[0, 0]) == (AS_OF - 7 * DAY_MS, len(ids))


def test_changes_are_read_from_the_files_that_export_writes(tmp_path: Path) -> None:
    from streamer.adapters.exports import exported  # noqa: PLC0415  # who writes them
    from streamer.app.exporting import CHANGES  # noqa: PLC0415

    row = dict.fromkeys(CHANGES) | {"customer_id": "007", "version": 1, "status": "entered", "segment_id": "seg_0001", "occurred_at": 5}
    for ending in ("csv", "parquet"):
        with exported(tmp_path / f"c.{ending}", CHANGES) as take:
            take([row])
        assert {"007": "seg_0001"} == read_told(tmp_path / f"c.{ending}").at(5).to_dict()
        assert {} == read_told(tmp_path / f"c.{ending}").at(4).to_dict()
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="not a file of `streamer export changes`"):
        read_told(tmp_path / "no.csv")


@pytest.mark.parametrize("rows_max", [400, 2000])
def test_a_large_history_is_read_by_whole_customers_whatever_the_order(rows_max: int) -> None:
    some, other = ledger(rows_max=rows_max), ledger(list(reversed(ROWS)), rows_max=rows_max)
    assert some.one_in > 1
    assert set(some.ids) == set(other.ids)
    assert len(some.log.rows.slot) <= rows_max
    counts = Counter(row["customer_id"] for row in ROWS)
    assert {one: counts[one] for one in some.ids} == dict(Counter(some.ids[slot] for slot in some.log.rows.slot.tolist()))
    assert f"one customer in {some.one_in}" in page.html(studied(some), "x")


def test_ids_belong_to_the_slots_of_the_log() -> None:
    rows = LEDGER.log.rows
    last = dict(zip((LEDGER.ids[slot] for slot in rows.slot.tolist()), rows.time.tolist(), strict=True))
    assert last == frame().groupby("customer_id")["occurred_at"].max().to_dict()


def test_instants_are_midnights_back_from_the_last_and_few() -> None:
    for days in (1, 5, 40, 200, 3000):
        found = course.regular(AS_OF - days * DAY_MS, AS_OF)
        assert found[-1] == AS_OF
        assert len(found) <= course.INSTANTS_MAX
        assert len(set(np.diff(found))) <= 1


def test_the_picture_and_the_silhouettes_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA  # noqa: PLC0415  # slow to import
    from sklearn.metrics import silhouette_score  # noqa: PLC0415

    rng = np.random.default_rng(1)
    vectors = (np.repeat([[0, 0, 0], [900, 0, 300], [0, 900, 0]], 40, axis=0) + rng.normal(0, 90, (120, 3))).astype(np.int16)
    place = np.repeat([0, 1, 2], 40).astype(np.int64)
    drawn, fitted = facts.picture(vectors, place, 3), PCA(2).fit(vectors / 256)
    assert drawn is not None
    assert drawn.explained == pytest.approx(fitted.explained_variance_ratio_)
    assert np.abs(drawn.loadings) == pytest.approx(np.abs(fitted.components_))
    measured = facts.silhouette(vectors, place, 3)
    assert measured is not None
    assert measured.overall == pytest.approx(silhouette_score(vectors, place))


# Words


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (0, "EUR", "€0"),
        (995, "EUR", "€9.95"),
        (123456, "GBP", "£1,235"),
        (-5000, "USD", "-$50.00"),
        (1200, "JPY", "¥1,200"),
        (12345678, "KWD", "KWD 12,346"),
        (5_000_000_000, "EUR", "€50.0 million"),
    ],
)
def test_money_is_written_in_its_currency(minor: int, currency: str, text: str) -> None:
    assert text == words.money(minor, currency)


def test_suggestions_follow_from_the_figures_and_name_them() -> None:
    def of(**z: float) -> list[words.Suggestion]:
        return words.suggestions(ABOUT, np.array([z.get(one.role.name, 0.0) for one in ABOUT]))

    assert "Keep them" in of(MONEY=1.2, FREQUENCY=1.0, RECENCY=-0.8)[0].what
    assert "win some back" in of(MONEY=-0.8, RECENCY=1.2, SILENCE=0.9)[0].what
    assert "why goods come back" in of(REFUND=1.5)[0].what
    assert "look and rarely buy" in of(LOOKING=1.0)[0].what
    assert "spend far above average" in of(MONEY=1.2, FREQUENCY=1.0, RECENCY=-0.8)[0].because
    assert ["nothing stands out enough"] == [one.because for one in of()]


# The page


class Parsed(HTMLParser):
    """What is in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"} and tag != "path":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while tag != "path" and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


PARSED = Parsed(PAGE)


def test_the_page_asks_nobody_for_anything() -> None:
    assert [] == re.findall(r"https?://|url\(|@import|<link|<script|<img|<iframe", PAGE)
    for _, attributes in PARSED.tags:
        assert not {"src", "srcset", "data", "action", "poster"} & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")


def test_ids_are_unique_and_every_reference_has_its_goal() -> None:
    ids = [attributes["id"] for _, attributes in PARSED.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in PARSED.tags:
        for name in ("href", "aria-labelledby"):
            if name in attributes:
                assert (attributes[name] or "").removeprefix("#") in ids


def test_the_page_has_landmarks_and_headings_in_order() -> None:
    assert [1, 1, 1] == [len(PARSED.all(tag)) for tag in ("main", "nav", "header")]
    assert "en" == PARSED.all("html")[0]["lang"]
    levels = [int(tag[1]) for tag, _ in PARSED.tags if re.fullmatch(r"h[1-6]", tag)]
    assert 1 == levels[0]
    assert 1 == levels.count(1)
    assert all(b - a <= 1 for a, b in pairwise(levels))
    assert {"href": "#content", "class": "skip"} == PARSED.all("a")[0]


def test_every_figure_has_a_text_a_caption_and_a_table() -> None:
    figures = PAGE.split("<figure")[1:]
    assert {
        "sizes",
        "history",
        "snake",
        "importance",
        "revenue",
        "order_value",
        "rfm",
        "retention",
        "migration",
        "plane",
        "silhouette",
    } <= {re.findall(r'id="figure-(\w+)"', one)[0] for one in figures}
    for one in figures:
        parsed = Parsed(f"<figure{one.split('</figure>')[0]}")
        drawings = [found for found in parsed.all("svg") if found.get("role") == "img"]
        assert ["wide", "narrow"] == [found["class"] for found in drawings]
        assert all(len(found["aria-label"] or "") > 20 for found in drawings)
        assert [1, 1, 1] == [len(parsed.all(tag)) for tag in ("figcaption", "table", "details")]
        assert all(found.get("scope") for found in parsed.all("th"))
        assert len(parsed.all("tr")) > 1


def test_text_is_large_enough_on_a_phone_and_stays_on_the_canvas() -> None:
    for section in page.sections(STUDY):
        for figure in section.figures:
            for found in (figure.wide, figure.narrow):
                for one in found.marks:
                    if isinstance(one, drawing.Text):
                        assert one.size >= 9.5
                        assert -1 <= one.x <= found.width + 1, (figure.name, one)
                        assert 0 <= one.y <= found.height + 1, (figure.name, one)


def test_what_comes_from_data_is_escaped_everywhere() -> None:
    renamed = replace(VERSION, segments=tuple(Segment(s.number, HOSTILE, s.members) for s in VERSION.segments))
    made = page.html(studied(version=renamed), HOSTILE)
    assert "<script" not in made
    assert HOSTILE in "".join(Parsed(made).texts)
    for section in page.sections(studied(version=renamed)):
        for figure in section.figures:
            assert "<script" not in drawing.svg(figure.wide, HOSTILE, inline=False)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    written = [page.write(studied(), "Customers", tmp_path / name) for name in ("one", "other")]
    assert written[0].pictures
    for name in ["report.html", *(f"figures/{path.name}" for path in written[0].figures)]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name
    assert 2 * len({path.stem for path in written[0].figures}) == len(written[0].figures)
    assert (tmp_path / "one" / "report.html").stat().st_size < 1_500_000


# Colours


@pytest.mark.parametrize("mode", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
def test_contrast_keeps_wcag_aa(mode: dict[str, str]) -> None:
    for text in ("ink", "muted", "link", "good", "bad"):
        for ground in ("paper", "panel"):
            assert palette.contrast(mode[text], mode[ground]) >= 4.5, (text, ground)
    for token, color in mode.items():
        if token.startswith("on-") and token != "on-s":
            assert palette.contrast(color, mode[token.removeprefix("on-")]) >= 4.5, token
    for token in [*(palette.segment_token(place) for place in range(-1, 8)), "q4"]:
        for ground in ("paper", "panel"):
            assert palette.contrast(mode[token], mode[ground]) >= 3.0, (token, ground)


SIGHTS = {  # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}


@pytest.mark.parametrize("mode", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
@pytest.mark.parametrize("sight", SIGHTS)
def test_segments_differ_for_every_sight_by_colour_or_else_by_shape(mode: dict[str, str], sight: str) -> None:
    def lab(color: str) -> Any:
        s = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        rgb = np.clip(SIGHTS[sight] @ np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4), 0, 1)
        lms = np.cbrt(np.array([[0.41222, 0.53633, 0.05145], [0.21190, 0.68070, 0.10740], [0.08830, 0.28172, 0.62998]]) @ rgb)
        return np.array([[0.21045, 0.79362, -0.00407], [1.97800, -2.42859, 0.45060], [0.02590, 0.78277, -0.80868]]) @ lms

    for a, b in combinations(range(palette.SEGMENT_COLORS), 2):
        one, other = (Key(place, "", "") for place in (a, b))
        assert np.linalg.norm(lab(mode[one.color]) - lab(mode[other.color])) > 0.05, (one.color, other.color)
        assert one.shape != other.shape
    everybody = {(Key(place, "", "").color, Key(place, "", "").shape) for place in range(64)}
    assert 64 == len(everybody)


# Little data


def test_one_segment_and_one_customer_make_a_page(tmp_path: Path) -> None:
    rows = [row for row in ROWS if row["customer_id"] == "c000"]
    alone = ledger(rows)
    one = replace(VERSION, segments=VERSION.segments[:1], centroids=VERSION.centroids[:1])
    made = page.html(studied(alone, version=one), "x")
    assert "1 customers" in made or "1 customer" in made
    assert "Silhouettes need customers in at least two segments" in made
    assert "too few customers who differ" in made
    page.write(studied(alone, version=one), "x", tmp_path)


def test_a_day_of_history_says_what_is_missing() -> None:
    rows = [row for row in ROWS if row["occurred_at"] < (BEGIN_DAY + 2) * DAY_MS]
    made = page.html(studied(ledger(rows, end_of(rows)), end_of(rows)), "x")
    assert "too short to follow anybody" in made
    assert "nan" not in " ".join(Parsed(made).texts).lower().split()


def test_events_without_amounts_say_so() -> None:
    made = page.html(studied(ledger([row for row in ROWS if row["event_type"] != "purchase"])), "x")
    assert "There is no purchase with an amount" in made


def test_many_segments_are_all_in_the_tables_and_the_largest_in_the_figures() -> None:
    many = first_version(LEDGER.log, AS_OF, 20)
    study = studied(version=many)
    made = page.html(study, "x")
    assert "The figure has the 12 largest segments, the table all" in made
    for segment in many.active:
        assert segment.segment_id in made


def test_a_version_of_other_features_is_refused_with_what_to_do() -> None:
    with pytest.raises(Misconfigured, match="name the declaration that it was made with"):
        studied(version=replace(VERSION, feature_version="other"))
    earlier = replace(VERSION, version=0, feature_version="other", as_of=AS_OF - 9 * DAY_MS)
    assert "was made of other features" in page.html(studied(previous=earlier), "x")


# Commands


def ran(*arguments: object, status: int = 0) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=status == 0)
    assert status == result.exit_code, (result.output, result.exception)
    return result.output


def test_a_file_that_is_segmented_once_gets_its_report(tmp_path: Path) -> None:
    events = tmp_path / "events.csv"
    pd.DataFrame(ROWS).drop(columns=["event_id", "category"]).astype({"amount": "Int64"}).to_csv(events, index=False)
    out = ran("segment", events, "--k", "3", "--report", tmp_path / "r")
    assert str(tmp_path / "r" / "report.html") in out
    made = (tmp_path / "r" / "report.html").read_text()
    assert "no gate looks at that" in made
    assert "From segment to segment" in made
    assert (tmp_path / "r" / "figures" / "snake.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_of_features_gets_a_report_that_says_what_events_would_give(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    centre = np.repeat([[1.0, 100.0, 3.0], [9.0, 100.0, 3.0], [5.0, 900.0, 3.0]], 30, axis=0)
    table = pd.DataFrame(centre + rng.normal(0, [0.3, 9.0, 0.5], centre.shape), columns=["visits", "spend", HOSTILE])
    path = tmp_path / "features.csv"
    table.assign(customer_id=[f"c{n:03d}" for n in range(90)]).to_csv(path, index=False)
    found = oneshot.segment(oneshot.Request(path, 3), SETTINGS)
    study = once.study(found, SETTINGS)
    assert study.profile.customers.tolist() == [one.customers for one in found.profiles]
    made = page.html(study, "x")
    assert made.count("no events: `offline segment` with a file of orders") >= 4
    assert "<script" not in made
    assert "High spend" in made


def test_a_report_of_a_history_and_its_versions(tmp_path: Path) -> None:
    from tests.unit.test_offline_history import archive  # noqa: PLC0415  # how a history comes about

    history, models = archive(tmp_path / "history", ROWS), tmp_path / "models"
    for day in ("2024-11-30", "2024-12-02"):
        ran("reseed", history, "--models", models, "--as-of", day)
    out = tmp_path / "out"
    assert str(out / "report.html") in ran("report", history, "--models", models, "--out", out)
    made = (out / "report.html").read_text()
    assert "This one passed all" in made
    assert "by version 1 as of the end of 30 November 2024" in made
    first = ran("report", history, "--models", models, "--out", out, "--version", 1)
    assert "report.html" in first
    assert "By the same version" in (out / "report.html").read_text()
    assert "there is no version in" in str(
        CliRunner().invoke(app, ["report", history, "--models", str(tmp_path / "none"), "--out", str(out)]).exception
    )


# Drawing


def test_labels_keep_their_distance_and_their_order() -> None:
    found = spaced([10, 11, 12, 90, 91], 13, 0, 100)
    assert all(b - a >= 12.9 for a, b in pairwise(found))
    assert 0 <= min(found)
    assert max(found) <= 100
    assert [5.0] == spaced([5.0], 13, 0, 100)


def test_ticks_are_round_and_within() -> None:
    for low, high in ((0, 1), (0, 37), (-3, 3), (0, 123456), (0, 0.02)):
        found = ticks(low, high, 5)
        assert 2 <= len(found) <= 7
        assert low <= found[0]
        assert found[-1] <= high


def test_texts_are_cut_to_their_room() -> None:
    assert "short" == drawing.shortened("short", 100)
    assert drawing.shortened("a name that is far too long", 80).endswith("…")
    assert 2 == len(drawing.wrapped("average order value in pounds sterling and more of it", 80))
