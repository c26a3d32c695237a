"""Mappings for `streamer ingest` that come with the package: one YAML file each, named without its ending on the command line."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.adapters.files.mapping_file import MappingError, parse_mapping

if TYPE_CHECKING:
    from streamer.adapters.files.mapping import Mapping

DIRECTORY = Path(__file__).parent


def names() -> tuple[str, ...]:
    """List the packaged mappings."""
    return tuple(sorted(path.stem for path in DIRECTORY.glob("*.yaml")))


def load_mapping(name_or_path: str) -> Mapping:
    """Read a packaged mapping by its name, or a mapping file by its path. Raises `MappingError`."""
    path = DIRECTORY / f"{name_or_path}.yaml" if name_or_path in names() else Path(name_or_path)
    try:
        return parse_mapping(path.read_text(encoding="utf-8"), path.name if path.parent == DIRECTORY else str(path))
    except FileNotFoundError:
        near = get_close_matches(name_or_path, names(), 1)
        hint = f"did you mean {near[0]}?" if near else f"packaged mappings are {', '.join(names())}"
        message = f"there is no mapping {name_or_path!r}, neither packaged nor a file: {hint}"
        raise MappingError(message) from None
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: the mapping can't be read: {error}"
        raise MappingError(message) from error
