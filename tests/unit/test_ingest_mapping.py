from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from streamer.adapters.files import mapping_file
from streamer.adapters.files.conditions import OPERATIONS
from streamer.adapters.files.mapping_file import MappingError, parse_mapping
from streamer.adapters.files.mappings import load_mapping, names
from streamer.adapters.files.values import Refusal
from streamer.app import ingest_command

GOOD = """\
name: clicks
time_zone: UTC
columns:
  event_id: {column: id}
  customer_id: {column: user}
  occurred_at: {column: at}
  event_type: {column: action, values: {pageview: view, NO: no}, otherwise: other}
"""


def test_every_packaged_mapping_is_sound() -> None:
    assert ("online_retail",) == names()
    assert names() == tuple(load_mapping(name).name for name in names())


def test_a_mapping_names_the_columns_it_reads_each_once() -> None:
    assert ("InvoiceNo", "CustomerID", "StockCode", "Country", "InvoiceDate", "Quantity", "UnitPrice") == load_mapping(
        "online_retail"
    ).columns()


def test_a_mapping_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "clicks.yaml"
    path.write_text(GOOD)
    assert "clicks" == load_mapping(str(path)).name


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("time_zone: UTC", "time_zone: Europe/Londn", "m.yaml:2: time_zone 'Europe/Londn' is not known: did you mean Europe/London?"),
        ("time_zone: UTC", "timezone: UTC", "m.yaml:2: the mapping has an unknown key `timezone`: did you mean `time_zone`?"),
        ("name: clicks\n", "", "m.yaml:1: the mapping lacks `name`"),
        ("  event_id: {column: id}\n", "", "m.yaml:4: columns lacks `event_id`"),
        ("{column: id}", "{colum: id}", "m.yaml:4: columns.event_id: `colum` is not known, did you mean `column`?"),
        ("{column: id}", "{column: id, constant: x}", "m.yaml:4: columns.event_id: it takes exactly one of"),
        ("{column: id}", "id", "m.yaml:4: columns.event_id takes one of the forms"),
        ("{column: at}", "{column: at, unit: days}", "columns.occurred_at.unit is 'days'; it can be s, ms, us, ns"),
        ("{column: at}", "{column: at, format: d/m/y}", "it is a pattern such as"),
        ("{column: user}", "{column: user, first: many}", "it is a whole number from 1 to 1000"),
        ("{column: user}", "{column: user, otherwise: x}", "columns.customer_id.otherwise needs `values`"),
        ("name: clicks", "name: clicks\nname: twice", "m.yaml:2: the mapping has the key `name` twice"),
        ("name: clicks", "name: clicks\namount: 1", "m.yaml:2: the mapping has an unknown key `amount`"),
        ("name: clicks", "name: [", "not YAML"),
        (GOOD, "", "the mapping is empty"),
        (GOOD, "- a", "is not a mapping"),
        ("name: clicks", "name: clicks\nskip: [{reason: x, when: {column: a, above: 3}}]", "`above` is not known|unknown key `above`"),
        ("name: clicks", "name: clicks\nskip: [{reason: x, when: {column: a}}]", "compares `column` in exactly one way"),
        ("name: clicks", "name: clicks\nskip: [{reason: x, when: {column: a, less_than: ten}}]", "less_than is 'ten'; it is a number"),
        ("name: clicks", "name: clicks\nskip: [{reason: x, when: {column: a, matches: '('}}]", "is no regular expression"),
        ("name: clicks", "name: clicks\ninput: {encoding: utf-16}", "is not known or not based on single bytes"),
        ("name: clicks", "name: clicks\ninput: {delimiter: '||'}", "it is one character"),
        ("name: clicks", "name: clicks\ngroup_by: {columns: [order]}", "columns.event_id uses id, which may differ within a group"),
        ("name: clicks", "name: clicks\nduplicates: drop", "duplicates is 'drop'; it can be keep, skip"),
        ("{column: at}\n", "{column: at}\n  amount: {column: price}\n", "columns.amount lacks `scale`"),
    ],
)
def test_a_mapping_that_cannot_be_used_says_where_and_why(old: str, new: str, says: str) -> None:
    with pytest.raises(MappingError, match=says if "|" in says and "`above`" in says else re.escape(says)):
        parse_mapping(GOOD.replace(old, new), "m.yaml")


def test_all_faults_of_a_mapping_are_told_at_once_in_the_order_of_its_lines() -> None:
    with pytest.raises(MappingError) as caught:
        parse_mapping(GOOD.replace("UTC", "Nowhere").replace("{column: at}", "{column: at, unit: days}"), "m.yaml")
    assert ["m.yaml:2", "m.yaml:6"] == [line[:8] for line in str(caught.value).splitlines()]


def test_a_scalar_that_stands_for_a_text_is_taken_as_written() -> None:
    texts = dict(parse_mapping(GOOD, "m.yaml").texts)
    assert (("pageview", "view"), ("NO", "no")) == texts["event_type"].values  # type: ignore[union-attr]


def test_a_name_that_is_no_mapping_suggests_one() -> None:
    with pytest.raises(MappingError, match="did you mean online_retail"):
        load_mapping("online-retail")


def test_every_key_operation_and_reason_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ingest.md").read_text(encoding="utf-8")
    keys = {*mapping_file._TOP, *mapping_file._INPUT, *mapping_file._FIELDS, *OPERATIONS, *Refusal}
    assert set() == {key for key in keys if not re.search(rf"\b{key}\b", page)}


def test_the_mapping_of_the_documentation_is_sound() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ingest.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    assert "orders" == parse_mapping(example, "docs/ingest.md").name


def test_every_option_of_the_command_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ingest.md").read_text(encoding="utf-8")
    command = typer.main.get_command(ingest_command.app)
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")} - {"--help"}
    assert set() == {option for option in options if f"`{option}" not in page}
