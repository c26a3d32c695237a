"""How long one BehaviourEvent takes to decode: the columnar decoder against fastavro's `schemaless_reader`, in turn, in one process.

python tests/bench/bench_decoding.py [--quick] [--runs N] [--records N] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

from streamer.core.decoding import decode, new_decoded
from streamer.core.opcodes import Column, Kind, compile_program
from tests.bench import kit

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "behaviour_event.avsc").read_text())
RECORDS, QUICK_RECORDS = 20_000, 1_000
REPEATED = 10
PROJECTION = [
    Column(Kind.STRING, "event_id", hashed=True),
    Column(Kind.STRING, "customer_id", hashed=True),
    Column(Kind.STRING, "event_type"),
    Column(Kind.NUMBER, "occurred_at"),
    Column(Kind.NUMBER, "amount"),
    Column(Kind.STRING, "currency"),
    Column(Kind.NUMBER, "quantity"),
    Column(Kind.STRING, "product_id"),
    Column(Kind.STRING, "category", hashed=True),
    Column(Kind.STRING, "session_id"),
    Column(Kind.PROPERTY, "properties", "price"),
]


def make_event(source: random.Random) -> dict[str, Any]:
    """Make an event as a shop sends them: a fifth of them purchases, the rest views without an amount."""
    purchase = source.random() < 0.2
    return {
        "event_id": str(uuid.UUID(int=source.getrandbits(128))),
        "customer_id": f"customer-{source.randrange(100_000)}",
        "event_type": "purchase" if purchase else "view",
        "occurred_at": 1_700_000_000_000 + source.randrange(10**10),
        "amount": source.randrange(100, 100_000) if purchase else None,
        "currency": "EUR" if purchase else None,
        "quantity": source.randrange(1, 5) if purchase else None,
        "product_id": f"sku-{source.randrange(10_000):06d}",
        "category": source.choice(["shoes", "garden", "toys", "kitchen"]),
        "session_id": f"s-{source.getrandbits(48):012x}",
        "properties": {"price": f"{source.randrange(10_000) / 100:.2f}", "device": "mobile", "referrer": "newsletter"},
    }


def main() -> None:
    """Time both on the same bodies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "decoding")
    parser.add_argument("--records", type=int, help=f"{RECORDS:,} unless told, {QUICK_RECORDS:,} with --quick")
    args = parser.parse_args()
    runs, out_file = kit.settled(args)
    records = args.records or (QUICK_RECORDS if args.quick else RECORDS)
    schema = fastavro.parse_schema(SCHEMA)
    source, buffer, ends = random.Random(1), BytesIO(), []
    for _ in range(records):
        fastavro.schemaless_writer(buffer, schema, make_event(source))
        ends.append(buffer.tell())
    joined = buffer.getvalue()
    values, end = np.frombuffer(joined, np.uint8), np.array(ends, np.int64)
    start = np.concatenate(([0], end[:-1]))
    rows = np.arange(records, dtype=np.int64)
    program = compile_program(SCHEMA, SCHEMA, PROJECTION)
    out = new_decoded(len(PROJECTION), records)
    decode(program, values, start, end, rows, 10_000, out)
    if out.status.any():
        message = f"refused: {out.status[out.status != 0][:10]}"
        raise SystemExit(message)

    def columnar() -> kit.Figures:
        began = time.process_time()
        for _ in range(REPEATED):
            decode(program, values, start, end, rows, 10_000, out)
        return {"cpu_us": (time.process_time() - began) / records / REPEATED * 1e6}

    def one_by_one() -> kit.Figures:
        began = time.process_time()
        reader = BytesIO(joined)
        for _ in range(records):
            fastavro.schemaless_reader(reader, schema, None)
        return {"cpu_us": (time.process_time() - began) / records * 1e6}

    about = {"records": records, "bytes_each": len(joined) / records, "instructions": len(program.code)}
    results = kit.run_in_turn({"columnar": columnar, "fastavro": one_by_one}, runs, about=about, say=lambda _: None)
    results.show(f"{records:,} events of {len(joined) / records:.0f} bytes on average, {len(program.code)} instructions")
    print(f"fastavro takes {results.ratio('fastavro', 'columnar', 'cpu_us'):.1f} times as much")
    if out_file is not None:
        results.json(out_file)


if __name__ == "__main__":
    main()
