"""The keys of the configuration as Markdown, for `docs/configuration.md` and `streamer config --reference`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamer.app.config_schema import Key, keys, sections

if TYPE_CHECKING:
    from collections.abc import Iterable


def rows() -> dict[str, str]:
    """Give each key's row of its table, by the key's name."""
    return {key.name: _row(key) for key in keys().values()}


def tables() -> str:
    """Give one table a section, with the section's own sentence above it."""
    by_section: dict[str, list[str]] = {}
    for name, row in rows().items():
        by_section.setdefault(name.rpartition(".")[0], []).append(row)
    blocks = [_block(name, by_section[name]) for name in sections() if name in by_section]
    return "\n\n".join([*blocks[1:], blocks[0]])


def _block(section: str, lines: Iterable[str]) -> str:
    title = f"### {section}" if section else "### Without a section"
    sentence = (sections()[section].__doc__ or "").strip().splitlines()[0] if section else "One key stands alone."
    return "\n".join([title, "", sentence, "", "| key | default | give | meaning |", "|---|---|---|---|", *lines])


def _row(key: Key) -> str:
    setting = key.setting
    if setting.kind.entries is not None:
        default = "`{}`"
    elif key.default is None:
        default = f"`null`: {setting.nullable}"
    else:
        default = f"`{setting.kind.show(key.default)}`"
    if setting.fallback:
        default = f"`{setting.fallback}`, else {default}"
    return f"| `{key.name}` | {default} | {setting.kind.expects} | {setting.doc} |"
