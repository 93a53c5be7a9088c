"""Small files that say they are large: no command takes memory because a file says so."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import mmselect
from mmselect.pool.checking import check

HUGE = struct.pack("<I", 0xF0000000)
N, C = 60, 5


def patched(pool: Path, at: int, value: bytes = HUGE) -> None:
    data = bytearray(pool.read_bytes())
    data[at : at + len(value)] = value
    pool.write_bytes(data)


def replaced(pool: Path, name: str, *shape: int, dtype: Any = "f4", **how: Any) -> h5py.Dataset:
    handle = h5py.File(pool, "r+")
    if name in handle:
        del handle[name]
    return handle.create_dataset(name, shape, dtype, **how)


def attribute(pool: Path) -> None:
    place = pool.read_bytes().index(b"format_version\0")
    patched(pool, pool.read_bytes().index(struct.pack("<I", 3), place))


def text_in_a_row(pool: Path) -> None:
    with h5py.File(pool) as handle:
        place = handle["id"].id.get_offset()
    patched(pool, place + 16 * 7)


def text_in_chunks(pool: Path, **how: Any) -> int:
    made = replaced(pool, "id", N, dtype=h5py.string_dtype(), chunks=(10,), **how)
    made[:] = [f"s{i}" for i in range(N)]
    place: int = made.id.get_chunk_info(0).byte_offset
    if how:
        skipped, data = made.id.read_direct_chunk((10,))
        raw = bytearray(zlib.decompress(data))
        raw[:4] = HUGE
        made.id.write_direct_chunk((10,), zlib.compress(bytes(raw)), skipped)
    made.file.close()
    return place


def same_text_everywhere(pool: Path) -> None:
    n = 30_000
    with h5py.File(pool, "w") as handle:
        handle.attrs.update({"format": "mmselect-pool", "format_version": "1.0"})
        handle["multimodal_logits"] = np.zeros((n, 2), "f4")
        text = h5py.string_dtype()
        handle.create_dataset("id", data=["x" * 100_000, *["a"] * (n - 1)], dtype=text)
        place = handle["id"].id.get_offset()
    patched(pool, place, pool.read_bytes()[place : place + 16] * n)


def heap(size: int) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        patched(pool, pool.read_bytes().index(b"GCOL") + 8, struct.pack("<Q", size))

    return change


def rows_without_data(pool: Path) -> None:
    pool.unlink()
    with h5py.File(pool, "w") as handle:
        handle.attrs.update({"format": "mmselect-pool", "format_version": "1.0"})
        handle.create_dataset("label", (16 << 20,), "i1", chunks=(1 << 16,))


def chunks_of_a_row(pool: Path) -> None:
    """HDF5 takes six kilobytes for every chunk that it is asked for at once."""
    replaced(pool, "labeled", 1 << 18, dtype=bool, chunks=(1,)).file.close()


def virtual_of_virtual(pool: Path) -> None:
    """Each of eight datasets is eight times the one before: 2 million places in a few kilobytes."""
    n, names = 1 << 16, [*(f"x{i}" for i in range(7)), "multimodal_logits"]
    made = replaced(pool, "x0", n, 2, dtype="f2", chunks=(n, 2))
    del made.file["multimodal_logits"]
    for before, name in pairwise(names):
        layout = h5py.VirtualLayout((8 * n, 2), "f2")
        for i in range(8):
            layout[i * n : (i + 1) * n] = h5py.VirtualSource(".", before, (n, 2))
        made.file.create_virtual_dataset(name, layout)
        n *= 8
    made.file.close()


def fill_of_text(pool: Path) -> None:
    how = {"chunks": (10,), "fillvalue": "x"}
    replaced(pool, "id", N, dtype=h5py.string_dtype(), **how).file.close()


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "attribute": (attribute, "expected a short text in attribute format_version"),
    "text in a row": (text_in_a_row, "/id: row 7: expected text shorter than the file, found 4,02"),
    "text in chunks": (
        lambda pool: patched(pool, text_in_chunks(pool) + 16 * 3),
        "/id: row 3: expected text shorter than the file, found 4,02",
    ),
    "text in compressed chunks": (
        lambda pool: text_in_chunks(pool, compression="gzip"),
        "/id: row 10: expected text shorter than the file, found 4,02",
    ),
    "one text for all": (same_text_everywhere, "shorter than the file, found 3,000,000,000 bytes"),
    "heap": (heap(0xF0000000), "a structure that is larger than the file"),
    "heap of terabytes": (heap(1 << 44), "a structure that is larger than the file"),
    "rows": (rows_without_data, "/label: expected data for the 16.8 MB that it declares, found 0"),
    "chunks of a row": (chunks_of_a_row, "/labeled: expected 60 rows, as in /id, found 262,144"),
    "virtual of virtual": (virtual_of_virtual, "MB that it declares, found "),
    "fill value": (fill_of_text, "/id: expected text in every row, found rows never written"),
}


@pytest.mark.parametrize("case", CASES)
def test_sizes_are_not_believed(pool: Path, cli, case: str) -> None:
    change, said = CASES[case]
    change(pool)
    found = cli("info", pool)
    assert (found.code, found.out) == (1, "") and said in found.err
    assert any(said in str(problem) for problem in check([pool]).problems)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_no_command_takes_memory_for_them(pool: Path, tmp_path: Path) -> None:
    """All in one process: its peak is that of the largest."""
    whole, files = pool.read_bytes(), []
    for number, (change, _) in enumerate(CASES.values()):
        files.append(tmp_path / f"{number}.h5")
        files[-1].write_bytes(whole)
        change(files[-1])
    code = (
        "import re, sys\n"
        "from mmselect.cli import run\n"
        "for pool in sys.argv[1:]:\n"
        "    assert run(['info', pool]) == 1 and run(['check', pool]) == 1\n"
        "status = open('/proc/self/status').read()\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', status)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, check=True)
    assert int(done.stdout.split()[-1]) < 300_000  # kilobytes; the libraries take a third of that


def test_texts_stored_in_any_way_are_read(pool: Path) -> None:
    """Also where filters were skipped, chunks cut the rows unevenly, or a fill value is unused."""
    names = [f"name {i}" * (i % 5 + 1) for i in range(N)]
    text = h5py.string_dtype()
    for how in (
        {"chunks": (7,), "compression": "gzip", "shuffle": True},
        {"chunks": (99,), "compression": "lzf", "maxshape": (None,)},
        {"chunks": (7,), "fillvalue": ""},
    ):
        made = replaced(pool, "id", N, dtype=text, **how)
        made[:] = names
        made.file.close()
        with mmselect.open_pool(pool) as opened:
            assert opened.ids.text(range(N)) == names


@pytest.mark.parametrize("chunks", [(1, 1, 1), (7, 2, 3), (N, 1, C)], ids=str)
def test_many_chunks_are_read_some_at_a_time(pool: Path, monkeypatch, chunks) -> None:
    values = np.random.default_rng(3).normal(size=(N, 10, C)).astype("f4")
    made = replaced(pool, "dropout_logits", *values.shape, dtype="f4", chunks=chunks)
    made[:] = values
    made.file.close()
    for most in (1, 5, 64):
        monkeypatch.setattr("mmselect.pool.parts.MOST_CHUNKS", most)
        with mmselect.open_pool(pool) as opened:
            column = opened.columns["/dropout_logits"]
            assert np.array_equal(column[3:41], values[3:41])
            assert np.array_equal(column[:], values)


def test_numbers_put_together_of_the_same_few(pool: Path) -> None:
    raw = [("side.bin", 0, 1 << 20)] * 2000
    (pool.parent / "side.bin").write_bytes(bytes(1 << 20))
    replaced(pool, "metadata/x", 500 << 20, external=raw).file.close()
    found = [str(problem) for problem in check([pool]).problems]
    assert any("expected data for the 2.1 GB that it declares" in said for said in found)
