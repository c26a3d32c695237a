"""Fits, gates and versions shown to people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from offline.oneshot import Apart, Profile

THOUSAND = 1000.0
SMALLEST = 0.0005


def number(value: float) -> str:
    """Write a number as short as it can be read."""
    if abs(value) >= THOUSAND or value == int(value):
        return f"{value:,.0f}"
    return "0" if abs(value) < SMALLEST else f"{value:,.3g}"


def day(time_ms: int) -> str:
    """Write the last day before an instant."""
    return datetime.fromtimestamp(time_ms / 1000 - 1, UTC).strftime("%Y-%m-%d")


def profiles_table(profiles: Sequence[Profile], new: int, customers: int) -> Table:
    """Lay segments out, with what sets each apart."""
    found = table(("segment", "whole"), ("name", ""), ("customers", "right"), ("share", "right"), ("usual value there (on average)", ""))
    for profile in profiles:
        found.add_row(
            profile.segment_id, escape(profile.name), f"{profile.customers:,}", f"{profile.share:.1%}", escape(_apart(profile.apart))
        )
    if new:
        found.add_row("new", "too little behind them to say", f"{new:,}", f"{new / customers:.1%}", "")
    return found


def _apart(features: Iterable[Apart]) -> str:
    return ", ".join(f"{a.feature} {number(a.typical)} ({number(a.average)})" for a in features)


def choice_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Lay out what each number of segments came to."""
    found = table(
        ("k", "right"),
        ("squares", "right"),
        ("elbow", "right"),
        ("silhouette", "right"),
        ("Davies-Bouldin", "right"),
        ("stability", "right"),
        ("smallest", "right"),
        ("largest", "right"),
        ("mean rank", "right"),
    )
    for row in rows:
        rank = f"{row['rank']:.2f}" if row["allowed"] else "out"
        cells = (f"{row['wcss']:,.0f}", *(f"{row[name]:.2f}" for name in ("elbow", "silhouette", "davies_bouldin", "stability")))
        shares = (f"{row['smallest']:.1%}", f"{row['largest']:.1%}")
        found.add_row(f"{row['k']}", *cells, *shares, rank, style="bold green" if row["chosen"] else None)
    note = Text("The least mean rank of four criteria wins; `out` is a number with a segment too small or too large.", style="dim")
    return Group(found, note)


def gate_table(gate: Mapping[str, Any]) -> Group:
    """Lay out a verdict, with its reasons."""
    found = table(("check", ""), ("figure", "right"), ("limit", ""), ("", ""))
    for check in gate["checks"]:
        figure = "-" if check["value"] is None else number(check["value"])
        found.add_row(check["name"], figure, check["limit"], Text("ok", "green") if check["passed"] else Text("refused", "red"))
    if not gate["reasons"]:
        words = Text("The gate passes it.", style="green")
    elif gate["forced"]:
        words = Text(f"Forced: {gate['forced']}. The gate had refused it: {'; '.join(gate['reasons'])}", style="yellow")
    else:
        words = Text("\n".join(["The gate refuses it:", *(f"- {reason}" for reason in gate["reasons"])]), style="red")
    return Group(found, words)


def data_table(data: Mapping[str, Any]) -> Group:
    """Lay out the account of a history."""
    found = table(("customers", ""), ("", "right"), ("what is done", ""), ("such as", ""))
    found.add_row("in the history", f"{data['customers']:,}", f"segments are fitted to {data['fitted']:,}", "")
    for name, odd in data["oddities"].items():
        if odd["customers"]:
            found.add_row(name, f"{odd['customers']:,}", odd["done"], escape(", ".join(odd["examples"])))
    rows = ", ".join(f"{count:,} {name}" for name, count in data["rows"].items())
    words = [f"Events: {rows}."]
    if data["without_variance"]:
        words.append(f"Features without variance have no weight: {', '.join(data['without_variance'])}.")
    return Group(found, Text("\n".join(words)))


def segments_table(version: Mapping[str, Any]) -> Table:
    """Lay out the segments of a version's record."""
    found = table(("segment", ""), ("name", ""), ("customers", "right"), ("share", "right"))
    total = max(sum(segment["members"] for segment in version["segments"]), 1)
    for segment in version["segments"]:
        share = "retired" if segment["retired"] else f"{segment['members'] / total:.1%}"
        found.add_row(segment["segment_id"], escape(segment["name"]), f"{segment['members']:,}", share)
    return found


def table(*columns: tuple[str, str]) -> Table:
    """Make a table of columns, each a heading and `right` where it holds numbers, `whole` where it must not be broken."""
    found = Table(box=box.SIMPLE_HEAD)
    for heading, kind in columns:
        found.add_column(heading, justify="right" if kind == "right" else "left", overflow="fold", no_wrap=kind == "whole")
    return found
