"""Memory that is freed is kept for what comes next."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamer.adapters import memory

FAULTS = """
import resource, sys
import numpy as np
from streamer.adapters import memory

if sys.argv[1] == "kept":
    assert memory.keep()
for _ in range(100):
    taken = [np.ones(1 << 17) for _ in range(24)]  # 24 MiB
    del taken
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_a_batch_finds_the_memory_of_the_one_before_it() -> None:
    given_back, kept = faults("given back"), faults("kept")
    assert given_back - kept > 100_000  # some 6,000 pages a turn


def test_a_library_without_that_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not memory.keep()
