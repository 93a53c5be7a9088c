"""What the training of all networks shares: one thread, and chance from NumPy's generator alone.

Sums in torch depend on the number of threads, and training amplifies their rounding, so a network
is trained on one thread, whatever threads there are: the picks must not depend on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmselect.arrays import Array, Index
from mmselect.errors import SelectionError

BATCH = 128
"""Rows of a batch of each kind, labeled and unlabeled."""


@contextmanager
def on_threads(count: int = 1) -> Iterator[None]:
    """Let torch compute on so many threads inside the ``with`` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def layers(rng: np.random.Generator, *widths: int) -> nn.Sequential:
    """Linear layers with a ReLU between them; weights and biases uniform within ±1/√in.

    Parameters
    ----------
    rng : numpy.random.Generator
    *widths : int
        Of the input, of each hidden layer, and of the output.

    Returns
    -------
    torch.nn.Sequential

    Examples
    --------
    >>> layers(np.random.default_rng(0), 8, 4, 1)(torch.zeros(5, 8)).shape
    torch.Size([5, 1])
    """
    modules: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layer, bound = nn.utils.skip_init(nn.Linear, wide, narrow), wide**-0.5
        for parameter in layer.parameters():
            drawn = rng.uniform(-bound, bound, tuple(parameter.shape))
            parameter.data.copy_(torch.from_numpy(drawn))
        modules += [layer, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def adam(*networks: nn.Module, rate: float, decay: float = 0.0) -> torch.optim.Optimizer:
    """Adam over the parameters of some networks."""
    parameters = [p for network in networks for p in network.parameters()]
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    """Take one step downhill; return the loss before it, on the device where it is."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def batches(rows: Index, rng: np.random.Generator, size: int = BATCH) -> Iterator[Index]:
    """Rows in batches of one size, without end; each pass over them is in a new order.

    What a pass leaves that is too few for a batch is dropped. Rows that are fewer than a batch are
    one.

    Examples
    --------
    >>> drawn = batches(np.arange(5), np.random.default_rng(0), 2)
    >>> len({*next(drawn).tolist(), *next(drawn).tolist()}), len(next(drawn))
    (4, 2)
    """
    size = min(size, len(rows))
    while True:
        order = rng.permutation(rows)
        for start in range(0, len(rows) - size + 1, size):
            yield order[start : start + size]


def count_steps(n: int, epochs: int, most: int) -> int:
    """Count the steps of so many epochs over `n` rows, up to `most`; 0: there is no bound.

    Examples
    --------
    >>> count_steps(1000, 100, 0), count_steps(1000, 100, 500)
    (800, 500)
    """
    steps = epochs * math.ceil(n / BATCH)
    return min(steps, most) if most else steps


def check_sound(losses: Any, step: int) -> None:
    """Refuse a training that ran away, as it may where a feature has outliers.

    Raises
    ------
    SelectionError
        If a loss is nan or infinite.

    Examples
    --------
    >>> check_sound((0.5, float("nan")), 7)
    Traceback (most recent call last):
    mmselect.errors.SelectionError: expected a loss that is a number, found nan in step 7
    """
    for loss in losses:
        if not math.isfinite(loss):
            found = f"found {loss:g} in step {step}"
            raise SelectionError(f"expected a loss that is a number, {found}")


def tensor(x: Array) -> Tensor:
    """Copy an array into memory of torch's own, aligned the same way whatever the block."""
    return torch.tensor(x)
