"""The retail mapping against a second opinion in plain pandas, on the packaged sample and on the whole data set where it is there."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow.parquet as pq
import pytest

from streamer.adapters.files.load import load
from streamer.adapters.files.mappings import load_mapping
from streamer.app.samples import retail_path, sample_path
from streamer.app.samples.make_sample import drawn

if TYPE_CHECKING:
    from pathlib import Path

NO_PRODUCTS = {"POST", "DOT", "C2", "M", "m", "D", "S", "B", "CRUK", "AMAZONFEE", "BANK CHARGES"}


def pence(quantity: int, price: float) -> int:
    return int((Decimal(quantity) * Decimal(repr(price)) * 100).quantize(Decimal(1), ROUND_HALF_EVEN))


def second_opinion(path: Path) -> dict[str, tuple[str, str, int, int, int, int]]:
    """Work the orders out row by row: id to customer, type, time, pence, pieces, lines."""
    frame = pd.read_parquet(path)
    frame = frame[frame["CustomerID"].notna() & ~frame["StockCode"].isin(NO_PRODUCTS) & (frame["UnitPrice"] > 0)].drop_duplicates()
    frame["ms"] = frame["InvoiceDate"].dt.tz_localize("Europe/London").dt.tz_convert("UTC").astype("datetime64[ms, UTC]").astype("int64")
    found: dict[str, tuple[str, str, int, int, int, int]] = {}
    columns = (frame["InvoiceNo"], frame["CustomerID"].astype(int), frame["ms"], frame["Quantity"], frame["UnitPrice"])
    for order, customer, time, quantity, price in zip(*columns, strict=True):
        sign = -1 if order.startswith("C") else 1
        _, _, first, amount, pieces, lines = found.get(order, ("", "", time, 0, 0, 0))
        kind = "refund" if sign < 0 else "purchase"
        found[order] = (str(customer), kind, min(first, time), amount + sign * pence(quantity, price), pieces + sign * quantity, lines + 1)
    return found


@pytest.mark.parametrize("whole", [False, True], ids=["sample", "whole"])
def test_orders_are_what_plain_pandas_makes_of_them(whole: bool) -> None:
    path = retail_path({}) if whole else sample_path()
    if whole and path == sample_path():
        pytest.skip("the whole data set is not beside the checkout")
    result = load(path, load_mapping("online_retail"))
    assert result.totals.balanced
    assert {} == result.totals.rejected
    assert {f"online_retail:{order}": (*facts[:5], str(facts[5])) for order, facts in second_opinion(path).items()} == {
        record["event_id"]: (
            record["customer_id"],
            record["event_type"],
            record["occurred_at"],
            record["amount"],
            record["quantity"],
            record["properties"]["lines"],
        )
        for record in result.events.records()
    }


def test_the_sample_is_the_draw_from_the_whole() -> None:
    whole = retail_path({})
    if whole == sample_path():
        pytest.skip("the whole data set is not beside the checkout")
    assert drawn(pq.read_table(whole)).replace_schema_metadata(None).equals(pq.read_table(sample_path()))


def test_the_sample_is_small_and_has_its_licence_beside_it() -> None:
    assert sample_path().stat().st_size < 600_000
    assert "CC BY 4.0" in (sample_path().parent / "LICENSE-online-retail.md").read_text(encoding="utf-8")
