"""How well the modalities of a pool are aligned: the modality gap and the matched-pair cosine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations

import numpy as np

from mmselect.arrays import Array, Floats, Index, Rows, check_rows, same_length
from mmselect.core.features import Features, as_modalities, inverse, row_norms
from mmselect.core.presence import Present, blanked, check_present, cut, patterns_of
from mmselect.engine import SERIAL, Engine, compute_rows, join_rows, map_rows
from mmselect.errors import SchemaError, located

Pair = tuple[str, str]


@dataclass(frozen=True)
class Alignment:
    """The modality gap report; pairs of modalities with unequal widths are left out.

    Attributes
    ----------
    n : int
        Samples that were looked at.
    within : dict of str to float
        Mean cosine of all ordered pairs of samples, a sample with itself included: ``‖μ_m‖²``.
    gap, across, matched : dict of (str, str) to float
        ``‖μ_a - μ_b‖``, ``⟨μ_a, μ_b⟩``, and the mean cosine of a sample's own two modalities.
    zero_rows : dict of str to int
        Rows without a direction, of those that have the modality; they count as zero vectors.
    """

    n: int
    within: dict[str, float]
    gap: dict[Pair, float]
    across: dict[Pair, float]
    matched: dict[Pair, float]
    zero_rows: dict[str, int]


def modality_gap(
    features: Mapping[str, Rows],
    *,
    rows: Index | None = None,
    present: Present | None = None,
    engine: Engine = SERIAL,
) -> Alignment:
    """Modality gap and mean cosines, in one pass over the rows.

    With ``μ_m`` the mean of the unit rows of modality m, ``gap = ‖μ_a - μ_b‖``, the mean cosine
    within m is ``‖μ_m‖²`` and across two modalities ``⟨μ_a, μ_b⟩``, so that ``gap² = within_a +
    within_b - 2·across`` (Shen et al., MMCSAL, 2024, Eq. 10 and Table 3).

    Parameters
    ----------
    features : mapping of str to Rows, each (n, d_m)
        At least one modality, and one row.
    rows : (r,) ndarray of int, optional
        Rows to look at, increasing; None: all.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; the features of the others are zeros. Means are over the rows
        that have it, matched pairs over those that have both.
    engine : Engine
        Who does the work; no result depends on it.

    Returns
    -------
    Alignment

    Raises
    ------
    SchemaError
        If there is no sample.
    ParameterError
        If the modalities have different numbers of rows.
    DataError
        If a row holds nan or an infinity.

    Examples
    --------
    >>> report = modality_gap({"a": np.eye(2), "b": np.eye(2)})
    >>> report.gap, report.within["a"], report.matched
    ({('a', 'b'): 0.0}, 0.5, {('a', 'b'): 1.0})
    """
    n, names = same_length(list(features.values())), tuple(features)
    if not n:
        raise SchemaError("expected at least one sample, found none")
    looked = check_rows(rows, n, "rows")
    widths = {name: source.shape[1] for name, source in features.items()}
    pairs = [(a, b) for a, b in combinations(names, 2) if widths[a] == widths[b]]
    step = compute_rows(sum(widths.values()))
    block = partial(_block_sums, names, pairs)
    blocks = map_rows(block, list(features.values()), looked, step=step, engine=engine)
    *sums, matched, zero = reduce(lambda total, more: [*map(np.add, total, more)], blocks)
    masks = check_present(present, names, n)
    has = {name: masks.get(name, np.ones(n, bool))[looked] for name in names}
    count = {name: int(has[name].sum()) for name in names}
    both = np.array([int((has[a] & has[b]).sum()) for a, b in pairs])
    means = {name: total / max(count[name], 1) for name, total in zip(names, sums, strict=True)}
    lacking = len(looked) - np.array([*count.values()])
    return Alignment(
        n=len(looked),
        within={name: float(mean @ mean) for name, mean in means.items()},
        gap={(a, b): float(np.linalg.norm(means[a] - means[b])) for a, b in pairs},
        across={(a, b): float(means[a] @ means[b]) for a, b in pairs},
        matched=dict(zip(pairs, (matched / np.maximum(both, 1)).tolist(), strict=True)),
        zero_rows=dict(zip(names, (zero - lacking).tolist(), strict=True)),
    )


def _block_sums(
    names: tuple[str, ...], pairs: list[Pair], rows: Index, blocks: list[Array]
) -> list[Array]:
    """Sum up the unit rows, the cosines of each pair, and the rows without a direction."""
    unit, zero = _unit_rows(names, rows, blocks)
    matched = [float(np.einsum("ij,ij->", unit[a], unit[b])) for a, b in pairs]
    return [*(z.sum(axis=0) for z in unit.values()), np.array(matched), np.array(zero)]


def matched_cosine(
    features: Features, *, present: Present | None = None, engine: Engine = SERIAL
) -> Floats:
    """Mean cosine of each sample's own modalities, over the pairs of modalities.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d)
        At least two modalities of one width.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; the features of the others are not read.
    engine : Engine, optional
        Who does the work.

    Returns
    -------
    float64 array, shape (n,)
        In [-1, 1]; a modality without a direction contributes 0 to its pairs. Over the pairs that
        a row has; 0 where it has one modality alone.

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
    masks = check_present(present, list(named), len(next(iter(named.values()))))
    named = blanked(named, masks)
    every = len(named) * (len(named) - 1)

    def cosines(rows: Index, blocks: list[Array]) -> tuple[Floats]:
        unit, _ = _unit_rows(tuple(named), rows, blocks)
        # Σ_{a≠b} ⟨z_a, z_b⟩ = ‖Σ z‖² - Σ ‖z‖², but the plain sum rounds less.
        total = sum(np.einsum("ij,ij->i", a, b) for a, b in combinations(unit.values(), 2))
        if not masks:
            return (np.clip(2.0 / every * np.asarray(total), -1.0, 1.0),)
        own = patterns_of(cut(masks, rows), list(named), len(rows)).count
        mean = np.divide(
            2.0 * np.asarray(total), own * (own - 1), out=np.zeros(len(own)), where=own > 1
        )
        return (np.clip(mean, -1.0, 1.0),)

    arrays, step = list(named.values()), compute_rows(sum(widths.values()))
    rows = np.arange(len(arrays[0]))
    (mean,) = join_rows(map_rows(cosines, arrays, rows, step=step, engine=engine), len(rows))
    return mean


def _unit_rows(
    names: tuple[str, ...], rows: Index, blocks: list[Array]
) -> tuple[dict[str, Floats], list[int]]:
    """Rows of each modality divided by their norms, and how many have no direction."""
    unit, zero = {}, []
    for name, block in zip(names, blocks, strict=True):
        with located(dataset=name, rows=rows):
            norms = row_norms(block)
        zero.append(int((norms == 0).sum()))
        unit[name] = block.astype(np.float64) * inverse(norms)[:, None]
    return unit, zero
