"""The columnar Avro decoder: one compiled interpreter over the programs of `streamer.core.opcodes`.

Law: it accepts exactly the bodies that fastavro's `schemaless_reader` accepts for the same pair of schemas and that keep the rules below,
and gives the same values. A refused record's status is the reason of the first rule that it breaks, in the order of its bytes.

The rules hold in every field, also in those that the reader's schema lacks or the projection leaves out. fastavro lets pass each of the
things they refuse, some in every field and some in skipped ones only.

1. TRUNCATED: every value is there to its last byte.
2. OVERLONG_VARINT: a number is written in as few bytes as hold it, so in ten at most, and fits its type: 64 bits, and 32 bits for an
   int. (Every encoding has one spelling. fastavro takes longer spellings, drops bits beyond 64 and lets an int have 64.) Lengths, counts
   of blocks, branches and symbols are such numbers too.
3. BAD_LENGTH: a length is neither negative nor greater than the rest of the value. A block of an array or map may have a negative count
   and a size in bytes, as the specification allows; the size is then exactly the size of its items. (fastavro ignores the size where it
   reads a block and trusts it where it skips one.)
4. BAD_BRANCH: the index of a union's branch or of an enum's symbol is one of the schema's. (fastavro counts negative ones from the
   end.) A branch or symbol that the reader's schema can't take has the same reason; there fastavro refuses too.
5. BAD_BOOLEAN: a boolean is 0 or 1. (fastavro takes any other byte for true.)
6. BAD_UTF8: strings and keys of maps are UTF-8, and so are bytes that the reader wants as a string. No overlong forms, no surrogates.
7. TOO_MANY_ITEMS: the arrays and maps of one record have `items_max` items at most, all together: items may take no bytes.
8. TOO_DEEP: arrays, maps and records that contain themselves nest 64 deep at most.
9. BAD_NUMBER: a value is in the range of its logical type:
   - date: from 0001-01-01 to 9999-12-31; timestamp-millis, timestamp-micros and their local forms: in the years 1 to 9999. As fastavro.
   - time-millis, time-micros: from 0 to one day, exclusive. (fastavro takes some negative times.)
   - decimal, as bytes or fixed: no more digits than its precision; no bytes are 0. (fastavro rounds.)
   - uuid as a string: 36 characters, hexadecimal digits in groups of 8, 4, 4, 4 and 12 with hyphens between. (fastavro takes braces,
     prefixes and odd hyphens.)
   - Any other logical type, and one on a type that the specification does not give it, is ignored, as by fastavro.
10. TRAILING_BYTES: nothing follows the last field.

What a column holds: a number's logical type changes nothing (a timestamp is its number); an enum is its symbol's index in the reader's
schema; a number that the reader wants as float or double is the bit pattern of the double; a decimal's bytes are its two's complement,
big-endian; a map as a whole is its blocks, the last count, 0, included (and no bytes at all where `{}` is the default). Of a key that a map
repeats, the last value counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from streamer.core.columns import Decoded
from streamer.core.compiled import kernel
from streamer.core.hashing import load_4, load_8, xxh64
from streamer.core.opcodes import Flag, Op
from streamer.core.reasons import Reason
from streamer.core.utf8 import is_utf8

if TYPE_CHECKING:
    from streamer.core.columns import I16, I32, I64, U8, U64
    from streamer.core.opcodes import Program

DEPTH_MAX: Final = 64

# Compiled functions take globals as constants only where these are plain integers.
OK, TRUNCATED, OVERLONG_VARINT = int(Reason.OK), int(Reason.TRUNCATED), int(Reason.OVERLONG_VARINT)
BAD_LENGTH, BAD_BRANCH, BAD_BOOLEAN = int(Reason.BAD_LENGTH), int(Reason.BAD_BRANCH), int(Reason.BAD_BOOLEAN)
BAD_UTF8, TOO_MANY_ITEMS, TOO_DEEP = int(Reason.BAD_UTF8), int(Reason.TOO_MANY_ITEMS), int(Reason.TOO_DEEP)
BAD_NUMBER, TRAILING_BYTES = int(Reason.BAD_NUMBER), int(Reason.TRAILING_BYTES)
END, STRING, LONG, INT, MAP_OF_STRINGS, UNION = (
    int(Op.END),
    int(Op.STRING),
    int(Op.LONG),
    int(Op.INT),
    int(Op.MAP_OF_STRINGS),
    int(Op.UNION),
)
JUMP, NULL, BOOLEAN, FLOAT, DOUBLE, ENUM = int(Op.JUMP), int(Op.NULL), int(Op.BOOLEAN), int(Op.FLOAT), int(Op.DOUBLE), int(Op.ENUM)
FIXED, ARRAY, MAP, NEXT, CALL, RETURN = int(Op.FIXED), int(Op.ARRAY), int(Op.MAP), int(Op.NEXT), int(Op.CALL), int(Op.RETURN)
DEFAULT, REFUSE = int(Op.DEFAULT), int(Op.REFUSE)
TEXT, HASHED, UUID, FLOATING = int(Flag.TEXT), int(Flag.HASHED), int(Flag.UUID), int(Flag.FLOATING)
LOGICAL = int(Flag.UUID | Flag.DECIMAL)
OPCODE, COLUMN, BRANCH_OF_NULL, FLAGS, A, B, C, D = range(8)
ROW, LEFT, BLOCK_END = range(3)  # of a frame on the stack; LEFT is -1 for a call, BLOCK_END is -1 where a block's size is not given
LOW_63: Final = 0x7FFFFFFFFFFFFFFF
INT_LEAST, INT_GREATEST, LONG_LEAST = -(2**31), 2**31 - 1, -(2**63)


def new_decoded(columns: int, records: int) -> Decoded:
    """Make the columns that `decode` fills, all zero."""
    shape = (columns, records)
    return Decoded(np.zeros(shape, np.int64), np.zeros(shape, np.int32), np.zeros(shape, np.uint64), np.zeros(records, np.int16))


def decode(program: Program, values: U8, starts: I64, ends: I64, rows: I64, items_max: int, out: Decoded) -> None:
    """Decode some records of a batch, all of one writer's schema, into their rows of `out`.

    Args:
        program: what `compile_program` made of the writer's schema.
        values: all records' bytes, joined.
        starts: (n,) where each record's Avro body begins in `values`, after the framing.
        ends: (n,) where it ends.
        rows: (k,) which records to decode; other rows of `out` stay as they are.
        items_max: items that the arrays and maps of one record may have together.
        out: columns of `n` records, with the projection that `program` was compiled for.

    Raises:
        ValueError: a range is not inside `values`, or `out` has fewer records or columns than asked for.
    """
    begin, end = starts[rows], ends[rows]
    if len(rows) and (begin.min() < 0 or end.max() > len(values) or (end < begin).any()):
        message = "records must be ranges inside the joined values"
        raise ValueError(message)
    if len(out.status) != len(starts) or max(program.code[:, COLUMN].max(), *program.keys[:, 2], -1) >= len(out.cells):
        message = "the columns are not those of this batch and this projection"
        raise ValueError(message)
    read_only = values.view()
    read_only.flags.writeable = False  # one compiled version serves arrays over bytes and others
    stack = np.zeros((DEPTH_MAX, 3), np.int64)
    columns = (out.cells, out.lengths, out.hashes, out.status)
    _decode_rows(program.code, program.table, program.pool, program.keys, read_only, begin, end, rows, items_max, stack, *columns)


@kernel
def _decode_rows(
    code: I64,
    table: I64,
    pool: U8,
    keys: I64,
    values: U8,
    starts: I64,
    ends: I64,
    rows: I64,
    items_max: int,
    stack: I64,
    cells: I64,
    lengths: I32,
    hashes: U64,
    status: I16,
) -> None:
    """Run the program over each record, in turn.

    Each instruction leaves the next position in `pos`, or minus the reason why it refuses, and its column's `cell` and `length`.
    """
    for k in range(len(rows)):
        row, end = rows[k], ends[k]
        pos, pc, depth, items_left = starts[k], 0, 0, items_max
        while pos >= 0:
            op, column, flags = code[pc, OPCODE], code[pc, COLUMN], code[pc, FLAGS]
            cell, length = 0, 0
            if code[pc, BRANCH_OF_NULL] >= 0:
                branch, pos = read_varint(values, pos, end)
                if branch < 0 or branch > 1:
                    pos = -BAD_BRANCH
                if pos < 0:
                    break
                if branch == code[pc, BRANCH_OF_NULL]:
                    op = NULL
            if op == STRING:
                length, pos = read_length(values, pos, end)
                cell = pos
                pos += length
                if flags & TEXT and pos >= 0 and not is_utf8(values, cell, length):
                    pos = -BAD_UTF8
            elif op in (LONG, INT):
                cell, pos = read_varint(values, pos, end)
                if cell < code[pc, A] or cell > code[pc, B]:
                    pos = -OVERLONG_VARINT if op == INT and (cell < INT_LEAST or cell > INT_GREATEST) else -BAD_NUMBER
                if flags & FLOATING:
                    cell = bits_of_integer(cell)
            elif op == NULL:
                length, flags = -1, 0
            elif op == MAP_OF_STRINGS:
                text, first, last, cell = flags & TEXT, code[pc, A], code[pc, B], pos
                pos, items_left = _map_of_strings(pool, keys, values, pos, end, row, items_left, text, first, last, cells, lengths, hashes)
                length = pos - cell
            elif op == END:
                break
            elif op == ENUM:
                cell, pos = _read_index(values, pos, end, code[pc, A])
                cell = table[code[pc, B] + cell]
                if cell < 0 and pos >= 0:
                    pos = -BAD_BRANCH
            elif BOOLEAN <= op <= FIXED:
                length = code[pc, D] if op == FIXED else 0
                cell, pos = _read_fixed_size(values, pos, end, op, length)
            elif op == DEFAULT:
                cell = code[pc, A]
            elif op == REFUSE:
                pos = -code[pc, A]
            elif op == UNION:
                branch, pos = _read_index(values, pos, end, code[pc, A])
                pc = table[code[pc, B] + branch] - 1
            elif op == JUMP:
                pc = code[pc, A] - 1
            else:
                pc, pos, depth, items_left = _nest(code, values, stack, pc, pos, end, depth, items_left)
                column, flags = -1, 0
            if flags & LOGICAL and pos >= 0 and not _is_logical(values, cell, length, flags, pool, code[pc, A], code[pc, B], code[pc, C]):
                pos = -BAD_NUMBER
            if column >= 0 and pos >= 0:
                cells[column, row] = cell
                lengths[column, row] = length
                if flags & HASHED:
                    hashes[column, row] = xxh64(values, cell, length)
            pc += 1
        status[row] = -pos if pos < 0 else OK if pos == end else TRAILING_BYTES


# Each function below reads from `pos` and gives the next position, or minus the reason why it refuses.


@kernel
def read_varint(values: U8, pos: int, end: int) -> tuple[int, int]:
    """Read a zigzag number of up to 64 bits: the number and the next position, or 0 and minus the reason."""
    number, shift, byte, refused = 0, 0, 0x80, 0
    while byte >= 0x80:
        if pos < end:
            byte = int(values[pos])
            number |= (byte & 0x7F) << shift
            # The tenth byte has room for one bit; a last byte of 0 adds nothing.
            if (shift == 63 and byte > 1) or (byte == 0 and shift > 0):
                byte, refused = 0, -OVERLONG_VARINT
            pos += 1
            shift += 7
        else:
            byte, refused = 0, -TRUNCATED
    if refused < 0:
        number, pos = 0, refused
    return ((number >> 1) & LOW_63) ^ -(number & 1), pos


@kernel
def read_length(values: U8, pos: int, end: int) -> tuple[int, int]:
    """Read the length of what follows: the length and the next position, or 0 and minus the reason."""
    length, pos = read_varint(values, pos, end)
    if pos >= 0 and (length < 0 or length > end - pos):
        length, pos = 0, -BAD_LENGTH
    return length, pos


@kernel
def _map_of_strings(
    pool: U8,
    keys: I64,
    values: U8,
    pos: int,
    end: int,
    row: int,
    items_left: int,
    text: int,
    first: int,
    last: int,
    cells: I64,
    lengths: I32,
    hashes: U64,
) -> tuple[int, int]:
    """Read a map of strings or bytes and find its properties; give the next position and the items that are left."""
    for k in range(first, last):
        lengths[keys[k, 2], row] = -1
    count, block_end, pos = _read_block(values, pos, end, items_left)
    while count > 0:
        items_left -= count
        while count > 0:
            count -= 1
            key_length, key = read_length(values, pos, end)
            if key < 0:
                pos = key
                break
            length, pos = read_length(values, key + key_length, end)
            if not is_utf8(values, key, key_length) or (pos >= 0 and text and not is_utf8(values, pos, length)):
                pos = -BAD_UTF8
            if pos < 0:
                break
            for k in range(first, last):
                if _is_key(pool, keys[k, 0], keys[k, 1], values, key, key_length):
                    cells[keys[k, 2], row] = pos
                    lengths[keys[k, 2], row] = length
                    if keys[k, 3]:
                        hashes[keys[k, 2], row] = xxh64(values, pos, length)
            pos += length
        if pos >= 0 and block_end >= 0 and block_end != pos:
            pos = -BAD_LENGTH
        count = 0
        if pos >= 0:
            count, block_end, pos = _read_block(values, pos, end, items_left)
    return pos, items_left


@kernel
def _is_key(pool: U8, begin: int, end: int, values: U8, key: int, key_length: int) -> bool:
    same = end - begin == key_length
    i = 0
    while same and i < key_length:
        same = values[key + i] == pool[begin + i]
        i += 1
    return same


@kernel
def _read_block(values: U8, pos: int, end: int, items_left: int) -> tuple[int, int, int]:
    """Read the head of a block: how many items, where its bytes end (-1 if it doesn't say), and the next position."""
    block_end = -1
    count, pos = read_varint(values, pos, end)
    if count > items_left or count < -items_left:
        count, pos = 0, -TOO_MANY_ITEMS
    elif count < 0:
        size, pos = read_length(values, pos, end)
        count, block_end = -count if pos >= 0 else 0, pos + size
    return count, block_end, pos


@kernel
def _nest(code: I64, values: U8, stack: I64, pc: int, pos: int, end: int, depth: int, items_left: int) -> tuple[int, int, int, int]:
    """Begin, go on with or end an array, a map or a record that contains itself: the row before the next, position, depth, items left."""
    op = code[pc, OPCODE]
    if op == RETURN:
        depth -= 1
        pc = stack[depth, ROW]
    elif op == NEXT or depth < DEPTH_MAX:
        if op == NEXT:
            pc = code[pc, A]
        else:
            stack[depth, ROW], stack[depth, LEFT], stack[depth, BLOCK_END] = pc, 0, -1
            depth += 1
        if op == CALL:
            pc = code[pc, A] - 1
        else:
            pos, items_left = _next_item(values, pos, end, stack, depth - 1, code[pc, OPCODE], items_left)
            if pos >= 0 and stack[depth - 1, LEFT] == 0:
                depth -= 1
                pc = code[pc, A] - 1
    else:
        pos = -TOO_DEEP
    return pc, pos, depth, items_left


@kernel
def _next_item(values: U8, pos: int, end: int, stack: I64, frame: int, op: int, items_left: int) -> tuple[int, int]:
    """Step to the next item of the array or map in a frame, whose LEFT is 0 when there is none: the position and the items left."""
    stack[frame, LEFT] = max(stack[frame, LEFT] - 1, 0)
    if stack[frame, LEFT] == 0:
        if stack[frame, BLOCK_END] >= 0 and stack[frame, BLOCK_END] != pos:
            pos = -BAD_LENGTH
        else:
            stack[frame, LEFT], stack[frame, BLOCK_END], pos = _read_block(values, pos, end, items_left)
            items_left -= stack[frame, LEFT]
    if op == MAP and pos >= 0 and stack[frame, LEFT] > 0:
        length, pos = read_length(values, pos, end)
        if pos >= 0:
            pos = pos + length if is_utf8(values, pos, length) else -BAD_UTF8
    return pos, items_left


@kernel
def _read_index(values: U8, pos: int, end: int, count: int) -> tuple[int, int]:
    """Read the index of a branch or a symbol, one of `count`: it and the next position, or 0 and minus the reason."""
    index, pos = read_varint(values, pos, end)
    if pos >= 0 and (index < 0 or index >= count):
        index, pos = 0, -BAD_BRANCH
    return index, pos


@kernel
def _read_fixed_size(values: U8, pos: int, end: int, op: int, length: int) -> tuple[int, int]:
    """Read a boolean, float, double or fixed: the cell and the next position, or 0 and minus the reason."""
    size = 1 if op == BOOLEAN else 4 if op == FLOAT else 8 if op == DOUBLE else length
    cell = pos
    if size > end - pos:
        cell, pos = 0, -TRUNCATED
    else:
        if op == BOOLEAN:
            cell = int(values[pos])
        elif op == FLOAT:
            cell = bits_of_single(int(np.int64(load_4(values, pos))))
        elif op == DOUBLE:
            cell = int(np.int64(np.uint64(load_8(values, pos))))
        pos = -BAD_BOOLEAN if op == BOOLEAN and cell > 1 else pos + size
    return cell, pos


@kernel
def bits_of_single(single: int) -> int:
    """Widen the bit pattern of a float to that of the equal double; NaN becomes quiet, as processors make it."""
    sign = LONG_LEAST if single >> 31 else 0
    exponent, fraction = (single >> 23) & 0xFF, single & 0x7FFFFF
    if exponent == 0xFF:
        quiet = 1 << 51 if fraction else 0
        return sign | 0x7FF << 52 | quiet | fraction << 29
    if exponent == 0:
        if fraction == 0:
            return sign
        exponent = 1
        while fraction < 1 << 23:
            fraction <<= 1
            exponent -= 1
        fraction &= 0x7FFFFF
    return sign | (exponent + 896) << 52 | fraction << 29


@kernel
def bits_of_integer(number: int) -> int:
    """Give the bit pattern of the double nearest to a whole number."""
    return int(np.float64(number).view(np.int64))


@kernel
def _is_logical(values: U8, pos: int, length: int, flags: int, pool: U8, greatest: int, least: int, pool_end: int) -> bool:
    """Tell whether bytes are what their logical type, uuid or decimal, allows."""
    if flags & UUID:
        return is_uuid(values, pos, length)
    negative = length > 0 and values[pos] >= 0x80
    fill = 0xFF if negative else 0
    # Leading bytes that only repeat the sign say nothing.
    while length > 1 and values[pos] == fill and (values[pos + 1] >= 0x80) == negative:
        pos, length = pos + 1, length - 1
    bound, bound_length = (least, pool_end - least) if negative else (greatest, least - greatest)
    if length != bound_length:
        return length < bound_length
    for i in range(length):
        if values[pos + i] != pool[bound + i]:
            return (values[pos + i] < pool[bound + i]) != negative
    return True


@kernel
def is_uuid(values: U8, pos: int, length: int) -> bool:
    """Tell whether text is a UUID in its canonical form, in upper or lower case."""
    if length != 36:
        return False
    for i in range(36):
        byte = values[pos + i]
        if i in (8, 13, 18, 23):
            if byte != 0x2D:
                return False
        elif not (0x30 <= byte <= 0x39 or 0x41 <= byte <= 0x46 or 0x61 <= byte <= 0x66):
            return False
    return True
