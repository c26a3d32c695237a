"""A TCP proxy that cuts connections: in the middle of a request, so that nobody knows whether it was executed, or of a reply."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from threading import Event, Thread
from typing import Self

CHUNK_BYTES = 65_536
START_S = 10.0


class Proxy:
    """Passes on what clients and a server on this machine say to each other; in a thread of its own."""

    def __init__(self, server_port: int) -> None:
        """Prepare; listens from `start` on."""
        self._server_port = server_port
        self._loop = asyncio.new_event_loop()
        self._listening = Event()
        self._thread = Thread(target=self._run, name="proxy", daemon=True)
        self._due = {"request": 0, "reply": 0}
        self.port = 0
        self.cut = {"request": 0, "reply": 0}

    def start(self) -> Self:
        """Listen."""
        self._thread.start()
        if not self._listening.wait(START_S):
            message = "the proxy does not listen"
            raise TimeoutError(message)
        return self

    def cut_next(self, what: str) -> None:
        """Cut the connection of the next `request` or `reply` in its middle."""
        self._due[what] += 1

    def close(self) -> None:
        """End."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            to_client.transport.abort()
            return
        both = to_client, to_server
        with suppress(asyncio.CancelledError):
            await asyncio.gather(self._pass_on("request", client, to_server, both), self._pass_on("reply", server, to_client, both))

    async def _pass_on(
        self, what: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter, both: tuple[asyncio.StreamWriter, ...]
    ) -> None:
        try:
            while said := await source.read(CHUNK_BYTES):
                if self._due[what]:
                    self._due[what] -= 1
                    self.cut[what] += 1
                    sink.write(said[: len(said) // 2])
                    await sink.drain()
                    break
                sink.write(said)
                await sink.drain()
        except OSError:
            pass
        for one in both:
            one.close()
