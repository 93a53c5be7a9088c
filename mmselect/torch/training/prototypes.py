"""Prototypes of one modality: cluster centres of its features, and how tight each cluster is."""

from __future__ import annotations

import itertools
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmselect.arrays import Array, Floats, Index
from mmselect.core.coverage.kmeans import cluster_centres, fill_empty
from mmselect.core.limits import check_limits
from mmselect.engine import Engine, ranges
from mmselect.errors import DataError, ParameterError, SelectionError
from mmselect.torch.training.losses import TAU, unit

SAMPLED = 64
"""Rows for each prototype that the clustering sees; of more, a random part is taken."""

ROWS = 8192
"""Rows whose prototypes are looked for at a time."""

Features: TypeAlias = Any
"""A tensor, or what has a length and gives rows as one, by a slice or an array of row numbers."""

COPIES = 1e-5
"""Mean distance to the centre below which a cluster holds copies of one point, up to rounding."""


class UnimodalPrototypes:
    """k prototypes of one modality, made again from its features at the start of every epoch.

    Stage 1 of MMCSAL (ACM MM Asia 2024, Eqs. 2 and 3), after PCL (Li et al., ICLR 2021): k-means by
    faiss on unit features, on a CPU with torch's number of threads. Distances are measured to the
    centres as k-means leaves them; for the loss the centres are put on the unit sphere.

    Parameters
    ----------
    k : int
        Prototypes. The paper takes 500, 1000 and 5000 for 22, 46 and 181 thousand samples.
    tau : float
        Mean of the concentrations.
    smoothing : float
        α in the concentration's ``log(Z + α)``, above 1.
    iterations : int
        Lloyd iterations.
    seed : int
        Equal seeds give equal prototypes, refresh after refresh.

    Attributes
    ----------
    centroids : (k, d) float32 tensor
        Unit vectors c_s, on the device of the features.
    concentration : (k,) float32 tensor
        φ_s; see :func:`concentrations`.
    assigned : (n,) int64 tensor
        Each sample's prototype; -1 for a row of zeros, which belongs to none.

    Examples
    --------
    >>> z = torch.tensor([[1.0, 0.1], [1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    >>> prototypes = UnimodalPrototypes(2)
    >>> prototypes.refresh(z)
    >>> a, b, c, d = prototypes.assigned.tolist()
    >>> (a == b, c == d, a == c), prototypes.concentration
    ((True, True, False), tensor([0.0700, 0.0700]))
    """

    centroids: Tensor
    concentration: Tensor
    assigned: Tensor

    def __init__(
        self,
        k: int,
        *,
        tau: float = TAU,
        smoothing: float = 10.0,
        iterations: int = 20,
        seed: int = 0,
    ) -> None:
        check_limits(prototypes=k, tau=tau, smoothing=smoothing, iterations=iterations)
        self.k, self.tau, self.smoothing, self.iterations = k, tau, smoothing, iterations
        self._rng = np.random.default_rng(seed)

    @torch.no_grad()
    def refresh(self, features: Features) -> None:
        """Cluster the features as they are now; no gradient passes.

        Of more than 64 rows for each prototype, a random part is clustered.

        Parameters
        ----------
        features : (n, d) tensor, or what gives (b, d) tensors
            All samples: a tensor or anything that has a length and returns rows by a slice and by
            an array of row numbers. Normalised here.

        Raises
        ------
        SelectionError
            If fewer rows than prototypes have a direction.
        ParameterError
            If rows are no matrix.
        DataError
            If there is nan or inf.
        """
        centres = self._cluster(features[self.sampled_rows(len(features))])
        self.assigned, distance = _nearest_of_all(features, centres)
        _check_finite(distance)
        self.centroids = functional.normalize(centres, dim=1)
        found, owner = distance.cpu().numpy(), self.assigned.cpu().numpy()
        phi = concentrations(found, owner, self.k, self.tau, self.smoothing)
        self.concentration = torch.from_numpy(phi).to(centres)

    def sampled_rows(self, n: int) -> Index:
        """Draw the rows of n, in increasing order, that the clustering should see."""
        if n <= SAMPLED * self.k:
            return np.arange(n)
        return np.sort(self._rng.choice(n, SAMPLED * self.k, replace=False))

    def _cluster(self, sample: Tensor) -> Tensor:
        if sample.ndim != 2:
            raise ParameterError(f"expected features (n, d), found shape {tuple(sample.shape)}")
        z = unit(sample).float()
        _check_finite(z)
        z = z[z.any(dim=1)]
        if len(z) < self.k:
            message = f"expected at least {self.k:,} rows with a direction, found {len(z):,}"
            raise SelectionError(f"prototypes: {message}")
        x, threads = np.ascontiguousarray(z.cpu().numpy()), torch.get_num_threads()
        centres = cluster_centres(x, self.k, self._rng, self.iterations, threads)
        fill_empty(x, centres, Engine(threads))
        return torch.from_numpy(centres).to(z.device)


def _check_finite(found: Tensor) -> None:
    """Refuse what comes of nan and inf: a unit vector or a distance that is no number."""
    if not bool(found.isfinite().all()):
        raise DataError("expected finite features, found nan or inf")


def _nearest_of_all(features: Features, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centre of every row, and the distance to it.

    Room is made once: small results kept between large temporary ones would hold on to the memory
    of these, a gigabyte for a million rows.
    """
    assigned = torch.empty(len(features), dtype=torch.int64, device=centres.device)
    distance = torch.empty(len(features), device=centres.device)
    for here in itertools.starmap(slice, ranges(0, len(features), ROWS)):
        assigned[here], distance[here] = nearest(unit(features[here]).float(), centres)
    return assigned, distance


def nearest(z: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centre of each row, and the distance to it.

    Parameters
    ----------
    z : (b, d) tensor
    centres : (k, d) tensor

    Returns
    -------
    assigned : (b,) int64 tensor
        -1 for a row of zeros.
    distance : (b,) tensor

    Examples
    --------
    >>> nearest(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 9.0], [1.0, 0.0]]))
    (tensor([ 1, -1]), tensor([2., 1.]))
    """
    closeness = z @ centres.T
    closeness -= (centres**2).sum(dim=1) / 2
    assigned = closeness.argmax(dim=1)
    distance = (z - centres[assigned]).norm(dim=1)
    return torch.where(z.any(dim=1), assigned, -1), distance


def concentrations(
    distance: Array, assigned: Index, k: int, tau: float = TAU, smoothing: float = 10.0
) -> Floats:
    """How tight each cluster is: small where many samples lie close to their prototype.

    ``φ_s = Σ_i ‖z_i - c_s‖ / (Z_s log(Z_s + α))`` over the Z_s samples of cluster s (MMCSAL,
    Eq. 3). A cluster without spread (one sample, none, or copies of one) says nothing about its
    own: it gets the largest. Then all are clipped to their 10th and 90th percentile, and scaled to
    mean τ.

    Parameters
    ----------
    distance : (n,) array
        Of each sample to the centre of its cluster.
    assigned : (n,) integer array
        Cluster of each sample; -1 = none.
    k : int
        Clusters.
    tau, smoothing : float
        τ and α.

    Returns
    -------
    (k,) float64 array
        All τ if no cluster has spread.

    Examples
    --------
    >>> distance, assigned = np.array([0.2, 0.4, 0.0, 0.1, 0.1]), np.array([0, 0, 1, 2, 2])
    >>> concentrations(distance, assigned, 3).round(4)
    array([0.0851, 0.0851, 0.0397])
    """
    inside = assigned >= 0
    size = np.bincount(assigned[inside], minlength=k)
    total = np.bincount(assigned[inside], distance[inside].astype(np.float64), minlength=k)
    spread = (size > 1) & (total > COPIES * size)
    if not spread.any():
        return np.full(k, tau)
    phi = np.divide(total, size * np.log(size + smoothing), out=np.zeros(k), where=spread)
    phi[~spread] = phi.max()
    phi = phi.clip(*np.percentile(phi, [10, 90]))
    return phi * (tau / phi.mean())
