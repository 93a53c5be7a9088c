"""Does rescaling treat the modalities more evenly? The report on BMMAL's guidelines (Sec. 3.3).

The pool is cut into subsets X_m in which modality m contributes most (Eq. 6). Guideline 2 asks that
the mean acquisition score of the samples that the weaker modality dominates, divided by that of the
samples that the stronger one dominates, grows when gradients are rescaled (Eq. 9). Figure 6 shows
why it does: mean weights in those subsets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmselect.arrays import Array, Floats
from mmselect.core.presence import Mask
from mmselect.core.scores.shapley import balance_weights, dominance_degree
from mmselect.errors import ParameterError


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


def guideline_report(
    contribution: Array, before: Array, after: Array, has: Mask | None = None
) -> GuidelineReport:
    """Compute Eq. 9's two ratios, and the means of Fig. 6.

    Parameters
    ----------
    contribution : (n, m) ndarray
        Φ of each sample, of at least one.
    before, after : (n,) ndarray
        Acquisition ‖g‖ with w = 1 (BADGE) and with the balance weights (BMMAL).
    has : (n, m) ndarray of bool, optional
        Which modalities each sample has: means of contributions and weights are over the samples
        that have the modality. None: all.

    Returns
    -------
    GuidelineReport

    Raises
    ------
    ParameterError
        If the shapes do not fit together, or there are no samples.

    Examples
    --------
    >>> phi = np.array([[0.75, 0.25], [0.5, 0.5], [0.375, 0.625]])
    >>> report = guideline_report(phi, np.array([2.0, 2.0, 2.0]), np.array([1.0, 2.0, 1.5]))
    >>> report.weaker, report.ratio_before, report.ratio_after
    (1, 1.0, 1.0)
    """
    n, m = contribution.shape
    if before.shape != (n,) or after.shape != (n,):
        raise ParameterError(f"norms: expected ({n},), found {before.shape} and {after.shape}")
    if not n:
        raise ParameterError("contributions: expected at least one sample, found none")
    member = np.zeros((n, m))
    member[np.arange(n), contribution.argmax(axis=1)] = 1
    size, rho = member.sum(axis=0), member.T @ dominance_degree(contribution, has)
    count = np.where(size > 0, size, np.nan)
    everyone = np.ones((n, m)) if has is None else has.astype(np.float64)
    owners = member.T @ everyone
    mean = (member.T @ contribution).sum(axis=0) / everyone.sum(axis=0)
    weaker, stronger = int(mean.argmin()), int(mean.argmax())
    norm_before, norm_after = member.T @ before / count, member.T @ after / count
    return GuidelineReport(
        samples=n,
        contribution=mean,
        dominance=float(rho.sum() / n),
        share=size / n,
        dominance_within=rho / count,
        weight=member.T @ balance_weights(contribution, has) / np.where(owners > 0, owners, np.nan),
        norm_before=norm_before,
        norm_after=norm_after,
        weaker=weaker,
        stronger=stronger,
        ratio_before=_ratio(norm_before[weaker], norm_before[stronger]),
        ratio_after=_ratio(norm_after[weaker], norm_after[stronger]),
    )


def _ratio(over: float, under: float) -> float:
    return float(over / under) if under else float("nan")
