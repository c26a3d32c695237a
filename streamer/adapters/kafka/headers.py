"""Headers of records, whatever their names are made of.

Law: no record's headers stop a reader. The protocol lets a name be any bytes, and the client has no text for those that are not UTF-8: it
raises `SystemError` the first time that it is asked, and after that gives a list with holes, which would end the process. So every record
is asked once; headers that can't be read count as none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka import Message

from streamer.adapters.kafka.client import LOG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.columns import Headers


def headers_of_all(messages: Sequence[Message]) -> list[list[tuple[str, bytes | None]] | None]:
    """Give the headers of records, at the cost of a call each; None for none."""
    # Python notices at once that a call has left an exception behind where `map` makes it, and else some calls later.
    calls = map(Message.headers, messages)
    found: list[list[tuple[str, bytes | None]] | None] = []
    while len(found) < len(messages):
        try:
            found.extend(calls)  # what came before an exception stays, and the calls go on after it
        except (SystemError, UnicodeDecodeError):
            odd = messages[len(found)]
            LOG.info("%s[%s]: a header of the record at offset %s is not UTF-8", odd.topic(), odd.partition(), odd.offset())
            found.append(None)
    return found


def headers_of(message: Message) -> Headers:
    """Give a record's headers."""
    return tuple(headers_of_all((message,))[0] or ())
