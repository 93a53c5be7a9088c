"""Linear heads on the features of the pool, as what trains in a replay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect.core.scores.softmax import probability
from mmselect.replay.data import Data
from mmselect.replay.heads import (
    Features,
    Head,
    View,
    by_modality,
    choose_penalties,
    fit_heads,
    logits,
    scales,
    side_by_side,
    views,
)
from mmselect.replay.trainer import Index, Labeled, Outputs, Seen

BLOCK = 4096
"""Rows whose probabilities are in memory at a time."""


class Fitted(NamedTuple):
    """Heads, and the penalties that were chosen for them at the start.

    Attributes
    ----------
    penalties : dict of view to float
        scikit-learn's C of each head.
    heads : dict of view to Head
        The fused one is the first.
    """

    penalties: dict[View, float]
    heads: dict[View, Head]


class LinearTrainer:
    """Fits a head on each modality and one on all; see `mmselect.replay.heads`."""

    def __init__(self, data: Data, train: Index, test: Index, seed: int) -> None:
        self.file, self.classes, self.seed = data.file, data.classes, seed
        self.features = {name: z[train] for name, z in data.features.items()}
        self.held_out = {name: z[test] for name, z in data.features.items()}
        self.has = data.present(train)
        self.scale = scales(self.features, self.has)

    @staticmethod
    def foreseen(data: Data) -> Seen:
        """Give what strategies will see: heads of zeros."""
        width = {name: z.shape[1] for name, z in data.features.items()}
        blank = {
            view: Head(
                np.zeros((data.classes, sum(width[m] for m in view))), np.zeros(data.classes)
            )
            for view in views(list(width))
        }
        return Seen(data.file, seen(data.features, blank))

    def fit(self, labeled: Labeled, before: Fitted | None) -> Fitted:
        """Fit the heads from where they were; the first time, choose their penalties."""
        given = (self.features, labeled.rows, labeled.targets, self.classes)
        penalties = before.penalties if before else None
        if penalties is None:
            penalties = choose_penalties(*given, self.scale, self.seed, self.has)
        heads = fit_heads(*given, penalties, self.scale, before and before.heads, self.has)
        return Fitted(penalties, heads)

    def seen(self, model: Fitted) -> Seen:
        """Give the features, and the heads with their logits."""
        return Seen(self.file, seen(self.features, model.heads))

    def tested(self, model: Fitted) -> Outputs:
        """Give what the heads say about the test samples."""
        return outputs(self.held_out, model.heads)

    def chances(self, model: Fitted, rows: Index, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probability (r,) that the fused head gives to one class of each sample to pick from."""
        view, head = next(iter(model.heads.items()))
        found = np.empty(len(rows))
        for first in range(0, len(rows), BLOCK):
            some = slice(first, first + BLOCK)
            f = side_by_side(self.features, view, rows[some]) @ head.weight.T + head.bias
            found[some] = probability(f, labels[some])
        return found

    def problems(self, model: Fitted) -> list[str]:
        """Name the heads whose fit did not come to an end."""
        names = ["+".join(view) for view, head in model.heads.items() if not head.converged]
        return [f"head on {name}: the fit did not converge" for name in names]


def seen(features: Features, heads: Mapping[View, Head]) -> dict[str, NDArray[Any]]:
    """Lay features and heads out as an export would hold them."""
    everyone = next(iter(heads))
    arrays: dict[str, NDArray[Any]] = {
        "/multimodal_logits": logits(features, everyone, heads[everyone]),
        "/classifier/bias": heads[everyone].bias,
    }
    for name, weight in by_modality(features, everyone, heads[everyone]).items():
        arrays[f"/features/{name}"] = features[name]
        arrays[f"/unimodal_logits/{name}"] = logits(features, (name,), heads[(name,)])
        arrays[f"/classifier/weight/{name}"] = weight
    return arrays


def outputs(features: Features, heads: Mapping[View, Head]) -> Outputs:
    """Say what heads make of samples; the first one is the fused head.

    Examples
    --------
    >>> head = Head(np.array([[2.0, 0.0], [0.0, 0.0]]), np.zeros(2))
    >>> z = {"image": np.ones((1, 1)), "text": np.ones((1, 1))}
    >>> alone = {(m,): Head(np.array([[1.0], [0.0]]), np.zeros(2)) for m in z}
    >>> found = outputs(z, {("image", "text"): head, **alone})
    >>> found.fused.tolist(), found.modalities
    ([[2.0, 0.0]], ('image', 'text'))
    >>> found.values(np.array([0]), np.array([0])).round(3).tolist()
    [[0.5, 0.881, 0.5, 0.881]]
    """
    fused = next(iter(heads))
    blocks = by_modality(features, fused, heads[fused])

    def values(rows: Index, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        partial = [features[m][rows] @ block.T for m, block in blocks.items()]
        return coalition_values(partial, heads[fused].bias, labels)

    alone = {m: logits(features, (m,), heads[(m,)]) for m in fused}
    everyone = logits(features, fused, heads[fused])
    return Outputs(everyone, alone, fused, values, heads[fused].seen)


def coalition_values(
    partial: list[NDArray[Any]], bias: NDArray[Any], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Value (n, 2^m) of each coalition: V(S) = softmax(b + Σ_{m∈S} W_m z_m)_y.

    Parameters
    ----------
    partial : list of (n, c) array
        W_m z_m of each modality.
    bias : (c,) array
    labels : (n,) integer array
        y of each sample.
    """
    values = np.empty((len(labels), 1 << len(partial)))
    for coalition in range(values.shape[1]):
        members = [p for m, p in enumerate(partial) if coalition >> m & 1]
        f = bias + sum(members, np.zeros((len(labels), len(bias))))
        values[:, coalition] = probability(f, labels)
    return values
