"""Arrays, data frames and lists as people have them: taken as they are, or refused by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest
from conftest import arrays

import mmselect
from mmselect.errors import DataError, MmselectError, SchemaError, UsageError
from mmselect.pool.conversion import as_array

Z = np.arange(12, dtype="f4").reshape(4, 3)
LISTS = Z.tolist()
FLAT = pyarrow.array(Z.reshape(-1))

MATRICES = {
    "lists": LISTS,
    "tuples of arrays": tuple(Z),
    "pandas lists": pandas.Series(LISTS),
    "pandas arrays": pandas.DataFrame({"z": list(Z)})["z"],
    "pandas frame": pandas.DataFrame(Z),
    "pandas arrow": pandas.Series(LISTS, dtype=pandas.ArrowDtype(pyarrow.list_(pyarrow.float32()))),
    "polars lists": polars.Series(LISTS),
    "polars arrays": polars.Series(LISTS, dtype=polars.Array(polars.Float32, 3)),
    "polars frame": polars.DataFrame(Z),
    "pyarrow lists": pyarrow.array(LISTS),
    "pyarrow chunks": pyarrow.chunked_array([LISTS[:1], LISTS[1:]]),
    "pyarrow fixed": pyarrow.FixedSizeListArray.from_arrays(FLAT, 3),
}


@pytest.mark.parametrize("name", MATRICES)
def test_every_kind_of_matrix_is_taken(name: str, tmp_path: Path) -> None:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, features={"image": MATRICES[name]})
    mmselect.pack(tmp_path / "packed.h5", features={"image": MATRICES[name]})
    for each in (path, tmp_path / "packed.h5"):
        with mmselect.open_pool(each) as pool:
            assert pool.columns["/features/image"][:].tolist() == LISTS


COLUMNS: dict[str, tuple[str, Any, list[Any]]] = {
    "pandas text": ("/id", pandas.Series(["a", "b"]), ["a", "b"]),
    "polars text": ("/id", polars.Series(["a", "b"]), ["a", "b"]),
    "arrow text": ("/id", pyarrow.array(["a", "b"]), ["a", "b"]),
    "labels with gaps": ("/label", pandas.Series([1.0, np.nan]), [1, -1]),
    "nullable labels": ("/label", pandas.array([1, None], dtype="Int64"), [1, -1]),
    "polars labels": ("/label", polars.Series([1, None]), [1, -1]),
    "nullable truth": ("/metadata/x", pandas.array([True, None], dtype="boolean"), [1.0, np.nan]),
    "mask": ("/labeled", pandas.Series([True, False]), [True, False]),
    "times": (
        "/metadata/t",
        pandas.to_datetime(pandas.Series(["2024-01-02", None])),
        ["2024-01-02T00:00:00", ""],
    ),
    "categories": ("/metadata/c", pandas.Series(["x", "y"], dtype="category"), ["x", "y"]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_data_frames(name: str) -> None:
    path, values, expected = COLUMNS[name]
    found = [v[:19] if isinstance(v, str) else v for v in as_array(path, values).tolist()]
    np.testing.assert_equal(found, expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([[1.0, 2.0], [3.0]], "row 1: expected 2 numbers, as in the first row, found 1"),
        (pandas.Series([[1.0], None]), "row 1: expected 1 numbers, found none; of a sample"),
        (pyarrow.array([[1.0], None, [2.0]]), "row 1: expected 1 numbers, found none"),
    ],
)
def test_rows_that_are_no_matrix_are_named(values: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        mmselect.write_pool(tmp_path / "pool.h5", features={"image": values})
    assert str(caught.value).startswith(f"/features/image: {said}")


def test_text_labels_are_for_pack(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"mmselect\.pack makes classes of names"):
        mmselect.write_pool(tmp_path / "pool.h5", features={"image": Z}, labels=list("abab"))
    with pytest.raises(TypeError, match="unexpected keyword argument 'feature'"):
        mmselect.write_pool(tmp_path / "pool.h5", feature={"image": Z})


@pytest.mark.parametrize("strategy", ["facility", "bmmal", "smem", "coreset", "random"])
def test_arrays_without_a_file_give_the_same_picks(strategy: str, tmp_path: Path) -> None:
    given = arrays()
    mmselect.write_pool(tmp_path / "pool.h5", **given)
    from_file = mmselect.select(tmp_path / "pool.h5", strategy, budget=7, seed=3)
    held = mmselect.select(strategy=strategy, budget=7, seed=3, **given)
    assert held.ids == from_file.ids
    np.testing.assert_equal(held.scores, from_file.scores)
    made, known = (s.provenance["pool"]["fingerprint"] for s in (held, from_file))
    assert made == known
    assert held.provenance["pool"]["paths"] == ["arrays"]


def test_scores_of_arrays() -> None:
    given = arrays()
    table = mmselect.score(multimodal_logits=given["multimodal_logits"], strategy="entropy")
    assert len(table.score) == 60
    listed = mmselect.select(features=given["features"], budget=59, labeled=["7"])
    assert "7" not in listed.ids


def test_arrays_are_checked_as_a_file_is() -> None:
    given = arrays()
    image = given["features"]["image"].copy()
    image[4, 1] = np.nan
    with pytest.raises(MmselectError, match="arrays: /features/image: row 4: expected finite"):
        mmselect.select(features={"image": image}, strategy="coreset", budget=3)
    with pytest.raises(MmselectError, match="arrays: /id: row 1: expected unique ids"):
        mmselect.select(features={"image": image[:2]}, ids=["a", "a"], budget=1)
    with pytest.raises(UsageError, match="features: expected a pool or arrays, found both"):
        mmselect.select("pool.h5", features={"image": image}, budget=3)
    with pytest.raises(UsageError, match="pool: expected a path, a Pool, or arrays"):
        mmselect.select(budget=3)
