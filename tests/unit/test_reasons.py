"""Reasons: each with a remedy, and docs/dead-letters.md tells the same ones in the same order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from streamer.core.reasons import REMEDIES, Reason

PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"
ROW = re.compile(r"^\| `([a-z0-9_]+)` \| (.+) \| (.+) \|$", re.MULTILINE)
REASONS = [reason for reason in Reason if reason is not Reason.OK]


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_a_remedy_of_one_line(reason: Reason) -> None:
    remedy = REMEDIES[reason]
    assert remedy.isprintable()
    assert 20 < len(remedy.encode()) < 200
    assert ":" in remedy, "what is wrong, then what to do"


def test_nothing_else_has_a_remedy() -> None:
    assert REASONS == list(REMEDIES)


def test_the_page_tells_every_reason_in_order() -> None:
    assert [reason.name.lower() for reason in REASONS] == [row[0] for row in ROW.findall(PAGE.read_text(encoding="utf-8"))]


def test_the_page_names_the_limits_that_the_remedies_name() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for remedy in REMEDIES.values():
        for key in re.findall(r"`[a-z_]+\.[a-z_]+`", remedy):
            assert key in page
