"""Memory that is freed is kept for what comes next, or given back."""

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


RESIDENT = """
from pathlib import Path
from streamer.adapters import memory

def resident():
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) >> 10

pieces = [bytearray(b"1" * 100_000) for _ in range(2_000)]  # 190 MiB
pieces = pieces[::20]
before = resident()
assert memory.give_back()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="another C library")
def test_what_was_freed_between_pieces_in_use_is_given_back() -> None:
    assert int(subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True).stdout) > 100  # MiB


def test_a_library_without_that_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not memory.keep()
    assert not memory.give_back()
