"""The nightly re-seed of a large history: what an event takes, and how much memory all of it, beside DuckDB summing the same files.

    python tests/bench/bench_reseed.py [--quick] [--events N] [--customers N] [--history DIR] [--out FILE]

The history is `large_history.py`'s: 100 million events of 5 million customers on 100 days in 8 partitions, as an archiver leaves them, and
some of the day after. It is made in a temporary directory (TMPDIR; 5 GB, and as much again while it is worked on), or in `--history`, where
it stays and is used again.

`offline reseed` is run as it is, in a process of its own, with the default settings: features of everybody as of the cut-off, the account
of what is odd, a fit from nothing, the gate. In passing, between two of its steps, the process writes down the features that are sums, out
of its time. DuckDB computes these seven sums alone from the same files, in a process of its own, on one thread, and on all cores, within as
much memory as the job may take. The run fails unless both give the same sums for every customer.

`peak_mib` is the most memory that the process had resident at once, as the system counts it (VmHWM), and the most that any it started had,
looked at four times a second; at most 4,096 is wanted. One round, unless --runs tells.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

import pyarrow.parquet as pq

from tests.bench import kit, large_history
from tests.bench.large_history import SUMS, Size

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
LOOK_S = 0.25
MEMORY_MAX_MIB = 4_096
EVENTS, CUSTOMERS = 100_000_000, 5_000_000
QUICK_EVENTS, QUICK_CUSTOMERS = 400_000, 20_000
JOB = "offline reseed"
TIMEOUT_S = 4 * 3600.0


# What is run in a process of its own


def job(place: Path, models: Path, size: Size, out: Path) -> kit.Figures:
    """Run `offline reseed` in this process, and write down the sums that it came by."""
    from offline import cli, features

    children = Children()
    began, cpu, aside = time.perf_counter(), kit.cpu_s(), [0.0, 0.0]
    real = features.compute
    computed_s = 0.0

    def compute(*args: Any, **options: Any) -> features.Computed:
        nonlocal computed_s
        found = real(*args, **options)
        computed_s, used = time.perf_counter() - began, kit.cpu_s()
        write(found, out)
        aside[:] = time.perf_counter() - began - computed_s, kit.cpu_s() - used
        return found

    features.compute = compute
    sys.argv = ["offline", "reseed", str(place), "--models", str(models), "--as-of", size.last_day, "--json"]
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:  # the gate refused it, too
            raise
    seconds = time.perf_counter() - began - aside[0]
    return {
        "events_per_s": size.events / seconds,
        "s": seconds,
        "features_s": computed_s,
        "fit_s": seconds - computed_s,
        "cpu_us": (kit.cpu_s() - cpu - aside[1]) / size.events * 1e6,
        "peak_mib": peak_mib(children),
    }


def write(found: Any, out: Path) -> None:
    """Write the customers' sums as Parquet, some at a time."""
    import pyarrow as pa

    schema = pa.schema([pa.field("customer_id", pa.string()), *(pa.field(name, pa.float64()) for name in SUMS)])
    with pq.ParquetWriter(out, schema) as writer:
        for begin in range(0, len(found.features), 100_000):
            some = found.features.iloc[begin : begin + 100_000]
            columns = [pa.array(some.index.to_numpy(object), pa.string()), *(pa.array(some[name].to_numpy()) for name in SUMS)]
            writer.write_table(pa.table(columns, schema=schema))


def duckdb_sums(place: Path, size: Size, out: Path, threads: int) -> kit.Figures:
    """Let DuckDB compute the sums."""
    import duckdb

    children = Children()
    began, cpu = time.perf_counter(), kit.cpu_s()
    base = duckdb.connect(config={"threads": threads, "memory_limit": f"{MEMORY_MAX_MIB}MiB", "temp_directory": str(out.parent / "spill")})
    base.execute(f"CREATE TABLE found AS {large_history.statement(place, size.as_of)}")
    seconds, used = time.perf_counter() - began, kit.cpu_s() - cpu
    base.execute(f"COPY (FROM found ORDER BY customer_id) TO '{out}' (FORMAT parquet)")
    return {"events_per_s": size.events / seconds, "s": seconds, "cpu_us": used / size.events * 1e6, "peak_mib": peak_mib(children)}


class Children:
    """Looks at the processes that this one starts, and those that they start, from a thread of its own."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        import psutil

        process = psutil.Process()
        while True:
            total = 0
            for child in process.children(recursive=True):
                with suppress(psutil.Error):  # it has ended
                    total += child.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
            time.sleep(LOOK_S)


def peak_mib(children: Children) -> float:
    """Give the most memory that was resident at once, in MiB.

    `getrusage` is no help: with a process's own memory it counts what whoever started it had.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [own] = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return own / 1024 + children.peak_bytes / MIB


# What runs them


def measure(words: Sequence[str], place: Path, work: Path, size: Size, out: Path) -> kit.Figures:
    """Run one of them in a process of its own."""
    sizes = ["--events", str(size.events), "--customers", str(size.customers)]
    paths = ["--history", str(place), "--work", str(work), "--out", str(out)]
    return kit.child([sys.executable, __file__, *words, *sizes, *paths], {**os.environ, "TMPDIR": str(work)}, TIMEOUT_S)


def compared(left: Path, right: Path, customers: int) -> None:
    """Hold the sums of one against those of the other; raises where they differ."""
    ours, theirs = (pq.read_table(path) for path in (left, right))
    if len(ours) != customers or not ours.column("customer_id").equals(theirs.column("customer_id")):
        message = f"{len(ours):,} and {len(theirs):,} customers were found, and should be the same {customers:,}"
        raise RuntimeError(message)
    wrong = [name for name in SUMS if not ours.column(name).equals(theirs.column(name))]
    if wrong:
        message = f"the sums differ: {', '.join(wrong)}"
        raise RuntimeError(message)


def run(size: Size, place: Path, work: Path, runs: int) -> kit.Results:
    """Measure both in turn, and compare what they found."""
    models = work / "models"
    found = work / "job.parquet"

    def ours() -> kit.Figures:
        subprocess.run(["rm", "-rf", str(models)], check=True)
        return measure(["--role", "job"], place, work, size, found)

    def theirs(threads: int) -> kit.Figures:
        out = work / f"duckdb-{threads}.parquet"
        figures = measure(["--role", "duckdb", "--threads", str(threads)], place, work, size, out)
        compared(found, out, size.customers)
        return figures

    cores = os.cpu_count() or 1
    cases = {JOB: ours} | {f"DuckDB, {n} thread{'s' * (n > 1)}": lambda n=n: theirs(n) for n in sorted({1, cores})}
    files = [path.stat().st_size for path in (place / "events").rglob("*.parquet")]
    about: dict[str, Any] = {"events": size.events, "customers": size.customers, "days": size.days, "partitions": size.partitions}
    about |= {"files": len(files), "files_bytes": sum(files), "memory_mib": MEMORY_MAX_MIB}
    return kit.run_in_turn(cases, runs, about={**about, **{name: metadata.version(name) for name in ("duckdb", "pandas", "pyarrow")}})


def main() -> None:
    """Make the history and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "reseed", runs=1)
    parser.add_argument("--events", type=int, help=f"{EVENTS:,} unless told, {QUICK_EVENTS:,} with --quick")
    parser.add_argument("--customers", type=int, help=f"{CUSTOMERS:,} unless told, {QUICK_CUSTOMERS:,} with --quick")
    parser.add_argument(
        "--history", type=Path, help="where the history is made and stays, or is already; a temporary directory unless told"
    )
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--role", choices=("job", "duckdb"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = Size(args.events or (QUICK_EVENTS if args.quick else EVENTS), args.customers or (QUICK_CUSTOMERS if args.quick else CUSTOMERS))
    if args.role == "job":
        print("\n" + json.dumps(job(args.history, args.work / "models", size, args.out)))
        return
    if args.role == "duckdb":
        print(json.dumps(duckdb_sums(args.history, size, args.out, args.threads)))
        return
    runs, out = kit.settled(args)
    with tempfile.TemporaryDirectory(prefix="reseed-") as directory:
        work = Path(directory)
        place = args.history or work / "history"
        if not place.exists():
            large_history.make(place, size)
        results = run(size, place, work, runs)
    title = f"{size.events:,} events of {size.customers:,} customers"
    results.show(title)
    peak = max(figures["peak_mib"] for figures in results.runs[JOB])
    print(f"{JOB}: {peak:,.0f} MiB resident at most, at most {MEMORY_MAX_MIB:,} wanted; the sums agree with DuckDB's")
    if out is not None:
        results.json(out)
        limit = (MEMORY_MAX_MIB, f"criterion, {MEMORY_MAX_MIB:,} MiB")
        kit.plot_bars({title: results}, "peak_mib", out.with_suffix(".png"), title="Memory resident at most", unit="MiB", limit=limit)
        kit.plot_bars({title: results}, "events_per_s", out.with_name(f"{out.stem}_rate.png"), title="Events a second, all told")
    if peak > MEMORY_MAX_MIB:
        sys.exit(1)


if __name__ == "__main__":
    main()
