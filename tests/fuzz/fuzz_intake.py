"""Coverage-guided fuzzing of the uncompiled decoder and intake, with atheris; the invariant is `tests.fuzz.judge`'s.

    make fuzz                                         # for ten minutes
    make fuzz FUZZ="-runs=250000 -max_total_time=0"   # any options of libFuzzer

It begins at the corpus of `tests/fuzz/corpus.txt` and keeps what it finds in `.fuzz/corpus`; `python -m tests.fuzz.corpus .fuzz/corpus`
takes from there what reaches something that the corpus does not. Atheris keeps some 2 kB of memory a run, so a long campaign is several.
Uncompiled, a byte before the first of a record is refused as well, which NumPy would take for one of the last.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["NUMBA_DISABLE_JIT"] = "1"

import random

import atheris
import numpy as np

from tests.fuzz import corpus

with atheris.instrument_imports(include=["streamer.core", "streamer.app.intake", "streamer.adapters.avro.wire"]):
    from streamer.app import intake as app_intake
from tests.fuzz import judge, records

CORPUS = Path(".fuzz/corpus")
DEFAULTS = [
    "-max_total_time=600",
    "-max_len=6000",
    "-timeout=20",
    "-print_final_stats=1",
    "-rss_limit_mb=4096",
    f"-artifact_prefix={CORPUS.parent}/",
]


class Guarded(np.ndarray):
    """Bytes without a place before the first."""

    def __getitem__(self, place: Any) -> Any:
        """Give a byte or a part."""
        if isinstance(place, (int, np.integer)) and place < 0:
            message = f"a byte before the record: {place}"
            raise IndexError(message)
        return super().__getitem__(place)


class Numpy:
    """NumPy, whose bytes are guarded."""

    def __getattr__(self, name: str) -> Any:
        """Give what NumPy has."""
        return getattr(np, name)

    def frombuffer(self, *arguments: Any) -> Any:
        """Take bytes, guarded."""
        return np.frombuffer(*arguments).view(Guarded)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Mutate a case where its values begin, or as libFuzzer does."""
    rng = random.Random(seed)
    roll = rng.random()
    if roll < 0.05:
        return records.fresh(rng)[:max_size]
    return bytes(atheris.Mutate(data, max_size)) if roll < 0.3 else records.mutate(rng, data)[:max_size]


def main() -> None:
    """Fuzz."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(corpus.read()):
        (CORPUS / f"seed-{number:05d}").write_bytes(case)
    vars(app_intake)["np"] = Numpy()
    taker = judge.intake()

    def one(data: bytes) -> None:
        judge.judge([data], taker)

    atheris.Setup([sys.argv[0], *DEFAULTS, f"-artifact_prefix={CORPUS.parent}/", *sys.argv[1:], str(CORPUS)], one, custom_mutator=mutate)
    begun_s = time.monotonic()
    try:
        atheris.Fuzz()
    finally:
        sys.stderr.write(f"{time.monotonic() - begun_s:.0f} s\n")


if __name__ == "__main__":
    main()
