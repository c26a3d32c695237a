"""The rejects file: one JSON object a line for every row that is in no event, in the order of the file.

Law: rows read = rows used in events + lines of this file. `outcome` tells what was refused from what the user's own rules skipped.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from streamer.adapters.files.values import REMEDIES, Refusal
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from streamer.adapters.files.load import Loaded
    from streamer.adapters.files.rows import Refused

ENDING = ".rejects.jsonl"
CHARACTERS_MAX = 60


def rejects_path(path: Path) -> Path:
    """Name the rejects file that stands beside an input file."""
    return path.with_name(path.name + ENDING)


def reject_lines(refused: Sequence[Refused]) -> Iterator[str]:
    """Word every row left out, in the order of the rows."""
    if not refused:
        return
    rows = np.concatenate([piece.rows for piece in refused])
    owner = np.repeat(np.arange(len(refused)), [len(piece.rows) for piece in refused])
    place = np.concatenate([np.arange(len(piece.rows)) for piece in refused])
    order = np.argsort(rows, kind="stable")
    for row, number, position in zip(rows[order].tolist(), owner[order].tolist(), place[order].tolist(), strict=True):
        piece = refused[number]
        said = {"row": row, "outcome": piece.outcome, "reason": str(piece.reason)}
        said |= {name: text for name, text in (("field", piece.field), ("column", piece.column), ("detail", piece.detail)) if text}
        yield json.dumps({**said, "value": piece.values[position]}, ensure_ascii=False)


def write_rejects(path: Path, refused: Sequence[Refused]) -> None:
    """Write the rejects file, in place of one of an earlier run; raises `Misconfigured` where that can't be done."""
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in reject_lines(refused))
        unfinished.replace(path)
    except OSError as error:
        message = f"{path}: the rejects file can't be written ({error.strerror}): name another place with --rejects"
        raise Misconfigured(message) from error


def remedy(reason: str) -> str:
    """Say what to do about a reason; nothing for the user's own skip rules."""
    return REMEDIES[Refusal(reason)] if reason in set(Refusal) else ""


def nothing_usable(loaded: Loaded) -> str:
    """Say why a file gave no event at all, with an example of the commonest reason."""
    totals = loaded.totals
    if not totals.rows_read:
        return "the file has no rows"
    counts = {**totals.skipped, **totals.rejected}
    reason = max(counts, key=lambda name: counts[name])
    piece = next(piece for piece in loaded.refused if piece.reason == reason)
    value = "" if piece.values[0] is None else f" {piece.values[0][:CHARACTERS_MAX]!r}"
    where = f"row {int(piece.rows[0])}, {piece.column or piece.field or 'the whole row'}{value}"
    advice = remedy(str(reason)) or "it is a skip rule of the mapping"
    return f"none of {totals.rows_read:,} rows makes an event; most ({counts[reason]:,}) because of {reason}, as {where}: {advice}"
