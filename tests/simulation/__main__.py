"""`python -m tests.simulation SEED [SEED ...]`: run schedules by their seeds and say what befalls in each.

`--profile NAME` takes them from another profile, `--planted BUG` leaves out a rule, whose profile it then is.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext

from tests.simulation.planted import BELT_AND_BRACES, BUGS
from tests.simulation.profiles import BIASED, EVERYTHING, USUAL
from tests.simulation.verdict import judge
from tests.simulation.world import World

PROFILES = {profile.name: profile for profile in (EVERYTHING, USUAL, *BIASED)}
PLANTED = {bug.name: bug for bug in (*BUGS, *BELT_AND_BRACES)}

parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Run schedules and say what befalls in each.")
parser.add_argument("seed", nargs="+", type=int)
parser.add_argument("--profile", choices=PROFILES, default=EVERYTHING.name)
parser.add_argument("--planted", choices=PLANTED)
given = parser.parse_args()
planted = PLANTED.get(given.planted)

with planted.planted() if planted else nullcontext():
    for seed in given.seed:
        world = World(seed, trace=print, profile=planted.profile if planted else PROFILES[given.profile])
        world.run()
        judge(world.job)
        sys.stdout.write(f"seed {seed}: {len(world.job.changes())} changes, nothing lost, nothing twice\n")
