"""The corpus: cases that between them reach what fuzzing has reached, one a line in base64.

    python -m tests.fuzz.corpus [DIRECTORY]

minimises what is in a directory and in the corpus to the cases that reach code or a reason first, the shortest first. It counts lines and
branches of the uncompiled core, by `sys.settrace`, so it needs no fuzzer.
"""

from __future__ import annotations

import base64
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE = Path(__file__).parent / "corpus.txt"
BYTES_MAX = 280 * 1024
HOT = 64
TRACED = ("decoding.py", "intake.py", "utf8.py", "decimals.py", "hashing.py", "wire.py", "opcodes.py")


def read() -> list[bytes]:
    """Read the corpus."""
    return [base64.b64decode(line) for line in FILE.read_text().split()] if FILE.exists() else []


def write(cases: Iterable[bytes]) -> None:
    """Write the corpus."""
    FILE.write_text("".join(f"{base64.b64encode(case).decode()}\n" for case in cases))


class Trace:
    """The steps from line to line that a case takes, and how often, in powers of two: what AFL calls edges and their counts."""

    def __init__(self) -> None:
        self.edges: dict[tuple[str, int, int], int] = {}

    def __call__(self, frame: Any, event: str, _: object) -> Any:
        """Follow the calls into what is traced."""
        if event == "call" and not frame.f_code.co_filename.endswith(TRACED):
            return None
        name, before = frame.f_code.co_filename, 0

        def line(frame: Any, event: str, _: object) -> Any:
            nonlocal before
            if event == "line":
                edge = (name, before, frame.f_lineno)
                self.edges[edge] = self.edges.get(edge, 0) + 1
                before = frame.f_lineno
            return line

        return line


def reached(case: bytes, taker: Any) -> set[tuple[Any, ...]]:
    """Tell what a case reaches, under its reason."""
    from tests.fuzz import judge  # noqa: PLC0415  # after numba is told not to compile

    trace, batch = Trace(), judge.fetched([case])
    sys.settrace(trace)
    try:
        taker.take(batch, batch.partition)
    finally:
        sys.settrace(None)
    (reason,) = judge.judge([case], taker)
    found: set[tuple[Any, ...]] = {(*edge, min(count, HOT).bit_length()) for edge, count in trace.edges.items()}
    return found | {(case[:1], reason)}


def minimise(cases: Iterable[bytes]) -> list[bytes]:
    """Keep, from the shortest on, the cases that reach something that those before do not."""
    from tests.fuzz import judge  # noqa: PLC0415

    taker, size = judge.intake(), 0
    known: set[tuple[Any, ...]] = set()
    kept: list[bytes] = []
    for case in sorted(set(cases), key=lambda case: (len(case), case)):
        found = reached(case, taker)
        size_after = size + len(base64.b64encode(case)) + 1
        if found - known and size_after <= BYTES_MAX:
            known |= found
            kept.append(case)
            size = size_after
    return kept


def main() -> None:
    """Minimise what directories hold, and the corpus, into the corpus."""
    found = [file.read_bytes() for directory in sys.argv[1:] for file in Path(directory).iterdir()]
    if not found:
        from tests.fuzz import records  # noqa: PLC0415

        rng = random.Random(0)
        found = [records.fresh(rng) for _ in range(2_000)]
    kept = minimise([*read(), *found])
    write(kept)
    sys.stdout.write(f"{len(found)} cases: {len(kept)} kept, {FILE.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    main()
