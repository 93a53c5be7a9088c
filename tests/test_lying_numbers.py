"""Numbers that are there and mean nothing: fills, rows never written, copies, probabilities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import WITHOUT_EXTRAS, arrays

import mmselect
from mmselect.pool.schema import place_of
from mmselect.pool.values import empty_rows
from mmselect.strategies import registry

FILL = 9.96921e36
"""What netCDF puts where nothing was written; its square is beyond float32."""

READS_FEATURES = [
    name
    for name in WITHOUT_EXTRAS
    if any("/features" in need.any_of for need in registry.BUILT_IN[name].needs)
]
READS_LOGITS = [
    name
    for name in WITHOUT_EXTRAS
    if any("/multimodal_logits" in need.any_of for need in registry.BUILT_IN[name].needs)
]
BATCH = [name for name in READS_FEATURES if registry.BUILT_IN[name].kind == "batch"]


def written(path: Path, **changed: Any) -> Path:
    mmselect.write_pool(path, **{**arrays(), **changed})
    return path


def spoiled(path: Path, dataset: str, rows: Any, value: Any) -> Path:
    written(path)
    with h5py.File(path, "r+") as handle:
        handle[dataset][rows] = value
    return path


@pytest.mark.parametrize("value", [FILL, -3.4e38, 1e200])
@pytest.mark.parametrize("name", READS_FEATURES)
def test_a_fill_value_in_features_is_too_large(tmp_path: Path, cli, name: str, value) -> None:
    features = {
        m: x.astype("f4" if value < 1e39 else "f8") for m, x in arrays()["features"].items()
    }
    features["image"][7] = value
    path = written(tmp_path / "a.h5", features=features)
    found = cli("select", path, "-s", name, "-b", 5)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert "a.h5: /features/image: row 7: too large: expected up to " in found.err
    assert "/features/image: row 7: too large" in cli("check", path).out


@pytest.mark.parametrize("value", [FILL, -3.4e38])
@pytest.mark.parametrize("name", READS_LOGITS)
def test_a_fill_value_in_logits_is_too_large(tmp_path: Path, cli, name: str, value) -> None:
    path = spoiled(tmp_path / "a.h5", "multimodal_logits", 7, value)
    found = cli("select", path, "-s", name, "-b", 5)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert "a.h5: /multimodal_logits: row 7: too large: expected up to " in found.err
    assert "/multimodal_logits: row 7: too large" in cli("check", path).out


def test_a_masked_class_is_not_too_large(tmp_path: Path) -> None:
    path = spoiled(tmp_path / "a.h5", "multimodal_logits", (slice(None), 2), -3.4e38)
    assert len(mmselect.select(path, "entropy", 5).ids) == 5


def test_spreading_a_score_refuses_a_fill_value(tmp_path: Path, cli) -> None:
    path = spoiled(tmp_path / "a.h5", "features/image", 7, FILL)
    for how in ("d2", "facility"):
        found = cli("select", path, "-s", "entropy", "--spread", how, "-b", 5)
        assert found.code == 1 and "/features/image: row 7: too large" in found.err


@pytest.mark.parametrize("name", ["coreset", "kmeans", "badge", "facility"])
def test_one_large_row_hides_nothing_in_the_others(tmp_path: Path, name: str) -> None:
    """Beside a row of 1e15 the others differ as before: no picks in file order."""
    picked = []
    for value in (1e6, 1e12, 1e15):
        path = spoiled(tmp_path / f"{value:g}.h5", "features/image", 7, value)
        picked.append(mmselect.select(path, name, 8).indices.tolist())
    assert picked[0] != sorted(picked[0]) and set(picked[1]) != set(range(1, 9))
    if name in ("coreset", "kmeans"):
        assert set(picked[2]) == set(picked[1]) and 7 in picked[2]


@pytest.mark.parametrize("name", ["coreset", "kmeans", "facility", "badge"])
def test_large_numbers_everywhere_change_no_pick(tmp_path: Path, name: str) -> None:
    features = arrays()["features"]
    scaled = {m: x * np.float32(2.0**50) for m, x in features.items()}  # 1.1e15, exactly
    plain = mmselect.select(written(tmp_path / "a.h5"), name, 8)
    large = mmselect.select(written(tmp_path / "b.h5", features=scaled), name, 8)
    assert large.ids == plain.ids


@pytest.mark.parametrize("name", BATCH)
def test_copies_among_the_picks_are_told(tmp_path: Path, name: str) -> None:
    data = arrays(c=7)
    for values in (*data["features"].values(), data["multimodal_logits"]):
        values[:] = values[np.arange(60) % 3]
    mmselect.write_pool(tmp_path / "a.h5", **data)
    said = mmselect.select(tmp_path / "a.h5", name, 6).provenance["warnings"]
    assert any("of the picks are copies of others" in line for line in said)
    distinct = mmselect.select(written(tmp_path / "b.h5"), name, 6).provenance["warnings"]
    assert not any("copies of others" in line for line in distinct)


def test_copies_are_told_where_a_score_is_spread(tmp_path: Path) -> None:
    data = arrays()
    for values in data["features"].values():
        values[:] = values[np.arange(60) % 3]
    mmselect.write_pool(tmp_path / "a.h5", **data)
    said = mmselect.select(tmp_path / "a.h5", "entropy", 6, spread="d2").provenance["warnings"]
    assert "3 of the picks are copies of others: /features are equal" in said


def test_rows_never_written_are_told(tmp_path: Path, cli) -> None:
    path = written(tmp_path / "a.h5", labeled=np.zeros(60, bool))
    with h5py.File(path, "r+") as handle:
        logits = handle["multimodal_logits"][:40]
        del handle["multimodal_logits"]
        stored = handle.create_dataset("multimodal_logits", (60, 5), "f4", chunks=(20, 3))
        stored[:40] = logits
        del handle["features/text"]
        handle.create_dataset("features/text", (60, 4), "f4")
    never = "rows were never written: the file has no numbers for them"
    checked = cli("check", path).err
    assert f"/multimodal_logits: rows 40, 41, 42, 43, 44 and 15 more: 20 {never}" in checked
    assert f"/features/text: rows 0, 1, 2, 3, 4 and 55 more: 60 {never}" in checked
    assert "/multimodal_logits: 20 rows have equal logits" in checked
    assert "/features/text: 60 rows are all zero" in checked
    for command in (("select", "-b", 5), ("score",)):
        said = cli(command[0], path, "-s", "entropy", *command[1:]).err
        assert f"/multimodal_logits: 20 {never}" in said
        assert "/multimodal_logits: 20 rows have equal logits" in said
    said = cli("select", path, "-s", "kmeans", "-b", 5).err
    assert f"/features/text: 60 {never}" in said and "/features/text: 60 rows are all zero" in said


def test_only_rows_that_may_be_picked_are_counted(tmp_path: Path, cli) -> None:
    path = spoiled(tmp_path / "a.h5", "multimodal_logits", slice(0, 13), 1.0)  # 0, 6, 12: labeled
    assert ": 10 rows have equal logits" in cli("select", path, "-s", "badge", "-b", 5).err
    assert "equal logits" not in cli("select", written(path), "-s", "badge", "-b", 5).err


def test_zero_logits_of_no_modality_are_no_wonder(tmp_path: Path, cli) -> None:
    logits = {name: arrays()["multimodal_logits"] for name in ("image", "text")}
    logits["none"] = np.zeros((60, 5), "f4")
    path = written(tmp_path / "a.h5", coalition_logits=logits)
    assert "equal logits" not in cli("check", path).err


def test_probabilities_are_noticed_beside_a_few_odd_rows(tmp_path: Path, cli) -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(5), 60).astype("f4")
    p[[1, 30]] = 0
    path = written(tmp_path / "a.h5", multimodal_logits=p)
    assert "they look like probabilities" in cli("select", path, "-s", "entropy", "-b", 5).err
    said = "/multimodal_logits: 58 of 60 rows sum to 1: probabilities, not logits?"
    assert said in cli("check", path).err
    p[:30] *= 7
    path = written(tmp_path / "b.h5", multimodal_logits=p)
    assert "like probabilities" not in cli("select", path, "-s", "entropy", "-b", 5).err
    assert "probabilities, not logits" not in cli("check", path).err


def test_a_head_with_one_logit_is_refused_with_the_way_out(tmp_path: Path, cli) -> None:
    said = "expected two or more classes, found one; of a head with one logit x, write two columns"
    x = np.random.default_rng(0).normal(size=(60, 1))
    with pytest.raises(mmselect.MmselectError, match=said):
        mmselect.write_pool(tmp_path / "a.h5", multimodal_logits=x)
    with h5py.File(tmp_path / "b.h5", "w") as handle:
        handle.attrs.update(format="mmselect-pool", format_version="1.0")
        handle["multimodal_logits"] = x
    for command in (["select", "-b", 5], ["score"], ["info"]):
        found = cli(command[0], tmp_path / "b.h5", *command[1:])
        assert found.code == 1 and said in found.err
    assert said in cli("check", tmp_path / "b.h5").out
    with pytest.raises(mmselect.MmselectError, match=said):
        mmselect.score(tmp_path / "b.h5", "entropy")
    with h5py.File(tmp_path / "b.h5", "r+") as handle:
        handle["classifier/bias"] = np.zeros(1)
    both = cli("check", tmp_path / "b.h5").out
    assert said in both and "of a head with one logit, write two rows: zeros, and its own" in both
    mmselect.write_pool(tmp_path / "c.h5", multimodal_logits=np.hstack([0 * x, x]))
    nearest = np.argsort(np.abs(x[:, 0]))[:5].tolist()
    assert mmselect.select(tmp_path / "c.h5", "entropy", 5).indices.tolist() == nearest


def test_equal_rows_are_not_called_zero(tmp_path: Path, cli) -> None:
    features = {"image": np.tile(np.float32([1, 2, 3, 4]), (60, 1))}
    mmselect.write_pool(tmp_path / "a.h5", features=features)
    said = cli("select", tmp_path / "a.h5", "-s", "facility", "-b", 3).err
    assert "/features/image: 60 rows equal the mean of all rows" in said and "zero" not in said


def test_an_array_of_four_axes_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(mmselect.MmselectError, match=r"\(n, d\), found shape \(6, 1, 2, 3\)"):
        mmselect.write_pool(tmp_path / "a.h5", features={"a": np.zeros((6, 1, 2, 3))})


def test_one_long_id_does_not_blow_up_npy(tmp_path: Path, cli) -> None:
    ids = ["x" * 1_000_000, *(f"s{i}" for i in range(1, 60))]
    path = written(tmp_path / "a.h5", ids=ids, labeled=np.zeros(60, bool))
    found = cli("score", path, "-s", "entropy", "-q", "--format", "npy", "-o", tmp_path / "o.npy")
    assert found.code == 1 and "npy pads all ids to one length" in found.err
    assert not (tmp_path / "o.npy").exists()
    found = cli("score", path, "-s", "entropy", "-q", "--format", "h5", "-o", tmp_path / "o.h5")
    assert found.code == 0


@pytest.mark.parametrize("command", ["info", "embed", "select", "score"])
def test_every_command_that_reads_says_which_rows_are_empty(tmp_path, cli, command) -> None:
    given = arrays(300)
    given["labeled"] = np.arange(300) == 299
    given["features"]["image"][5:50] = 0
    mmselect.write_pool(tmp_path / "e.h5", **given)
    more = {
        "embed": ["-o", tmp_path / "made.h5"],
        "select": ["-s", "bmmal", "-b", 3],
        "score": ["-s", "contribution"],
    }
    found = cli(command, tmp_path / "e.h5", *more.get(command, []))
    assert found.code == 0
    assert "note: /features/image: 45 rows are all zero" in found.err


def test_no_rows_have_no_empty_ones() -> None:
    for shape in ((0, 3), (0, 0), (2, 0)):
        assert not empty_rows(place_of("/multimodal_logits"), np.empty(shape)).any()


def test_info_shows_names_of_classes_that_are_not_utf_8(pool: Path, cli: Any) -> None:
    with h5py.File(pool, "r+") as handle:
        del handle["class_names"]
        names = np.array([b"\xff", b"b", b"c", b"d", b"e"], object)
        handle.create_dataset("class_names", data=names, dtype=h5py.string_dtype())
    found = cli("info", pool, "--format", "json")
    assert (found.code, found.err) == (0, "")
    assert "\N{REPLACEMENT CHARACTER}" in found.out


SIGNALLING = {
    "features/image": ("coreset", "kmeans", "bmmal"),
    "unimodal_logits/image": ("smem", "facility"),
    "multimodal_logits": ("entropy", "badge", "deepfool"),
    "classifier/weight/image": ("bmmal", "deepfool"),
}


@pytest.mark.parametrize("name", SIGNALLING)
def test_signalling_nan_is_an_error_and_no_warning(name: str, pool: Path, cli) -> None:
    with h5py.File(pool, "r+") as handle:
        array = handle[name][:].astype("<f4")
        array.view("u4")[2, 1] = 0x7FA00000
        del handle[name]
        handle[name] = array
    for strategy in SIGNALLING[name]:
        found = cli("select", pool, "-s", strategy, "-b", 3, "-q")
        assert found.code == 1 and found.err.count("\n") == 1
        assert ": expected finite " in found.err and "found nan" in found.err


def test_a_label_of_no_class_ends_info_with_one_line(pool: Path, cli) -> None:
    with h5py.File(pool, "a") as handle:
        del handle["label"], handle["class_names"]
        handle["label"] = np.where(np.arange(60) == 6, 10**15, 0)
    found = cli("info", pool)
    expected = f"error: {pool}: /label: row 6: expected a class below 65, found 1000000000000000\n"
    assert (found.code, found.err) == (1, expected)
