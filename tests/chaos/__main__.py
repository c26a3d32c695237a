"""`python -m tests.chaos`: runs of chaos on real servers by their seeds; `make chaos CHAOS='--seeds 1,2'` is the same."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.campaign import run
from tests.chaos.script import Counts

WHOLE = Counts()


def main(arguments: list[str]) -> int:
    """Run each seed; a failing one leaves its logs and says how to repeat it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", default="1-5", help="such as 7, 1-5 or 2,4 (default: 1-5)")
    for name in ("events", "kills", "zombies", "brokers", "losses", "cuts", "promotions"):
        parser.add_argument(f"--{name}", type=int, default=getattr(WHOLE, name), help="in each seed (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="only one line a seed")
    options = parser.parse_args(arguments)
    counts = Counts(options.events, options.kills, options.zombies, options.brokers, options.losses, options.cuts, options.promotions)
    failed, total = 0, Counter[str]()
    for seed in _seeds(options.seeds):
        begun_s = time.monotonic()

        def say(what: str, seed: int = seed, begun_s: float = begun_s) -> None:
            if not options.quiet:
                _print(f"  seed {seed}, {time.monotonic() - begun_s:5.0f} s: {what}")

        directory = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        try:
            outcome = run(seed, counts, directory, say)
        except Exception as error:  # noqa: BLE001  # whatever it is, the other seeds are run, too
            failed += 1
            _print(f"seed {seed}: FAILED, {type(error).__name__}: {error}")
            _print(f"  its logs are in {directory}; repeat it with: {_command(seed, counts)}")
            continue
        shutil.rmtree(directory, ignore_errors=True)
        _print(outcome.line())
        v = outcome.verdict
        total += Counter({"events": v.events, "changes": v.changes, "dead letters": v.letters, "customers": v.customers})
        total += Counter({"ticks": v.ticks, "moved by time": v.decayed, "left by time": v.expired})
        total += outcome.befallen + outcome.told + Counter({"kills at named calls": outcome.points.total()})
    _print(f"in all: {', '.join(f'{count:,} {name}' for name, count in sorted(total.items()))}; {failed} seeds failed")
    return min(failed, 1)


def _seeds(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _command(seed: int, counts: Counts) -> str:
    names = ("events", "kills", "zombies", "brokers", "losses", "cuts")
    other = [f" --{name} {getattr(counts, name)}" for name in names if getattr(counts, name) != getattr(WHOLE, name)]
    return f"python -m tests.chaos --seeds {seed}{''.join(other)}"


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
