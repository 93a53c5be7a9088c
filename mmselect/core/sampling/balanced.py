"""BMMAL's gradient embeddings, whose balance weights are found when rows are asked for.

Weights w_m = 1 − (max Φ − Φ_m) (Eq. 14) take a product of features and head for each sample, and
softmax over the classes of every coalition: several times the work of everything else. But none is
above 1, so the gradients of BADGE, w = 1, are at least as long. That bounds what a sample can be,
and the D² sampler takes bounds: weights are needed for the rows alone that are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmselect.arrays import Array, Floats, Index, Rows, Singles
from mmselect.core.presence import Mask
from mmselect.core.sampling.gradients import GradientPoints
from mmselect.core.sampling.points import Points
from mmselect.core.scores.coalitions import block_rows, linear_block, linear_shapley
from mmselect.core.scores.linear import LinearLogits
from mmselect.core.scores.shapley import balance_weights, contributions
from mmselect.engine import Engine, ranges


@dataclass(frozen=True)
class BalancedPoints(Points):
    """Gradient embeddings rescaled by how modalities contribute, by a linear fused head.

    Parameters
    ----------
    plain : GradientPoints
        With w = 1.
    head : LinearLogits
        The fused head over the same features.
    has : (n, m) ndarray of bool, optional
        Which modalities each sample has; None: all.

    Examples
    --------
    >>> from mmselect.core.sampling.points import factors
    >>> z, w = {"a": np.array([[1.0]]), "b": np.array([[0.0]])}, np.array([[np.log(3)], [0.0]])
    >>> head = LinearLogits(z, {"a": w, "b": w})
    >>> points = BalancedPoints(GradientPoints(head, z), head)
    >>> factors(points)[1].tolist(), factors(points.outer)[1].tolist()
    ([[1.0, 0.0]], [[1.0, 0.0]])
    """

    plain: GradientPoints
    head: LinearLogits
    has: Mask | None = None

    def __len__(self) -> int:
        return len(self.plain)

    @property
    def sources(self) -> tuple[Rows, ...]:
        """Logits, the features of each modality, and which of them each sample has."""
        return self.plain.sources if self.has is None else (*self.plain.sources, self.has)

    @property
    def widths(self) -> tuple[int, ...]:
        """C and Σd."""
        return self.plain.widths

    @property
    def outer(self) -> GradientPoints:
        """BADGE's gradients, as of weights that are known."""
        return self.plain

    def detached(self) -> BalancedPoints:
        """Return the same arithmetic without the samples."""
        has = None if self.has is None else self.has[:0]
        return replace(self, plain=self.plain.detached(), head=self.head.detached(), has=has)

    def settled(self, rows: Index, engine: Engine) -> GradientPoints:
        """Compute the weights of `rows` in one pass; those of others are 1."""
        head = self.head
        phi, _ = linear_shapley(head.features, head.weight, head.bias, rows=rows, engine=engine)
        return known_points(self.plain, rows, phi, None if self.has is None else self.has[rows])

    def factors(self, rows: Index, arrays: Sequence[Array]) -> tuple[Singles, ...]:
        """Compute a (b, c) and h (b, Σd) in float32."""
        points, known = self._weighted(rows, arrays)
        return points.factors(rows, known)

    def squared_norms(self, rows: Index, arrays: Sequence[Array]) -> tuple[Floats, Floats]:
        """‖a‖²‖h‖², twice: the origin of gradients is zero."""
        points, known = self._weighted(rows, arrays)
        return points.squared_norms(rows, known)

    def measured(self, rows: Index, arrays: Sequence[Array]) -> tuple[tuple[Singles, ...], Floats]:
        """Both, with the weights computed once."""
        points, known = self._weighted(rows, arrays)
        return points.measured(rows, known)

    def _weighted(
        self, rows: Index, arrays: Sequence[Array]
    ) -> tuple[GradientPoints, Sequence[Array]]:
        """Make points whose weights are known of these rows, and what stands in them."""
        m, head, names = len(self.plain.features), self.head, list(self.plain.features)
        known = list(arrays[: 1 + m])
        phi = np.empty((len(rows), m))
        for start, stop in ranges(0, len(rows), block_rows(len(head.base))):
            some = [z[start:stop] for z in known[1:]]
            found = linear_block(names, head.heads, head.base, rows[start:stop], some)
            phi[start:stop] = found[0]
        known.append(_weights(phi, None if self.has is None else arrays[1 + m]))
        return replace(self.plain.detached(), weights=known[-1][:0]), known


def known_points(
    plain: GradientPoints, rows: Index, phi: Floats, has: Mask | None = None
) -> GradientPoints:
    """Rescale `rows` by their Shapley values; the weights of others are 1.

    Parameters
    ----------
    plain : GradientPoints
        With w = 1.
    rows : (r,) ndarray of int
    phi : (r, m) ndarray
    has : (r, m) ndarray of bool, optional
        Which modalities each of them has; None: all.

    Examples
    --------
    >>> plain = GradientPoints(np.zeros((2, 2)), {"a": np.eye(2), "b": np.eye(2)})
    >>> known_points(plain, np.array([1]), np.array([[0.75, 0.25]])).weights.tolist()
    [[1.0, 1.0], [1.0, 0.5]]
    """
    weights = np.ones((len(plain), phi.shape[1]))
    weights[rows] = _weights(phi, has)
    return replace(plain, weights=weights)


def _weights(phi: Floats, has: Mask | None) -> Floats:
    return balance_weights(contributions(phi, has), has)
