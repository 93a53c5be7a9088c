"""Write gradient embeddings to a file: as two factors, in full, or as a sketch of fixed length."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect import engine
from mmselect.ask import Embedding
from mmselect.core.sampling.gradients import full
from mmselect.core.sampling.points import factors
from mmselect.core.sampling.sketch import sketch, sketch_hashes
from mmselect.errors import OutputError
from mmselect.option import accepts
from mmselect.output.tables import as_json
from mmselect.pool.reading import Pool, PoolPath, opened_pool
from mmselect.pool.storage import created
from mmselect.request import Request, prepare, provenance
from mmselect.selection import batch_of
from mmselect.strategies.gradients import points_of
from mmselect.strategies.record import Progress

Writer = Callable[[Sequence[NDArray[Any]]], dict[str, NDArray[Any]]]


def write_embedding(
    request: Request, target: Path, ask: Embedding, progress: Progress | None = None
) -> None:
    """Write the candidates' gradient embeddings g = a ⊗ h to HDF5, block by block.

    Parameters
    ----------
    request : Request
        Of strategy ``bmmal`` (rescaled) or ``badge``.
    target : path
        Holds ``id``, ``index`` (row numbers), and float32 datasets: ``a`` (n, c) and ``h`` (n, Σd)
        for form ``factors``; ``embedding`` (n, c·Σd) for ``full``, (n, dim) for ``sketch``.
    ask : Embedding
        Form; length and seed of the sketch, which keeps inner products in expectation; and whether
        the full form is written even if the disk seems too small for it.
    progress : callable, optional
        Told ``(rows done, rows in all)``.

    Raises
    ------
    OutputError
        If the full form does not fit on the disk, or the file cannot be written.
    """
    points = points_of(batch_of(request, progress), balanced=request.strategy.name == "bmmal")
    shapes, make = _writer(ask.form, points.widths, ask.dim, ask.seed)
    rows = request.candidates
    size = 4 * len(rows) * sum(shapes.values())
    if ask.form == "full" and not ask.force:
        _refuse_if_too_large(target, size, points.widths, len(rows))
    step = engine.compute_rows(sum(points.widths) + sum(shapes.values()))
    with created(target) as storage:
        storage.handle.attrs["form"] = ask.form
        storage.handle.attrs["provenance"] = as_json(provenance(request, seed=ask.seed))
        storage.store("id", np.array(request.pool.ids.text(rows), object))
        storage.store("index", rows)
        for name, width in shapes.items():
            storage.reserve(name, np.empty((0, width), np.float32), len(rows))
        for start, stop in _steps(len(rows), step, progress):
            with request.pool.located():
                parts = factors(points, rows[start:stop])
            for name, block in make(parts).items():
                storage.write(name, start, block)


@accepts(Embedding)
def embed(
    pool: Pool | PoolPath | Sequence[PoolPath],
    target: Path,
    strategy: str = "bmmal",
    *,
    progress: Progress | None = None,
    **asked: Any,
) -> None:
    """Write the candidates' gradient embeddings of a pool; see :func:`write_embedding`.

    Parameters
    ----------
    pool, strategy, progress
        As in :func:`mmselect.score`.
    target : path
    {options}

    Raises
    ------
    MmselectError
        Of the kind that fits; see :mod:`mmselect.errors`.
    """
    ask = Embedding(strategy=strategy, **asked)
    with opened_pool(pool) as opened:
        write_embedding(prepare(opened, ask), target, ask, progress)


def _steps(n: int, step: int, progress: Progress | None) -> Iterator[tuple[int, int]]:
    for start, stop in engine.ranges(0, n, step):
        yield start, stop
        if progress:
            progress(stop, n)


def _writer(
    form: str, widths: tuple[int, ...], dim: int, seed: int
) -> tuple[dict[str, int], Writer]:
    """Name the datasets of a form with their widths, and what fills them from the factors."""
    if form == "factors":
        return dict(zip("ah", widths, strict=True)), lambda parts: dict(
            zip("ah", parts, strict=True)
        )
    if form == "full":
        return {"embedding": widths[0] * widths[1]}, lambda parts: {"embedding": full(parts)}
    hashes = sketch_hashes(widths, dim, np.random.default_rng(seed))
    return {"embedding": dim}, lambda parts: {"embedding": sketch(parts, hashes)}


def _refuse_if_too_large(target: Path, size: int, widths: tuple[int, ...], n: int) -> None:
    folder = target.parent if target.parent.is_dir() else Path()
    free = shutil.disk_usage(folder).free
    if size > free:
        factors_size = engine.format_bytes(4 * n * sum(widths))
        raise OutputError(
            f"the full form takes {engine.format_bytes(size)} ({n:,} rows of {widths[0]:,} × "
            f"{widths[1]:,} float32), found {engine.format_bytes(free)} free; the factors hold the "
            f"same in {factors_size}, or use --force",
            file=str(target),
        )
