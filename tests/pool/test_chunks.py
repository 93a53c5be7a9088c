"""Chunks of whole rows are read past HDF5, and everything else by it: the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mmselect.pool.parts import Plain
from mmselect.pool.source import Folder

ROWS = np.random.default_rng(0).standard_normal((70, 320)).astype(np.float32)


def made(path: Path, values: np.ndarray, order: list[int], **how: object) -> Path:
    """Write a dataset of chunks of sixteen rows, one after the other in this order."""
    user = {"userblock_size": 1024} if how.pop("user", False) else {}
    how = {"chunks": (16, *values.shape[1:])} | how
    with h5py.File(path, "w", **user) as file:
        data = file.create_dataset("x", values.shape, values.dtype, **how)
        for start in order:
            data[start : start + 16] = values[start : start + 16]
    return path


def read(path: Path, take: Callable[..., None]) -> None:
    folder = Folder(path)
    try:
        file = folder.open(path)
        take(folder.part(folder.follow(file, file.handle["/"].id, "x"), "x"))
    finally:
        folder.close()


ORDERED = [0, 16, 32, 48, 64]

CASES = {
    "in order": (ROWS, ORDERED, {}, True),
    "backwards": (ROWS, ORDERED[::-1], {}, True),
    "mixed": (ROWS, [32, 0, 64, 16, 48], {}, True),
    "growing": (ROWS, ORDERED, {"maxshape": (None, 320)}, True),
    "three axes": (ROWS.reshape(70, 20, 16), ORDERED, {}, True),
    "one axis": (np.arange(70 * 320.0), [*range(0, 70 * 320, 16)], {"chunks": (1024,)}, True),
    "integers": (ROWS.astype("i8"), ORDERED, {}, True),
    "a chunk is missing": (ROWS, [0, 16, 48, 64], {}, False),
    "cut across rows": (ROWS, ORDERED, {"chunks": (16, 160)}, False),
    "small": (ROWS[:, :4], ORDERED, {}, False),
    "other bytes": (ROWS.astype(">f4"), ORDERED, {}, True),
    "compressed": (ROWS, ORDERED, {"compression": "gzip"}, False),
    "checksums": (ROWS, ORDERED, {"fletcher32": True}, False),
    "behind a user block": (ROWS, ORDERED, {"user": True}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_chunks_hold_what_hdf5_reads(case: str, tmp_path: Path) -> None:
    values, order, how, direct = CASES[case]
    path = made(tmp_path / "a.h5", values, order, **how)
    with h5py.File(path) as file:
        expected = file["x"][:]

    def take(part: Plain) -> None:
        assert isinstance(part, Plain) == direct
        for start, stop in [(0, len(values)), (3, 4), (15, 33), (60, 70), (5, 5)]:
            assert np.array_equal(part.read(start, stop), expected[start:stop])
        room = np.zeros((20, *values.shape[1:]), part.dtype)
        assert part.read(10, 30, room) is room
        assert np.array_equal(room, expected[10:30])

    read(path, take)


def test_chunks_that_touch_are_one_piece(tmp_path: Path) -> None:
    read(made(tmp_path / "a.h5", ROWS, ORDERED), lambda part: check_pieces(part, 4))
    read(made(tmp_path / "b.h5", ROWS, ORDERED[::-1]), lambda part: check_pieces(part, 5))


def check_pieces(part: Plain, most: int) -> None:
    assert len(part.pieces) <= most
    assert sum(size for *_, size in part.pieces) == ROWS.nbytes


def test_a_place_behind_the_end_is_left_to_hdf5(tmp_path: Path) -> None:
    path = made(tmp_path / "a.h5", ROWS, ORDERED)
    with h5py.File(path) as file:
        place = file["x"].id.get_chunk_info(2).byte_offset
    raw = path.read_bytes()
    assert raw.count(place.to_bytes(8, "little")) == 1
    path.write_bytes(raw.replace(place.to_bytes(8, "little"), (1 << 40).to_bytes(8, "little")))
    read(path, lambda part: check_not_plain(part))


def check_not_plain(part: object) -> None:
    assert not isinstance(part, Plain)
