"""Whether bytes are UTF-8, exactly as Python's strict decoder judges it.

Law: overlong forms, surrogates and code points beyond U+10FFFF are refused. Source: The Unicode Standard, table 3-7, "Well-Formed UTF-8
Byte Sequences".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from streamer.core.compiled import kernel
from streamer.core.hashing import load_8

if TYPE_CHECKING:
    from streamer.core.columns import U8

HIGH_BITS: Final = 0x8080808080808080


@kernel
def is_utf8(values: U8, start: int, length: int) -> bool:
    """Tell whether `values[start:start + length]` is well-formed UTF-8; the caller has checked that the range is there."""
    i, end, well_formed = start, start + length, True
    while well_formed and i < end:
        if end - i >= 8 and load_8(values, i) & HIGH_BITS == 0:
            i += 8
            continue
        lead = int(values[i])
        i += 1
        if lead < 0x80:
            continue
        low, high, more = 0x80, 0xBF, 0
        if 0xC2 <= lead <= 0xDF:
            more = 1
        elif 0xE0 <= lead <= 0xEF:
            more = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif 0xF0 <= lead <= 0xF4:
            more = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        well_formed = 0 < more <= end - i and low <= int(values[i]) <= high
        if well_formed:
            for k in range(i + 1, i + more):
                well_formed = well_formed and values[k] & 0xC0 == 0x80
        i += more
    return well_formed
