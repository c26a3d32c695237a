"""History's store in memory, and one that crashes at a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from streamer.adapters.history.store import Stored

if TYPE_CHECKING:
    from streamer.adapters.history.store import Store
    from tests.fakes.clock import FakeClock


class MemoryStore:
    """Files in memory, which bear the clock's time."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.held: dict[str, tuple[bytes, int]] = {}
        self.url = self.place = "memory"

    def read(self, path: str) -> bytes | None:
        return self.held[path][0] if path in self.held else None

    def write(self, path: str, data: Any) -> None:
        self.held[path] = bytes(data), self.clock.now_ms()

    def replace(self, path: str, data: bytes, expected: bytes | None) -> bool:
        if self.read(path) != expected:
            return False
        self.write(path, data)
        return True

    def open(self, path: str) -> Any:
        if path not in self.held:
            raise FileNotFoundError(path)
        return pa.BufferReader(self.held[path][0])

    def files(self, folder: str) -> list[Stored]:
        return [Stored(path, len(data), at) for path, (data, at) in sorted(self.held.items()) if path.startswith(f"{folder}/")]

    def delete(self, path: str) -> None:
        self.held.pop(path, None)


class Crash(BaseException):
    """The process ends here: nothing may catch this."""


class CrashingStore:
    """Ends the process at a call that changes something: before it is done or, where `done`, after that."""

    def __init__(self, store: Store, at: int | None, *, done: bool = False) -> None:
        self._store = store
        self._left = at
        self._done = done
        self.url, self.place = store.url, store.place

    def read(self, path: str) -> bytes | None:
        return self._store.read(path)

    def write(self, path: str, data: Any) -> None:
        self._change(lambda: self._store.write(path, data))

    def replace(self, path: str, data: bytes, expected: bytes | None) -> bool:
        return bool(self._change(lambda: self._store.replace(path, data, expected)))

    def open(self, path: str) -> Any:
        return self._store.open(path)

    def files(self, folder: str) -> list[Stored]:
        return self._store.files(folder)

    def delete(self, path: str) -> None:
        self._change(lambda: self._store.delete(path))

    def _change(self, change: Any) -> Any:
        if self._left is None:
            return change()
        if self._left == 0:
            if self._done:
                change()
            raise Crash
        self._left -= 1
        return change()
