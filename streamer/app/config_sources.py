"""Where settings come from: a YAML file and environment variables, read into texts that remember their origin.

Law: nothing is dropped in silence. What is in a file or in a `STREAMER_` variable is a setting or a fault.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from streamer.app.config_kinds import HIDDEN, expanded, sensitive
from streamer.app.config_schema import keys, sections

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PREFIX = "STREAMER_"
NOT_SETTINGS = frozenset({"STREAMER_CONFIG"})
OTHERS_SECTIONS = frozenset({"offline"})  # of the same file; the nightly job checks it
FILE_BYTES_MAX = 2**20
SECRET_BYTES_MAX = 2**16
PLAIN = re.compile(r"[A-Za-z0-9+.-]{1,64}")  # what YAML might take for a number, a boolean or null
FILE_TAG = "!file"
TAGS = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Raw:
    """A setting as it was written: its text (None for null), what YAML took it for, and where."""

    text: str | None
    tag: str
    origin: str
    directory: Path
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with the configuration, with its remedy."""

    key: str
    value: str
    origin: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        """Put the fault in one line."""
        value = f": {self.value}" if self.value else ""
        return f"{self.key}{value} ({self.origin}) {self.problem}: {self.remedy}"


class Gathered:
    """What the sources said so far; later sources win, key by key."""

    def __init__(self) -> None:
        self.raws: dict[str, Raw] = {}
        self.faults: list[Fault] = []

    def add(self, key: str, raw: Raw) -> None:
        """Take a setting, or an entry of a mapping, and read its secret if it names a file."""
        if raw.tag == FILE_TAG:
            try:
                raw = read_secret(raw)
            except ValueError as error:
                self.fault(key, raw, str(error), "name a readable file that holds the value")
                return
        self.raws[key] = raw

    def fault(self, key: str, raw: Raw, problem: str, remedy: str) -> None:
        """Take note of a fault of a value."""
        hidden = raw.secret or sensitive(key)
        self.faults.append(Fault(key, HIDDEN if hidden else _shown(raw.text), raw.origin, problem, remedy))


def read_secret(raw: Raw) -> Raw:
    """Replace the path of a file by what is in it, less one line end; raises `ValueError` with the problem."""
    path = raw.directory / expanded(raw.text or "")
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        problem = f"names {path}, which is not UTF-8 text"
        raise ValueError(problem) from None
    except OSError as error:
        problem = f"names {path}, which cannot be read ({error.strerror})"
        raise ValueError(problem) from error
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or len(content) > SECRET_BYTES_MAX:
        problem = f"names {path}, which is {'too long' if text else 'empty'}"
        raise ValueError(problem)
    return Raw(text, f"{TAGS}str", f"{raw.origin}, {path}", raw.directory, secret=True)


def gather_file(gathered: Gathered, file: Path) -> None:
    """Read a YAML file."""
    try:
        with file.open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        gathered.faults.append(Fault("configuration", "", str(file), f"cannot be read ({error.strerror})", "name a readable YAML file"))
        return
    if len(content) > FILE_BYTES_MAX:
        gathered.faults.append(Fault("configuration", "", str(file), "is longer than 1 MiB", "name the configuration file"))
        return
    _gather_yaml(gathered, "", content, str(file), file.parent)


def gather_environment(gathered: Gathered, environment: Mapping[str, str]) -> None:
    """Read the `STREAMER_` variables: `STREAMER_MODEL__DWELL_S` is `model.dwell_s`, and in a mapping of properties `_` is a dot."""
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in NOT_SETTINGS:
            _gather_variable(gathered, variable, environment[variable])


def gather_fallbacks(gathered: Gathered, environment: Mapping[str, str]) -> None:
    """Read the variables that count where nothing else says: `KAFKA_BOOTSTRAP` and `REDIS_URL`."""
    for key in keys().values():
        variable = key.setting.fallback
        if environment.get(variable) and key.name not in gathered.raws:
            gathered.add(key.name, _from_variable(variable, environment[variable]))


def variable_of(key: str) -> str:
    """Name the environment variable of a key."""
    return PREFIX + key.replace(".", "__").upper()


def near(given: str, known: Iterable[str]) -> str:
    """Ask about the known name that is nearest to the given one; empty where none is near."""
    candidates = list(known)
    found = difflib.get_close_matches(given, candidates, n=1, cutoff=0.7) or [one for one in candidates if one.rsplit(".", 1)[-1] == given]
    return f"did you mean `{found[0]}`?" if found else ""


def _shown(text: str | None) -> str:
    shown = "null" if text is None else repr(text)
    limit = 80
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _from_variable(variable: str, text: str) -> Raw:
    if text.startswith(f"{FILE_TAG} "):
        return Raw(text.removeprefix(FILE_TAG).strip(), FILE_TAG, variable, Path())
    node = yaml.compose(text, Loader=yaml.SafeLoader) if PLAIN.fullmatch(text) else None
    return Raw(text or None, f"{TAGS}str" if node is None else node.tag, variable, Path())


def _gather_variable(gathered: Gathered, variable: str, text: str) -> None:
    rest = variable.removeprefix(PREFIX)
    name = rest.lower().replace("__", ".")
    key = keys().get(name)
    if key is not None and key.setting.kind.entries is not None:
        _gather_yaml(gathered, name, text.encode(), variable, Path())
        return
    if key is not None:
        gathered.add(name, _from_variable(variable, text))
        return
    for owner in keys().values():
        start = variable_of(owner.name).removeprefix(PREFIX) + "__"
        if owner.setting.kind.entries is not None and rest.startswith(start):
            entry = rest.removeprefix(start).lower()
            entry = entry.replace("_", ".") if owner.setting.kind.dotted else entry
            gathered.add(f"{owner.name}.{entry}", _from_variable(variable, text))
            return
    known = {variable_of(one): one for one in keys()}
    by_letters = {one.replace("_", ""): one for one in known}
    meant = by_letters.get(variable.replace("_", ""))
    if "__" in rest or meant:
        hint = f"did you mean `{meant}`?" if meant else near(variable, known)
        gathered.faults.append(Fault(variable, "", "environment", "is not known", hint or "`streamer config` lists the keys"))


def _gather_yaml(gathered: Gathered, section: str, content: bytes, source: str, directory: Path) -> None:
    problem = ""
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" at line {error.problem_mark.line + 1}"
        problem = f"is not YAML{line} ({error.problem or error.context})"
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        problem = f"is not YAML ({type(error).__name__})"
    if problem:
        gathered.faults.append(Fault(section or "configuration", "", source, problem, "mend the syntax"))
    elif root is not None:
        _Walk(gathered, source, directory).section(root, section)


class _Walk:
    """One walk over one document."""

    def __init__(self, gathered: Gathered, source: str, directory: Path) -> None:
        self.gathered = gathered
        self.source = source
        self.directory = directory

    def section(self, node: yaml.Node, name: str) -> None:
        key = keys().get(name)
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{TAGS}null":
            return
        if not isinstance(node, yaml.MappingNode):
            expected = key.setting.kind.expects if key is not None else "a mapping from names to values"
            self.gathered.fault(name or "configuration", self._raw(node), "is not a mapping", f"give {expected}")
            return
        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.gathered.fault(name or "configuration", self._raw(key_node), "has a key that is no text", "give keys as texts")
                continue
            dotted = f"{name}.{key_node.value}".removeprefix(".")
            if dotted in seen:
                self.gathered.fault(dotted, self._raw(value_node), "is given twice", "remove one")
            elif key is not None:
                self._scalar(value_node, dotted)
            elif dotted not in OTHERS_SECTIONS:
                self._member(value_node, dotted, name)
            seen.add(dotted)

    def _member(self, node: yaml.Node, dotted: str, section: str) -> None:
        key = keys().get(dotted)
        if dotted in sections() or (key is not None and key.setting.kind.entries is not None):
            self.section(node, dotted)
        elif key is not None:
            self._scalar(node, dotted)
        else:
            siblings = [one for one in (*keys(), *sections()) if one.startswith(f"{section}." if section else "")]
            hint = near(dotted, siblings) or near(dotted.rsplit(".", 1)[-1], keys())
            self.gathered.fault(dotted, self._raw(node), "is not a known key", hint or "remove it; `streamer config` lists the keys")

    def _scalar(self, node: yaml.Node, dotted: str) -> None:
        raw = self._raw(node)
        if not isinstance(node, yaml.ScalarNode):
            self.gathered.fault(dotted, raw, "is not a single value", "give one value")
        elif not node.tag.startswith(TAGS) and node.tag != FILE_TAG:
            self.gathered.fault(dotted, raw, f"has the unknown tag {node.tag}", f"only {FILE_TAG} is known")
        else:
            self.gathered.add(dotted, raw)

    def _raw(self, node: yaml.Node) -> Raw:
        origin = self.source if self.source.startswith(PREFIX) else f"{self.source}:{node.start_mark.line + 1}"
        if not isinstance(node, yaml.ScalarNode):
            return Raw("[...]" if isinstance(node, yaml.SequenceNode) else "{...}", node.tag, origin, self.directory)
        return Raw(None if node.tag == f"{TAGS}null" else node.value, node.tag, origin, self.directory)
