"""Draws the packaged sample from the whole data set: `python -m streamer.app.samples.make_sample WHOLE.parquet SAMPLE.parquet`.

Law: the same file gives the same sample. A customer or order is drawn by the SHA-256 of its number alone, so customers come whole.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CUSTOMERS = 600
ONE_ORDER_IN = 40


def rank(number: object) -> int:
    """Give a number's place in the draw."""
    return int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8], "big")


def drawn(table: pa.Table) -> pa.Table:
    """Keep the lines of 600 customers, and of one in forty of the orders without a customer."""
    customers = pc.unique(table["CustomerID"].drop_null()).to_pylist()
    chosen = pa.array(sorted(customers, key=rank)[:CUSTOMERS], table["CustomerID"].type)
    nobody = pc.is_null(table["CustomerID"])
    orders = [order for order in pc.unique(table["InvoiceNo"].filter(nobody)).to_pylist() if rank(order) % ONE_ORDER_IN == 0]
    without = pc.and_(nobody, pc.is_in(table["InvoiceNo"], pa.array(orders, table["InvoiceNo"].type)))
    return table.filter(pc.or_(pc.is_in(table["CustomerID"], chosen), without))


def main(whole: str, sample: str) -> None:
    """Read the whole, write the sample."""
    pq.write_table(drawn(pq.read_table(whole)).replace_schema_metadata(None), Path(sample), compression="zstd", compression_level=19)


if __name__ == "__main__":
    main(*sys.argv[1:3])
