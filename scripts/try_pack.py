"""Pack files as the libraries themselves write them, and compare every number.

    python -m pip install anndata mudata datasets pandas polars pyarrow safetensors
    python scripts/try_pack.py

Prints one line per kind of file: the library and its version, what was packed, and that the pool
holds the same values. Files of torch are among the tests that need torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import mmselect

N, D = 500, 24
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, D)).astype(np.float32)
IDS = [f"cell {i}" for i in range(N)]
KINDS = ["b", "", "a", "c", "a"] * (N // 5)

Case = tuple[str, dict[str, Any], dict[str, Any]]
"""Line to show, arguments of pack, and what the pool must hold."""


def expected(**more: Any) -> dict[str, Any]:
    """List what a pool of everything above holds."""
    labels = [{"a": 0, "b": 1, "c": 2, "": -1}[kind] for kind in KINDS]
    return {
        "/features/rna": X.tolist(),
        "/id": [name.encode() for name in IDS],
        "/label": labels,
        "/labeled": [label >= 0 for label in labels],
        "/class_names": [b"a", b"b", b"c"],
        **more,
    }


def with_anndata() -> Iterator[Case]:
    import anndata
    import pandas
    from scipy import sparse

    kinds = pandas.Categorical([kind or None for kind in KINDS])
    batch = np.arange(N) % 7
    table = pandas.DataFrame({"kind": kinds, "batch": batch}, index=IDS)
    table["score"] = pandas.array([None if i % 9 == 0 else i for i in range(N)], dtype="Int64")
    data = anndata.AnnData(X=sparse.csr_matrix(np.maximum(X, 0)), obs=table)
    data.obsm["X_pca"], data.obsm["sparse"] = X, sparse.csr_matrix(np.maximum(X, 0))
    data.write_h5ad("cells.h5ad")
    arguments = {
        "features": {"rna": "cells.h5ad:obsm/X_pca"},
        "ids": "cells.h5ad:obs_names",
        "labels": "cells.h5ad:obs/kind",
        "metadata": ["cells.h5ad:obs/batch", "cells.h5ad:obs/score"],
    }
    score = [float("nan") if i % 9 == 0 else float(i) for i in range(N)]
    yield (
        "dense obsm, categories, names",
        arguments,
        expected(**{"/metadata/batch": batch.tolist(), "/metadata/score": score}),
    )
    data.write_h5ad("packed.h5ad", compression="gzip")
    for key in ("X", "obsm/sparse"):
        dense = {"/features/rna": np.maximum(X, 0).tolist()}
        yield f"sparse {key}, gzip", {"features": {"rna": f"packed.h5ad:{key}"}}, dense


def with_mudata() -> Iterator[Case]:
    import anndata
    import mudata
    import pandas

    few = [i for i in range(N) if i % 4]
    there = np.isin(np.arange(N), few)
    y = RNG.standard_normal((len(few), 8)).astype(np.float32)
    parts = {
        "rna": anndata.AnnData(obs=pandas.DataFrame(index=IDS), obsm={"X_pca": X}),
        "prot": anndata.AnnData(
            obs=pandas.DataFrame(index=[IDS[i] for i in few][::-1]), obsm={"X_pca": y[::-1]}
        ),
    }
    mudata.MuData(parts).write("cells.h5mu")
    whole = np.full((N, 8), np.nan, np.float32)
    whole[few] = y
    arguments = {
        "features": {"rna": "cells.h5mu:rna/obsm/X_pca", "prot": "cells.h5mu:prot/obsm/X_pca"},
        "ids": "cells.h5mu:rna/obs_names",
        "join": "id",
    }
    zeros = np.nan_to_num(whole)
    yield (
        "two modalities, joined by id",
        arguments,
        {
            "/id": [name.encode() for name in IDS],
            "/features/rna": X.tolist(),
            "/features/prot": zeros.tolist(),
            "/present/prot": there.tolist(),
        },
    )


def with_datasets() -> Iterator[Case]:
    import datasets

    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "z": datasets.Sequence(datasets.Value("float32"), length=D),
            "kind": datasets.Value("string"),
        }
    )
    table = {"id": IDS, "z": list(X), "kind": KINDS}
    made = datasets.Dataset.from_dict(table, features=features)
    Path("hub").mkdir()
    for i in range(3):
        made.shard(3, i, contiguous=True).to_parquet(f"hub/train-{i:05d}-of-00003.parquet")
    arguments = {"table": "hub", "features": {"rna": "z"}, "ids": "id", "labels": "kind"}
    yield "a folder of parquet shards", arguments, expected()


def with_pandas() -> Iterator[Case]:
    import pandas

    table = pandas.DataFrame({"id": IDS, "z": list(X), "kind": KINDS})
    table.to_parquet("pandas.parquet")
    arguments = {"features": {"rna": "z"}, "ids": "id", "labels": "kind"}
    yield "parquet, lists", {"table": "pandas.parquet", **arguments}, expected()
    table["z"] = [row.tolist() for row in X]
    table.to_csv("pandas.csv")
    yield "csv, lists as text", {"table": "pandas.csv", **arguments}, expected()
    wide = pandas.DataFrame(X, columns=[f"dim_{i}" for i in range(D)])
    wide.assign(id=IDS, kind=KINDS).to_csv("wide.csv", index=False)
    arguments = {**arguments, "features": {"rna": "dim_*"}}
    yield "csv, one column per number", {"table": "wide.csv", **arguments}, expected()
    wide.assign(id=IDS, kind=KINDS).to_parquet("wide.parquet")
    yield "parquet, one column per number", {"table": "wide.parquet", **arguments}, expected()


def with_polars() -> Iterator[Case]:
    import polars

    kinds = polars.Series(KINDS, dtype=polars.Categorical)
    arguments = {"table": "polars.parquet", "features": {"rna": "z"}, "ids": "id", "labels": "kind"}
    for name, kind in (
        ("arrays", polars.Array(polars.Float32, D)),
        ("lists", polars.List(polars.Float32)),
    ):
        z = polars.Series(X.tolist(), dtype=kind)
        table = polars.DataFrame({"id": IDS, "z": z, "kind": kinds})
        table.write_parquet("polars.parquet", row_group_size=64)
        yield f"parquet, {name} and categories", arguments, expected()


def with_pyarrow() -> Iterator[Case]:
    import pyarrow
    from pyarrow import parquet

    arguments = {"table": "arrow.parquet", "features": {"rna": "z"}, "ids": "id", "labels": "kind"}
    flat = pyarrow.array(X.reshape(-1))
    rows = [(f"s{i}", None if i % 5 == 0 else X[i].tolist()) for i in range(N)]
    for name, z in (
        ("fixed-size lists", pyarrow.FixedSizeListArray.from_arrays(flat, D)),
        ("large lists", pyarrow.LargeListArray.from_arrays(np.arange(0, N * D + 1, D), flat)),
    ):
        table = pyarrow.table({"id": IDS, "z": z, "kind": KINDS})
        parquet.write_table(table, "arrow.parquet", row_group_size=100, compression="zstd")
        yield f"parquet, {name}, zstd", arguments, expected()
    table = pyarrow.table({"id": [r[0] for r in rows], "z": [r[1] for r in rows]})
    parquet.write_table(table, "holes.parquet")
    there = np.arange(N) % 5 > 0
    arguments = {"table": "holes.parquet", "features": {"rna": "z", "all": X.tolist()}, "ids": "id"}
    yield (
        "parquet, lists with nulls",
        arguments,
        {
            "/id": [r[0].encode() for r in rows],
            "/features/rna": np.where(there[:, None], X, 0).tolist(),
            "/features/all": X.tolist(),
            "/present/rna": there.tolist(),
        },
    )


def with_safetensors() -> Iterator[Case]:
    from safetensors.numpy import save_file

    save_file({"z": X, "other": np.arange(3), "half": X.astype("f2")}, "x.safetensors")
    yield "float32", {"features": {"rna": "x.safetensors:z"}}, {"/features/rna": X.tolist()}
    half = {"/features/rna": X.astype("f2").tolist()}
    yield "float16", {"features": {"rna": "x.safetensors:half"}}, half


LIBRARIES: dict[str, Callable[[], Iterator[Case]]] = {
    "anndata": with_anndata,
    "mudata": with_mudata,
    "datasets": with_datasets,
    "pandas": with_pandas,
    "polars": with_polars,
    "pyarrow": with_pyarrow,
    "safetensors": with_safetensors,
}


def contents(path: str) -> dict[str, list[Any]]:
    with mmselect.open_pool(path) as pool:
        found = {name: column[:].tolist() for name, column in pool.columns.items()}
        return found | {name: values.tolist() for name, values in pool.constants.items()}


def compare(wanted: dict[str, Any], found: dict[str, Any]) -> str:
    """Say where a pool differs from what it must hold."""
    if wanted.keys() != found.keys():
        return f"DIFFERENT datasets: {sorted(wanted.keys() ^ found.keys())}"
    for path, values in wanted.items():
        same = values == found[path] or np.array_equal(values, found[path], equal_nan=True)
        if not same:
            return f"DIFFERENT {path}"
    return "same values"


def main() -> None:
    import os

    os.chdir(tempfile.mkdtemp())
    for library, cases in LIBRARIES.items():
        for said, arguments, wanted in cases():
            mmselect.pack("pool.h5", **arguments)
            result = compare(wanted, contents("pool.h5"))
            print(f"{library} {version(library)}: {said}: {result}", flush=True)


if __name__ == "__main__":
    main()
