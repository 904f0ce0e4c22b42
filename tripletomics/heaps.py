"""The heaps of an HDF5 file, where it keeps texts: the HDF5 library never comes to the end of some that are damaged."""

from __future__ import annotations

import mmap
from pathlib import Path

MARK = b"GCOL\1\0\0\0"  # how a heap begins; its length follows, and then its entries
HEADER = 16  # bytes of a heap and of an entry: number, uses, and at 8 the length
LOOKED = 2**27  # bytes at each end of a file that are looked through, in less than 0.1 s


def has_endless(path: Path) -> bool:
    """Tell whether a heap of a file has free room of no length, after which the library looks for ever.

    Of a large file only both ends are looked through: what all tables begin and end with lies there.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        for start in {0, max(0, len(raw) - LOOKED)}:
            at = raw.find(MARK, start, start + LOOKED)
            while at >= 0:
                if _is_endless(raw, at):
                    return True
                at = raw.find(MARK, at + 1, start + LOOKED)
    return False


def _is_endless(raw: mmap.mmap, at: int) -> bool:
    end = min(at + _number(raw, at + 8), len(raw))
    place = at + HEADER
    while place + HEADER <= end:
        length = _number(raw, place + 8)
        if not any(raw[place : place + 2]):  # number 0: the room that is left
            return length == 0
        place += HEADER + -(-length // 8) * 8
    return False


def _number(raw: mmap.mmap, at: int) -> int:
    return int.from_bytes(raw[at : at + 8], "little")
