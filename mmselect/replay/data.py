"""What a replay works on: the labeled samples of a pool, split into samples to pick and to test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import check_finite
from mmselect.errors import DataError, NeedsError, SchemaError, SelectionError, UsageError
from mmselect.output.tables import class_names, plain
from mmselect.pool.ids import as_stored
from mmselect.pool.presence import PRESENT
from mmselect.pool.reading import Pool
from mmselect.pool.schema import match
from mmselect.request import fingerprint
from mmselect.strategies.record import datasets_of

SPLIT, LABEL, SHARE = "/metadata/split", "/label", "/label_share"
HIDDEN = ("/id", LABEL, SHARE, "/labeled")
"""Datasets that no strategy gets as the pool has them."""

TEST_FRACTION = 0.2
"""Share of the samples that is kept for testing where the pool has no split of its own."""


class Data(NamedTuple):
    """The samples of a pool whose label is known.

    Attributes
    ----------
    file : str
        The pool, to name in errors.
    features : dict of modality to (n, d) float32 array
        Where some samples lack a modality all are centred, so that zeros are in the middle, and
        those samples have zeros.
    labels : (n,) int64 array
        The truth. Only an `Oracle` and the tests read it.
    classes : int
        c.
    rows : (n,) integer array
        Row numbers in the pool.
    labeled : (n,) boolean array
        What the pool says is labeled.
    columns : dict of dataset path to array
        What else strategies may see, such as metadata to rank by.
    test : (n,) boolean array or None
        Samples that the pool keeps for testing; None where it does not say.
    digest : str
        Of all of this, so that a stored run is not taken for that of another pool.
    shares : (n, c) float32 array or None
        How right each class is, in [0, 1], where the pool says it: several may be.
    names : list of str or None
        Of the classes.
    ids : sequence of str
        Where they were asked for.
    """

    file: str
    features: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    classes: int
    rows: NDArray[np.intp]
    labeled: NDArray[np.bool_]
    columns: dict[str, NDArray[Any]]
    test: NDArray[np.bool_] | None
    digest: str
    shares: NDArray[np.float32] | None = None
    names: list[str] | None = None
    ids: Sequence[str] = ()

    def present(self, rows: NDArray[np.intp]) -> dict[str, NDArray[np.bool_]]:
        """Which of some samples have a modality, for those that some of the pool lack."""
        masks = {m: self.columns.get(f"{PRESENT}/{m}") for m in self.features}
        return {m: mask[rows].astype(bool) for m, mask in masks.items() if mask is not None}

    def targets(self, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Give what heads are fitted to: shares where there are any, else labels."""
        return self.labels[rows] if self.shares is None else self.shares[rows]


class Oracle:
    """Gives out labels one batch at a time.

    Attributes
    ----------
    known : (n,) int64 array
        Labels revealed so far, -1 elsewhere: all that heads and strategies ever see.
    """

    def __init__(self, labels: NDArray[np.int64], targets: NDArray[Any] | None = None) -> None:
        self._labels, self._targets = labels, labels if targets is None else targets
        self.known = np.full(len(labels), -1, np.int64)

    def reveal(self, rows: NDArray[np.intp]) -> None:
        """Make the labels of some samples known."""
        self.known[rows] = self._labels[rows]

    @property
    def rows(self) -> NDArray[np.intp]:
        """Samples whose label is known, in row order."""
        return np.flatnonzero(self.known >= 0)

    @property
    def targets(self) -> NDArray[Any]:
        """What heads are fitted to, of :attr:`rows` alone."""
        return self._targets[self.rows]


def load(
    pool: Pool, use_split: bool = True, named: Sequence[str] = (), by_id: bool = False
) -> Data:
    """Read the samples whose label is known, by ``/label`` or else ``/label_share``.

    Parameters
    ----------
    pool : Pool
    use_split : bool
        Take the test samples from ``/metadata/split``, if the pool has it; samples that are
        neither ``train`` nor ``test`` are left out then.
    named : sequence of str
        Columns of the metadata that constraints name, which may be text.
    by_id : bool
        Read the ids, too, by which others can say something of the samples; features need not be
        there then.

    Raises
    ------
    NeedsError
        If the pool has no features or no labels.
    DataError
        If a feature is nan or infinite, or a share outside [0, 1].
    """
    labels = _labels(pool, by_id)
    keep, test = labels >= 0, None
    if use_split and SPLIT in pool.columns:
        words = _split_words(pool)
        test = words == "test"
        keep &= test | (words == "train")
    names = pool.names("/features")
    if names and pool.present.keys() >= {*names}:
        keep &= np.logical_or.reduce([pool.present[name] for name in names])
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise SelectionError("expected samples with a known label, found none", file=pool.files[0])
    features = {name: _features(pool, name, rows) for name in names}
    kept = {path: pool.columns[path][rows] for path in _visible(pool)}
    for path in (f"/metadata/{name}" for name in named):
        if path in pool.columns and path not in kept:
            kept[path] = np.array(as_stored(pool.columns[path][rows]).tolist(), "S")
    split = None if test is None else test[rows]
    labeled = pool.labeled[rows]
    shares = _shares(pool, rows) if SHARE in pool.columns else None
    parts = [rows.astype(np.int64), labels[rows], labeled, *features.values()]
    parts += [] if shares is None else [shares]
    return Data(
        file=pool.files[0],
        features=features,
        labels=labels[rows],
        classes=max(pool.sizes.get("c", 0), int(labels.max()) + 1),
        rows=rows,
        labeled=labeled,
        columns=kept,
        test=split,
        digest=_digest(pool, *parts, *([] if split is None else [split]), *kept.values()),
        shares=shares,
        names=class_names(pool, pool.sizes["c"]) if "/class_names" in pool.constants else None,
        ids=pool.ids.text(rows) if by_id else (),
    )


def _labels(pool: Pool, bare: bool) -> NDArray[np.int64]:
    """Classes, -1 = unknown; without ``/label`` those of the largest share, if any is above 0."""
    missing = [] if bare or datasets_of("/features", pool.paths) else ["/features"]
    if not {LABEL, SHARE} & pool.paths:
        missing.append(f"{LABEL} or {SHARE}")
    if missing:
        message = f"replay needs {' and '.join(missing)}, which the pool does not have"
        raise NeedsError(message, file=pool.files[0])
    if LABEL in pool.columns:
        return np.asarray(pool.columns[LABEL][:].astype(np.int64))
    share = pool.columns[SHARE][:]
    return np.where(share.max(axis=1) > 0, share.argmax(axis=1), -1)


def _shares(pool: Pool, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    shares = pool.columns[SHARE][rows].astype(np.float32)
    outside = np.flatnonzero(~((shares >= 0) & (shares <= 1)).all(axis=1))
    if len(outside):
        message = "expected shares from 0 to 1, found others"
        with pool.located(rows):
            raise DataError(message, dataset=SHARE, rows=outside.tolist())
    return shares


def _visible(pool: Pool) -> list[str]:
    """Columns, besides features, that a strategy may see: no text, no labels, nothing of a model.

    Logits in the pool would know the labels that the replay hides.
    """
    return [
        path
        for path, column in pool.columns.items()
        if column.dtype.kind in "iufb"
        and (place := match(path))
        and not place.dataset.is_logits
        and place.dataset.group not in ("/features", *HIDDEN)
    ]


def _split_words(pool: Pool) -> NDArray[Any]:
    """Read the pool's split; both words must occur."""
    column = pool.columns[SPLIT]
    found = [str(value) for value in plain(column[:])]
    words = np.array(found, dtype=object)
    if not {"train", "test"} <= set(found):
        message = f"expected train and test among the values, found {', '.join(sorted({*found}))}"
        raise SchemaError(message, file=pool.files[0], dataset=SPLIT)
    return words


def _features(pool: Pool, name: str, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    path = f"/features/{name}"
    z = pool.columns[path][rows].astype(np.float32)
    with pool.located(rows):
        check_finite(np.abs(z).max(axis=1, initial=0), np.arange(len(rows)), path)
    if not pool.present:
        return z
    has = pool.present[name][rows] if name in pool.present else np.ones(len(rows), bool)
    mean = z[has].mean(axis=0, dtype=np.float64) if has.any() else 0.0
    return np.where(has[:, None], z - mean, 0).astype(np.float32)


def _digest(pool: Pool, *arrays: NDArray[Any]) -> str:
    """Digest of everything that a replay works on."""
    digest = hashlib.sha256(fingerprint(pool).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()[:32]}"


def part(
    data: Data, seed: int, fraction: float = TEST_FRACTION
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Part the samples into those that may be picked and those that test the heads.

    By the pool's own split, the same for every seed; or, where it has none, uniformly at random,
    without a look at the labels.

    Returns
    -------
    train, test : integer arrays
        Positions in `data`, increasing.

    Raises
    ------
    UsageError
        If the fraction leaves nothing on one side.
    """
    if data.test is not None:
        return np.flatnonzero(~data.test), np.flatnonzero(data.test)
    n = len(data.labels)
    size = round(n * fraction)
    if not 0 < size < n:
        message = f"a share that leaves samples on both sides of {n:,}, found {fraction:g}"
        raise UsageError(f"test fraction: expected {message}")
    order = np.random.default_rng([seed, 1]).permutation(n)
    return np.sort(order[size:]), np.sort(order[:size])
