"""Files of rows to events: tables read a chunk at a time, the mapping's declaration, the rules that apply it.

Law: rows read = rows used in events + rows rejected + rows skipped by a declared rule, and a mapping applied twice to the same file gives
the same events, ids included.
"""

from __future__ import annotations

ROWS_MAX = 2_000_000
ROWS_MAX_HIGHEST = 8_000_000  # sums of as many amounts of 10^12 still fit 64 bits
