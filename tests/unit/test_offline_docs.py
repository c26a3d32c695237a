"""docs/offline.md shows every setting, with its default."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import yaml

from offline import settings
from offline.gate import Figures, judge
from tests.offlinekit import end_of
from tests.unit.test_offline_gate import LIMITS, ROWS, SOUND, computed

PAGE = (Path(__file__).parents[2] / "docs" / "offline.md").read_text(encoding="utf-8")
EXAMPLE = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])


def test_every_setting_is_in_the_example_with_its_default() -> None:
    found = settings.read(EXAMPLE, "docs/offline.md")
    assert settings.Settings() == replace(found, gate=replace(found.gate, days_accepted=()), names={})
    for section, kind in (
        ("gate", settings.GateLimits),
        ("fit", settings.Fitting),
        ("cleaning", settings.Cleaning),
        ("drift", settings.DriftLimits),
    ):
        assert [one.name for one in fields(kind)] == list(EXAMPLE["offline"][section])


def test_every_check_of_the_gate_is_told_of() -> None:
    assert isinstance(SOUND, Figures)
    for check in judge(SOUND, LIMITS, computed(ROWS), end_of(ROWS)).checks:
        assert f"`{check.name}`" in PAGE
