"""Write gradient embeddings to a file: as two factors, in full, or as a sketch of fixed length."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect import engine
from mmselect.core.sampling.gradients import full
from mmselect.core.sampling.points import factors
from mmselect.core.sampling.sketch import sketch, sketch_hashes
from mmselect.errors import OutputError, UsageError
from mmselect.output import as_json
from mmselect.pool.storage import created
from mmselect.request import Request, provenance
from mmselect.selection import batch_of
from mmselect.strategies.gradients import points_of
from mmselect.strategies.record import Progress

FORMS = ("factors", "full", "sketch")
STRATEGIES = ("bmmal", "badge")

Writer = Callable[[Sequence[NDArray[Any]]], dict[str, NDArray[Any]]]


def write_embedding(
    request: Request,
    target: Path,
    *,
    form: str = "factors",
    dim: int = 512,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write the candidates' gradient embeddings g = a ⊗ h to HDF5, block by block.

    Parameters
    ----------
    request : Request
        Of strategy ``bmmal`` (rescaled) or ``badge``.
    target : path
        Holds ``id``, ``index`` (row numbers), and float32 datasets: ``a`` (n, c) and ``h`` (n, Σd)
        for `form` factors; ``embedding`` (n, c·Σd) for full, (n, `dim`) for sketch.
    form : {"factors", "full", "sketch"}
    dim, seed : int
        Length and seed of the sketch, which keeps inner products in expectation.
    force : bool
        Write the full form even if the disk seems too small for it.
    progress : callable, optional
        Told ``(rows done, rows in all)``.

    Raises
    ------
    UsageError
        If the strategy has no gradient embedding, or form or dim is wrong.
    OutputError
        If the full form does not fit on the disk, or the file cannot be written.
    """
    if request.strategy.name not in STRATEGIES:
        expected = " or ".join(STRATEGIES)
        raise UsageError(f"strategy: expected {expected}, found {request.strategy.name!r}")
    if form not in FORMS or dim < 1:
        raise UsageError(f"form: expected one of {', '.join(FORMS)} and dim >= 1, found {form!r}")
    points = points_of(batch_of(request, progress), balanced=request.strategy.name == "bmmal")
    shapes, make = _writer(form, points.widths, dim, seed)
    rows = request.candidates
    size = 4 * len(rows) * sum(shapes.values())
    if form == "full" and not force:
        _refuse_if_too_large(target, size, points.widths, len(rows))
    step = engine.compute_rows(sum(points.widths) + sum(shapes.values()))
    with created(target) as storage:
        storage.handle.attrs["form"] = form
        storage.handle.attrs["provenance"] = as_json(provenance(request, seed=seed))
        storage.store("id", np.array(request.pool.ids.text(rows), object))
        storage.store("index", rows)
        for name, width in shapes.items():
            storage.reserve(name, np.empty((0, width), np.float32), len(rows))
        for start, stop in _steps(len(rows), step, progress):
            with request.pool.located():
                parts = factors(points, rows[start:stop])
            for name, block in make(parts).items():
                storage.write(name, start, block)


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
