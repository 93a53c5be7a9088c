"""Stage 1 of MMCSAL on frozen features: one linear projector per modality, and their training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import combinations
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from mmselect.arrays import native
from mmselect.ask import Aligning
from mmselect.engine import Engine, Progress, map_rows, ranges
from mmselect.errors import DataError, MmselectError, NeedsError, located
from mmselect.networks.training import descend
from mmselect.pool.column import Column
from mmselect.tasks import take
from mmselect.torch.training.losses import info_nce, prototypical_loss
from mmselect.torch.training.prototypes import UnimodalPrototypes

Array = NDArray[Any]

Projectors: TypeAlias = Mapping[str, "Projector"]
"""By the path of the features."""

STEP = 8192
"""Rows that are projected at a time, whatever the memory, so that it cannot change a result."""

CHUNK, WINDOW = 64, 1024
"""Rows that lie together are shuffled as a chunk; the rows of so many chunks, then, one by one."""

SPREAD = 1e-12
"""Squared spread over squared size below which the rows of a modality are all the same."""

LARGEST = 1e15
"""Weight up to which the squares of projected features stay far from what float32 can hold."""


OPTIMIZER = {"weight_decay": 0.02, "betas": (0.9, 0.95)}
"""What AdamW is told besides the rate."""


class Losses(NamedTuple):
    """Mean losses of an epoch; `unimodal` is None while the prototypes wait for the warm-up."""

    cross_modal: float
    unimodal: float | None


class Projector:
    """A linear map of one modality's features to the unit sphere: ``W (z - μ) / s``, normalised.

    μ is the mean of the rows that are not zero and s their root mean squared distance to it; only W
    is learned. A bias that is learned too pulls the modalities apart again. A row of zeros is a
    modality that a sample does not have: it stays zero.

    Parameters
    ----------
    column : Column
        Features (n, d).
    dim : int
    rng : numpy.random.Generator
        Draws the first W, with orthonormal rows or columns.
    device : torch.device
    engine : Engine
    """

    def __init__(
        self, column: Column, dim: int, rng: np.random.Generator, device: Any, engine: Engine
    ) -> None:
        self.column, self.device = column, device
        self.mean, self.scale = _moments(column, engine)
        d = len(self.mean)
        first = np.linalg.qr(rng.standard_normal((max(d, dim), min(d, dim))))[0]
        first = first if dim >= d else first.T
        self.weight = torch.tensor(first, dtype=torch.float32, device=device, requires_grad=True)

    def __call__(self, rows: Array) -> Tensor:
        """Project raw features (b, d) to unit vectors (b, dim)."""
        block = native(rows)
        present = block.any(axis=1)
        block = (block - self.mean.astype(block.dtype)) / block.dtype.type(self.scale)
        block[~present] = 0
        centred = torch.from_numpy(block.astype(np.float32, copy=False)).to(self.device)
        return functional.normalize(centred @ self.weight.T, dim=1)

    def __len__(self) -> int:
        return len(self.column)

    @torch.no_grad()
    def __getitem__(self, rows: Any) -> Tensor:
        """Project the pool's rows, by a slice or by row numbers, in blocks of `STEP`."""
        at = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        blocks = (take(self.column, at[a:b]) for a, b in ranges(0, len(at), STEP))
        return torch.cat([self(block) for block in blocks])

    def affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight (dim, d) and bias (dim,) of the whole map, before the normalisation."""
        weight = self.weight.detach().cpu().numpy().astype(np.float64) / self.scale
        return weight, -weight @ self.mean


def _sums(_rows: Array, blocks: list[Array]) -> list[Any]:
    """Sum of the rows, of their squares, and how many are not zero."""
    rows = blocks[0].astype(np.float64)
    return [rows.sum(axis=0), (rows**2).sum(), rows.any(axis=1).sum()]


def _moments(column: Column, engine: Engine) -> tuple[NDArray[np.float64], float]:
    """Mean and spread of the rows that are not zero."""
    sums = map_rows(_sums, [column], np.arange(len(column)), step=STEP, engine=engine)
    total, squares, count = reduce(lambda done, more: [*map(np.add, done, more)], sums)
    mean, size = total / max(count, 1), squares / max(count, 1)
    spread = size - float(mean @ mean)
    if spread <= SPREAD * size:
        raise DataError("expected rows that differ, found all the same", dataset=column.path)
    return mean, float(np.sqrt(spread))


def train(projectors: Projectors, how: Aligning, progress: Progress | None = None) -> list[Losses]:
    """Fit the projectors: AdamW on ``L_cm``, and after the warm-up on ``L_cm + L_um``.

    L_cm is the mean of InfoNCE over the pairs of modalities, L_um the mean of the prototypical loss
    over the modalities (MMCSAL, Eqs. 1 to 4). The rate rises linearly, then falls along a cosine.

    Returns
    -------
    list of Losses
        One for each epoch.

    Raises
    ------
    MmselectError
        If the training runs away: weights are large, or no numbers, as then the loss is none.
    NeedsError
        If no sample has two modalities.
    """
    n, rng = len(next(iter(projectors.values()))), np.random.default_rng(how.seed)
    weights = [projector.weight for projector in projectors.values()]
    optimizer = torch.optim.AdamW(weights, lr=how.rate, **OPTIMIZER)
    warmup = how.warmup or 0
    prototypes = {
        path: UnimodalPrototypes(how.prototypes, tau=how.tau, seed=int(rng.integers(2**31)))
        for path in projectors
        if how.prototypes
    }
    history = []
    for epoch in range(how.epochs):
        active = prototypes if epoch >= warmup else {}
        for path, own in active.items():
            with located(dataset=path):
                own.refresh(projectors[path])
        weighed = []
        for done, rows, arrays in _batches(n, projectors, how.batch_size, rng):
            position = epoch + (done - len(rows) / 2) / n
            optimizer.param_groups[0]["lr"] = how.rate * schedule(position, warmup, how.epochs)
            z = {path: project(arrays[path]) for path, project in projectors.items()}
            there: dict[str, Any] = {path: array.any(axis=1) for path, array in arrays.items()}
            losses = torch.stack([_cross_modal(z, there, how.tau), _unimodal(z, active, rows)])
            if losses.requires_grad:  # not where no sample of the batch has two modalities
                descend(optimizer, losses.sum())
            paired = np.sum([*there.values()], axis=0) >= 2  # those that L_cm is a mean over
            counts = losses.new_tensor([paired.sum(), len(rows)])
            weighed.append(torch.stack([losses.detach() * counts, counts]))
            if progress:
                progress(epoch * n + done, how.epochs * n)
        _check_sound(weights, f"in epoch {epoch + 1} at rate {how.rate:g}")
        sums, counts = torch.stack(weighed).double().sum(dim=0).cpu()
        if not counts[0]:
            raise NeedsError("align needs samples that have two or more modalities, found none")
        cross_modal, unimodal = (sums / counts).tolist()
        history.append(Losses(cross_modal, unimodal if active else None))
    return history


def _check_sound(weights: Sequence[Tensor], when: str) -> None:
    """Refuse a training that ran away: its features would have no direction."""
    largest = torch.stack([weight.detach().abs().max() for weight in weights]).max()
    if not largest < LARGEST:
        found = f"found {largest:g} {when}; try a smaller rate"
        raise MmselectError(f"expected weights below {LARGEST:g}, {found}")


def schedule(position: float, warmup: int, epochs: int) -> float:
    """Share of the full rate at a moment in the training, counted in epochs.

    Examples
    --------
    >>> [round(schedule(at, warmup=2, epochs=10), 2) for at in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if position < warmup:
        return position / warmup
    return float(1 + np.cos(np.pi * (position - warmup) / (epochs - warmup))) / 2


def _cross_modal(z: Mapping[str, Tensor], there: Mapping[str, Array], tau: float) -> Tensor:
    """Mean InfoNCE over the pairs of modalities, each over the samples that have both."""
    losses = []
    for a, b in combinations(z, 2):
        both = there[a] & there[b]
        if both.all():
            losses.append(info_nce(z[a], z[b], tau=tau))
        elif both.any():
            rows = torch.from_numpy(np.flatnonzero(both)).to(z[a].device)
            losses.append(info_nce(z[a][rows], z[b][rows], tau=tau))
    return _mean(losses, z)


def _unimodal(
    z: Mapping[str, Tensor], prototypes: Mapping[str, UnimodalPrototypes], rows: NDArray[np.int64]
) -> Tensor:
    """Mean prototypical loss over the modalities; 0 before there are prototypes."""
    losses = []
    for name, own in prototypes.items():
        assigned = own.assigned[torch.from_numpy(rows).to(own.assigned.device)]
        losses.append(prototypical_loss(z[name], assigned, own.centroids, own.concentration))
    return _mean(losses, z)


def _mean(losses: Sequence[Tensor], z: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(losses).mean() if losses else next(iter(z.values())).new_zeros(())


def _batches(
    n: int, projectors: Projectors, size: int, rng: np.random.Generator
) -> Iterator[tuple[int, NDArray[np.int64], dict[str, Array]]]:
    """Shuffle all rows once; yield rows done so far, row numbers, and their raw features.

    Every row comes once per epoch, in batches of nearly equal size. A pool of at most a window
    (65,536 rows) is shuffled row by row; a larger one in two steps, so that it is read in runs:
    chunks are dealt to windows, and the rows of a window are shuffled.
    """
    done = 0
    for rows in _windows(n, rng):
        window = {name: p.column[rows] for name, p in projectors.items()}
        order = rng.permutation(len(rows))
        for part in np.array_split(order, -(-len(rows) // size)):
            done += len(part)
            yield done, rows[part], {name: array[part] for name, array in window.items()}


def _windows(n: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Rows of each window, in increasing order."""
    chunks = rng.permutation(-(-n // CHUNK))
    for start, stop in ranges(0, len(chunks), WINDOW):
        first = np.sort(chunks[start:stop]) * CHUNK
        rows = (first[:, None] + np.arange(CHUNK)).ravel()
        yield rows[rows < n]
