from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect.errors import DataError, FormatError, SchemaError
from mmselect.files import read_into
from mmselect.pool import parts


def rewrite(path: Path, name: str, **how: Any) -> None:
    """Store a dataset of a pool in another way."""
    with h5py.File(path, "r+") as handle:
        values = handle[name][()]
        del handle[name]
        dtype = how.pop("dtype", values.dtype)
        handle.create_dataset(name, data=values.astype(dtype), **how)


@pytest.mark.parametrize(
    "how",
    [
        {"dtype": "f2"},
        {"dtype": "f8"},
        {"dtype": ">f4"},
        {"chunks": (7, 2)},
        {"chunks": (16, 5), "compression": "gzip"},
        {"chunks": (16, 5), "shuffle": True, "compression": "lzf"},
    ],
    ids=str,
)
def test_any_storage_reads_the_same(pool: Path, how: dict[str, Any]) -> None:
    plain = arrays()["multimodal_logits"]
    rewrite(pool, "multimodal_logits", **how)
    rows = np.array([50, 3, 3, 20, 49, 0, 59])
    with mmselect.open_pool(pool) as opened:
        column = opened.columns["/multimodal_logits"]
        expected = plain.astype(how.get("dtype", "f4"))
        assert (column[:] == expected).all()
        assert (column[10:20] == expected[10:20]).all()
        assert (column[rows] == expected[rows]).all()
        assert column.compressed == ("compression" in how)


def test_contiguous_data_is_read_past_hdf5(pool: Path) -> None:
    x = arrays()["features"]["image"]
    with mmselect.open_pool(pool) as opened:
        column = opened.columns["/features/image"]
        assert column.plain and not opened.columns["/labeled"].plain
        buffer = np.empty((5, x.shape[1]), x.dtype)
        assert column.read(5, 10, buffer) is buffer and (buffer == x[5:10]).all()


def test_scattered_rows_are_whole_though_the_system_reads_less(
    pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = arrays()["features"]["image"]
    calls = []

    def few(descriptor: int, buffer: memoryview, place: int) -> int:
        calls.append(len(buffer))
        return read_into(descriptor, buffer[:5], place)

    monkeypatch.setattr(parts, "read_into", few)
    with mmselect.open_pool(pool) as opened:
        for rows in ([2, 3, 9, 40], [40, 2, 2, 9]):
            calls.clear()
            assert (opened.columns["/features/image"][np.array(rows)] == x[rows]).all()
            assert len(calls) > 4


def test_a_file_that_shrinks_while_it_is_read_is_told(pool: Path) -> None:
    with mmselect.open_pool(pool) as opened:
        os.truncate(pool, 3000)
        with pytest.raises(FormatError, match=r"pool.h5: the file has become shorter"):
            opened.columns["/features/image"].read(50, 60)


def test_a_user_block_does_not_shift_the_data(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    x = np.arange(12, dtype="f4").reshape(4, 3)
    with h5py.File(path, "w", userblock_size=1024) as handle:
        handle.attrs.update(format="mmselect-pool", format_version="1.0")
        handle["multimodal_logits"] = x
    with mmselect.open_pool(path) as opened:
        assert (opened.columns["/multimodal_logits"][:] == x).all()


def shards(tmp_path: Path, sizes: list[int]) -> list[Path]:
    whole, paths, start = arrays(sum(sizes)), [], 0
    for i, size in enumerate(sizes):
        cut: dict[str, Any] = {}
        for name, value in whole.items():
            if name in ("classifier_weight", "classifier_bias", "class_names"):
                cut[name] = value
            elif isinstance(value, dict):
                cut[name] = {k: v[start : start + size] for k, v in value.items()}
            else:
                cut[name] = value[start : start + size]
        paths.append(tmp_path / f"shard{i}.h5")
        mmselect.write_pool(paths[-1], **cut)
        start += size
    return paths


def test_shards_look_like_one_pool(tmp_path: Path) -> None:
    whole = arrays(60)
    with mmselect.open_pool(shards(tmp_path, [10, 1, 49])) as opened:
        column = opened.columns["/features/text"]
        rows = np.array([59, 0, 10, 11, 9, 10])
        assert opened.n == 60
        assert (column[:] == whole["features"]["text"]).all()
        assert (column[8:13] == whole["features"]["text"][8:13]).all()
        assert (column[rows] == whole["features"]["text"][rows]).all()
        assert opened.ids.text(rows) == [whole["ids"][row] for row in rows]
        assert opened.place([11, 12])[1] == [0, 1]
        assert opened.place([11, 12])[0].endswith("shard2.h5")


def test_blocks_cover_every_row_once(tmp_path: Path) -> None:
    x = arrays(60)["features"]["image"]
    for memory in (1, 300, 10**9):
        with mmselect.open_pool(shards(tmp_path, [25, 35])) as opened:
            found = list(opened.blocks(["/features/image"], 8, memory))
        assert [start for start, _ in found] == list(range(0, 60, 8))
        assert (np.concatenate([b["/features/image"] for _, b in found]) == x).all()


def test_shards_must_agree(tmp_path: Path) -> None:
    first, second = shards(tmp_path, [30, 30])
    with h5py.File(second, "r+") as handle:
        del handle["dropout_logits"]
    with pytest.raises(SchemaError, match=r"shard1.h5: /dropout_logits: missing in this shard"):
        mmselect.open_pool([first, second])
    first, second = shards(tmp_path, [30, 30])
    with h5py.File(second, "r+") as handle:
        handle["classifier/bias"][0] = 1
    with pytest.raises(SchemaError, match=r"/classifier/bias: differs from .*shard0.h5"):
        mmselect.open_pool([first, second])


def test_ids_repeated_between_shards_are_found(tmp_path: Path) -> None:
    first, second = shards(tmp_path, [30, 30])
    with h5py.File(second, "r+") as handle:
        handle["id"][4] = "s007"
    with pytest.raises(DataError, match=r"shard1.h5: /id: row 4: .*'s007' again"):
        mmselect.open_pool([first, second])


@pytest.mark.parametrize("ids", [[5, 70, -3], ["a", "é, b", " c"], np.array(["x", "yy", "z"])])
def test_ids_of_any_kind(tmp_path: Path, ids: Any) -> None:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, ids=ids, features={"image": np.zeros((3, 2))})
    names = [str(i) for i in ids]
    with mmselect.open_pool(path) as opened:
        assert opened.ids.text([0, 1, 2]) == names
        rows, missing = opened.ids.find([names[2], "no such id", names[0], "05"])
        assert rows.tolist() == [2, 0] and missing == ["no such id", "05"]


def test_without_ids_the_row_number_is_the_name(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, features={"image": np.zeros((12, 2))})
    with mmselect.open_pool(path) as opened:
        assert opened.ids.text([11]) == ["11"]
        assert opened.ids.find(["11", "12"])[0].tolist() == [11]


def test_truncation_is_told_from_other_damage(pool: Path, tmp_path: Path) -> None:
    raw = pool.read_bytes()
    pool.write_bytes(raw[:-100])
    with pytest.raises(FormatError, match=f"truncated: expected {len(raw):,} bytes"):
        mmselect.open_pool(pool)
    pool.write_bytes(b"")
    with pytest.raises(FormatError, match="found an empty file"):
        mmselect.open_pool(pool)
    pool.write_text("id,score\n" * 1000)
    with pytest.raises(FormatError, match="expected an HDF5 file, found something else"):
        mmselect.open_pool(pool)
    with pytest.raises(FormatError, match=r"nowhere.h5: cannot be read: no such file"):
        mmselect.open_pool(tmp_path / "nowhere.h5")


def test_sizes_are_held_against_each_other(pool: Path) -> None:
    with h5py.File(pool, "r+") as handle:
        del handle["features/text"]
        handle["features/text"] = np.zeros((59, 3), "f4")
    with pytest.raises(SchemaError, match=r"/features/text: expected 60 rows, as in /id, found 59"):
        mmselect.open_pool(pool)


def test_virtual_and_external_sources(pool: Path, tmp_path: Path) -> None:
    x = np.arange(300, dtype="f4").reshape(60, 5)
    for name in ("beside.h5", "elsewhere/away.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with h5py.File(tmp_path / name, "w") as handle:
            handle["x"] = x
    layout = h5py.VirtualLayout((60, 5), "f4")
    layout[:] = h5py.VirtualSource("beside.h5", "x", (60, 5))
    with h5py.File(pool, "r+") as handle:
        del handle["multimodal_logits"], handle["unimodal_logits/image"]
        handle.create_virtual_dataset("multimodal_logits", layout)
        handle["unimodal_logits/image"] = h5py.ExternalLink("beside.h5", "x")
    with mmselect.open_pool(pool) as opened:
        assert (opened.columns["/multimodal_logits"][:] == x).all()
        assert (opened.columns["/unimodal_logits/image"][:] == x).all()
    with h5py.File(pool, "r+") as handle:
        del handle["unimodal_logits/image"]
        handle["unimodal_logits/image"] = h5py.ExternalLink("../elsewhere.h5", "x")
    with pytest.raises(SchemaError, match=r"/unimodal_logits/image: external link to .*not beside"):
        mmselect.open_pool(pool)
    (tmp_path / "beside.h5").unlink()
    with pytest.raises(
        SchemaError, match=r"/multimodal_logits: .*'beside.h5', which does not exist"
    ):
        mmselect.open_pool(pool)


def test_anything_that_speaks_dlpack_is_written(tmp_path: Path) -> None:
    class OnlyDLPack:
        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def __dlpack__(self, **how: Any) -> Any:
            return self.values.__dlpack__(**how)

        def __dlpack_device__(self) -> Any:
            return self.values.__dlpack_device__()

    class OnDevice:
        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def cpu(self) -> OnDevice:
            return self

        def numpy(self) -> np.ndarray:
            return self.values

    path, x = tmp_path / "pool.h5", np.arange(6.0).reshape(2, 3)
    mmselect.write_pool(path, features={"image": OnlyDLPack(x), "text": OnDevice(x + 1)})
    with mmselect.open_pool(path) as pool:
        assert (pool.columns["/features/image"][:] == x).all()
        assert (pool.columns["/features/text"][:] == x + 1).all()
