"""Kinds of settings: how each is read from text, what it expects, and how it is shown.

Law: `read(show(value)) == value`. A kind knows nothing of where its text came from.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS_IN = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
BYTES_IN = {"B": 1, "kB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
QUANTITY = re.compile(r"([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z]*)")
NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
SENSITIVE = re.compile(
    r"password|passwd|passphrase|secret|credential|user\.?info|key\.pem|private\.key|oauthbearer\.config|jaas|bearer\.auth\.token"
)
HIDDEN = "***"


@final
class Secret:
    """A text that is not shown. It is no `str`, so that nothing prints it by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Give the text itself, for the client that needs it."""
        return self._text

    def __repr__(self) -> str:
        """Show that there is one, and nothing of it."""
        return f"Secret({HIDDEN})"

    def __eq__(self, other: object) -> bool:
        """Compare the texts."""
        return isinstance(other, Secret) and other.reveal() == self._text

    def __hash__(self) -> int:
        """Hash the text."""
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Kind:
    """How a setting is read and shown.

    Attributes:
        expects: What to give, as the end of the sentence "give ...".
        read: From text to a value; raises `ValueError`, its message the problem.
        show: From a value to the text that a file would hold.
        entries: For a mapping, how an entry's text is read, given whether YAML read it as text; the setting is then no scalar.
        dotted: For a mapping, whether underscores in a variable's name stand for dots.
    """

    expects: str
    read: Callable[[str], object]
    show: Callable[[object], str] = str
    entries: Callable[[str], object] | None = None
    dotted: bool = False


def text(expects: str, pattern: str, problem: str) -> Kind:
    """Read a text that matches a pattern as a whole."""
    compiled_pattern = re.compile(pattern)

    def read(given: str) -> str:
        if compiled_pattern.fullmatch(given) is None:
            raise ValueError(problem)
        return given

    return Kind(expects, read)


def name() -> Kind:
    """Read a name that is safe in Kafka's topics and ids and in Redis's keys."""
    return text("1 to 200 letters, digits, `.`, `_` or `-`", NAME.pattern, "is not a name")


def choice(*options: str) -> Kind:
    """Read one of a few words."""
    expects = " or ".join(f"`{option}`" for option in options)

    def read(given: str) -> str:
        if given not in options:
            problem = "is not among the choices"
            raise ValueError(problem)
        return given

    return Kind(expects, read)


def boolean() -> Kind:
    """Read true or false, in YAML's words for them."""
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

    def read(given: str) -> bool:
        if given.lower() not in words:
            problem = "is neither true nor false"
            raise ValueError(problem)
        return words[given.lower()]

    return Kind("`true` or `false`", read, lambda value: str(value).lower())


def whole(low: int, high: int) -> Kind:
    """Read a whole number between two bounds, both allowed."""

    def read(given: str) -> int:
        if re.fullmatch(r"[+-]?[0-9][0-9_]*", given) is None:
            problem = "is not a whole number"
            raise ValueError(problem)
        return int(_within(int(given), low, high, str))

    return Kind(f"a whole number from {low} to {high}", read)


def number(low: float, high: float) -> Kind:
    """Read a number between two bounds, both allowed."""

    def read(given: str) -> float:
        try:
            value = float(given)
        except ValueError:
            problem = "is not a number"
            raise ValueError(problem) from None
        return _within(value, low, high, str)

    return Kind(f"a number from {low:g} to {high:g}", read)


def duration(unit: str, low: float, high: float, *, exact: bool = True) -> Kind:
    """Read a length of time: a number of `unit`s, or one with a unit (ms, s, m, h, d). If `exact`, whole units only."""

    def show(value: object) -> str:
        seconds_in_ms = round(float(str(value)) * SECONDS_IN[unit] * 1_000)
        for name_of_unit in ("d", "h", "m", "s") if seconds_in_ms else (unit,):
            size_in_ms = round(SECONDS_IN[name_of_unit] * 1_000)
            if seconds_in_ms % size_in_ms == 0:
                return f"{seconds_in_ms // size_in_ms}{name_of_unit}"
        return f"{seconds_in_ms}ms"

    def read(given: str) -> float:
        amount, suffix = _quantity(given)
        if suffix not in ("", *SECONDS_IN):
            problem = f"has the unknown unit `{suffix}`"
            raise ValueError(problem)
        value = amount if suffix in ("", unit) else amount * round(SECONDS_IN[suffix] * 1_000) / round(SECONDS_IN[unit] * 1_000)
        _within(value, low, high, show)
        if exact and value != int(value):
            problem = f"is not a whole number of `{unit}`"
            raise ValueError(problem)
        return int(value) if exact else value

    return Kind(f"a time from {show(low)} to {show(high)}; without a unit (`ms`, `s`, `m`, `h`, `d`), in `{unit}`", read, show)


def size(low: int, high: int) -> Kind:
    """Read a number of bytes, or one with a unit (B, kB, KiB, MB, MiB, GB, GiB)."""

    def show(value: object) -> str:
        count = int(str(value))
        for unit in ("GiB", "MiB", "KiB"):
            if count and count % BYTES_IN[unit] == 0:
                return f"{count // BYTES_IN[unit]}{unit}"
        return f"{count}B"

    def read(given: str) -> int:
        amount, suffix = _quantity(given)
        if suffix not in ("", *BYTES_IN):
            problem = f"has the unknown unit `{suffix}`"
            raise ValueError(problem)
        value = amount * BYTES_IN[suffix or "B"]
        if value != int(value):
            problem = "is not a whole number of bytes"
            raise ValueError(problem)
        return int(_within(int(value), low, high, show))

    return Kind(f"a size from {show(low)} to {show(high)}; without a unit (`KiB`, `MiB`, `GiB`), in bytes", read, show)


def servers() -> Kind:
    """Read Kafka's bootstrap servers."""
    one = r"(?:[A-Z_]+://)?(?:[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
    return text("`host:port`, more than one separated by commas", rf"{one}(?:\s*,\s*{one})*", "is not a list of servers")


def place() -> Kind:
    """Read a path, or a URL of any scheme without a user in it."""

    def read(given: str) -> str:
        if "://" in given and "@" in urlsplit(given).netloc:
            problem = "has a user in it"
            raise ValueError(problem)
        if not given.strip():
            problem = "is empty"
            raise ValueError(problem)
        return given

    return Kind("a path, or a URL such as `s3://bucket/history`, without credentials", read)


def url(*schemes: str) -> Kind:
    """Read a URL of one of the schemes. A password in it is for the caller to take out."""

    def read(given: str) -> str:
        try:
            parts = urlsplit(given)
            port_known = parts.port is None or parts.port > 0
        except ValueError:
            port_known = False
        if not port_known or parts.scheme not in schemes or not (parts.hostname or parts.scheme == "unix"):
            problem = "is not such a URL"
            raise ValueError(problem)
        return given

    return Kind("a URL that begins with " + " or ".join(f"`{scheme}://`" for scheme in schemes), read)


def path() -> Kind:
    """Read a path; the caller resolves it."""

    def read(given: str) -> str:
        if not given.strip() or "\0" in given:
            problem = "is not a path"
            raise ValueError(problem)
        expanded(given)
        return given

    return Kind("the path of a file", read)


def expanded(given: str) -> Path:
    """Write a home directory, `~` or `~user`, out; raises `ValueError` with the problem."""
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        problem = "names the home of a user whom this machine does not know"
        raise ValueError(problem) from error


def secret() -> Kind:
    """Read a secret."""

    def read(given: str) -> Secret:
        if not given:
            problem = "is empty"
            raise ValueError(problem)
        return Secret(given)

    return Kind("a text, best as `!file PATH`", read)


def mapping(expects: str, entries: Callable[[str], object], *, dotted: bool = False) -> Kind:
    """Read a mapping from names to scalars."""

    def read(_: str) -> object:
        problem = "is not a mapping"
        raise ValueError(problem)

    return Kind(expects, read, entries=entries, dotted=dotted)


def sensitive(option: str) -> bool:
    """Tell whether an option of a client, by its name, is one that must not be shown."""
    return SENSITIVE.search(option.lower()) is not None


def _quantity(given: str) -> tuple[float, str]:
    match = QUANTITY.fullmatch(given.strip())
    if match is None:
        problem = "is not a number with a unit"
        raise ValueError(problem)
    amount = match[1].replace("_", "")
    return (float(amount) if "." in amount else int(amount)), match[2]


def _within(value: float, low: float, high: float, show: Callable[[object], str]) -> float:
    if math.isnan(value):
        problem = "is not a number"
        raise ValueError(problem)
    if value < low:
        problem = f"is below {show(low)}"
        raise ValueError(problem)
    if value > high:
        problem = f"is above {show(high)}"
        raise ValueError(problem)
    return value
