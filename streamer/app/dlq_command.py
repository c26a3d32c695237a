"""`streamer dlq`: look at dead letters, and send them round again after a fix."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.text import Text

from streamer.app.session import session_of
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from streamer.adapters.kafka.tailing import KafkaTail
    from streamer.app.config import Config
    from streamer.app.letters import Address, Chosen, Found, Letter, Retried, Wanted
    from streamer.core.ports import LogRecord

app = typer.Typer(help="Look at dead letters, and send them round again after a fix.", no_args_is_help=True, add_completion=False)

NOT_THERE = 1
UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DUMPED_BYTES = 512
ROW_BYTES = 16
KEY_CHARS = 24

Reasons = Annotated[list[str] | None, typer.Option("--reason", help="Only those refused for this reason.", metavar="REASON")]
Partitions = Annotated[list[int] | None, typer.Option("--partition", help="Only those of this partition of the input.", metavar="P")]
Since = Annotated[
    str | None, typer.Option("--since", help="Only those refused since: 90m, 2h, 7d ago, or a date and time in UTC.", metavar="WHEN")
]
Scan = Annotated[
    int, typer.Option("--scan", min=1, max=100_000_000, help="How many of each partition's last offsets to look through for them.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; times in milliseconds.")]


@app.command("list")
def list_(
    context: typer.Context,
    reason: Reasons = None,
    partition: Partitions = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, max=100_000, help="How many letters to show, the latest.")] = 20,
    scan: Scan = 100_000,
    as_json: Json = False,
) -> None:
    """Count dead letters by reason, and show the latest.

    Filters can be given several times: one of each kind must fit.
    """
    from streamer.app.letters import find

    wanted = _wanted(reason, partition, since)
    config = session_of(context).config()
    with _looking(config) as (tail, partitions):
        found = find(tail, config.topics.dead_letters, partitions, wanted, scan)
    latest = sorted(found.letters, key=lambda letter: (letter.refused_ms, letter.address), reverse=True)[:limit]
    if as_json:
        counts = Counter(letter.reason for letter in found.letters)
        told = _summary(config, found) | {"reasons": counts, "letters": [_plain(letter) for letter in latest]}
        typer.echo(json.dumps(told, indent=2))
        return
    Console().print(screen(config.topics.dead_letters, found, latest))


@app.command()
def show(
    context: typer.Context,
    address: Annotated[str, typer.Argument(help="A letter's partition and offset, as `list` tells them.", metavar="P:OFFSET")],
    bytes_max: Annotated[int, typer.Option("--bytes", min=0, help="How many bytes of the value to dump.")] = DUMPED_BYTES,
    as_json: Json = False,
) -> None:
    """Show one dead letter: why and where it was refused, what to do, its headers, its bytes and what they decode to.

    Exit status 1 if there is no such letter.
    """
    from streamer.app.letters import letter_of, own_headers, read_at
    from streamer.app.reading import read_event

    at = _address(address)
    config = session_of(context).config()
    topic = config.topics.dead_letters
    with _looking(config) as (tail, partitions):
        record = read_at(tail, topic, at.partition, [at.offset]).get(at.offset) if at.partition < partitions else None
    letter = None if record is None else letter_of(at.partition, record)
    if record is None or letter is None:
        typer.echo(f"streamer: there is no letter {at} on {topic}: `streamer dlq list` tells which there are", err=True)
        raise typer.Exit(NOT_THERE)
    event, why_not = read_event(config, record.value, own_headers(record.headers))
    if as_json:
        headers = [[name, None if value is None else _text(value)] for name, value in record.headers]
        value = None if record.value is None else record.value.hex()
        typer.echo(json.dumps({**_plain(letter), "headers": headers, "value": value, "event": event, "not_decoded": why_not}, indent=2))
        return
    Console().print(page(letter, record, event, why_not, bytes_max))


@app.command()
def retry(  # noqa: PLR0913, PLR0917  # an option each
    context: typer.Context,
    address: Annotated[list[str] | None, typer.Argument(help="Letters by partition and offset.", metavar="[P:OFFSET]...")] = None,
    reason: Reasons = None,
    partition: Partitions = None,
    since: Since = None,
    all_: Annotated[bool, typer.Option("--all", help="Every letter that was not retried yet.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many to send at most, the oldest first.")] = 1_000,
    scan: Scan = 100_000,
    again: Annotated[bool, typer.Option("--again", help="Also those that were retried before, and those refused after a retry.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be sent.")] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters' records to the events' topic again, as they came.

    Key, bytes and headers are the record's own; its partition is the one that it was refused in, its Kafka timestamp is new, and the header
    dlq.retried_from names the letter. Mend first what the reason asks for: a record that is refused again makes another letter. Exit status
    1 if a letter or its record is not there.
    """
    from streamer.app.letters import Retried, choose, find

    if not (address or reason or partition or since or all_):
        message = "say which letters: by P:OFFSET, --reason, --partition, --since, or --all"
        raise typer.BadParameter(message)
    wanted = _wanted(reason, partition, since, address)
    config = session_of(context).config()
    topic = config.topics.dead_letters
    done = Retried([], [])
    with _looking(config) as (tail, partitions):
        found = find(tail, topic, partitions, wanted, scan)
        chosen = choose(found.letters, limit, again=again)
        try:
            if chosen.letters and not dry_run:
                _send(config, tail, chosen, done)
        finally:  # also what was done before a server went away
            if as_json:
                _tell_json(config, found, chosen, done, dry_run=dry_run)
            else:
                Console().print(report(config, found, chosen, done, dry_run=dry_run))
    unknown = sorted(wanted.addresses - {letter.address for letter in found.letters})
    for missing in unknown:
        typer.echo(f"streamer: there is no letter {missing} within the last {scan:,} offsets of {topic}", err=True)
    if unknown or done.gone:
        raise typer.Exit(NOT_THERE)


@contextmanager
def _looking(config: Config) -> Iterator[tuple[KafkaTail, int]]:
    """Connect to the topic of dead letters, and count its partitions."""
    from streamer.app.wiring import kafka_tail

    tail = kafka_tail(config)
    try:
        partitions = tail.partitions(config.topics.dead_letters)
        if partitions is None:
            message = f"there is no topic {config.topics.dead_letters}: `streamer run` makes it; see `streamer status`"
            raise Misconfigured(message)
        yield tail, partitions
    finally:
        tail.close()


def _send(config: Config, tail: KafkaTail, chosen: Chosen, done: Retried) -> None:
    from streamer.app.clock import SystemClock
    from streamer.app.letters import Round, send_again
    from streamer.app.wiring import input_partitions, letter_sender

    with letter_sender(config) as sender:
        where = Round(tail, sender, config.topics.dead_letters, config.topics.events, input_partitions(config))
        send_again(where, chosen.letters, done, SystemClock().now_ms)


# What options say


def _wanted(
    reasons: Sequence[str] | None, partitions: Sequence[int] | None, since: str | None, addresses: Sequence[str] | None = None
) -> Wanted:
    from streamer.app.clock import SystemClock
    from streamer.app.letters import Wanted
    from streamer.core.reasons import Reason

    known = {reason.name.lower() for reason in Reason if reason is not Reason.OK}
    for reason in reasons or ():
        if reason not in known:
            message = f"{reason!r} is no reason: they are {', '.join(sorted(known))}"
            raise typer.BadParameter(message)
    return Wanted(
        frozenset(reasons or ()),
        frozenset(partitions or ()),
        0 if since is None else since_ms(since, SystemClock().now_ms()),
        frozenset(_address(text) for text in addresses or ()),
    )


def _address(text: str) -> Address:
    from streamer.app.letters import Address

    partition, _, offset = text.partition(":")
    if not (partition.isdecimal() and offset.isdecimal() and text.isascii()):
        message = f"{text!r} is no letter's place: give partition and offset, such as 0:17"
        raise typer.BadParameter(message)
    return Address(int(partition), int(offset))


def since_ms(text: str, now_ms: int) -> int:
    """Read how long ago, or when in UTC.

    >>> since_ms("90m", 10_000_000)
    4600000
    """
    if text[:-1].isdecimal() and text[-1:] in UNITS_MS:
        return now_ms - int(text[:-1]) * UNITS_MS[text[-1]]
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is no time: give how long ago, such as 90m, 2h or 7d, or when in UTC, such as 2024-05-01T12:00"
        raise typer.BadParameter(message) from error
    return int((when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp() * 1_000)


# What is shown


def printable(text: str) -> str:
    r"""Write out what a terminal might obey: whoever sent the record chose these characters.

    >>> print(printable("a\x1b[2J é"))
    a\x1b[2J é
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _text(value: bytes) -> str:
    """Write bytes as text where they are text, else as hexadecimal digits."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _safe(text: str, style: str = "") -> Text:
    return Text(printable(text), style=style)


def _plain(letter: Letter) -> dict[str, Any]:
    key = None if letter.key is None else _text(letter.key)
    return {**asdict(letter), "address": str(letter.address), "key": key}


def _summary(config: Config, found: Found) -> dict[str, Any]:
    return {
        "topic": config.topics.dead_letters,
        "letters_seen": found.seen,
        "matched": len(found.letters),
        "searched": [{"partition": part.partition, "first": part.first, "end": part.end} for part in found.searched],
        "complete": found.complete,
    }


def screen(topic: str, found: Found, latest: Sequence[Letter]) -> Group:
    """Draw what was found: a line for each reason, then the latest letters."""
    from streamer.app.showing import table, titled, utc

    parts: list[Any] = []
    by_reason: dict[str, list[Letter]] = {}
    for letter in found.letters:
        by_reason.setdefault(letter.reason, []).append(letter)
    if by_reason:
        counts = table(("reason", ""), ("letters", "right"), ("retried", "right"), ("latest", ""), ("what to do", ""))
        for reason, those in sorted(by_reason.items(), key=lambda item: -len(item[1])):
            retried, latest_ms = sum(letter.retried for letter in those), max(letter.refused_ms for letter in those)
            counts.add_row(_safe(reason), f"{len(those):,}", f"{retried:,}", utc(latest_ms), _safe(those[-1].error))
        parts.append(titled(f"{len(found.letters):,} dead letters on {topic}", counts))
    if latest:
        rows = table(("letter", "right"), ("refused at", ""), ("reason", ""), ("source", ""), ("key", ""), ("bytes", "right"), ("", ""))
        for letter in latest:
            size = "null" if letter.value_bytes is None else f"{letter.value_bytes:,}"
            where = "-" if letter.source is None else f"{letter.source.topic} {letter.source.partition}:{letter.source.offset}"
            key = "-" if letter.key is None else printable(_text(letter.key))
            key = key if len(key) <= KEY_CHARS else f"{key[: KEY_CHARS - 1]}…"
            cells = (str(letter.address), utc(letter.refused_ms), letter.reason, where, key, size, ", ".join(_marks(letter)))
            rows.add_row(*map(_safe, cells))
        parts.append(titled(f"the latest {len(latest):,}", rows))
    return Group(*parts, *(Text(line, style="yellow") for line in _advice(topic, found)))


def _marks(letter: Letter) -> Iterator[str]:
    marks = (("retried", letter.retried), ("came from a retry", letter.again), ("cut", letter.cut))
    return (mark for mark, is_so in marks if is_so)


def _advice(topic: str, found: Found) -> Iterator[str]:
    if not found.seen:
        yield f"There are no dead letters on {topic}: nothing was refused{'' if found.complete else ' of late'}."
    elif not found.letters:
        yield f"None of the {found.seen:,} dead letters on {topic} fits: leave out a filter."
    if not found.complete:
        yield "Older ones may be there: only the last offsets of each partition were looked through; --scan looks through more."


def page(letter: Letter, record: LogRecord, event: dict[str, Any] | None, why_not: str | None, bytes_max: int) -> Group:
    """Draw one letter."""
    from streamer.adapters.avro.codec import readable
    from streamer.app.showing import table, utc

    source = letter.source
    where = "-" if source is None else f"{source.topic}, partition {source.partition}, offset {source.offset}, of {utc(source.timestamp)}"
    facts = table(("", ""), ("", ""))
    facts.show_header = False
    facts.add_row("letter", str(letter.address))
    facts.add_row("reason", _safe(letter.reason, "bold"))
    facts.add_row("what to do", _safe(letter.error))
    facts.add_row("refused at", utc(letter.refused_ms))
    facts.add_row("source", _safe(where))
    facts.add_row("key", _safe("-" if letter.key is None else _text(letter.key)))
    for name, value in record.headers:
        if name not in {"dlq.reason", "dlq.error", "dlq.source"}:
            facts.add_row("header", _safe(f"{name}: {'null' if value is None else _text(value)}"))
    parts: list[Any] = [facts, Text("no value" if record.value is None else f"{len(record.value):,} bytes", style="bold")]
    value = record.value or b""
    parts += (Text(line) for line in dump(value[:bytes_max]))
    if len(value) > bytes_max:
        parts.append(Text(f"and {len(value) - bytes_max:,} more: --bytes shows more"))
    if event is not None:
        parts += [Text("decodes to", style="bold"), _safe(readable(event))]
    else:
        parts.append(_safe(f"not decoded: {why_not}", "yellow"))
    return Group(*parts)


def dump(value: bytes) -> Iterator[str]:
    """Write bytes out, 16 a line: where, hexadecimal, and what is readable.

    >>> list(dump(bytes(range(60, 77))))[1]
    '00000010  4c                                               L'
    """
    for begin in range(0, len(value), ROW_BYTES):
        row = value[begin : begin + ROW_BYTES]
        readable = "".join(chr(byte) if chr(byte).isascii() and chr(byte).isprintable() else "." for byte in row)
        yield f"{begin:08x}  {row.hex(' '):<{3 * ROW_BYTES - 1}}  {readable}"


def _tell_json(config: Config, found: Found, chosen: Chosen, done: Retried, *, dry_run: bool) -> None:
    would = [str(letter.address) for letter in chosen.letters]
    did = {"dry_run": dry_run, "chosen": would, "sent": [str(a) for a in done.sent], "gone": [str(a) for a in done.gone]}
    typer.echo(json.dumps(_summary(config, found) | did | {"skipped": chosen.skipped, "left": chosen.left}, indent=2))


def report(config: Config, found: Found, chosen: Chosen, done: Retried, *, dry_run: bool) -> Group:
    """Say what was done, or would be."""
    events = config.topics.events
    lines = []
    if dry_run:
        counts = Counter(letter.reason for letter in chosen.letters).most_common()
        which = f": {', '.join(f'{count:,} {reason}' for reason, count in counts)}" if counts else ""
        lines.append(f"{len(chosen.letters):,} letters would be sent to {events}{which}")
    else:
        lines.append(f"{len(done.sent):,} letters were sent to {events}")
    if done.gone:
        lines.append(f"{len(done.gone):,} were not: their records are no more, for Kafka keeps them only so long")
    if chosen.skipped.get("retried"):
        lines.append(f"{chosen.skipped['retried']:,} were retried before: --again sends them once more")
    if chosen.skipped.get("refused_again"):
        lines.append(f"{chosen.skipped['refused_again']:,} were refused after a retry: --again sends them once more")
    if chosen.left:
        lines.append(f"{chosen.left:,} more fit: run the command again, or raise --limit")
    if not found.letters:
        lines += _advice(config.topics.dead_letters, found)
    return Group(*map(_safe, lines))
