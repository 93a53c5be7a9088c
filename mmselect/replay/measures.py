"""What is measured after every round, on test samples that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from mmselect.core.presence import matrix_of
from mmselect.core.scores.shapley import contributions, shapley_values
from mmselect.core.scores.softmax import probability
from mmselect.replay.heads import Features, Head, Present, View, by_modality, logits


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
    heads: Mapping[View, Head],
    features: Features,
    labels: NDArray[np.int64],
    shares: NDArray[np.float32] | None = None,
    present: Present | None = None,
) -> dict[str, float | None]:
    """Measure heads on test samples.

    Parameters
    ----------
    heads : mapping of view to Head
        The first one is the fused head.
    features : mapping of modality to (n, d) array
        Of the test samples.
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
    fused = next(iter(heads))
    found: dict[str, float | None] = {}
    for view in (fused, *((m,) for m in fused)):
        guess = logits(features, view, heads[view]).argmax(axis=1)
        right = guess == labels if shares is None else shares[np.arange(len(guess)), guess]
        head = "" if view is fused else f".{view[0]}"
        own = (present or {}).get(view[0], slice(None)) if head else slice(None)
        classes, index, size = np.unique(labels[own], return_inverse=True, return_counts=True)
        recalls = np.bincount(index, right[own]) / size
        some = len(index) > 0
        found[f"accuracy{head}"] = float(right[own].mean(dtype=np.float64)) if some else None
        found[f"accuracy.balanced{head}"] = float(recalls.mean()) if some else None
        if view is fused:
            f1 = f1_score(labels, guess, labels=classes, average="macro", zero_division=0)
            found["macro_f1"] = float(f1)
    known = np.flatnonzero(heads[fused].seen[labels])
    has = matrix_of(present or {}, fused, known)
    seen = {m: features[m][known] for m in fused}
    share = truth_contributions(heads[fused], seen, labels[known], has)
    every = len(share) if has is None else np.maximum(has.sum(axis=0), 1)
    mean = (share.sum(axis=0) / every).tolist() if len(share) else [None] * len(fused)
    return {
        **found,
        **{f"contribution.{m}": x for m, x in zip(fused, mean, strict=True)},
        "contribution_difference": max(mean) - min(mean) if len(share) else None,
    }


def truth_contributions(
    head: Head,
    features: Features,
    labels: NDArray[np.int64],
    has: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Contribution Φ (n, m) of each modality to the probability of the true class.

    V(S) = softmax(b + Σ_{m∈S} W_m z_m)_y with the true class y in place of BMMAL's pseudo-class;
    φ and Φ as in Eqs. 10 and 12; `has` (n, m) says which modalities each sample has, None all.

    Examples
    --------
    >>> head = Head(np.array([[2.0, 0.0], [0.0, 0.0]]), np.zeros(2))
    >>> z = {"image": np.ones((1, 1)), "text": np.ones((1, 1))}
    >>> truth_contributions(head, z, np.array([0])).tolist()
    [[1.0, 0.0]]
    """
    names = tuple(sorted(features))
    partial = [features[m] @ block.T for m, block in by_modality(features, names, head).items()]
    values = np.empty((len(labels), 1 << len(names)))
    for coalition in range(1 << len(names)):
        members = [p for m, p in enumerate(partial) if coalition >> m & 1]
        f = head.bias + sum(members, np.zeros((len(labels), len(head.bias))))
        values[:, coalition] = probability(f, labels)
    return contributions(shapley_values(values), has)
