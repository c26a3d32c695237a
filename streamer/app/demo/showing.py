"""What the demo found, in tables that fit eighty columns."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from streamer.app.agreement import confusion
from streamer.app.demo.watch import day
from streamer.app.showing import table, titled
from streamer.core.declaration import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from streamer.app.demo.truth import Silence, Story, Verdict

MANY = 0.1  # of a persona's customers: worth being seen at a glance
STORY_CHANGES_MAX = 12


def show_segments(console: Console, verdict: Verdict, names: Mapping[str, str]) -> None:
    """Show the segments, and where each persona's customers are."""
    console.print("\n[b]4. The segments found, and who is in them truly[/b]")
    console.print(_segments(verdict, names))
    console.print(titled("Where the customers of each persona are", _confusion(verdict)))
    console.print(
        f"   Adjusted Rand index against the truth: [b]{verdict.held:.2f}[/b] (1: the same groups, 0: chance).\n"
        f"   scikit-learn's KMeans, fitted on all features of the last instant: {verdict.reference:.2f}.\n"
        f"   It can't be 1: who has just become another still looks like before."
    )


def _segments(verdict: Verdict, names: Mapping[str, str]) -> Table:
    found = table(("segment", ""), ("name, by what sets it apart", ""), ("customers", "right"), ("mostly", ""))
    within: dict[str, Counter[str]] = {}
    for segment, persona in zip(verdict.segments, verdict.personas, strict=True):
        within.setdefault(segment, Counter())[persona] += 1
    for segment, personas in sorted(within.items()):
        persona, count = personas.most_common(1)[0]
        found.add_row(segment, names.get(segment, segment), f"{personas.total():,}", f"{persona} {count / personas.total():.0%}")
    return found


def _confusion(verdict: Verdict) -> Table:
    counted = confusion(verdict.personas, verdict.segments)
    found = Table(box=None, padding=(0, 1), pad_edge=True)
    found.add_column("persona")
    for segment in counted.columns:
        found.add_column(segment.removeprefix("seg_"), justify="right")
    for persona, row in zip(counted.rows, counted.count.tolist(), strict=True):
        found.add_row(persona, *(_cell(count, sum(row), most=count == max(row)) for count in row))
    return found


def _cell(count: int, whole: int, *, most: bool) -> Text:
    style = "bold green" if most else "" if count >= MANY * whole else "dim"
    return Text(f"{count:,}" if count else ".", style=style)


def show_story(console: Console, story: Story | None, start_ms: int) -> None:
    """Tell one customer's changes, and what they truly were."""
    if story is None:
        return
    console.print(f"\n[b]5. The story of {story.customer}[/b]")
    for phase in story.phases:
        console.print(f"   truly [b]{phase.persona}[/b] from {day(phase.begin_ms)} to {day(phase.end_ms - 1)}", highlight=False)
    found = table(("day", "right"), ("was told to be in", ""), ("because of", ""), ("truly then", ""))
    for change in story.changes[:STORY_CHANGES_MAX]:
        at_ms = change["occurred_at"]
        truly = next((phase.persona for phase in story.phases if phase.begin_ms <= at_ms < phase.end_ms), "")
        number = (at_ms - start_ms) // DAY_MS + 1
        found.add_row(str(number), f"{change['segment_id']}  {change['segment_name']}", change["cause"], truly)
    console.print(found)
    if len(story.changes) > STORY_CHANGES_MAX:
        console.print(f"   and {len(story.changes) - STORY_CHANGES_MAX} more")


def show_silence(console: Console, silence: Silence | None) -> None:
    """Tell of a customer whom time alone moved."""
    if silence is None:
        return
    change, last_ms = silence
    days = (change["occurred_at"] - last_ms) // DAY_MS
    console.print(
        f"   And [b]{change['customer_id']}[/b], last seen on {day(last_ms)}, did nothing more. {days} days later, as\n"
        f"   {day(change['occurred_at'])} began, they went from {change['previous_segment_id']} to {change['segment_id']}\n"
        f"   ({change['segment_name']}), with no event at all: only time had passed.",
        highlight=False,
    )


def show_next(console: Console, *steps: tuple[str, str]) -> None:
    """Tell what to do next: commands, and what each is for."""
    console.print("[b]What to do next[/b]")
    width = max(len(command) for command, _ in steps)
    for command, what in steps:
        console.print(f"  {command:<{width}}  {what}", markup=False, highlight=False)
