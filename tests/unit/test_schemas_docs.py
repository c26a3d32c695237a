"""docs/schemas.md says what the schemas say."""

from __future__ import annotations

from pathlib import Path

import pytest

import schemas
from schemas.fields import tables

PAGE = (Path(__file__).parents[2] / "docs" / "schemas.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", schemas.NAMES)
def test_the_page_has_every_field_of_every_schema(name: str) -> None:
    assert f"## {name}\n\n{tables(name)}\n" in PAGE


@pytest.mark.parametrize("name", schemas.NAMES)
def test_the_page_has_the_fixed_ids_of_version_1(name: str) -> None:
    assert f"| `{name}` | {schemas.packaged_id(name, 1)} |" in PAGE
