"""Declarations of measures and features, read from YAML files.

Law: a declaration is used whole or not at all, and what is wrong with it is told with file and line, every fault at once. A key that is
given twice is a fault.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

import yaml

from streamer.core.declaration import Declaration, DeclarationError, Fault, declare
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

PACKAGED = "default_features.yaml"
BYTES_MAX = 1 << 20
DEPTH_MAX = 16
NODES_MAX = 20_000

Keys = tuple[str, ...]


def load(path: Path | None) -> Declaration:
    """Read the declaration in a file; None is the packaged one.

    Raises:
        DeclarationError: the declaration is wrong; the message has every fault with its line.
        Misconfigured: the file can't be read or is not YAML.

    """
    if path is None:
        return packaged()
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        message = f"{path}: the declaration can't be read: {error.strerror or error}"
        raise Misconfigured(message) from error
    return parse(content, str(path))


def packaged() -> Declaration:
    """Read the declaration that comes with the program."""
    return parse((resources.files("streamer.core") / PACKAGED).read_bytes(), PACKAGED)


def parse(content: bytes, source: str) -> Declaration:
    """Read a declaration from a file's bytes; `source` names the file in errors. Raises as `load` does."""
    if len(content) > BYTES_MAX:
        message = f"{source}: longer than {BYTES_MAX} bytes, so hardly a declaration"
        raise Misconfigured(message)
    try:
        root = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        message = f"{source}: not UTF-8: {error.reason} at byte {error.start}"
        raise Misconfigured(message) from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        message = f"{source}{line}: not YAML: {' '.join(filter(None, (error.context, error.problem)))}"
        raise Misconfigured(message) from error
    except (yaml.YAMLError, RecursionError) as error:
        message = f"{source}: not YAML: {str(error) or type(error).__name__}"
        raise Misconfigured(message) from error
    if root is None:
        message = f"{source}: the file is empty: copy the packaged declaration (docs/features.md) and edit the copy"
        raise Misconfigured(message)
    reader = _Reader()
    tree = reader.value(root, ())
    if reader.faults:
        raise DeclarationError(tuple(reader.faults), reader.lines, source)
    try:
        return declare(tree)
    except DeclarationError as error:
        raise DeclarationError(error.faults, reader.lines, source) from error


class _Reader:
    """Turns YAML nodes into plain values and notes the line of each path."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.lines: dict[Keys, int] = {}
        self._scalars = yaml.SafeLoader("")
        self._nodes = 0

    def value(self, node: yaml.Node, path: Keys) -> Any:  # noqa: ANN401  # as YAML has it
        self.lines.setdefault(path, node.start_mark.line + 1)
        self._nodes += 1  # an alias counts as often as it is used
        if len(path) > DEPTH_MAX or self._nodes > NODES_MAX:
            if not self.faults or self.faults[-1].reason != _TOO_LARGE:
                self.faults.append(Fault(path, _TOO_LARGE))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, str(place))) for place, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Keys) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(Fault(path, "has a key that is no text"))
                continue
            key = self._scalar(key_node, path)
            inner = (*path, str(key))
            if key in found:
                self.faults.append(
                    Fault(inner, f"this key is there twice, first in line {self.lines[inner]}: YAML would let the last one win")
                )
                self.lines[inner] = key_node.start_mark.line + 1
                continue
            self.lines[inner] = key_node.start_mark.line + 1
            found[key] = self.value(value_node, inner)
        return found

    def _scalar(self, node: yaml.Node, path: Keys) -> Any:  # noqa: ANN401  # as YAML has it
        try:
            return self._scalars.construct_object(node)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            reason = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
            self.faults.append(Fault(path, f"{node.value!r} is no value: {reason}"))
            return None


_TOO_LARGE = f"nests deeper than {DEPTH_MAX} or has more than {NODES_MAX} values: a declaration needs far fewer"
