"""Connections to one Redis server or to a cluster: sends packed requests, reads their replies, names what went wrong.

Law: `ask` never sends a request twice after any of it may have been executed, unless told that it only reads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from redis.backoff import ExponentialBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from streamer.core.errors import Misconfigured, StreamerError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Reply = Any  # what the protocol can hold: bytes, int, None, lists of them

CONNECT_TRIES_MAX = 3
BACKOFF_S = 0.05

_UNAVAILABLE = {
    "OOM": "it is out of memory: raise maxmemory, or add a server",
    "READONLY": "it is a replica that takes no writes: point the URL at the primary, or wait for the failover to end",
    "MISCONF": "it cannot persist and therefore refuses writes: look at its disk",
    "NOREPLICAS": "it has too few replicas and therefore refuses writes",
    "MASTERDOWN": "it is a replica that has lost its primary",
    "CLUSTERDOWN": "the cluster has lost slots",
    "TRYAGAIN": "the cluster is moving slots",
    "MOVED": "the cluster has moved slots (set `redis.cluster` if this is a Redis Cluster)",
    "ASK": "the cluster is moving slots (set `redis.cluster` if this is a Redis Cluster)",
    "LOADING": "it is still loading its data",
    "BUSY": "a script of another client keeps it busy",
    "UNBLOCKED": "its role changed",
}
_MISCONFIGURED = {
    "NOAUTH": "it asks for a password: give it in the URL",
    "WRONGPASS": "it refuses the user name or password",
    "NOPERM": (
        "this user may not do that: allow it EVALSHA, SCRIPT|LOAD, TYPE, HSET, HSETNX, HINCRBY, HDEL, HGET, HMGET, HSCAN, HLEN, UNLINK "
        "and INFO"
    ),
    "NOSCRIPT": "it forgets scripts at once",
    "WRONGTYPE": "a key of ours holds another type of value: give this application a namespace of its own",
    "DENIED": "protected mode refuses this client: set a password or bind address on the server",
}
CLIENT_ERRORS = (redis.RedisError, redis.RedisClusterException)
"""All that redis-py raises of its own."""

_MOVED = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Where Redis is. `url` is any URL of redis-py; `options` are any keyword of its `Redis` client, and come before the defaults here.

    Only calls that read are made again, up to `retries_max` times. Without `require_noeviction`, a server that evicts keys is a warning.
    """

    url: str
    cluster: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    client_name: str = "segment-streamer"
    timeout_s: float = 10.0
    retries_max: int = 2
    require_noeviction: bool = True


class Request(NamedTuple):
    """Packed commands that belong to one key's slot; `replies` is how many commands they are."""

    key: bytes
    parts: Sequence[bytes | memoryview]
    replies: int


def code_of(error: redis.ResponseError) -> str:
    """Tell the error code that a reply began with, also when a script's wrapping hides it (before Redis 7)."""
    text = str(error)
    known = (*_UNAVAILABLE, *_MISCONFIGURED)
    first = text.split(" ", 1)[0].removeprefix("-")
    if first in known:
        return first
    if isinstance(error, redis.exceptions.NoPermissionError):
        return "NOPERM"
    for code, kind in (
        ("OOM", redis.exceptions.OutOfMemoryError),
        ("READONLY", redis.exceptions.ReadOnlyError),
        ("NOSCRIPT", redis.exceptions.NoScriptError),
        ("TRYAGAIN", redis.exceptions.TryAgainError),
        ("CLUSTERDOWN", redis.exceptions.ClusterDownError),
        ("MASTERDOWN", redis.exceptions.MasterDownError),
        ("MOVED", redis.exceptions.MovedError),
        ("ASK", redis.exceptions.AskError),
    ):
        if isinstance(error, kind):
            return code
    return next((code for code in known if f"-{code} " in text), "")


def explain(error: Exception, where: str) -> StreamerError | None:
    """Name who must act on an error; None where it is a fault of this program."""
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return Misconfigured(f"Redis at {where} refuses us: {error}. Check the user name and password in `redis.url`")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return Unavailable(f"Redis at {where} does not answer ({error}): see that it runs and that `redis.url` is right")
    if isinstance(error, redis.ResponseError):
        code = code_of(error)
        if code in _UNAVAILABLE:
            return Unavailable(f"Redis at {where} refuses: {_UNAVAILABLE[code]} ({error})")
        if code in _MISCONFIGURED:
            return Misconfigured(f"Redis at {where} refuses: {_MISCONFIGURED[code]} ({error})")
    if isinstance(error, redis.RedisClusterException):
        return Unavailable(f"the Redis Cluster at {where} is not whole: {error}")
    return None


class Link:
    """A client of one server or of a cluster."""

    def __init__(self, settings: RedisSettings) -> None:
        """Prepare; a single server is not spoken to before the first request, a cluster is asked for its slots."""
        options: dict[str, Any] = {
            "socket_timeout": settings.timeout_s,
            "socket_connect_timeout": settings.timeout_s,
            "socket_keepalive": True,
            "client_name": settings.client_name,
            **settings.options,
            "decode_responses": False,
        }
        self._tries_max = 1 + settings.retries_max
        self._cluster: RedisCluster | None = None
        self._single: redis.Redis | None = None
        self.where = "?"
        try:
            if settings.cluster:
                self._cluster = RedisCluster.from_url(settings.url, **options)
                self.where = ", ".join(str(node.name) for node in self._cluster.get_nodes())  # type: ignore[no-untyped-call]
            else:
                tries = min(settings.retries_max, CONNECT_TRIES_MAX)
                options.setdefault("retry", Retry(ExponentialBackoff(cap=0.5, base=BACKOFF_S), tries))
                self._single = redis.Redis.from_url(settings.url, **options)
                given = self._single.connection_pool.connection_kwargs
                given["decode_responses"] = False
                self._single.connection_pool.connection_class(**given)  # refuses an option that it doesn't know; doesn't connect
                self.where = str(given.get("path") or f"{given.get('host', 'localhost')}:{given.get('port', 6379)}")
        except CLIENT_ERRORS as error:
            raise explain(error, "`redis.url`") or error from error
        except (ValueError, TypeError) as error:
            message = f"`redis.url` or `redis.options`: {error}"
            raise Misconfigured(message) from error

    def primaries(self) -> list[redis.Redis]:
        """Give a client of every server that holds slots."""
        if self._cluster is None:
            return [self._single]  # type: ignore[list-item]  # one of the two is set
        return [self._cluster.get_redis_connection(node) for node in self._cluster.get_primaries()]  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Close all connections."""
        client = self._cluster or self._single
        if client is not None:
            client.close()

    def ask(self, requests: Sequence[Request], *, reads_only: bool = False) -> list[list[Reply]]:
        """Send requests, each server's in one go, and read every reply.

        An error reply is given in its place, as the exception. Raises `Unavailable`: after that, a request that isn't read-only may or may
        not have been executed, or may still be.
        """
        for attempt in range(self._tries_max):
            try:
                replies = self._ask_once(requests)
            except CLIENT_ERRORS as error:
                if reads_only and attempt + 1 < self._tries_max and isinstance(error, redis.ConnectionError | redis.TimeoutError):
                    time.sleep(BACKOFF_S * 2**attempt)
                    continue
                raise explain(error, self.where) or error from error
            if self._cluster is not None and any(self._is_moved(reply) for some in replies for reply in some):
                self._refresh()
                if reads_only and attempt + 1 < self._tries_max:
                    time.sleep(BACKOFF_S * 2**attempt)
                    continue
            return replies
        return []  # not reached: the last attempt returns or raises

    def checked(self, replies: Sequence[Reply]) -> Sequence[Reply]:
        """Raise what an error reply means; else give the replies back."""
        for reply in replies:
            if isinstance(reply, redis.RedisError):
                raise explain(reply, self.where) or reply
        return replies

    def _is_moved(self, reply: Reply) -> bool:
        return isinstance(reply, redis.ResponseError) and code_of(reply) in _MOVED

    def _refresh(self) -> None:
        try:
            self._cluster.nodes_manager.initialize()  # type: ignore[union-attr]  # only a cluster moves slots
        except CLIENT_ERRORS as error:
            raise explain(error, self.where) or error from error

    def _ask_once(self, requests: Sequence[Request]) -> list[list[Reply]]:
        answers: list[list[Reply]] = [[] for _ in requests]
        for client, chosen in self._by_server(requests):
            self._converse(client, [requests[i] for i in chosen], [answers[i] for i in chosen])
        return answers

    def _by_server(self, requests: Sequence[Request]) -> list[tuple[redis.Redis, list[int]]]:
        if self._cluster is None:
            return [(self._single, list(range(len(requests))))] if requests else []  # type: ignore[list-item]
        groups: dict[str, tuple[redis.Redis, list[int]]] = {}
        for i, request in enumerate(requests):
            node = self._cluster.get_node_from_key(request.key)  # type: ignore[no-untyped-call]
            if node is None:
                message = "no node serves the slot"
                raise redis.ConnectionError(message)
            groups.setdefault(node.name, (self._cluster.get_redis_connection(node), []))[1].append(i)
        return list(groups.values())

    @staticmethod
    def _converse(client: redis.Redis, requests: Sequence[Request], answers: Sequence[list[Reply]]) -> None:
        pool = client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([part for request in requests for part in request.parts])  # type: ignore[no-untyped-call]
            for request, answer in zip(requests, answers, strict=True):
                for _ in range(request.replies):
                    try:
                        answer.append(connection.read_response())
                    except redis.ResponseError as error:
                        answer.append(error)
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]  # replies may be left unread, and would answer somebody else's request
            raise
        finally:
            pool.release(connection)
