"""What a replay asks of whatever trains: labeled samples in; what strategies see, and outputs, out.

Two things train: `mmselect.replay.linear` fits linear heads on the features of the pool,
`mmselect.replay.command` runs a command of the user's. The rounds know neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.replay.data import Data

Index: TypeAlias = NDArray[np.intp]


class Labeled(NamedTuple):
    """What a training may know.

    Attributes
    ----------
    rows : (r,) integer array
        The labeled samples, as positions among those to pick from.
    targets : (r,) int64 or (r, c) float32 array
        Their classes, or the share of each class.
    round : int
    """

    rows: Index
    targets: NDArray[Any]
    round: int


class Seen(NamedTuple):
    """What strategies see of the samples to pick from.

    Attributes
    ----------
    file : str
        Where it stands, for errors.
    arrays : dict of dataset path to array
        As in the format.
    """

    file: str
    arrays: dict[str, NDArray[Any]]


Values: TypeAlias = "Callable[[Index, NDArray[np.int64]], NDArray[np.float64]]"
"""Value (r, 2^m) of each coalition for some samples: the probability of one class of each."""


class Outputs(NamedTuple):
    """What a model says about the test samples.

    Attributes
    ----------
    fused : (n, c) float array
        Logits of the fused head.
    alone : mapping of modality to (n, c) float array
        Logits of heads that see one modality; those that there are.
    modalities : tuple of str
        Whose contributions `values` are about, sorted.
    values : callable or None
        None: no coalition's logits are known.
    seen : (c,) boolean array
        Classes that have a labeled sample.
    """

    fused: NDArray[Any]
    alone: Mapping[str, NDArray[Any]]
    modalities: tuple[str, ...]
    values: Values | None
    seen: NDArray[np.bool_]

    @property
    def heads(self) -> dict[str, NDArray[Any]]:
        """Logits by the ending of their measures: nothing for the fused head, then ``.{m}``."""
        return {"": self.fused, **{f".{m}": logits for m, logits in self.alone.items()}}


class Trainer(Protocol):
    """Trains on samples of one seed; what it returns as a model is its own affair."""

    def fit(self, labeled: Labeled, before: Any) -> Any:
        """Train a model; `before` is that of the round before, None at the start."""

    def seen(self, model: Any) -> Seen:
        """Give what strategies see by this model."""

    def tested(self, model: Any) -> Outputs:
        """Give what this model says about the test samples."""

    def chances(self, model: Any, rows: Index, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probability (r,) that the fused head gives to one class of each sample to pick from."""

    def problems(self, model: Any) -> list[str]:
        """Say what the user should know of this training."""


class Trainers(Protocol):
    """Makes trainers, one for each seed."""

    def __call__(self, data: Data, train: Index, test: Index, seed: int) -> Trainer:
        """Make the trainer of one seed; `train` and `test` are positions in the data."""

    def foreseen(self, data: Data) -> Seen | None:
        """Give what strategies will see, with zeros for numbers; None where it is not known yet."""
