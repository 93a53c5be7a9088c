"""Changes of a file's bytes, most of them where HDF5 keeps its structures."""

from __future__ import annotations

import random
import re

SIGNATURES = re.compile(
    rb"\x89HDF|TREE|SNOD|HEAP|GCOL|OHDR|OCHK|FRHP|FHDB|FHIB|BTHD|BTLF|BTIN|EAHD|EAIB|FAHD|FADB|FSHD"
)
NEAR = 200
"""Bytes behind a signature in which a change is likely to be one of structure."""

TEXT = re.compile(rb"[\x01-\x40]\0\0\0[\x00-\xff]{3}\0\0\0\0\0[\x01-\x20]\0\0\0")
"""What points at a string of variable length: its length, an address, and a number."""

ODD = (
    0,
    1,
    2,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    1 << 15,
    0xFFFF,
    1 << 31,
    (1 << 32) - 1,
    1 << 62,
    (1 << 64) - 1,
)


def place(rng: random.Random, data: bytearray) -> int:
    """Find a place worth a change: behind a signature, at a pointer to text, or anywhere."""
    found = [m.start() for m in rng.choice((SIGNATURES, SIGNATURES, TEXT)).finditer(data)]
    if not found or rng.random() < 0.25:
        return rng.randrange(len(data))
    return min(rng.choice(found) + int(NEAR * rng.random() ** 2), len(data) - 1)


def flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[place(rng, data)] = rng.randrange(256)


def integer(rng: random.Random, data: bytearray) -> None:
    """Write a size, a count or an address that is wrong."""
    width, at = rng.choice((1, 2, 4, 8)), place(rng, data) & ~rng.choice((0, 1, 3, 7))
    signatures = [m.start() for m in SIGNATURES.finditer(data)]
    value = rng.choice((*ODD, len(data), len(data) - 1, rng.choice(signatures or [0])))
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")


def length(rng: random.Random, data: bytearray) -> None:
    """Make a text longer than it is, or let it point elsewhere."""
    if found := [m.start() for m in TEXT.finditer(data)]:
        at, value = rng.choice(found), rng.choice((*ODD[8:12], 1 << 28, 5000))
        data[at : at + 4] = (value % (1 << 32)).to_bytes(4, "little")


def copy(rng: random.Random, data: bytearray) -> None:
    source, target, size = place(rng, data), place(rng, data), rng.choice((4, 8, 40, 600))
    data[target : target + size] = data[source : source + size]


def shift(rng: random.Random, data: bytearray) -> None:
    at, size = place(rng, data), rng.choice((1, 8, 100))
    if rng.random() < 0.5:
        del data[at : at + size]
    else:
        data[at:at] = rng.randbytes(size)


def cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def zero(rng: random.Random, data: bytearray) -> None:
    at, size = place(rng, data), rng.choice((8, 64, 512, 4096))
    data[at : at + size] = bytes(len(data[at : at + size]))


SPOILS = (flip, flip, integer, integer, integer, length, copy, zero, shift, cut)


def spoil(rng: random.Random, data: bytes) -> bytes:
    """Change a file's bytes, once or a few times."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if changed:
            rng.choice(SPOILS)(rng, changed)
    return bytes(changed)
