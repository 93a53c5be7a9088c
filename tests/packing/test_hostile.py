"""Files that are not what they seem: one line with source, key and row, and nothing written."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Result

from mmselect.packing.kinds import KINDS
from mmselect.pool.foreign import KEYS

X = np.arange(12.0).reshape(4, 3)


def npy(name: str, header: str, data: bytes = b"") -> None:
    text = header.encode().ljust(118) + b"\n"
    Path(name).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data)


def objects() -> None:
    np.save("x.npy", np.array([{"a": 1}], object), allow_pickle=True)


def fields() -> None:
    np.save("x.npy", np.zeros(3, [("a", "f4"), ("b", "i4")]))


def truncated() -> None:
    np.save("x.npy", X)
    os.truncate("x.npy", 150)


def boast() -> None:
    npy("x.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 4096)}")


def code() -> None:
    npy("x.npy", "__import__('os').system('touch owned')")


def nested() -> None:
    npy("x.npy", "(" * 60)


def nan() -> None:
    np.save("x.npy", np.where(X == 7, np.nan, X))


def infinite() -> None:
    Path("x").mkdir()
    for i in range(2):
        np.save(f"x/{i}.npy", np.where((X == 4) & (i == 1), np.inf, X))


def unlike() -> None:
    Path("x").mkdir()
    np.save("x/0.npy", X)
    np.save("x/1.npy", X[:, :2])


def many() -> None:
    np.savez("x.npz", a=X, b=X)


def damaged() -> None:
    np.savez_compressed("x.npz", a=np.random.default_rng(0).random((400, 30)))
    with Path("x.npz").open("r+b") as file:
        file.seek(50_000)
        file.write(bytes(64))


def no_text() -> None:
    """The name of an array, where it lies, is not in the encoding that it says it is in."""
    np.savez("x.npz", ä=X)
    data = bytearray(Path("x.npz").read_bytes())
    data[30] = 0x98
    Path("x.npz").write_bytes(data)


def no_zip() -> None:
    Path("x.npz").write_bytes(b"PK\x03\x04 or so")


def lying_zip() -> None:
    with zipfile.ZipFile("x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        np.save("whole.npy", np.zeros((5, 3)))
        archive.writestr("a.npy", Path("whole.npy").read_bytes()[:-8])
    Path("whole.npy").unlink()


def ragged_table() -> None:
    Path("x.csv").write_text("a,b\n1,2\n3\n")


def uneven_lists() -> None:
    Path("x.csv").write_text('z,b\n"[1, 2]",1\n"[1, 2, 3]",2\n')


def text_column() -> None:
    Path("x.csv").write_text("z,b\ncat,1\ndog,2\n")


def latin() -> None:
    Path("x.csv").write_bytes(b"z,b\n\xe9,1\n")


def no_column() -> None:
    Path("x.csv").write_text("first,second\n1,2\n")


def outward() -> None:
    with h5py.File("../secret.h5", "w") as handle:
        handle["x"] = X
    with h5py.File("x.h5", "w") as handle:
        handle["x"] = h5py.ExternalLink("../secret.h5", "/x")


def no_dataset() -> None:
    with h5py.File("x.h5", "w") as handle:
        handle["deep/one"] = X
        handle["two"] = X


def fifo() -> None:
    os.mkfifo("x.npy")


def pickle() -> None:
    Path("x.pkl").write_bytes(b"\x80\x04N.")


def sparse() -> None:
    with h5py.File("x.h5ad", "w") as handle:
        group = handle.create_group("obsm/z")
        group.attrs["encoding-type"], group.attrs["shape"] = "csr_matrix", (2, 3)
        group["data"], group["indices"] = np.ones(2, "f4"), np.array([0, 7])
        group["indptr"] = np.array([0, 1, 2])


def no_rows() -> None:
    np.save("x.npy", X[:0])


def twice() -> None:
    with zipfile.ZipFile("x.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.save("whole.npy", X)
        for _ in range(2):
            archive.write("whole.npy", "a.npy")
    Path("whole.npy").unlink()


def nothing_there() -> None:
    Path("x.csv").write_text('z,b\n"[1, 2]",1\n,2\n')


CASES: list[tuple[Callable[[], None], str, str]] = [
    (objects, "x.npy", "x.npy: expected numbers or text, found Python objects, which are a pickle"),
    (fields, "x.npy", "x.npy: expected numbers, found fields a, b"),
    (truncated, "x.npy", "x.npy: truncated: expected 224 bytes, found 150"),
    (boast, "x.npy", "x.npy: truncated: expected 65,536,000,000,129 bytes, found 129"),
    (code, "x.npy", "x.npy: expected an npy file, found something else"),
    (nested, "x.npy", "x.npy: expected an npy file, found something else"),
    (nan, "x.npy", "x.npy: /features/image: row 2: expected finite numbers, found nan"),
    (infinite, "x", "x/1.npy: /features/image: row 1: expected finite numbers, found inf"),
    (unlike, "x", "x/1.npy: expected rows of 3 numbers, as in x/0.npy, found rows of 2 numbers"),
    (many, "x.npz", "x.npz: expected one of its arrays as x.npz:KEY, found 2; it has a, b"),
    (many, "x.npz:c", "x.npz: expected one of its arrays as x.npz:KEY, found no 'c'"),
    (damaged, "x.npz", "x.npz: a"),
    (no_text, "x.npz", "x.npz: ä: cannot be unpacked: "),
    (no_zip, "x.npz", "x.npz: expected an npz file"),
    (lying_zip, "x.npz", "x.npz: a: truncated: expected numbers of shape (5, 3), found 240 bytes"),
    (ragged_table, "x.csv:a", "x.csv: row 1: expected 2 cells, found 1"),
    (uneven_lists, "x.csv:z", "x.csv: z: row 1: expected a list of 2 numbers, found 3"),
    (text_column, "x.csv:z", "x.csv: z: expected numbers, found text"),
    (latin, "x.csv:z", "x.csv: expected text in UTF-8, or in UTF-16 with a byte order mark"),
    (no_column, "x.csv:z", "it has first, second"),
    (outward, "x.h5:/x", "x.h5: /x: external link to '../secret.h5', which is not beside the pool"),
    (no_dataset, "x.h5:/three", "found no '/three'; it has /deep/one, /two"),
    (no_dataset, "x.h5:/deep", "x.h5: /deep: expected a dataset"),
    (fifo, "x.npy", "x.npy: expected a regular file, found none"),
    (pickle, "x.pkl", "x.pkl: a pickle can run code, so none is read"),
    (sparse, "x.h5ad:obsm/z", "x.h5ad: obsm/z: expected columns below 3 in a sparse matrix"),
    (lambda: None, "x.npy", "x.npy: no such file"),
    (no_rows, "x.npy", "x.npy: expected a row for each sample, found no rows"),
    (twice, "x.npz:a", "x.npz: a: expected arrays of different names, found it twice"),
    (nothing_there, "x.csv:z", "x.csv:z: row 1: expected at least one modality of every sample"),
]


@pytest.mark.parametrize(
    ("make", "source", "said"), CASES, ids=lambda v: getattr(v, "__name__", "")
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    make: Callable[[], None],
    source: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Result],
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.chdir(folder)
    make()
    before = sorted(folder.iterdir())
    result = cli("pack", "-o", "pool.h5", "--features", f"image={source}")
    assert result.code == 1, result
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert said in result.err
    assert result.err.count("\n") == 1
    assert sorted(folder.iterdir()) == before
    assert not (folder / "owned").exists()


SAYS: list[tuple[dict[str, Any], str]] = [
    ({"features": "image"}, "features: expected NAME=SOURCE, found 'image'"),
    ({"features": "no ne=x.npy"}, "features: expected NAME=SOURCE"),
    ({"features": "none=x.npy"}, "features: expected names of"),
    ({"metadata": "a b=x.npy"}, "a b=x.npy: no such file"),
    ({"join": "rows"}, "join: expected order or id, found 'rows'"),
    ({"dtype": "int8"}, "dtype: expected float16 or float32, found 'int8'"),
]


@pytest.mark.parametrize(("options", "said"), SAYS)
def test_options_that_say_nothing(
    options: dict[str, str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli: Callable[..., Result],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    result = cli("pack", "-o", "pool.h5", "--unimodal-logits", "text=x.npy", *words)
    assert result.code in (1, 2)
    assert said in result.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy"]


def test_nothing_to_pack_says_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Result]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli("pack", "-o", "pool.h5")
    assert result.code == 2
    assert "expected a source, such as --features NAME=FILE" in result.err


def test_a_foreign_file_in_place_of_a_pool_says_how_to_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Result]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x y.npy", X)
    Path("shards").mkdir()
    with h5py.File("other.h5", "w") as handle:
        handle["x"] = X
    for file, source in (
        ("x y.npy", "'NAME=x y.npy'"),
        ("shards", "NAME=shards"),
        ("other.h5", "NAME=other.h5:/PATH"),
    ):
        found = cli("select", file, "-b", "1").err
        assert f"to make a pool of it: mmselect pack -o pool.h5 --features {source}" in found
        assert found.count("\n") == 1
    assert "mmselect pack" in cli("check", "x y.npy").out
    assert {*KINDS} == {*KEYS} - {""}


def test_text_of_parquet_that_is_not_utf_8(tmp_path: Path, cli: Callable[..., Result]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    buffers = [
        None,
        pyarrow.py_buffer(struct.pack("<5i", *range(5))),
        pyarrow.py_buffer(b"ab\xffd"),
    ]
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 4, buffers)
    parquet.write_table(pyarrow.table({"b": texts}), tmp_path / "x.parquet")
    np.save(tmp_path / "x.npy", X)
    sources = ["--features", f"a={tmp_path}/x.npy", "--metadata", f"b={tmp_path}/x.parquet:b"]
    result = cli("pack", "-o", tmp_path / "pool.h5", *sources)
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "x.parquet: b: cannot be read" in result.err


FLIPPED = """
import sys
from pathlib import Path
from mmselect.errors import MmselectError
from mmselect.packing.kinds import open_source
from mmselect.packing.source import Files

whole = Path(sys.argv[1]).read_bytes()
damaged = Path(sys.argv[1]).with_name("damaged.parquet")
for at in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole) - 8):
    damaged.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    for key in ("x", "y"):
        try:
            with Files() as files:
                open_source(f"{damaged}:{key}", files).column[:]
        except MmselectError:
            pass
"""


def test_no_bit_of_what_parquet_says_of_itself_ends_the_process(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    lists = pyarrow.array(X.astype("f4").tolist(), pyarrow.list_(pyarrow.float32(), 3))
    table = pyarrow.table({"x": lists, "y": pyarrow.array([1, None, 2, 3])})
    parquet.write_table(table, tmp_path / "x.parquet")
    run = subprocess.run(
        [sys.executable, "-c", FLIPPED, tmp_path / "x.parquet"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
