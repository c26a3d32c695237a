"""Log lines, for people or for machines.

Law: no line names a customer in clear. Where one must be named, `Pseudonyms` does it.
"""

from __future__ import annotations

import json
import logging
import secrets
import sys
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.app.config_schema import Log

KEY_BYTES_MAX = 64
PSEUDONYM_BYTES = 8


class Pseudonyms:
    """Names customers in lines and errors: equal ones alike, and nobody can tell who without the key.

    >>> Pseudonyms("a secret").of(b"customer 7")
    'customer#21553a6fb98a52bc'
    """

    __slots__ = ("_key",)

    def __init__(self, key: str | None = None) -> None:
        """Name by a key that several processes may share, or else by one that ends with this process."""
        self._key = secrets.token_bytes(KEY_BYTES_MAX) if key is None else blake2b(key.encode()).digest()

    def of(self, customer: bytes) -> str:
        """Give a customer's pseudonym: BLAKE2b of the id, keyed, 64 bits of it."""
        return f"customer#{blake2b(customer, digest_size=PSEUDONYM_BYTES, key=self._key).hexdigest()}"


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(how: Log) -> None:
    """Send log lines to standard error as the configuration says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if how.format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("streamer")
    root.handlers[:] = [handler]
    root.setLevel(how.level.upper())
    root.propagate = False
