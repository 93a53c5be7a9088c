"""Sources brought together by order or by id, and pools that point at other files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import Result, arrays

import mmselect
from mmselect.errors import MmselectError
from mmselect.packing.joining import match
from mmselect.pool.ids import check_in_blocks

N, C = 60, 5
GIVEN = arrays()
IMAGE, TEXT = GIVEN["features"]["image"], GIVEN["features"]["text"]
LOGITS, IDS = GIVEN["multimodal_logits"], np.array(GIVEN["ids"])
ORDER = np.random.default_rng(1).permutation(N)


def contents(path: Path | str) -> dict[str, Any]:
    with mmselect.open_pool(path) as pool:
        found = {name: column[:] for name, column in pool.columns.items()}
        return {name: values.tolist() for name, values in {**found, **pool.constants}.items()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("image.npz", z=IMAGE, id=IDS)
    np.save("fused.npy", LOGITS)
    return tmp_path


def as_npz(rows: np.ndarray) -> None:
    np.savez("text.npz", z=TEXT[rows], id=IDS[rows])


def as_deflated(rows: np.ndarray) -> None:
    np.savez_compressed("text.npz", z=TEXT[rows], id=IDS[rows])


@pytest.mark.parametrize("write", [as_npz, as_deflated])
@pytest.mark.parametrize("memory", ["256MiB", "1kB"])
def test_rows_are_put_in_the_order_of_the_first(
    here: Path, write: Callable[[np.ndarray], None], memory: str
) -> None:
    write(ORDER)
    sources = {"image": "image.npz:z", "text": "text.npz:z"}
    mmselect.pack("pool.h5", features=sources, ids="image.npz:id", join="id", memory=memory)
    mmselect.write_pool("written.h5", ids=IDS, features={"image": IMAGE, "text": TEXT})
    assert contents("pool.h5") == contents("written.h5")


def test_ids_that_disagree_are_not_joined_by_order(here: Path) -> None:
    as_npz(ORDER)
    sources = {"image": "image.npz:z", "text": "text.npz:z"}
    with pytest.raises(MmselectError) as caught:
        mmselect.pack("pool.h5", features=sources, ids="image.npz:id")
    said = str(caught.value)
    assert said.startswith("text.npz:z: its ids differ from those of the samples from row")
    assert "--join id puts rows in order, --join order takes them as they are" in said
    mmselect.pack("pool.h5", features=sources, ids="image.npz:id", join="order")
    assert contents("pool.h5")["/features/text"] == TEXT[ORDER].tolist()


def test_samples_without_a_modality_are_marked(here: Path) -> None:
    few = ORDER[: N // 2]
    as_npz(few)
    Path("labels.csv").write_text("id,label,note\ns003,cat,x\ns005,dog,y\ns999,dog,z\n")
    made = mmselect.pack(
        "pool.h5",
        features={"image": "image.npz:z", "text": "text.npz:z"},
        multimodal_logits="fused.npy",
        ids="image.npz:id",
        labels="labels.csv:label",
        class_names=["cat", "dog", "emu", "fox", "gnu"],
        metadata={"note": "labels.csv:note"},
        join="id",
    )
    there = np.isin(np.arange(N), few)
    found = contents("pool.h5")
    assert found["/present/text"] == there.tolist()
    assert found["/features/text"] == np.where(there[:, None], TEXT, 0).tolist()
    with h5py.File("pool.h5") as handle:
        assert np.isnan(handle["features/text"][:][~there]).all()
    labels = np.full(N, -1)
    labels[[3, 5]] = 0, 1
    assert found["/label"] == labels.tolist()
    assert found["/labeled"] == (labels >= 0).tolist()
    assert found["/metadata/note"][3:6] == [b"x", b"", b"y"]
    said = "\n".join(made.notices)
    assert "text: 30 of 60 samples have none" in said
    assert "labels.csv:label: 1 rows of other ids are left out" in said
    assert "fused.npy: has no ids, so its rows are taken in the order of the samples" in said


def test_fused_logits_may_lack_no_sample(here: Path) -> None:
    np.savez("y.npz", y=LOGITS[:58], id=IDS[:58])
    with pytest.raises(MmselectError, match="lacks 2 of the samples: s058, s059"):
        mmselect.pack(
            "pool.h5",
            features={"image": "image.npz:z"},
            multimodal_logits="y.npz:y",
            ids="image.npz:id",
            join="id",
        )


def test_the_next_round_links_to_the_pool_before(here: Path, cli: Callable[..., Result]) -> None:
    mmselect.write_pool("pool.h5", **GIVEN)
    new = np.roll(LOGITS, 1, axis=0)
    np.save("new.npy", new)
    result = cli("pack", "--from", "pool.h5", "--multimodal-logits", "new.npy", "-o", "round2.h5")
    assert result.code == 0, result.err
    assert "/unimodal_logits/text" in result.err  # comes from the older model
    expected = contents("pool.h5") | {"/multimodal_logits": new.tolist()}
    assert contents("round2.h5") == expected
    with h5py.File("round2.h5") as handle:
        assert isinstance(handle.get("features/image", getlink=True), h5py.ExternalLink)
        assert isinstance(handle.get("multimodal_logits", getlink=True), h5py.HardLink)
    # a third round points at the first, not at the second
    mmselect.pack("round3.h5", base="round2.h5", without=["dropout_logits"])
    with h5py.File("round3.h5") as handle:
        assert handle.get("features/image", getlink=True).filename == "pool.h5"
        assert handle.get("multimodal_logits", getlink=True).filename == "round2.h5"
    del expected["/dropout_logits"]
    assert contents("round3.h5") == expected
    assert cli("select", "round3.h5", "-b", "3", "-s", "bmmal").code == 0
    moved = here / "elsewhere"
    moved.mkdir()
    for name in ("pool.h5", "round2.h5", "round3.h5"):
        shutil.move(name, moved)
    assert contents(moved / "round3.h5") == expected  # names are relative


def test_what_is_not_below_the_new_pool_is_not_linked(here: Path) -> None:
    mmselect.write_pool("pool.h5", **GIVEN)
    Path("deeper").mkdir()
    with pytest.raises(MmselectError, match="neither beside the new pool nor below its folder"):
        mmselect.pack("deeper/round2.h5", base="pool.h5")
    assert list(Path("deeper").iterdir()) == []


def test_links_to_files_of_other_kinds(here: Path, cli: Callable[..., Result]) -> None:
    Path("data/shards").mkdir(parents=True)
    np.save("data/text.npy", TEXT)
    for i, block in enumerate(np.array_split(IMAGE, 3)):
        np.save(f"data/shards/{i}.npy", block)
    with h5py.File("data/y.h5", "w") as handle:
        handle["logits"] = LOGITS
    np.savez_compressed("small.npz", y=LOGITS)
    result = cli(
        "pack", "-o", "pool.h5", "--link",
        "--features", "image=data/shards", "--features", "text=data/text.npy",
        "--multimodal-logits", "data/y.h5:/logits", "--unimodal-logits", "text=small.npz:y",
        "--id", "image.npz:id",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "small.npz:y: copied, since HDF5 cannot point at such a file" in result.err
    assert contents("pool.h5") == {
        "/id": [name.encode() for name in IDS],
        "/features/image": IMAGE.tolist(),
        "/features/text": TEXT.tolist(),
        "/multimodal_logits": LOGITS.tolist(),
        "/unimodal_logits/text": LOGITS.tolist(),
    }
    with h5py.File("pool.h5") as handle:
        assert handle["features/image"].external is not None
    assert cli("check", "pool.h5").code == 0
    np.save("data/text.npy", TEXT[:5])
    assert "external storage's source 'data/text.npy'" in cli("check", "pool.h5").out


def test_ids_are_checked_and_joined_block_by_block(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks of 7 ids the same as with all at once, also where names repeat far apart."""
    monkeypatch.setattr("mmselect.packing.joining.IDS", 7)
    as_npz(ORDER)
    sources = {"image": "image.npz:z", "text": "text.npz:z"}
    mmselect.pack("pool.h5", features=sources, ids="image.npz:id", join="id")
    assert contents("pool.h5")["/features/text"] == TEXT.tolist()
    lines = [f"{IDS[row]},{'é' * (row % 4)}{row}\n" for row in ORDER]
    Path("notes.csv").write_text("id,note\n" + "".join(lines), encoding="utf-8")
    mmselect.pack(
        "pool.h5",
        features={"image": "image.npz:z"},
        ids="image.npz:id",
        join="id",
        metadata="notes.csv:note",
    )
    notes = [f"{'é' * (row % 4)}{row}".encode() for row in range(N)]
    assert contents("pool.h5")["/metadata/note"] == notes
    Path("picks.txt").write_text("s058\ns001\n")
    mmselect.pack("pool.h5", features=sources, ids="image.npz:id", join="id", labeled="picks.txt")
    assert np.flatnonzero(contents("pool.h5")["/labeled"]).tolist() == [1, 58]
    Path("picks.txt").write_text("s058 \n")
    with pytest.raises(MmselectError, match="differs from the pool's 's058' only by blanks"):
        mmselect.pack("pool.h5", features=sources, ids="image.npz:id", labeled="picks.txt")
    twice = IDS.copy()
    twice[55], twice[59] = twice[2], twice[3]
    with pytest.raises(MmselectError, match="rows 55, 59: expected unique ids, found 's002' again"):
        mmselect.pack("pool.h5", features={"image": IMAGE}, ids=twice)
    twice[33] = "a\nb"
    with pytest.raises(MmselectError, match="row 33: expected printable"):
        mmselect.pack("pool.h5", features={"image": IMAGE}, ids=twice)


def test_equal_hashes_are_no_equal_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are told apart though all have the same hash."""
    ids = np.array([b"a", b"b", b"c", b"b"], object)
    monkeypatch.setattr("mmselect.pool.ids.hashes_of", lambda values: np.zeros(len(values), "i8"))
    check_in_blocks(lambda: iter([ids[:2], ids[2:3]]))
    with pytest.raises(MmselectError, match="row 3: expected unique ids, found 'b' again"):
        check_in_blocks(lambda: iter([ids[:2], ids[2:]]))
    second = {b"a": 1, b"b": 2, b"c": 3, b"d": 4}
    monkeypatch.setattr(
        "mmselect.packing.joining._digests",
        lambda names: (np.zeros(len(names), "i8"), np.array([second[n] for n in names])),
    )
    met = match([[b"a", b"b"], [b"c"]], 3, [[b"c"], [b"d", b"a"]])
    assert (met.rows.tolist(), met.others) == ([2, -1, 0], 1)


def test_the_next_round_of_a_pool_in_shards(here: Path, cli: Callable[..., Result]) -> None:
    mmselect.write_pool("pool.h5", **GIVEN)
    cuts = {"a.h5": slice(0, 25), "b.h5": slice(25, N)}
    fixed = ("class_names", "classifier_weight", "classifier_bias")
    for name, rows in cuts.items():
        cut = {
            key: values
            if key in fixed
            else {k: v[rows] for k, v in values.items()}
            if isinstance(values, dict)
            else values[rows]
            for key, values in GIVEN.items()
        }
        mmselect.write_pool(name, **cut)
    new = np.roll(LOGITS, 1, axis=0)
    np.save("new.npy", new)
    line = ["--from", "a.h5", "--from", "b.h5", "--multimodal-logits", "new.npy"]
    result = cli("pack", *line, "-o", "round2.h5", "-q")
    assert result.code == 0, result.err
    assert "link to a.h5, b.h5" in result.out
    assert contents("round2.h5") == contents("pool.h5") | {"/multimodal_logits": new.tolist()}
    with h5py.File("round2.h5") as handle:  # nor does HDF5 need us to read it
        assert handle["features/image"].is_virtual
        assert handle["features/image"][:].tolist() == IMAGE.tolist()
    mmselect.pack("round3.h5", base=["round2.h5"], without=["dropout_logits"])
    assert cli("select", "round3.h5", "-b", "3", "-s", "bmmal").code == 0
    assert cli("check", "round3.h5").code == 0


def test_parquet_lacks_lists_late_in_several_columns(here: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    float_rows: list[list[float] | None] = [[float(i)] * 4 for i in range(3000)]
    whole_rows: list[list[int] | None] = [[i] * 4 for i in range(3000)]
    float_rows[2900] = whole_rows[2800] = None
    columns = {
        "a": pyarrow.array(float_rows, pyarrow.list_(pyarrow.float32(), 4)),
        "b": pyarrow.array(whole_rows, pyarrow.list_(pyarrow.int32())),
        "n": pyarrow.array([*range(2999), None]),
    }
    parquet.write_table(pyarrow.table(columns), "x.parquet", row_group_size=500)
    mmselect.pack("pool.h5", "x.parquet", features={"a": "a", "b": "b"}, metadata=["n"])
    with h5py.File("pool.h5") as handle:
        for name, row in (("a", 2900), ("b", 2800)):
            lacking = np.flatnonzero(~handle[f"present/{name}"][:])
            assert lacking.tolist() == [row]
            found = handle[f"features/{name}"][:]
            assert np.isnan(found[row]).all()
            assert (found == np.arange(3000)[:, None]).all(axis=1).sum() == 2999
        assert np.isnan(handle["metadata/n"][2999]) and handle["metadata/n"][2998] == 2998
