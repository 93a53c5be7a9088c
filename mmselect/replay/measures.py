"""What is measured after every round, on test samples that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from mmselect.core.presence import matrix_of
from mmselect.core.scores.shapley import contributions, shapley_values
from mmselect.replay.trainer import Outputs


def accuracies(modalities: Sequence[str]) -> list[str]:
    """Names of the measures that say how often heads are right.

    Examples
    --------
    >>> accuracies(["a"])
    ['accuracy', 'accuracy.a', 'accuracy.balanced', 'accuracy.balanced.a', 'macro_f1']
    """
    heads = ["", *(f".{m}" for m in modalities)]
    kinds = ("accuracy", "accuracy.balanced")
    return [*(f"{kind}{head}" for kind in kinds for head in heads), "macro_f1"]


def measure(
    outputs: Outputs,
    labels: NDArray[np.int64],
    shares: NDArray[np.float32] | None = None,
    present: Mapping[str, NDArray[np.bool_]] | None = None,
) -> dict[str, float | None]:
    """Measure what a model says about test samples.

    Parameters
    ----------
    outputs : Outputs
    labels : (n,) integer array
    shares : (n, c) float array, optional
        How right each class is; a guess is right by the share of its class (VQA accuracy). None:
        the label is, alone.
    present : mapping of modality to (n,) boolean array, optional
        Which samples have it: its head is measured on those, and so is its contribution.

    Returns
    -------
    dict of str to float or None
        ``accuracy`` (top-1 of the fused head, a share), ``accuracy.{m}`` (of the head on one
        modality), ``accuracy.balanced`` and ``accuracy.balanced.{m}`` (the mean over the classes of
        the test samples of the share that is right), ``macro_f1`` (mean over the same classes),
        ``contribution.{m}`` (mean Φ_m of the probability that the fused head gives to the true
        class, over the samples whose class has a label; None where there is no such sample) and
        ``contribution_difference`` (the largest of them less the smallest): BMMAL, Figs. 2 and 3.
    """
    found: dict[str, float | None] = {}
    for head, logits in outputs.heads.items():
        guess, own = logits.argmax(axis=1), tested_on(head, present)
        right = guess == labels if shares is None else shares[np.arange(len(guess)), guess]
        classes, index, size = np.unique(labels[own], return_inverse=True, return_counts=True)
        recalls = np.bincount(index, right[own]) / size
        some = len(index) > 0
        found[f"accuracy{head}"] = float(right[own].mean(dtype=np.float64)) if some else None
        found[f"accuracy.balanced{head}"] = float(recalls.mean()) if some else None
        if not head:
            f1 = f1_score(labels, guess, labels=classes, average="macro", zero_division=0)
            found["macro_f1"] = float(f1)
    return {**found, **_contributed(outputs, labels, present)}


def tested_on(head: str, present: Mapping[str, NDArray[np.bool_]] | None) -> Any:
    """Which samples a head is tested on, by the ending of its measures."""
    return (present or {}).get(head[1:], slice(None)) if head else slice(None)


def _contributed(
    outputs: Outputs,
    labels: NDArray[np.int64],
    present: Mapping[str, NDArray[np.bool_]] | None,
) -> dict[str, float | None]:
    """Mean contributions to the true class, over the samples whose class has a label."""
    known, names = np.flatnonzero(outputs.seen[labels]), outputs.modalities
    mean: list[float] | list[None] = [None] * len(names)
    if len(known) and outputs.values is not None:
        has = matrix_of(present or {}, names, known)
        share = contributions(shapley_values(outputs.values(known, labels[known])), has)
        every = len(share) if has is None else np.maximum(has.sum(axis=0), 1)
        mean = (share.sum(axis=0) / every).tolist()
    there = [x for x in mean if x is not None]
    return {
        **{f"contribution.{m}": x for m, x in zip(names, mean, strict=True)},
        "contribution_difference": max(there) - min(there) if there else None,
    }
