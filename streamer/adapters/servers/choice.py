"""Which servers to use: those given, else containers, else embedded ones.

Decisions only. What an engine or a package answers is gathered elsewhere and passed in.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from streamer.adapters.servers.errors import ServersMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

KAFKA_VARIABLE = "KAFKA_BOOTSTRAP"
REDIS_VARIABLE = "REDIS_URL"
FORCE_VARIABLE = "STREAMER_SERVERS"


class Source(StrEnum):
    """Where a server comes from."""

    GIVEN = "given"
    CONTAINER = "container"
    EMBEDDED = "embedded"


def choose(
    name: str,
    given: str | None,
    *,
    forced: str | None,
    engine_answers: Callable[[], bool],
    embedded_problem: Callable[[], str | None],
) -> Source:
    """Choose the source of one server.

    Args:
        name: the server's name, for the error.
        given: its address from the environment; empty counts as absent.
        forced: `container` or `embedded` to leave the other out (`STREAMER_SERVERS`); a given address still comes first.
        engine_answers: asked only when the address is not given and containers are allowed.
        embedded_problem: why an embedded server can't be had, or None; asked last.

    Raises:
        ServersMissing: nothing is left; the message says what to do.

    >>> choose("kafka", "broker:9092", forced=None, engine_answers=lambda: True, embedded_problem=lambda: None)
    <Source.GIVEN: 'given'>
    """
    if given:
        return Source.GIVEN
    if forced and forced not in {Source.CONTAINER, Source.EMBEDDED}:
        message = f"{FORCE_VARIABLE}={forced!r}: use {Source.CONTAINER.value!r}, {Source.EMBEDDED.value!r}, or unset it"
        raise ServersMissing(message)
    if forced != Source.EMBEDDED and engine_answers():
        return Source.CONTAINER
    if forced == Source.CONTAINER:
        message = f"{FORCE_VARIABLE}=container, but no container engine answers (or `testcontainers` is not installed)"
        raise ServersMissing(message)
    problem = embedded_problem()
    if problem is None:
        return Source.EMBEDDED
    variable = KAFKA_VARIABLE if name == "kafka" else REDIS_VARIABLE
    message = f"no {name}: {variable} is not set, no container engine answers, and {problem}"
    raise ServersMissing(message)


def forced_source(env: Mapping[str, str]) -> str | None:
    """The source that the environment forces, or None."""
    return env.get(FORCE_VARIABLE, "").strip().lower() or None


def redacted(url: str) -> str:
    """The URL without its password.

    >>> redacted("rediss://app:secret@cache:6380/0")
    'rediss://app:***@cache:6380/0'
    """
    parts = urlsplit(url)
    if parts.password is None:
        return url
    _, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
