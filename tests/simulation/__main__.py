"""`python -m tests.simulation SEED [SEED ...]`: run schedules by their seeds and say what befalls in each."""

from __future__ import annotations

import sys

from tests.simulation.verdict import judge
from tests.simulation.world import World

for word in sys.argv[1:]:
    world = World(int(word), trace=print)
    world.run()
    judge(world.job)
    sys.stdout.write(f"seed {word}: {len(world.job.changes())} changes, nothing lost, nothing twice\n")
