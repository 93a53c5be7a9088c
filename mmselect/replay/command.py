"""A command of the user's, as what trains in a replay."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmselect.core.scores.softmax import probability
from mmselect.files import make_folder, replacing
from mmselect.output.tables import as_csv
from mmselect.pool.schema import names_in, per_sample
from mmselect.replay.data import Data
from mmselect.replay.exported import (
    FEATURES,
    FUSED,
    Arrays,
    as_logits,
    outputs_of,
    read_exported,
)
from mmselect.replay.trainer import Index, Labeled, Outputs, Seen
from mmselect.replay.trainings import Task, Trainings


class Exported(NamedTuple):
    """What a training wrote, by position in the data.

    Attributes
    ----------
    file : path
    arrays : dict of dataset path to array
    seen : (c,) boolean array
        Classes that have a labeled sample.
    notes : list of str
    """

    file: Path
    arrays: Arrays
    seen: NDArray[np.bool_]
    notes: list[str]


@dataclass(frozen=True)
class CommandTrainers:
    """Makes trainers that run a command."""

    trainings: Trainings

    def __call__(self, data: Data, train: Index, test: Index, seed: int) -> CommandTrainer:
        """Make the trainer of one seed."""
        return CommandTrainer(self.trainings, data, train, test, seed)

    def foreseen(self, data: Data) -> None:
        """Give nothing: what strategies will see shows once the command has written it."""


@dataclass(frozen=True)
class CommandTrainer:
    """Runs the command on what is labeled, and reads what it wrote."""

    trainings: Trainings
    data: Data
    train: Index
    test: Index
    seed: int

    def fit(self, labeled: Labeled, before: Exported | None) -> Exported:
        """Train; all that the command is told are the ids, and the targets of what is labeled."""
        order = np.argsort(labeled.rows)
        known = self.train[labeled.rows[order]]
        targets = labeled.targets[order]
        ids = self.data.ids
        task = Task(
            labeled=labeled_csv([ids[row] for row in known], targets),
            pool=write_ids(self.trainings.folder, ids),
            seed=self.seed,
            round=labeled.round,
            previous=before.file if before else None,
        )
        (file, arrays), notes = self.trainings.train(task, self._read)
        return Exported(file, arrays, classes_in(targets, self.data.classes), notes)

    def _read(self, file: Path) -> tuple[Path, Arrays]:
        every = np.arange(len(self.data.ids))
        arrays = read_exported(file, self.data.ids, self.data.classes, self.data.present(every))
        return file, arrays

    def seen(self, model: Exported) -> Seen:
        """Give what was written about the samples to pick from, and features of the pool if none.

        Features that do not move, a pre-trained encoder's, are what covering strategies are best
        on, so a command need not write them again.
        """
        arrays = {p: a[self.train] if per_sample(p) else a for p, a in model.arrays.items()}
        if not names_in(FEATURES, arrays):
            frozen = {f"{FEATURES}/{m}": z[self.train] for m, z in self.data.features.items()}
            arrays |= frozen
        return Seen(str(model.file), arrays)

    def tested(self, model: Exported) -> Outputs:
        """Give what was written about the test samples."""
        return outputs_of(model.arrays, self.test, model.seen)

    def chances(
        self, model: Exported, rows: Index, labels: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Probability (r,) that the fused head gives to one class of each sample to pick from."""
        return probability(as_logits(model.arrays[FUSED], self.train[rows]), labels)

    def problems(self, model: Exported) -> list[str]:
        """Give what the user should know of this training."""
        return model.notes


def classes_in(targets: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    """Which classes (c,) some samples have, by their labels or shares.

    Examples
    --------
    >>> classes_in(np.array([2, 0]), 3).tolist(), classes_in(np.array([[0, 0.5]]), 2).tolist()
    ([True, False, True], [False, True])
    """
    counts = np.bincount(targets, minlength=classes) if targets.ndim == 1 else targets.sum(axis=0)
    return np.asarray(counts > 0)


def labeled_csv(ids: Sequence[str], targets: NDArray[Any]) -> bytes:
    r"""Write what is known as CSV: ``id,label``, with soft labels a third column.

    Examples
    --------
    >>> labeled_csv(["a", "b,c"], np.array([2, 0]))
    b'id,label\na,2\n"b,c",0\n'
    >>> labeled_csv(["a"], np.array([[0.0, 1.0, 0.3333]], np.float32))
    b'id,label,label_share\na,1,1:1 2:0.3333\n'
    """
    columns: dict[str, Any] = {"id": list(ids)}
    if targets.ndim == 1:
        columns["label"] = targets.tolist()
    else:
        columns["label"] = targets.argmax(axis=1).tolist()
        columns["label_share"] = [
            " ".join(f"{c}:{row[c]:.6g}" for c in np.flatnonzero(row)) for row in targets
        ]
    return b"".join(as_csv(columns))


def write_ids(folder: Path, ids: Sequence[str]) -> Path:
    """Write the ids of all samples as CSV, once; return where.

    In an order of their own: that of a pool may tell which samples are for testing.
    """
    order = np.random.default_rng(len(ids)).permutation(len(ids))
    content = b"".join(as_csv({"id": [ids[row] for row in order]}))
    file = folder / f"pool-{hashlib.sha256(content).hexdigest()[:16]}.csv"
    if not file.exists():
        make_folder(folder)
        with replacing(file) as target:
            target.write(content)
    return file
