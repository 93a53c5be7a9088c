"""Pools from somebody else: one error line for whatever they hold, and nothing opened elsewhere."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays
from h5py import h5d, h5p, h5s, h5t, h5z

import mmselect
from mmselect.errors import FormatError, MmselectError
from mmselect.pool.checking import check

N, C = 60, 5
Y = arrays()["multimodal_logits"]
NAME = "multimodal_logits"


def without(pool: Path) -> h5py.File:
    """Open a pool for writing, without its fused logits."""
    handle = h5py.File(pool, "r+")
    del handle[NAME]
    return handle


def outside(pool: Path) -> Path:
    """Make the pool's folder one below a folder that holds a secret; return the pool there."""
    with h5py.File(pool.parent / "secret.h5", "w") as handle:
        handle["x"] = Y
    Y.tofile(pool.parent / "secret.bin")
    (pool.parent / "in").mkdir()
    return pool.rename(pool.parent / "in" / pool.name)


def virtual(handle: h5py.File, *pieces: tuple[Any, str, Any, Any], dtype: str = "f4") -> None:
    layout = h5py.VirtualLayout((N, C), dtype)
    for here, file, shape, there in pieces:
        source = h5py.VirtualSource(file, "x", shape)
        layout[here] = source[there] if there is not None else source
    handle.create_virtual_dataset(NAME, layout)


def soft_through_external(pool: Path) -> None:
    with without(pool) as handle:
        handle.create_group("hidden")["way"] = h5py.ExternalLink("../secret.h5", "/")
        handle[NAME] = h5py.SoftLink("/hidden/way/x")


def virtual_through_second(pool: Path) -> None:
    with h5py.File(pool.parent / "b.h5", "w") as handle:
        handle["x"] = h5py.ExternalLink("../secret.h5", "/x")
    with without(pool) as handle:
        virtual(handle, (slice(None), "b.h5", (N, C), None))


def raw(name: str, n: int = N) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        Y[:n].tofile(pool.parent / "short.bin")
        with without(pool) as handle:
            handle.create_dataset(NAME, (N, C), "f4", external=[(name, 0, N * C * 4)])

    return change


def link(target: Any) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        with without(pool) as handle:
            handle[NAME] = target

    return change


def through_symlink(pool: Path) -> None:
    (pool.parent / "way.h5").symlink_to("../secret.h5")
    link(h5py.ExternalLink("way.h5", "/x"))(pool)


def pipe(pool: Path) -> None:
    os.mkfifo(pool.parent / "pipe")
    link(h5py.ExternalLink("pipe", "/x"))(pool)


def ring(pool: Path) -> None:
    with without(pool) as handle:
        handle["loop"] = h5py.SoftLink(f"/{NAME}")
        handle[NAME] = h5py.SoftLink("/loop")


def of_itself(pool: Path) -> None:
    with without(pool) as handle:
        layout = h5py.VirtualLayout((N, C), "f4")
        layout[:] = h5py.VirtualSource(".", NAME, (N, C))
        handle.create_virtual_dataset(NAME, layout)


def hole(rows: int, said: int) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        with h5py.File(pool.parent / "c.h5", "w") as handle:
            handle["x"] = Y[:rows]
        with without(pool) as handle:
            virtual(handle, (slice(0, said), "c.h5", (said, C), None))

    return change


def text_source(pool: Path) -> None:
    with h5py.File(pool.parent / "c.h5", "w") as handle:
        handle.create_dataset("x", data=[["a"] * C] * N, dtype=h5py.string_dtype())
    with without(pool) as handle:
        virtual(handle, (slice(None), "c.h5", (N, C), None))


def filtered(code: int) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        properties = h5p.create(h5p.DATASET_CREATE)
        properties.set_chunk((N, C))
        properties.set_filter(code, h5z.FLAG_OPTIONAL, (1,))
        with without(pool) as handle:
            space = h5s.create_simple((N, C))
            made = h5d.create(handle.id, NAME.encode(), h5t.IEEE_F32LE, space, properties)
            made.write_direct_chunk((0, 0), Y.tobytes(), 0)

    return change


def corrupt(word: bytes | None = None) -> Callable[[Path], None]:
    """Spoil a compressed chunk, or the first place where a structure of HDF5 has its name."""

    def change(pool: Path) -> None:
        if word is None:
            with without(pool) as handle:
                how = {"compression": "gzip", "chunks": (N, C)}
                made = handle.create_dataset(NAME, data=Y, **how)
                at = made.id.get_chunk_info(0).byte_offset + 20
        data = bytearray(pool.read_bytes())
        at = data.index(word) if word else at
        data[at : at + 4] = bytes(4)
        pool.write_bytes(data)

    return change


def heap_without_end(pool: Path) -> None:
    """Free space of no size in a heap of strings: HDF5 alone stays there for ever."""
    data = bytearray(pool.read_bytes())
    at = data.index(b"GCOL")
    data[at + 16 : at + 32] = bytes(16)
    pool.write_bytes(data)


def names_without_end(pool: Path) -> None:
    """Free space in a heap of names that is followed by itself: HDF5 takes memory without end."""
    data = bytearray(pool.read_bytes())
    at = data.index(b"HEAP")
    free, place = struct.unpack_from("<QQ", data, at + 16)
    struct.pack_into("<Q", data, place + free, free)
    pool.write_bytes(data)


def names_of_another(pool: Path) -> None:
    """Two heaps that say that their names are in one place: HDF5 crashes."""
    data = bytearray(pool.read_bytes())
    first = data.index(b"HEAP")
    second = data.index(b"HEAP", first + 1)
    data[second : second + 32] = data[first : first + 32]
    pool.write_bytes(data)


def declared(shape: tuple[int, ...], **how: Any) -> Callable[[Path], None]:
    def change(pool: Path) -> None:
        with without(pool) as handle:
            handle.create_dataset(NAME, shape, "f4", **how)

    return change


def named_type(pool: Path) -> None:
    with without(pool) as handle:
        handle[NAME] = np.dtype("f4")


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "soft link through an external one": (soft_through_external, "which is not beside the pool"),
    "virtual through a second file": (virtual_through_second, "which is not beside the pool"),
    "symbolic link": (through_symlink, "external link to 'way.h5', which is not beside the pool"),
    "raw data elsewhere": (raw("../secret.bin"), "which is not beside the pool"),
    "raw data that is short": (raw("short.bin", 9), "expected 1,200 bytes, found 180 bytes"),
    "raw data that is not there": (raw("gone.bin"), "'gone.bin', which does not exist"),
    "pipe": (pipe, "external link to 'pipe', which is no regular file"),
    "device": (link(h5py.ExternalLink("/dev/zero", "/x")), "which is not beside the pool"),
    "no such dataset": (link(h5py.ExternalLink("pool.h5", "/no")), "'pool.h5', which has no '/no'"),
    "link to nowhere": (link(h5py.SoftLink("/no")), "link to '/no', which does not exist"),
    "link to itself": (link(h5py.SoftLink(f"/{NAME}")), "lead in a circle"),
    "ring of links": (ring, "lead in a circle"),
    "virtual dataset of itself": (of_itself, "lead in a circle"),
    "hole": (hole(10, 10), "expected a source for every row of a virtual dataset"),
    "source too short": (hole(10, N), "'c.h5': expected (60, 5) numbers, found (10, 5)"),
    "text for numbers": (text_source, "'c.h5': expected float32, found object"),
    "unknown filter": (filtered(32015), "found filter zstd (32015); store it again without"),
    "nbit": (filtered(5), "found filter nbit (5)"),
    "corrupt chunk": (corrupt(), f"/{NAME}: HDF5 cannot read it: "),
    "corrupt heap": (corrupt(b"GCOL"), "HDF5 cannot read it: "),
    "heap without an end": (heap_without_end, "HDF5 cannot read it: a heap of strings is damaged"),
    "names without an end": (names_without_end, "HDF5 cannot read it: a heap of names is damaged"),
    "names of another": (names_of_another, "two heaps say that they have the same names"),
    "corrupt group": (corrupt(b"TREE"), "HDF5 cannot read it: "),
    "huge": (declared((N, 1 << 62), chunks=(1, 1 << 20)), "that it declares, found 0 bytes"),
    "rows that are not there": (
        declared((1 << 27, 2), chunks=(1 << 16, 2)),
        "expected data for the 1.07 GB that it declares, found 0 bytes",
    ),
    "huge chunk": (
        declared((N, C), chunks=(1 << 20, 1 << 9), maxshape=(None, None)),
        "expected data for the 2.15 GB that it declares",
    ),
    "named type": (named_type, "expected a dataset, found a named type"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_from_every_command(pool: Path, cli, case: str) -> None:
    change, said = CASES[case]
    pool = outside(pool)
    change(pool)
    found = cli("check", pool)
    assert found.code == 1 and said in found.out
    for command in (["select", "-s", "entropy", "-b", 3], ["score", "-s", "margin"], ["info"]):
        found = cli(command[0], pool, *command[1:])
        assert found.code == 1
        assert found.err.startswith(f"error: {pool}: ") and said in found.err
        assert found.err.count("\n") == 1


def beside(pool: Path) -> None:
    with h5py.File(pool.parent / "b.h5", "w") as handle:
        handle["x"], handle["rows"] = Y, h5py.SoftLink("/x")


@pytest.mark.parametrize("rows", [slice(None), slice(7, 31), np.array([50, 3, 3, 20, 59])], ids=str)
def test_what_lies_beside_the_pool_is_read(pool: Path, tmp_path: Path, monkeypatch, rows) -> None:
    """External links, raw data in pieces, and virtual datasets cut by rows, columns and both."""
    beside(pool)
    (tmp_path / "raw.bin").write_bytes(b"x" * 8 + Y.tobytes())
    with h5py.File(tmp_path / "vectors.h5", "w") as handle:
        for row in range(N):
            handle[f"r{row}"] = Y[row]
    changes: dict[str, Callable[[h5py.File], Any]] = {
        "link": lambda handle: handle.update({NAME: h5py.ExternalLink("b.h5", "/rows")}),
        "raw": lambda handle: handle.create_dataset(
            NAME, (N, C), "f4", external=[("raw.bin", 8, 402), ("raw.bin", 410, h5py.h5s.UNLIMITED)]
        ),
        "rows": lambda handle: virtual(
            handle,
            (slice(0, 20), "b.h5", (N, C), np.s_[:20]),
            (slice(20, N), "b.h5", (N, C), np.s_[20:]),
        ),
        "columns": lambda handle: virtual(
            handle,
            (np.s_[:, :2], "b.h5", (N, C), np.s_[:, :2]),
            (np.s_[:, 2:], "b.h5", (N, C), np.s_[:, 2:]),
        ),
    }
    monkeypatch.chdir("/")  # names are relative to the pool, not to the working folder
    for name, change in changes.items():
        with h5py.File(pool, "r+") as handle:
            del handle[NAME]
            change(handle)
        with mmselect.open_pool(pool) as opened:
            column = opened.columns[f"/{NAME}"]
            assert np.array_equal(column[rows], Y[rows]), name
            assert column.plain, name
    with without(pool) as handle:
        layout = h5py.VirtualLayout((N, C), "f8")
        for row in range(N):
            layout[row] = h5py.VirtualSource("vectors.h5", f"r{row}", (C,))
        handle.create_virtual_dataset(NAME, layout)
    with mmselect.open_pool(pool) as opened:
        assert np.array_equal(opened.columns[f"/{NAME}"][rows], Y[rows].astype("f8"))


def test_stored_types_are_read_as_what_they_are(pool: Path) -> None:
    brain = h5t.IEEE_F32LE.copy()
    brain.set_fields(15, 7, 8, 0, 7)
    brain.set_ebias(127)
    brain.set_size(2)
    early = h5p.create(h5p.DATASET_CREATE)
    early.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    with without(pool) as handle:
        made = h5d.create(handle.id, NAME.encode(), brain, h5s.create_simple((N, C)), early)
        made.write(h5s.ALL, h5s.ALL, Y)
        expected = handle[NAME][:]
        del handle["labeled"]
        handle["labeled"] = (np.arange(N) % 3 == 0).astype("i8")
    with mmselect.open_pool(pool) as opened:
        column = opened.columns[f"/{NAME}"]
        assert column.dtype == np.float32 and np.array_equal(column[:], expected)
        assert np.abs(column[:] - Y).max() < 0.1
        assert opened.labeled.tolist() == [i % 3 == 0 for i in range(N)]
    with h5py.File(pool, "r+") as handle:
        handle["labeled"][7] = 2
    said = "/labeled: row 7: expected 0 or 1, found another number"
    assert said in str(check([pool]).problems[0])
    with pytest.raises(MmselectError, match=said):
        mmselect.select(pool, "random", 3)


BAD_IDS = {"": "''", "a\nb": r"'a\nb'", "\x1b[31mred": r"'\x1b[31mred'", "a\u2028b": r"'a\u2028b'"}


@pytest.mark.parametrize("name", BAD_IDS)
def test_ids_that_cannot_be_printed(pool: Path, cli, tmp_path: Path, name: str) -> None:
    with h5py.File(pool, "r+") as handle:
        handle["id"][7] = name
    said = "pool.h5: /id: row 7: expected printable UTF-8 text of one line, not empty, found "
    for command in (["select", "-b", 2], ["score"], ["info"], ["embed", "-o", tmp_path / "e.h5"]):
        found = cli(command[0], pool, *command[1:])
        assert (found.code, found.out) == (1, "")
        assert said + BAD_IDS[name] in found.err and found.err.count("\n") == 1
    assert said + BAD_IDS[name] in cli("check", pool).out


def test_no_escape_code_reaches_the_terminal(pool: Path, cli, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"\x1b[2Jx\n")
    with h5py.File(pool, "r+") as handle:
        handle["\x1b]0;title\x07"] = 1
    odd = pool.rename(tmp_path / "a\x1b[31m.h5")
    for command in (["select", "-b", 2, "--exclude", tmp_path / "ids"], ["check"]):
        found = cli(command[0], odd, *command[1:])
        assert found.code == 1 and r"\x1b" in found.out + found.err
        assert "\x1b" not in found.out + found.err


def test_a_pool_replaced_meanwhile_is_old_or_new(pool: Path, tmp_path: Path, monkeypatch) -> None:
    import mmselect.pool.reading as reading

    new = tmp_path / "new.h5"
    mmselect.write_pool(new, multimodal_logits=arrays(seed=1)["multimodal_logits"])
    before, survey = pool.read_bytes(), reading.survey
    old = mmselect.score(pool, "entropy").score
    monkeypatch.setattr(reading, "survey", lambda paths: (survey(paths), new.replace(pool))[0])
    assert np.array_equal(mmselect.score(pool, "entropy").score, old)
    assert pool.read_bytes() != before


def test_a_pool_that_changes_under_the_reader(pool: Path) -> None:
    with mmselect.open_pool(pool) as opened:
        with h5py.File(pool, "r+", locking=False) as handle:
            handle["features/image"][:] = 0
        os.utime(pool, ns=(0, 0))
        with pytest.raises(FormatError, match=r"pool.h5: the file has changed since it was opened"):
            _ = opened.columns["/features/image"][:]


def test_no_plugin_is_loaded(pool: Path, tmp_path: Path) -> None:
    """A folder of plugins would be searched for a filter; ours stays out of HDF5's sight."""
    filtered(32015)(pool)
    code = (
        "import h5py, mmselect, sys\n"
        "from h5py import h5pl\n"
        "from mmselect.pool.hdf5 import hdf5\n"
        "before = [h5pl.get(i) for i in range(h5pl.size())]\n"
        "with hdf5('a'):\n"
        "    assert h5pl.size() == 0\n"
        "assert before == [h5pl.get(i) for i in range(h5pl.size())] and before\n"
    )
    more = {**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=more)


@pytest.mark.usefixtures("unmeasured")
def test_bytes_changed_at_random_give_errors_only(pool: Path, tmp_path: Path) -> None:
    """Seeded, in a process of its own and with a limit: HDF5 itself must not crash or hang."""
    code = (
        "import random, sys\n"
        "import mmselect\n"
        "from pathlib import Path\n"
        "from mmselect.pool.checking import check\n"
        "whole, path, rng = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), random.Random(0)\n"
        "for _ in range(150):\n"
        "    data = bytearray(whole)\n"
        "    for _ in range(rng.choice((1, 2, 8))):\n"
        "        data[rng.randrange(len(data))] = rng.randrange(256)\n"
        "    path.write_bytes(data)\n"
        "    check([path])\n"
        "    try:\n"
        "        mmselect.select(path, 'entropy', 3)\n"
        "    except mmselect.MmselectError as error:\n"
        "        assert '\\n' not in str(error)\n"
    )
    command = [sys.executable, "-c", code, pool, tmp_path / "spoilt.h5"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (found.returncode, found.stderr) == (0, "")


def virtual_pool(path: Path, how: str = "earliest") -> bytes:
    """A pool whose features of images come from two other datasets and one file."""
    mmselect.write_pool(path, **arrays(40))
    with h5py.File(path, "r+", libver=how) as handle:
        values = handle["features/image"][()]
        del handle["features/image"]
        handle["one"], handle["two"] = values[:20], values
        layout = h5py.VirtualLayout(values.shape, values.dtype)
        layout[:20] = h5py.VirtualSource(".", "one", values[:20].shape)
        layout[20:] = h5py.VirtualSource(".", "two", values.shape)[20:]
        handle.create_virtual_dataset("features/image", layout)
    return path.read_bytes()


@pytest.mark.parametrize("how", ["earliest", "v110", "latest"])
def test_lists_of_sources_of_any_version_are_read(tmp_path: Path, how: str) -> None:
    whole, path = arrays(40), tmp_path / "pool.h5"
    virtual_pool(path, how)
    with mmselect.open_pool(path) as opened:
        assert np.array_equal(opened.columns["/features/image"][:], whole["features"]["image"])


@pytest.mark.usefixtures("unmeasured")
def test_no_byte_of_a_list_of_sources_makes_hdf5_crash(tmp_path: Path) -> None:
    """Each byte is changed: over a count or a rank that is not true, HDF5 leaves its memory."""
    path, other = tmp_path / "pool.h5", tmp_path / "spoilt.h5"
    data = virtual_pool(path)
    start = data.index(b".\0one\0") - 9
    length = int.from_bytes(data[start - 8 : start], "little")
    code = (
        "import random, sys\n"
        "from pathlib import Path\n"
        "from mmselect.pool.checking import check\n"
        "whole, path, rng = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), random.Random(0)\n"
        f"for at in range({start}, {start + length}, 3):\n"
        "    data = bytearray(whole)\n"
        "    data[at] = rng.choice((0, 1, 224, 255, data[at] ^ 1))\n"
        "    path.write_bytes(data)\n"
        "    check([path])\n"
    )
    command = [sys.executable, "-c", code, path, other]
    found = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(("at", "value"), [(8, 224), (0, 9), (1, 3)])
def test_a_damaged_list_of_sources_is_named(tmp_path: Path, at: int, value: int) -> None:
    path = tmp_path / "pool.h5"
    data = bytearray(virtual_pool(path))
    data[data.index(b".\0one\0") - 9 + at] = value
    path.write_bytes(data)
    problems = [str(problem) for problem in check([path]).problems]
    assert any("features/image: its list of sources is damaged" in each for each in problems)


def test_a_process_ends_well_after_a_damaged_virtual_dataset(tmp_path: Path) -> None:
    """HDF5 keeps something when it fails over the message about its layout."""
    path = tmp_path / "pool.h5"
    data = bytearray(virtual_pool(path))
    heap = data.rindex(b"GCOL", 0, data.index(b".\0one\0"))
    message = data.index(b"\4\3" + heap.to_bytes(8, "little"))
    data[message - 6] = 224  # its length
    path.write_bytes(data)
    command = [sys.executable, "-m", "mmselect", "check", path]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1
    assert "/features/image: HDF5 cannot read it" in found.stdout
    # A traceback may keep such a list of another virtual dataset to the end.
    other = tmp_path / "whole.h5"
    virtual_pool(other)
    code = (
        "import sys, h5py\n"
        "from mmselect.pool.checking import check\n"
        "kept = h5py.File(sys.argv[2])['features/image'].id.get_create_plist()\n"
        "assert check([sys.argv[1]]).problems\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, path, other], capture_output=True, text=True
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_chunks_shorter_than_their_checksum(pool: Path, cli: Any) -> None:
    with without(pool) as handle:
        made = handle.create_dataset(NAME, data=Y, chunks=(20, C), fletcher32=True)
        made.id.write_direct_chunk((20, 0), b"ab")
    assert "found one of less than 4 bytes" in cli("check", pool).out


def test_a_checksum_that_is_not_the_last_filter(pool: Path, cli: Any) -> None:
    with without(pool) as handle:
        properties = h5p.create(h5p.DATASET_CREATE)
        properties.set_chunk((20, C))
        properties.set_fletcher32()
        properties.set_deflate(4)
        space = h5s.create_simple(Y.shape)
        h5d.create(handle.id, NAME.encode(), h5t.IEEE_F32LE, space, properties)
    assert "expected fletcher32 as the last of the filters" in cli("check", pool).out


@pytest.mark.skipif(not h5z.filter_avail(h5z.FILTER_SZIP), reason="this HDF5 lacks szip")
def test_parameters_of_szip_that_divide_by_zero(pool: Path, cli: Any) -> None:
    with without(pool) as handle:
        how = {"compression": "szip", "compression_opts": ("nn", 8)}
        made = handle.create_dataset(NAME, data=Y, chunks=(20, C), **how)
        values = np.array(made.id.get_create_plist().get_filter(0)[2], "<u4")
    data = pool.read_bytes()
    assert "szip" not in cli("check", pool).out
    for i in (1, 3):
        spoilt = values.copy()
        spoilt[i] = 0
        pool.write_bytes(data.replace(values.tobytes(), spoilt.tobytes()))
        assert "filter szip cannot have the parameters" in cli("check", pool).out


@pytest.mark.skipif(not h5z.filter_avail(h5z.FILTER_SZIP), reason="this HDF5 lacks szip")
def test_a_size_that_szip_is_told(pool: Path, cli: Any) -> None:
    with without(pool) as handle:
        how = {"compression": "szip", "compression_opts": ("nn", 8), "chunks": (20, C)}
        made = handle.create_dataset(NAME, data=np.round(Y), **how)  # numbers that get smaller
        place = made.id.get_chunk_info(1).byte_offset
    assert "szip" not in cli("check", pool).out
    data = bytearray(pool.read_bytes())
    assert int.from_bytes(data[place : place + 4], "little") == 20 * C * 4
    data[place + 3] = 0x72  # 1.9 GB
    pool.write_bytes(data)
    expected = f"expected chunks of {20 * C * 4:,} bytes, found one of 1,9"
    assert f"{NAME}: {expected}" in cli("check", pool).out
