"""What ``info`` says from numbers of a pool: modality gap, contributions, class shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from mmselect.arrays import Index, evenly_spread
from mmselect.core.scores.alignment import Alignment, modality_gap
from mmselect.core.scores.confidence import top_class
from mmselect.core.scores.guidelines import guideline_report
from mmselect.core.scores.shapley import balance_weights, contributions
from mmselect.describe.report import BLANK, Table
from mmselect.engine import Engine
from mmselect.errors import DataError
from mmselect.output.layout import percent
from mmselect.output.tables import class_names
from mmselect.pool.reading import Pool
from mmselect.predictions import FUSED, heads_of
from mmselect.request import lacking
from mmselect.strategies import gradients, registry

SHOWN = 10
"""Classes whose shares are shown to people, those that differ most first."""

SAMPLED, RUN = 20_000, 16
"""Rows that are looked at unless all are asked for, and how many of them lie side by side."""


class Looked(NamedTuple):
    """Rows from whose numbers a pool is described.

    Attributes
    ----------
    rows : (r,) ndarray of int
        Of all rows.
    unlabeled : (u,) ndarray of int
        Of those that are not labeled.
    """

    rows: Index
    unlabeled: Index

    @property
    def each(self) -> Index:
        """Every row that is in either."""
        return np.union1d(self.rows, self.unlabeled)


def rows_to_look_at(pool: Pool, full: bool = False) -> Looked:
    """Choose at most 20,000 evenly spread rows, in runs of 16; or all.

    Examples
    --------
    >>> import mmselect
    >>> from mmselect.demo import EMOJI
    >>> with mmselect.open_pool(EMOJI) as pool:
    ...     len(rows_to_look_at(pool).rows)
    3812
    """

    def some(rows: Index) -> Index:
        few = full or len(rows) <= SAMPLED
        return rows if few else rows[evenly_spread(len(rows), SAMPLED // RUN, RUN)]

    return Looked(some(np.arange(pool.n)), some(np.flatnonzero(~pool.labeled)))


@dataclass(frozen=True)
class NumbersReport:
    """What ``info`` says from numbers: modality gap, contributions, and class shares.

    `sampled` is how many rows of how many were looked at, where it was not all of them.
    """

    alignment: list[dict[str, Any]]
    contributions: dict[str, Any] | None
    class_shares: list[dict[str, Any]] | None = None
    sampled: dict[str, int] | None = None

    def rows(self) -> Iterator[Table]:
        """Tables for people, each with a blank line before it."""
        if self.sampled:
            said = f"sampled: {self.sampled['rows']:,} of {self.sampled['of']:,} rows"
            yield from (BLANK, [("numbers below", f"{said}, evenly spread; --full reads all")])
        for pair in self.alignment:
            a, b = pair["modalities"]
            cosines = (
                f"within {a} {pair[f'within_{a}']:.6f}, within {b} {pair[f'within_{b}']:.6f}, "
                f"across {pair['across']:.6f}, matched {pair['matched']:.6f}"
            )
            gap = (f"modality gap, {a} and {b}", f"{pair['gap']:.6f}")
            yield from (BLANK, [gap, ("mean cosine", cosines)])
        if self.contributions:
            yield from (BLANK, *_contribution_rows(self.contributions))
        if self.class_shares:
            yield from (BLANK, _share_rows(self.class_shares))


def _share_rows(found: list[dict[str, Any]]) -> Table:
    """Class shares, those that differ most first."""
    table: Table = [("class", "share of the labels", "of the predictions", "difference")]
    order = sorted(found, key=lambda row: -abs(row["labeled"] - row["predicted"]))
    for row in order[:SHOWN]:
        shares = [row["labeled"], row["predicted"]]
        apart = f"{100 * (shares[0] - shares[1]):+.1f}"
        table.append((row["class"], *map(percent, shares), apart))
    if len(found) > SHOWN:
        table.append((f"{len(found) - SHOWN} more differ less", "", "", ""))
    return table


def _contribution_rows(found: Mapping[str, Any]) -> Iterator[Table]:
    """BMMAL's view of the pool: contributions, dominance, and the guidelines' ratios."""
    names = list(found["mean"])
    table: Table = [
        ("unlabeled rows", "mean contribution", "dominates", *(f"weight of {m}" for m in names))
    ]
    for name in names:
        weights = [_three(found["weight_where_dominated_by"][name][other]) for other in names]
        share = percent(found["dominates"][name])
        table.append((name, f"{found['mean'][name]:.3f}", share, *weights))
    yield table
    rows: Table = [("mean dominance degree", _three(found["dominance"]))]
    if len(names) > 1:
        ratio = f"gradient norm where each dominates, {found['weaker']} over {found['stronger']}"
        rows.append((ratio, _three(found["norm_ratio_before"])))
        rows.append(("the same, rescaled by BMMAL", _three(found["norm_ratio_after"])))
    yield rows


def _three(value: float) -> str:
    """Three decimals, or a dash for a mean over nothing."""
    return "–" if value != value else f"{value:.3f}"


def describe_numbers(pool: Pool, looked: Looked, how: Engine) -> NumbersReport:
    """Modality gap, class shares and contributions: two passes over the rows that are looked at."""
    seen, n = len(looked.rows), pool.n
    with pool.located():
        return NumbersReport(
            alignment=describe_alignment(pool, looked.rows, how),
            contributions=_contributions(pool, looked.unlabeled, how),
            class_shares=_class_shares(pool, looked.rows, how),
            sampled={"rows": seen, "of": n} if seen < n else None,
        )


def _class_shares(pool: Pool, rows: Index, how: Engine) -> list[dict[str, Any]] | None:
    """Share of each class among all labels, and among the fused head's predictions for `rows`.

    None where nothing is labeled, or there are no labels or no logits of the fused head.
    """
    head = heads_of(pool).get(FUSED)
    if "/label" not in pool.columns or head is None or not pool.labeled.any():
        return None
    every = pool.columns["/label"][:].astype(np.intp)
    labels = every[pool.labeled & (every >= 0)]
    if not len(labels):
        return None
    most = head.shape[1] + pool.n  # every class has a row in what is shown
    if (wrong := np.flatnonzero(pool.labeled & (every >= most))).size:
        message = f"expected a class below {most:,}, found {every[wrong[0]]}"
        with pool.located():
            raise DataError(message, dataset="/label", rows=wrong.tolist())
    predicted = top_class(head, rows, how, FUSED)
    c = max(head.shape[1], int(labels.max()) + 1)
    shares = [np.bincount(each, minlength=c) / len(each) for each in (labels, predicted)]
    return [
        {"class": x, "labeled": y, "predicted": z}
        for x, y, z in zip(class_names(pool, c), *(share.tolist() for share in shares), strict=True)
    ]


def describe_alignment(pool: Pool, rows: Index, how: Engine) -> list[dict[str, Any]]:
    """Modality gap and mean cosines of each pair of modalities (MMCSAL, Eq. 10 and Table 3).

    One pass over the features; pairs of unequal widths are left out.
    """
    if len(pool.names("/features")) < 2 or not pool.n:
        return []
    return alignment_pairs(measure_alignment(pool, how, rows))


def measure_alignment(pool: Pool, how: Engine, rows: Index | None = None) -> Alignment:
    """Measure the modality gap; the modalities are called by their paths."""
    paths = [f"/features/{name}" for name in pool.names("/features")]
    features = {path: pool.columns[path] for path in paths}
    present = {p: c.present for p, c in features.items() if c.present is not None}
    with pool.located():
        return modality_gap(features, rows=rows, present=present, engine=how)


def alignment_pairs(found: Alignment) -> list[dict[str, Any]]:
    """List the pairs of modalities whose widths are equal, as plain data."""
    names = [(path.removeprefix("/features/"), path) for path in found.within]
    return [
        {
            "modalities": [a, b],
            "gap": found.gap[p, q],
            f"within_{a}": found.within[p],
            f"within_{b}": found.within[q],
            "across": found.across[p, q],
            "matched": found.matched[p, q],
        }
        for (a, p), (b, q) in combinations(names, 2)
        if (p, q) in found.gap
    ]


def _contributions(pool: Pool, rows: Index, how: Engine) -> dict[str, Any] | None:
    """Say what each modality contributes over unlabeled rows, and the guideline report.

    BMMAL, Sec. 3.3: Eq. 9's two ratios, and the mean weight per dominating modality as in Fig. 6.
    None where the pool lacks what BMMAL needs.
    """
    record = registry.BUILT_IN["bmmal"]
    if lacking(record, pool) or not len(rows):
        return None
    sources: dict[str, Any] = {**pool.columns, **pool.constants}
    model = gradients.model_of(sources)
    has, (phi, _) = model.has(rows), model.shapley(rows, how)
    share = contributions(phi, has)
    norms = gradients.gradient_norms(model, rows, balance_weights(share, has), how)
    found = guideline_report(share, *norms, has)
    names = pool.names("/features")
    return {
        "samples": found.samples,
        "mean": dict(zip(names, found.contribution.tolist(), strict=True)),
        "dominates": dict(zip(names, found.share.tolist(), strict=True)),
        "dominance": found.dominance,
        "weaker": names[found.weaker],
        "stronger": names[found.stronger],
        "norm_ratio_before": found.ratio_before,
        "norm_ratio_after": found.ratio_after,
        "weight_where_dominated_by": {
            name: dict(zip(names, row.tolist(), strict=True))
            for name, row in zip(names, found.weight, strict=True)
        },
    }
