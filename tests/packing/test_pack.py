"""Files as people have them become the pool that `write_pool` makes of the same arrays."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Result, arrays

import mmselect
from mmselect.errors import MmselectError
from mmselect.packing.pack import ahead
from mmselect.pool.checking import check

N, C = 60, 5
GIVEN = arrays()
IMAGE, TEXT = GIVEN["features"]["image"], GIVEN["features"]["text"]
LOGITS, IDS = GIVEN["multimodal_logits"], GIVEN["ids"]


def contents(path: Path) -> dict[str, list[Any]]:
    """Everything in a pool, through the reader."""
    with mmselect.open_pool(path) as pool:
        found = {name: column[:].tolist() for name, column in pool.columns.items()}
        return found | {name: values.tolist() for name, values in pool.constants.items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def npy() -> str:
    np.save("x.npy", IMAGE)
    return "x.npy"


def big_endian() -> str:
    np.save("x.npy", IMAGE.astype(">f4"))
    return "x.npy"


def columns_first() -> str:
    np.save("x.npy", np.asfortranarray(IMAGE))
    return "x.npy"


def shards() -> str:
    Path("x").mkdir()
    for i, block in enumerate(np.array_split(IMAGE, 12)):
        np.save(f"x/part_{i}.npy", block)  # 10 comes after 9, not after 1
    return "x"


def npz() -> str:
    np.savez("x.npz", a=IMAGE, other=np.zeros(3))
    return "x.npz:a"


def packed_npz() -> str:
    np.savez_compressed("x.npz", IMAGE)
    return "x.npz"


def csv_lists() -> str:
    lines = ["z,k", *(f'"{row.tolist()}",{i}' for i, row in enumerate(IMAGE))]
    Path("x.csv").write_text("\n".join(lines))
    return "x.csv:z"


def csv_wide() -> str:
    lines = ["d0;d1;d2;d3;note", *(";".join([*map(repr, row.tolist()), "a"]) for row in IMAGE)]
    Path("x.csv").write_text("\r\n".join(lines), encoding="utf-16")
    return "x.csv:d*"


def h5() -> str:
    with h5py.File("x.h5", "w") as handle:
        handle["deep/er"] = IMAGE
    return "x.h5:/deep/er"


def gzipped_h5() -> str:
    with h5py.File("x.hdf5", "w") as handle:
        handle.create_dataset("x", data=IMAGE, compression="gzip", chunks=(7, 2))
    return "x.hdf5"


def colon() -> str:
    np.savez("a:b.npz", **{"c:d": IMAGE})
    return "a:b.npz:c:d"


SOURCES = [
    *(npy, big_endian, columns_first, shards, npz, packed_npz),
    *(csv_lists, csv_wide, h5, gzipped_h5, colon),
]


@pytest.mark.parametrize("make", SOURCES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("memory", ["256MiB", "1kB"])
def test_every_kind_of_file_is_read(here: Path, make: Callable[[], str], memory: str) -> None:
    said = make()
    mmselect.pack("pool.h5", features={"image": said}, memory=memory)
    assert contents(here / "pool.h5") == {"/features/image": IMAGE.tolist()}
    assert check(["pool.h5"]).problems == []


def test_a_whole_pool_from_mixed_files_equals_write_pool(
    here: Path, cli: Callable[..., Result]
) -> None:
    mmselect.write_pool("written.h5", **GIVEN)
    np.save("image.npy", IMAGE)
    heads = {name: GIVEN["unimodal_logits"][name] for name in ("image", "text")}
    np.savez("heads.npz", text_z=TEXT, fused=LOGITS, **heads)
    weight = np.concatenate([GIVEN["classifier_weight"][m] for m in ("text", "image")], axis=1)
    with h5py.File("model.h5", "w") as handle:
        handle["fc/weight"], handle["fc/bias"] = weight, GIVEN["classifier_bias"]
        handle["passes"] = GIVEN["dropout_logits"]
    rows = zip(IDS, GIVEN["labels"], GIVEN["labeled"], GIVEN["metadata"]["loss"].tolist(),
               GIVEN["metadata"]["caption"], strict=True)  # fmt: skip
    lines = (f'{i},class {label},{done},{loss!r},"{text}"' for i, label, done, loss, text in rows)
    Path("about.csv").write_text("\n".join(["sample,kind,done,loss,caption", *lines]))
    Path("classes.txt").write_text("\n".join(GIVEN["class_names"]))
    result = cli(
        "pack", "about.csv", "-o", "pool.h5",
        "--features", "image=image.npy", "--features", "text=heads.npz:text_z",
        "--unimodal-logits", "image=heads.npz:image", "--unimodal-logits", "text=heads.npz:text",
        "--multimodal-logits", "heads.npz:fused", "--dropout-logits", "model.h5:/passes",
        "--classifier", "text+image=model.h5:fc/weight", "--bias", "model.h5:/fc/bias",
        "--id", "sample", "--label", "kind", "--labeled", "done", "--class-names", "classes.txt",
        "--metadata", "about.csv",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert contents(here / "pool.h5") == contents(here / "written.h5")
    assert "can run" in result.out
    assert "bmmal" in result.out


def test_arrays_and_files_may_be_mixed(here: Path) -> None:
    np.save("x.npy", IMAGE)
    made = mmselect.pack(
        "pool.h5",
        features={"image": Path("x.npy"), "text": TEXT.tolist()},
        ids=IDS,
        labels=["dog", None, "cat"] * 20,
    )
    found = contents(here / "pool.h5")
    assert found["/features/text"] == TEXT.astype(np.float64).tolist()
    assert found["/label"] == [1, -1, 0] * 20
    assert found["/class_names"] == [b"cat", b"dog"]
    assert made.can_run
    assert "facility" in made.can_run
    assert "entropy" in made.would_add["--multimodal-logits"]


def test_numbers_of_other_types(here: Path) -> None:
    np.save("bytes.npy", np.arange(-60, 60, dtype="i1").reshape(N, 2))
    np.save("long.npy", np.arange(2 * N).reshape(N, 2))
    bits = (IMAGE.view("<u4") >> 16).astype("<u2").view("V2")
    np.save("brain.npy", bits)
    made = mmselect.pack(
        "pool.h5", features={"a": "bytes.npy", "b": "long.npy", "c": "brain.npy"}, dtype=None
    )
    kinds = {path: about.type for path, about in made.datasets.items()}
    assert kinds == {"/features/a": "float32", "/features/b": "float64", "/features/c": "float32"}
    found = contents(here / "pool.h5")
    assert found["/features/a"] == np.arange(-60.0, 60).reshape(N, 2).tolist()
    np.testing.assert_allclose(found["/features/c"], IMAGE, rtol=2**-7)


def test_float16_is_kept_small_and_what_leaves_it_is_told(here: Path) -> None:
    np.save("x.npy", IMAGE)
    mmselect.pack("pool.h5", features={"image": "x.npy"}, dtype="float16")
    assert contents(here / "pool.h5")["/features/image"] == IMAGE.astype("f2").tolist()
    large = IMAGE.copy()
    large[41, 2] = 1e5
    np.save("large.npy", large)
    with pytest.raises(MmselectError) as caught:
        mmselect.pack("other.h5", features={"image": "large.npy"}, dtype="float16")
    said = "large.npy: /features/image: row 41: expected numbers that fit float16, found 100000"
    assert str(caught.value) == said
    assert not Path("other.h5").exists()


def test_labels_come_as_numbers_with_gaps(here: Path) -> None:
    np.save("y.npy", LOGITS)
    values = np.where(np.arange(N) % 3 == 0, np.nan, np.arange(N) % C)
    np.save("label.npy", values)
    mmselect.pack("pool.h5", multimodal_logits="y.npy", labels="label.npy")
    expected = np.where(np.isnan(values), -1, values).astype(int)
    assert contents(here / "pool.h5")["/label"] == expected.tolist()


def test_labeled_may_be_a_list_of_ids(here: Path) -> None:
    np.save("y.npy", LOGITS)
    Path("ids.txt").write_text("\n".join(IDS))
    Path("picks.csv").write_text("rank,id\n1,s007\n2,s003\n")
    mmselect.pack("pool.h5", multimodal_logits="y.npy", ids="ids.txt", labeled="picks.csv")
    assert np.flatnonzero(contents(here / "pool.h5")["/labeled"]).tolist() == [3, 7]


def test_a_pool_is_never_packed_onto_its_source(here: Path) -> None:
    np.save("x.npy", IMAGE)
    os.link("x.npy", "same.npy")
    with pytest.raises(MmselectError, match="expected a file of its own"):
        mmselect.pack("x.npy", features={"image": "x.npy"})
    assert np.load("x.npy").shape == IMAGE.shape


def test_a_number_left_out_of_shards_is_told(here: Path) -> None:
    Path("shards").mkdir()
    for i in range(12):
        np.save(f"shards/part-{i}.npy", np.full((1, 2), i, "f4"))
    assert mmselect.pack("pool.h5", features={"a": "shards"}).notices == []
    with mmselect.open_pool("pool.h5") as pool:
        assert pool.columns["/features/a"][:][:, 0].tolist() == [*range(12)]  # 2 before 10
    Path("shards/part-5.npy").unlink()
    said = mmselect.pack("pool.h5", features={"a": "shards"}).notices
    assert said == ["shards: nothing between part-4.npy and part-6.npy; is a file missing?"]


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_a_pool_has_the_order_of_bytes_that_computes(here: Path, dtype: str) -> None:
    x = np.arange(6.0).reshape(3, 2)
    np.save("x.npy", x.astype(dtype))
    made = mmselect.pack(
        "pool.h5", features={"a": "x.npy"}, metadata={"k": np.arange(3, dtype=">i4")}
    )
    types = [about.type for about in made.datasets.values()]
    assert types == [str(np.dtype(dtype).newbyteorder("=")), "int32"]
    with mmselect.open_pool("pool.h5") as pool:
        assert pool.columns["/features/a"][:].tolist() == x.tolist()
        assert pool.columns["/metadata/k"][:].tolist() == [0, 1, 2]


def test_the_next_block_is_read_meanwhile_and_no_longer_than_wanted() -> None:
    read: list[int] = []
    second = threading.Event()

    def blocks() -> Iterator[int]:
        for i in range(100):
            read.append(i)
            if i == 1:
                second.set()
            yield i

    with pytest.raises(KeyError), closing(ahead(blocks())) as coming:
        for block in coming:
            assert second.wait(60) and block == 0  # the next one comes while this one is used
            raise KeyError
    assert read == [0, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def test_what_fails_in_reading_fails_in_its_place() -> None:
    def blocks() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError

    found = []
    with pytest.raises(ValueError):
        found.extend(ahead(blocks()))
    assert found == [1, 2]


def test_a_table_without_names_is_told_and_an_index_is_no_feature(here: Path) -> None:
    Path("bare.csv").write_text("0.25,1.5\n3.0,4.5\n5.0,6.5\n")
    made = mmselect.pack("pool.h5", features={"a": "bare.csv:*"})
    assert made.samples == 2
    assert made.notices == [
        "bare.csv: the first line, 0.25, 1.5 …, is taken for the names of the columns"
    ]
    Path("frame.csv").write_text(",0,1\n7,3.0,4.5\n8,5.0,6.5\n")  # as pandas writes its index
    made = mmselect.pack("pool.h5", features={"a": "frame.csv:*"})
    assert made.notices == []
    assert contents(here / "pool.h5")["/features/a"] == [[3.0, 4.5], [5.0, 6.5]]
    Path("quoted.tsv").write_text('id\tsaid\na\tb\nc\t"d" e\n')
    with pytest.raises(MmselectError, match=r"quoted\.tsv: expected a table: line 3: "):
        mmselect.pack("pool.h5", features={"a": "frame.csv:*"}, ids="quoted.tsv:id")
