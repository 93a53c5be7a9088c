"""Does rescaling treat the modalities more evenly? The report on BMMAL's guidelines (Sec. 3.3).

The pool is cut into subsets X_m in which modality m contributes most (Eq. 6). Guideline 2 asks that
the mean acquisition score of the samples that the weaker modality dominates, divided by that of the
samples that the stronger one dominates, grows when gradients are rescaled (Eq. 9). Figure 6 shows
why it does: mean weights in those subsets.

Everything is a sum over samples, so the sums of two parts of a pool add up to those of the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmselect.arrays import Array, Floats
from mmselect.core.scores.shapley import balance_weights, dominance_degree
from mmselect.errors import ParameterError


@dataclass(frozen=True)
class GuidelineSums:
    """Sums over samples, by dominating modality (axis 0 of all): see :func:`guideline_sums`."""

    count: Floats
    contribution: Floats
    weight: Floats
    dominance: Floats
    before: Floats
    after: Floats

    def __add__(self, other: GuidelineSums) -> GuidelineSums:
        return GuidelineSums(
            self.count + other.count,
            self.contribution + other.contribution,
            self.weight + other.weight,
            self.dominance + other.dominance,
            self.before + other.before,
            self.after + other.after,
        )


@dataclass(frozen=True)
class GuidelineReport:
    """What rescaling does to a pool; modalities by position.

    A mean over an empty subset is nan, and so is a ratio that needs it.

    Attributes
    ----------
    samples : int
    contribution : (m,) ndarray
        Mean contribution Φ of each modality.
    dominance : float
        Mean dominance degree ρ.
    share : (m,) ndarray
        Share of the samples that each modality dominates (the first one on ties).
    dominance_within : (m,) ndarray
        Mean ρ of the samples that each modality dominates.
    weight : (m, m) ndarray
        Row a, column b: mean weight of modality b over the samples that a dominates (Fig. 6).
    norm_before, norm_after : (m,) ndarray
        Mean ‖g‖ of the samples that each modality dominates, with w = 1 and rescaled.
    weaker, stronger : int
        Modalities with the smallest and the largest mean contribution.
    ratio_before, ratio_after : float
        The two sides of Eq. 9: mean norm where the weaker modality dominates, over that where the
        stronger one does.
    """

    samples: int
    contribution: Floats
    dominance: float
    share: Floats
    dominance_within: Floats
    weight: Floats
    norm_before: Floats
    norm_after: Floats
    weaker: int
    stronger: int
    ratio_before: float
    ratio_after: float


def guideline_sums(contribution: Array, before: Array, after: Array) -> GuidelineSums:
    """Sum up some samples for the report.

    Parameters
    ----------
    contribution : (b, m) ndarray
        Φ of each sample.
    before, after : (b,) ndarray
        Acquisition ‖g‖ with w = 1 (BADGE) and with the balance weights (BMMAL).

    Returns
    -------
    GuidelineSums
        Parts of a pool are added with ``+``.

    Raises
    ------
    ParameterError
        If the shapes do not fit together.

    Examples
    --------
    >>> sums = guideline_sums(np.array([[0.75, 0.25]]), np.array([2.0]), np.array([1.5]))
    >>> (sums + sums).count.tolist(), sums.weight.tolist()
    ([2.0, 0.0], [[1.0, 0.5], [0.0, 0.0]])
    """
    n, m = contribution.shape
    if before.shape != (n,) or after.shape != (n,):
        raise ParameterError(f"norms: expected ({n},), found {before.shape} and {after.shape}")
    member = np.zeros((n, m))
    member[np.arange(n), contribution.argmax(axis=1)] = 1
    return GuidelineSums(
        count=member.sum(axis=0),
        contribution=member.T @ contribution,
        weight=member.T @ balance_weights(contribution),
        dominance=member.T @ dominance_degree(contribution),
        before=member.T @ before,
        after=member.T @ after,
    )


def guideline_report(sums: GuidelineSums) -> GuidelineReport:
    """Turn sums into the report: Eq. 9's two ratios, and the means of Fig. 6.

    Parameters
    ----------
    sums : GuidelineSums
        Of at least one sample.

    Returns
    -------
    GuidelineReport

    Raises
    ------
    ParameterError
        If there are no samples.

    Examples
    --------
    >>> phi = np.array([[0.75, 0.25], [0.5, 0.5], [0.375, 0.625]])
    >>> norms = np.array([2.0, 2.0, 2.0])
    >>> report = guideline_report(guideline_sums(phi, norms, np.array([1.0, 2.0, 1.5])))
    >>> report.weaker, report.ratio_before, report.ratio_after
    (1, 1.0, 1.0)
    """
    samples = sums.count.sum()
    if not samples:
        raise ParameterError("contributions: expected at least one sample, found none")
    count = np.where(sums.count > 0, sums.count, np.nan)
    contribution = sums.contribution.sum(axis=0) / samples
    weaker, stronger = int(contribution.argmin()), int(contribution.argmax())
    before, after = sums.before / count, sums.after / count
    return GuidelineReport(
        samples=int(samples),
        contribution=contribution,
        dominance=float(sums.dominance.sum() / samples),
        share=sums.count / samples,
        dominance_within=sums.dominance / count,
        weight=sums.weight / count[:, None],
        norm_before=before,
        norm_after=after,
        weaker=weaker,
        stronger=stronger,
        ratio_before=_ratio(before[weaker], before[stronger]),
        ratio_after=_ratio(after[weaker], after[stronger]),
    )


def _ratio(over: float, under: float) -> float:
    return float(over / under) if under else float("nan")
