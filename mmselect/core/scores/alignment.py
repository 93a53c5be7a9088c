"""How well the modalities of a pool are aligned: the modality gap and the matched-pair cosine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mmselect.arrays import Array, Floats, Index
from mmselect.core.features import Features, as_modalities, row_norms
from mmselect.engine import SERIAL, Engine, compute_rows, join_rows, map_rows, ranges
from mmselect.errors import SchemaError, located

Pair = tuple[str, str]


@dataclass(frozen=True)
class Alignment:
    """The modality gap report; pairs of modalities with unequal widths are left out.

    Attributes
    ----------
    n : int
        Samples.
    within : dict of str to float
        Mean cosine of all ordered pairs of samples, a sample with itself included: ``‖μ_m‖²``.
    gap, across, matched : dict of (str, str) to float
        ``‖μ_a - μ_b‖``, ``⟨μ_a, μ_b⟩``, and the mean cosine of a sample's own two modalities.
    zero_rows : dict of str to int
        Rows without a direction; they count as zero vectors.
    """

    n: int
    within: dict[str, float]
    gap: dict[Pair, float]
    across: dict[Pair, float]
    matched: dict[Pair, float]
    zero_rows: dict[str, int]


class GapSums:
    """Sums over row blocks from which the report follows in closed form.

    With ``μ_m`` the mean of the unit rows of modality m, ``gap = ‖μ_a - μ_b‖``, the mean cosine
    within m is ``‖μ_m‖²`` and across two modalities ``⟨μ_a, μ_b⟩``, so that ``gap² = within_a +
    within_b - 2·across`` (Shen et al., MMCSAL, 2024, Eq. 10 and Table 3).

    Examples
    --------
    >>> sums = GapSums()
    >>> sums.add({"image": np.array([[2.0, 0.0]]), "text": np.array([[0.6, 0.8]])})
    >>> sums.add({"image": np.array([[1.0, 0.0]]), "text": np.array([[0.0, 1.0]])})
    >>> report = sums.report()
    >>> round(report.matched["image", "text"], 12), round(report.gap["image", "text"], 12)
    (0.3, 1.140175425099)
    """

    def __init__(self) -> None:
        self.n = 0
        self._sums: dict[str, Floats] = {}
        self._matched: dict[Pair, float] = {}
        self._zero: dict[str, int] = {}

    def add(self, features: Features) -> None:
        """Take the next rows, each modality ``(b, d_m)``.

        Blocks may be cut anywhere; where they are cut at multiples of the compute block, the
        result does not depend on the cuts in a single bit.

        Raises
        ------
        SchemaError
            If the modalities or their widths are not those of the first block.
        DataError
            If a row holds nan or an infinity; rows are counted from the first block's first.
        """
        named = as_modalities(features)
        widths = {name: array.shape[1] for name, array in named.items()}
        if not self._sums:
            self._sums = {name: np.zeros(width) for name, width in widths.items()}
            self._matched = dict.fromkeys(_pairs(widths), 0.0)
            self._zero = dict.fromkeys(widths, 0)
        known = {name: len(total) for name, total in self._sums.items()}
        if widths != known:
            raise SchemaError(f"expected modalities of widths {known}, found {widths}")
        rows = len(next(iter(named.values())))
        for start, stop in ranges(0, rows, compute_rows(sum(widths.values()))):
            self._add({name: array[start:stop] for name, array in named.items()})

    def _add(self, named: dict[str, Array]) -> None:
        unit = {}
        for name, block in named.items():
            with located(dataset=name):
                unit[name], zero = _unit(block, self.n)
            self._sums[name] += unit[name].sum(axis=0)
            self._zero[name] += zero
        for a, b in self._matched:
            self._matched[a, b] += float(np.einsum("ij,ij->", unit[a], unit[b]))
        self.n += len(next(iter(unit.values())))

    def report(self) -> Alignment:
        """Return the report over all blocks so far.

        Raises
        ------
        SchemaError
            If no block was added.
        """
        if not self.n:
            raise SchemaError("expected at least one sample, found none")
        means = {name: total / self.n for name, total in self._sums.items()}
        return Alignment(
            n=self.n,
            within={name: float(mean @ mean) for name, mean in means.items()},
            gap={(a, b): float(np.linalg.norm(means[a] - means[b])) for a, b in self._matched},
            across={(a, b): float(means[a] @ means[b]) for a, b in self._matched},
            matched={pair: total / self.n for pair, total in self._matched.items()},
            zero_rows=dict(self._zero),
        )


def modality_gap(blocks: Iterable[Features]) -> Alignment:
    """Modality gap and mean cosines in one pass over row blocks.

    Parameters
    ----------
    blocks : iterable of features
        Each a mapping or sequence of arrays ``(b, d_m)``; a whole pool is ``[features]``.

    Returns
    -------
    Alignment

    Raises
    ------
    SchemaError, DataError
        See :meth:`GapSums.add`.

    Examples
    --------
    >>> report = modality_gap([{"a": np.eye(2), "b": np.eye(2)}])
    >>> report.gap, report.within["a"], report.matched
    ({('a', 'b'): 0.0}, 0.5, {('a', 'b'): 1.0})
    """
    sums = GapSums()
    for block in blocks:
        sums.add(block)
    return sums.report()


def matched_cosine(features: Features, *, engine: Engine = SERIAL) -> Floats:
    """Mean cosine of each sample's own modalities, over the pairs of modalities.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d)
        At least two modalities of one width.
    engine : Engine, optional
        Who does the work.

    Returns
    -------
    float64 array, shape (n,)
        In [-1, 1]; a modality without a direction contributes 0 to its pairs.

    Raises
    ------
    SchemaError
        If there is one modality only, or widths differ.
    DataError
        If a row holds nan or an infinity.

    Examples
    --------
    >>> matched_cosine([np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 2.0]])])
    array([1.        , 0.70710678])
    """
    named = as_modalities(features)
    widths = {name: array.shape[1] for name, array in named.items()}
    if len(named) < 2 or len(set(widths.values())) > 1:
        raise SchemaError(f"expected two or more modalities of one width, found widths {widths}")
    pairs = len(named) * (len(named) - 1)

    def cosines(rows: Index, blocks: list[Array]) -> tuple[Floats]:
        unit = []
        for name, block in zip(named, blocks, strict=True):
            with located(dataset=name):
                unit.append(_unit(block, int(rows[0]))[0])
        # Σ_{a≠b} ⟨z_a, z_b⟩ = ‖Σ z‖² - Σ ‖z‖², but the plain sum rounds less.
        total = sum(np.einsum("ij,ij->i", a, b) for a, b in combinations(unit, 2))
        return (np.clip(2.0 / pairs * np.asarray(total), -1.0, 1.0),)

    arrays, step = list(named.values()), compute_rows(sum(widths.values()))
    rows = np.arange(len(arrays[0]))
    (mean,) = join_rows(map_rows(cosines, arrays, rows, step=step, engine=engine), len(rows))
    return mean


def _unit(block: Array, first_row: int) -> tuple[Floats, int]:
    norms = row_norms(block, first_row)
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return block.astype(np.float64) * scale[:, None], int((norms == 0).sum())


def _pairs(widths: dict[str, int]) -> list[Pair]:
    return [(a, b) for a, b in combinations(widths, 2) if widths[a] == widths[b]]
