"""Our job against the same job in Quix Streams and river, and against Quix's bare stateful counter: CPU per event of the process.

    python tests/bench/bench_quix.py [--events 600000] [--customers 60000] [--partitions 8] [--runs 5]

Both applications of Quix are in quix_apps.py, with what was chosen in their favour. They run in `.venv/quix` (`make .venv/.quix`), for Quix
needs an older release of the Kafka client than we do; floor and job run in ours, on the same topic.

Fewer events than in bench_job.py, since Quix and river take so much longer; figures are per event.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))  # it is run by path

import schemas
from tests.bench import jobs, kit, peers

if TYPE_CHECKING:
    from collections.abc import Callable

QUIX_PYTHON = Path(sys.prefix) / "quix" / "bin" / "python"
APPLICATIONS = Path(__file__).with_name("quix_apps.py")
SCHEMA = schemas.DIRECTORY / "behaviour_event.avsc"
COUNTER, SEGMENTS = "Quix's counter", "the same job in Quix and river"
ROLES = {COUNTER: "counter", SEGMENTS: "segments"}
LIMITS = {COUNTER: 1 / 5, SEGMENTS: 1 / 10}
PACKAGES = ("quixstreams", "river", "confluent-kafka", "fastavro", "rocksdict")
ASK = "import json, sys; from importlib.metadata import version; print(json.dumps({name: version(name) for name in sys.argv[1:]}))"


def versions() -> dict[str, str]:
    """What Quix's environment has.

    Raises:
        SystemExit: it is not there.
    """
    if not QUIX_PYTHON.exists():
        message = f"{QUIX_PYTHON} is missing: make .venv/.quix"
        raise SystemExit(message)
    return dict(json.loads(subprocess.run([str(QUIX_PYTHON), "-c", ASK, *PACKAGES], check=True, stdout=subprocess.PIPE, text=True).stdout))


def applications(place: jobs.Place, plan: peers.Plan) -> dict[str, Callable[[], kit.Figures]]:
    """Quix's cases."""
    number = itertools.count()

    def case(role: str) -> Callable[[], kit.Figures]:
        def measure() -> kit.Figures:
            own = place.named(f"quix-{next(number)}")
            where = [role, own.kafka_bootstrap, own.events_topic, own.app, str(SCHEMA)]
            return kit.child([str(QUIX_PYTHON), str(APPLICATIONS), *where, *map(str, plan.sizes)])

        return measure

    return {name: case(role) for name, role in ROLES.items()}


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kit.options(parser, "quix")
    peers.options(parser, events=600_000, quick=60_000)
    args = parser.parse_args()
    runs, out = kit.settled(args)
    found = versions()
    plan = peers.Plan.of(args)
    with jobs.Place.start(args.partitions) as place:
        own = peers.ours(place, plan, runs)
        results = kit.run_in_turn({**own, **applications(place, plan)}, runs, about=plan.about(found))
    results.show(f"Against Quix Streams {found['quixstreams']}: {plan.words}")
    peers.tell(results, [(name, "cpu_us", limit) for name, limit in LIMITS.items()])
    if out:
        peers.write(results, out, f"Quix Streams and river, {plan.words}")


if __name__ == "__main__":
    main()
