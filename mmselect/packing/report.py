"""What was packed, what can run on it, and what one more file would add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmselect.option import options
from mmselect.packing.asking import Packing
from mmselect.pool.reading import Pool, open_pool
from mmselect.pool.schema import SCHEMA, place_of
from mmselect.request import lacking, runnable
from mmselect.strategies import registry

ADDS = (
    "features",
    "unimodal_logits",
    "multimodal_logits",
    "classifier_weight",
    "dropout_logits",
    "labels",
    "labeled",
)
"""Datasets that strategies may lack."""


@dataclass(frozen=True)
class Origin:
    """A dataset of the new pool: what it is, where it comes from, and whether it stays there."""

    shape: tuple[int, ...]
    type: str
    source: str
    linked: bool


@dataclass(frozen=True)
class Packed:
    """What was packed.

    Attributes
    ----------
    path : str
        The pool.
    samples : int
    datasets : dict of path to Origin
    can_run : list of str
        Strategies that have what they need.
    would_add : dict of str to list of str
        By option: strategies that could run with this, too.
    notices : list of str
        What the user should know.
    """

    path: str
    samples: int
    datasets: dict[str, Origin]
    can_run: list[str]
    would_add: dict[str, list[str]]
    notices: list[str]

    def __repr__(self) -> str:
        return f"Packed({self.path}: {self.samples:,} samples, {', '.join(self.datasets)})"

    def rows(self) -> Iterator[list[tuple[Any, ...]]]:
        """Tables for people."""
        yield [(self.path, f"{self.samples:,} samples")]
        table: list[tuple[Any, ...]] = [("dataset", "shape", "type", "from")]
        for path, about in self.datasets.items():
            shape = " × ".join(f"{size:,}" for size in about.shape)
            link = "link to " if about.linked else ""
            table.append((path, shape, about.type, f"{link}{about.source}"))
        yield [("",)]
        yield table
        yield [("",)]
        able = [("can run", ", ".join(self.can_run))]
        yield able + [(f"with {flag}", ", ".join(names)) for flag, names in self.would_add.items()]


def report(path: Path, datasets: dict[str, Origin], notices: list[str]) -> Packed:
    """Open the new pool, and say what can run on it."""
    with open_pool(path, ids=False) as pool:
        able, adds = runnable(pool), dict(_adds(pool))
        return Packed(str(path), pool.n, datasets, able, adds, notices)


def _adds(pool: Pool) -> Iterator[tuple[str, list[str]]]:
    """Strategies that one more dataset would let run, by its option."""
    every, known = registry.BUILT_IN, options(Packing)
    able_here = [r for n, r in every.items() if n != "column:NAME" and r.installed]
    waiting = [r for r in able_here if lacking(r, pool)]
    for dataset in SCHEMA:
        if dataset.argument not in ADDS or any(p.startswith(dataset.group) for p in pool.paths):
            continue
        names = pool.modalities or ["NAME"]
        more = [f"{dataset.group}/{name}" for name in names] if dataset.named else [dataset.path]
        more += ["/classifier/bias"] if dataset.argument == "classifier_weight" else []
        sizes = {axis: 2 for path in more for axis in place_of(path).axes} | pool.sizes
        able = [
            r for r in waiting if not r.lacks({*more} | pool.paths, sizes, r.resolve({}, names))
        ]
        if able:
            flag = known[dataset.argument].names or (f"--{dataset.argument.replace('_', '-')}",)
            yield flag[0], [record.name for record in able]
