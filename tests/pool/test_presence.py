"""Masks of ``/present``: written, checked, and laid over what is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import arrays

import mmselect
from mmselect.errors import DataError, SchemaError
from mmselect.pool.checking import check
from mmselect.pool.writing import PoolWriter, join_shards, write_pool

N = 60
HAS_TEXT = np.arange(N) % 3 != 0


def incomplete(n: int = N, poison: float = np.nan) -> dict[str, Any]:
    """`conftest.arrays` with coalitions; a third of the samples lacks the text."""
    given, lacks = arrays(n), np.arange(n) % 3 == 0
    given["present"] = {"text": ~lacks}
    logits = given["multimodal_logits"]
    given["coalition_logits"] = {"none": logits * 0.1, "image": logits / 2, "text": logits / 3}
    for name in ("features", "unimodal_logits", "coalition_logits"):
        given[name]["text"] = given[name]["text"].copy()
        given[name]["text"][lacks] = poison
    return given


def test_what_is_absent_is_no_fault_and_is_never_read(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    write_pool(path, **incomplete())
    assert check([path]) == ([], [])
    with mmselect.open_pool(path) as pool, h5py.File(path) as file:
        assert pool.present.keys() == {"text"} and (pool.present["text"] == HAS_TEXT).all()
        for name in ("/features/text", "/unimodal_logits/text", "/coalition_logits/text"):
            column, stored = pool.columns[name], file[name][()]
            for rows in (slice(None), slice(1, 50, 2), np.array([3, 4, 0]), np.arange(60)):
                expected = np.where(HAS_TEXT[rows, None], stored[rows], 0)
                assert (column[rows] == expected).all(), name
            out = np.empty((4, column.shape[1]), column.dtype)
            assert (column.read(2, 6, out) == column[2:6]).all()
        for name in ("/features/image", "/multimodal_logits", "/coalition_logits/none"):
            assert pool.columns[name].present is None
            assert (pool.columns[name][:] == file[name][()]).all()


def test_a_coalition_means_something_where_all_its_modalities_are_there(tmp_path: Path) -> None:
    has = {"a": np.array([True, True, False]), "b": np.array([True, False, True])}
    z, f = np.ones((3, 2)), np.array([[1.0, 2], [np.nan, 0], [np.nan, 0]])
    logits = {"none": z, "a": z, "b": z, "a+b": f}
    path = tmp_path / "pool.h5"
    write_pool(path, features={"a": z, "b": z}, present=has, coalition_logits=logits)
    with mmselect.open_pool(path) as pool:
        assert pool.columns["/coalition_logits/a+b"][:].tolist() == [[1, 2], [0, 0], [0, 0]]
    assert check([path]).problems == []


def test_masks_of_shards_are_one(tmp_path: Path) -> None:
    fixed = {"/classifier/bias": np.zeros(2)}
    x, has = np.where(HAS_TEXT[:, None], np.arange(120).reshape(N, 2) + 1.0, np.nan), HAS_TEXT
    for name, cut in (("a.h5", slice(0, 25)), ("b.h5", slice(25, N))):
        with PoolWriter(tmp_path / name, fixed) as writer:
            block = {"/features/image": x[cut] * 0, "/features/text": x[cut]}
            block["/features/image"] = np.ones_like(x[cut])
            writer.append({**block, "/present/text": has[cut].astype("u1")})
    shards = [tmp_path / "a.h5", tmp_path / "b.h5"]
    assert check(shards).problems == []
    join_shards(shards, tmp_path / "c.h5")
    with mmselect.open_pool(shards) as two, mmselect.open_pool(tmp_path / "c.h5") as one:
        for pool in (one, two):
            assert (pool.present["text"] == has).all()
            assert (pool.columns["/features/text"][:] == np.where(has[:, None], x, 0)).all()


def test_a_modality_that_no_sample_has_is_left_out(tmp_path: Path) -> None:
    given = incomplete()
    given["present"] = {"text": np.zeros(N, bool), "image": np.ones(N, bool)}
    path = tmp_path / "pool.h5"
    write_pool(path, **given)
    with mmselect.open_pool(path) as pool:
        assert pool.modalities == ["image"] and not pool.present
        assert not [name for name in pool.paths if "text" in name.split("/")]
    picks = mmselect.select(path, "bmmal", budget=5)
    assert "modality text: no sample has it, so it is left out" in picks.provenance["warnings"]
    alone = {
        n: {"image": v["image"]} for n, v in given.items() if isinstance(v, dict) and "image" in v
    }
    alone["coalition_logits"] = {k: given["coalition_logits"][k] for k in ("none", "image")}
    alone["present"], alone["metadata"] = {}, given["metadata"]
    write_pool(tmp_path / "alone.h5", **{**given, **alone})
    assert mmselect.select(tmp_path / "alone.h5", "bmmal", budget=5).ids == picks.ids


def test_a_sample_without_any_modality_is_an_error_that_names_it(tmp_path: Path) -> None:
    given = incomplete()
    given["present"]["image"] = np.arange(N) != 6
    given["present"]["text"] = np.arange(N) % 6 != 0
    expected = "/present: row 6: expected at least one modality of every sample, found none"
    with pytest.raises(DataError, match=expected):
        write_pool(tmp_path / "pool.h5", **given)
    write_pool(tmp_path / "pool.h5", **incomplete())
    with h5py.File(tmp_path / "pool.h5", "a") as file:
        file["present/image"] = np.arange(N) != 6
    with pytest.raises(DataError, match=expected):
        mmselect.open_pool(tmp_path / "pool.h5")
    assert [str(p) for p in check([tmp_path / "pool.h5"]).problems] == [
        f"{tmp_path / 'pool.h5'}: {expected}"
    ]


def test_a_mask_is_of_a_modality_that_exists_and_holds_nothing_but_0_and_1(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    with pytest.raises(SchemaError, match=r"/present/txt: expected a modality .* \(image, text\)"):
        write_pool(path, **{**arrays(), "present": {"txt": HAS_TEXT}})
    write_pool(path, **arrays())
    with h5py.File(path, "a") as file:
        file["present/txt"] = HAS_TEXT
        file["present/text"] = np.arange(N) % 3
    with pytest.raises(DataError, match=r"/present/text: rows 2, 5, .*expected 0 or 1"):
        mmselect.open_pool(path)
    assert [str(p).removeprefix(f"{path}: ").split(":")[0] for p in check([path]).problems] == [
        "/present/txt",
        "/present/text",
    ]
    with h5py.File(path, "a") as file:
        file["present/text"][:] = 1
    said = mmselect.select(path, "random", budget=1).provenance["warnings"]
    assert said == ["/present/txt: nothing else is of this modality, so it is ignored"]


def test_rows_of_zeros_are_told_with_the_way_to_declare_them(tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    given = incomplete(poison=0.0)
    write_pool(path, **{**given, "present": {}})
    said = "; if it is missing, say so: /present/text = false in those rows"
    warned = [w for w in check([path]).warnings if w.endswith(said)]
    assert [w.split(": ")[1] for w in warned] == ["/features/text", "/unimodal_logits/text"]
    picks = mmselect.select(path, "facility", budget=3)
    assert sum(w.endswith(said) for w in picks.provenance["warnings"]) == 2
    write_pool(path, **given)
    assert check([path]) == ([], [])
    assert not any(w.endswith(said) for w in mmselect.select(path, budget=3).provenance["warnings"])


def test_soft_labels_are_shares(tmp_path: Path) -> None:
    path, share = tmp_path / "pool.h5", np.full((N, 5), 1 / 3, "f4")
    share[7] = 0
    write_pool(path, **{**arrays(), "label_share": share})
    assert check([path]) == ([], [])
    with h5py.File(path, "a") as file:
        file["label_share"][3, 1] = 1.5
        file["label_share"][4, 0] = np.nan
    assert [str(p).split(": ", 2)[2] for p in check([path]).problems] == [
        "row 4: expected finite numbers, found nan",
        "row 3: expected shares from 0 to 1, found another number",
    ]


def test_pools_of_format_1_0_are_read(tmp_path: Path) -> None:
    frozen = Path(__file__).parent / "format-1.0.h5"
    with h5py.File(frozen) as file:
        assert file.attrs["format_version"] == "1.0"
    assert check([frozen]) == ([], [])
    with mmselect.open_pool(frozen) as pool:
        assert (pool.n, pool.modalities, pool.ids.text([5])) == (6, ["image", "text"], ["s005"])
        assert pool.columns["/features/image"].dtype == np.float32
    assert mmselect.select(frozen, budget=2).provenance["strategy"] == "facility"
    write_pool(tmp_path / "new.h5", **arrays(6))
    with h5py.File(tmp_path / "new.h5") as file:
        assert file.attrs["format_version"] == "1.1"
