"""Pools written in row blocks; and what happens when the system refuses to write."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect.errors import DataError, MmselectError, OutputError, SchemaError
from mmselect.files import replacing
from mmselect.pool import storage
from mmselect.pool.checking import check
from mmselect.pool.schema import SCHEMA, per_sample
from mmselect.pool.storage import Medium
from mmselect.pool.writing import PoolWriter, join_shards, write_pool

N = 60


def datasets(n: int = N) -> dict[str, Any]:
    """All of `conftest.arrays` by dataset path."""
    given, found = arrays(n), {}
    for dataset in SCHEMA:
        values = given.get(dataset.argument)
        if dataset.named and values:
            found |= {f"{dataset.group}/{name}": each for name, each in values.items()}
        elif values is not None:
            found[dataset.path] = values
    return found


def halves(every: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    fixed = {path: values for path, values in every.items() if not per_sample(path)}
    return fixed, {path: values for path, values in every.items() if path not in fixed}


@pytest.mark.parametrize("rows", [N, None])
@pytest.mark.parametrize("step", [1, 7, N])
def test_blocks_make_the_same_pool_as_whole_arrays(tmp_path: Path, step: int, rows) -> None:
    fixed, samples = halves(datasets())
    write_pool(tmp_path / "a.h5", **arrays())
    with PoolWriter(tmp_path / "b.h5", fixed, rows=rows) as writer:
        for start in range(0, N, step):
            writer.append({path: each[start : start + step] for path, each in samples.items()})
    with h5py.File(tmp_path / "a.h5") as a, h5py.File(tmp_path / "b.h5") as b:
        names: list[str] = []
        a.visititems(lambda name, each: names.append(name) if hasattr(each, "shape") else None)
        assert {f"/{name}" for name in names} == datasets().keys() and a.attrs == dict(b.attrs)
        for name in names:
            assert b[name].dtype == a[name].dtype and b[name].chunks is None
            assert (b[name][()] == a[name][()]).all()
    assert check([tmp_path / "b.h5"]).problems == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_shards_are_joined(tmp_path: Path) -> None:
    fixed, samples = halves(datasets())
    for name, cut in (("a.h5", slice(0, 25)), ("b.h5", slice(25, N))):
        with PoolWriter(tmp_path / name, fixed) as writer:
            writer.append({path: each[cut] for path, each in samples.items()})
    join_shards([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "c.h5", memory=1000)
    write_pool(tmp_path / "d.h5", **arrays())
    one, other = mmselect.open_pool(tmp_path / "c.h5"), mmselect.open_pool(tmp_path / "d.h5")
    with one, other:
        assert one.paths == other.paths
        for path, column in one.columns.items():
            assert (column[:] == other.columns[path][:]).all()


def test_how_rows_were_cut_into_shards_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same bytes, in blocks of the same rows: a resumed export equals an uninterrupted one."""
    monkeypatch.setattr("mmselect.pool.writing.compute_rows", lambda _width: 16)
    append, blocks, made = PoolWriter.append, list[int](), []
    fixed, samples = halves(datasets())
    for cuts in ((0, N), (0, 25, N), (0, 7, 8, 48, N), (0, 16, 32, N)):
        for a, b in pairwise(cuts):
            with PoolWriter(tmp_path / f"{a}.h5", fixed) as writer:
                writer.append({path: each[a:b] for path, each in samples.items()})

        def counted(writer: PoolWriter, block: dict[str, Any]) -> None:
            blocks.append(len(block["/id"]))
            append(writer, block)

        with monkeypatch.context() as patch:
            patch.setattr(PoolWriter, "append", counted)
            join_shards([tmp_path / f"{a}.h5" for a in cuts[:-1]], tmp_path / "joined.h5")
        made.append((tmp_path / "joined.h5").read_bytes())
    assert blocks == 4 * [16, 16, 16, N - 48] and len(set(made)) == 1


X = np.zeros((3, 2))
REFUSED: dict[str, tuple[Callable[[PoolWriter], Any], str]] = {
    "nothing": (lambda writer: None, "expected at least one array with a row per sample"),
    "another dataset": (
        lambda writer: writer.append({"/features/a": X, "/label": [0, 0, 0]}),
        "/label: expected the datasets of the first rows, found an additional one",
    ),
    "another width": (
        lambda writer: writer.append({"/features/a": X[:, :1]}),
        r"/features/a: expected 2 dimensions \(d of a\), as in the first rows, found 1",
    ),
    "another type": (
        lambda writer: writer.append({"/features/a": X.astype("f4")}),
        "/features/a: expected float64, as in the first rows, found float32",
    ),
    "a constant": (
        lambda writer: writer.append({"/features/a": X, "/classifier/bias": [1.0, 2.0]}),
        "expected the datasets of the first rows",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_writer_refuses_leaves_the_old_file(tmp_path: Path, case: str) -> None:
    target = tmp_path / "pool.h5"
    target.write_text("before")
    change, said = REFUSED[case]
    with pytest.raises(SchemaError, match=said), PoolWriter(target) as writer:
        if case != "nothing":
            writer.append({"/features/a": X})
        change(writer)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_a_writer_counts_and_finds_repeated_ids(tmp_path: Path) -> None:
    target = tmp_path / "pool.h5"
    for found in (1, 3):
        with (
            pytest.raises(SchemaError, match=f"pool.h5: expected 2 rows, found {found}"),
            PoolWriter(target, rows=2) as writer,
        ):
            writer.append({"/id": list(range(found))})
    said = r"pool.h5: /id: row 2: expected unique ids, found 'b' again"
    with pytest.raises(DataError, match=said), PoolWriter(target) as writer:
        writer.append({"/id": ["a", "b"]})
        writer.append({"/id": ["b", "c"]})
    with pytest.raises(DataError, match="/id: row 3: expected printable"), PoolWriter(target) as w:
        w.append({"/id": ["a", "b"]})
        w.append({"/id": ["c", "d\n"]})
    with pytest.raises(SchemaError, match="/id: expected rows of samples in append"):
        write = PoolWriter(target, {"/id": ["a"]})
        with write:
            write.append({"/label": [0]})
    assert list(tmp_path.iterdir()) == []


def test_labels_and_masks_beyond_what_they_may_be(tmp_path: Path) -> None:
    target, y = tmp_path / "pool.h5", np.zeros((3, 2))
    for given, said in (
        ({"labels": [0, 2, 5]}, r"/label: rows 1, 2: expected -1 \(unknown\) or a class from 0 to"),
        ({"labels": [0, -2, 1]}, "/label: row 1: expected -1"),
        ({"labels": [0.0, 1.0, 1.0]}, "/label: expected integer, found float64"),
        ({"labeled": [0, 2, 1]}, "/labeled: row 1: expected 0 or 1, found another number"),
        ({"labeled": [0, -1, 1]}, "/labeled: row 1: expected 0 or 1"),
    ):
        with pytest.raises(MmselectError, match=said):
            write_pool(target, multimodal_logits=y, **given)
    assert list(tmp_path.iterdir()) == []
    write_pool(target, multimodal_logits=y, labels=[-1, 1, 0], labeled=[0, 1, 1])
    with h5py.File(target) as handle:
        assert handle["labeled"].dtype == bool and handle["labeled"][:].tolist() == [0, 1, 1]


def test_missing_text_is_empty_text(tmp_path: Path) -> None:
    target = tmp_path / "pool.h5"
    columns = {
        "list": ["a", None, float("nan")],
        "array": np.array(["a", None, np.nan], object),
        "numbers": np.array(["a", 7, b"c"], object),
    }
    write_pool(target, metadata=columns, ids=["x", "None", "nan"])
    with h5py.File(target) as handle:
        assert handle["metadata/list"][:].tolist() == [b"a", b"", b""]
        assert handle["metadata/array"][:].tolist() == [b"a", b"", b""]
        assert handle["metadata/numbers"][:].tolist() == [b"a", b"7", b"c"]
    for ids in (["x", None, "z"], ["x", float("nan"), "z"]):
        with pytest.raises(DataError, match=r"/id: row 1: expected printable .*found ''"):
            write_pool(target, ids=ids)
    for bad in ([{}, "a"], ["b\0", "a"], ["\udcff", "a"], [2.5, "a"]):
        with pytest.raises(DataError, match="/metadata/x: row 0: expected text"):
            write_pool(target, metadata={"x": np.array(bad, object)})
    with pytest.raises(TypeError, match="unexpected keyword argument 'label'"):
        write_pool(target, label=[0])


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["pwrite", "ftruncate", "fsync"])
def test_no_failed_write_goes_unseen(pool: Path, cli, tmp_path: Path, monkeypatch, call) -> None:
    """At each of the calls in turn: the command fails with one line, and the old file stays."""
    target, real = tmp_path / "t.h5", getattr(os, call)
    for command in ("embed", "write_pool"):
        for at in range(100):
            target.write_text("before")
            calls = iter(range(100_000))
            monkeypatch.setattr(
                os, call, lambda *a, c=calls, k=at: full() if next(c) == k else real(*a)
            )
            if command == "embed":
                found = cli("embed", pool, "-q", "-o", target)
                failed, said = found.code == 1, found.err
            else:
                try:
                    write_pool(target, **arrays())
                    failed, said = False, ""
                except OutputError as error:
                    failed, said = True, f"error: {error}\n"
            monkeypatch.setattr(os, call, real)
            if next(calls) <= at:  # it ended before that call
                break
            assert failed and target.read_text() == "before"
            assert said == f"error: {target}: cannot be written: no space left on device\n"
            assert {path.name for path in tmp_path.iterdir()} == {"pool.h5", "t.h5"}
        assert at > 0 and not failed and h5py.is_hdf5(target)


def test_an_interrupt_inside_hdf5_is_kept(tmp_path: Path, monkeypatch) -> None:
    real = Medium.write
    calls = iter(range(1000))

    def interrupted(*given: Any) -> int:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real_pwrite(*given)

    real_pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_pool(tmp_path / "pool.h5", **arrays())
    assert real is Medium.write and list(tmp_path.iterdir()) == []


def test_names_as_long_as_the_file_system_takes(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        write_pool(tmp_path / name, **arrays())
        with mmselect.open_pool(tmp_path / name) as opened:
            assert opened.n == N
    with pytest.raises(OutputError, match="cannot be written: file name too long"):
        write_pool(tmp_path / ("x" * 256), **arrays())


def test_hdf5_goes_into_a_pipe_whole(tmp_path: Path) -> None:
    read, write = os.pipe()
    write_pool(f"/dev/fd/{write}", ids=["a", "b"])
    os.close(write)
    with os.fdopen(read, "rb") as pipe, h5py.File(io.BytesIO(pipe.read())) as handle:
        assert handle["id"][:].tolist() == [b"a", b"b"]


def test_a_stream_by_any_of_its_names_keeps_what_it_holds(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for name in ("/dev/fd/{}", "/proc/self/fd/{}", "/dev/../dev/fd/{}"):
        log.write_bytes(b"keep ")
        with log.open("ab") as file:
            (tmp_path / "link").unlink(missing_ok=True)
            (tmp_path / "link").symlink_to(name.format(file.fileno()))
            for target in (Path(name.format(file.fileno())), tmp_path / "link"):
                with replacing(target) as stream:
                    stream.write(b"more ")
        assert log.read_bytes() == b"keep more more "


@pytest.mark.parametrize("width", [4, 1 << 11])
def test_blocks_that_bypass_hdf5_give_the_same_bytes(tmp_path: Path, monkeypatch, width) -> None:
    x = np.random.default_rng(0).standard_normal((700, width), np.float32)
    arrays = {"/features/a": x, "/features/b": x.astype(">f8")[::-1], "/labeled": x[:, 0] > 0}
    sent = []
    for name, direct in (("hdf5.h5", 1 << 40), ("direct.h5", storage.DIRECT)):
        monkeypatch.setattr(storage, "DIRECT", direct)
        with PoolWriter(tmp_path / name, rows=700) as writer:
            for start in (0, 300, 600):
                writer.append({key: each[start : start + 300] for key, each in arrays.items()})
            sent.append(len(writer._pool._places))
    assert sent == [0, 2 if width > 4 else 0]
    first, second = ((tmp_path / name).read_bytes() for name in ("hdf5.h5", "direct.h5"))
    assert first == second
    with h5py.File(tmp_path / "direct.h5") as pool:
        np.testing.assert_array_equal(pool["features/b"][:], x[::-1])


def test_a_large_pool_begins_to_reach_the_disk_early(tmp_path: Path, monkeypatch) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(storage, "EARLY", 1 << 20)
    monkeypatch.setattr(storage, "begin_write_back", lambda _, *place: begun.append(place))
    write_pool(tmp_path / "a.h5", features={"a": np.ones((1 << 10, 1 << 10), np.float32)})
    assert begun and sum(size for _, size in begun) == 4 << 20
    with h5py.File(tmp_path / "a.h5") as pool:
        assert (pool["features/a"][:] == 1).all()
