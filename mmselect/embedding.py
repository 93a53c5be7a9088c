"""Write gradient embeddings to a file: as two factors, in full, or as a sketch of fixed length."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmselect.arrays import Array, Index
from mmselect.ask import Embedding
from mmselect.core.sampling.gradients import full
from mmselect.core.sampling.points import Points
from mmselect.core.sampling.sketch import sketch, sketch_hashes
from mmselect.engine import Progress, compute_rows, format_bytes, map_rows
from mmselect.errors import OutputError, located
from mmselect.keywords import accepts
from mmselect.output.tables import as_json
from mmselect.pool.reading import Pool, PoolPath, opened_pool
from mmselect.pool.storage import created
from mmselect.request import Request, prepare, provenance
from mmselect.selection import batch_of
from mmselect.strategies.gradients import logits_path, points_of

Form = Callable[[Sequence[Array]], Sequence[Array]]


def write_embedding(request: Request, target: Path, ask: Embedding) -> None:
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

    Raises
    ------
    OutputError
        If the full form does not fit on the disk, or the file cannot be written.
    """
    rows, batch = request.candidates, batch_of(request)
    with request.pool.located(), located(dataset=logits_path(batch.columns)):
        points = points_of(batch, balanced=request.strategy.name == "bmmal")
        points = points.settled(rows, request.engine)
    shapes, make = _form(ask.form, points.widths, ask.dim, ask.seed)
    size = 4 * len(rows) * sum(shapes.values())
    if ask.form == "full" and not ask.force:
        _refuse_if_too_large(target, size, points.widths, len(rows))
    # Some compute blocks at a time: HDF5 takes longer for a small piece than a block takes.
    step = compute_rows((sum(points.widths) + sum(shapes.values())) // 16)
    how: dict[str, Any] = {"step": step, "engine": request.engine, "what": "embedding rows"}
    make_block = partial(_block, points.detached(), make)
    blocks = map_rows(make_block, points.sources, rows, **how)
    with created(target) as storage:
        storage.handle.attrs["form"] = ask.form
        storage.handle.attrs["provenance"] = as_json(provenance(request, seed=ask.seed), whole=True)
        storage.store("id", np.array(request.pool.ids.text(rows), object))
        storage.store("index", rows)
        for name, width in shapes.items():
            storage.reserve(name, np.empty((0, width), np.float32), len(rows))
        start = 0
        with request.pool.located(), located(dataset=logits_path(batch.columns)):
            for arrays in blocks:
                for name, array in zip(shapes, arrays, strict=True):
                    storage.write(name, start, array)
                start += len(arrays[0])
    request.warnings.extend(request.empty_rows())


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
        write_embedding(prepare(opened, ask, progress=progress), target, ask)


def _block(points: Points, make: Form, rows: Index, arrays: list[Array]) -> Sequence[Array]:
    return make(points.factors(rows, arrays))


def _form(form: str, widths: tuple[int, ...], dim: int, seed: int) -> tuple[dict[str, int], Form]:
    """Name the datasets of a form with their widths, and what makes them of the factors."""
    if form == "factors":
        return dict(zip("ah", widths, strict=True)), tuple
    if form == "full":
        return {"embedding": widths[0] * widths[1]}, lambda parts: [full(parts)]
    hashes = sketch_hashes(widths, dim, np.random.default_rng(seed))
    return {"embedding": dim}, lambda parts: [sketch(parts, hashes)]


def _refuse_if_too_large(target: Path, size: int, widths: tuple[int, ...], n: int) -> None:
    folder = target.parent if target.parent.is_dir() else Path()
    free = shutil.disk_usage(folder).free
    if size > free:
        factors_size = format_bytes(4 * n * sum(widths))
        raise OutputError(
            f"the full form takes {format_bytes(size)} ({n:,} rows of {widths[0]:,} × "
            f"{widths[1]:,} float32), found {format_bytes(free)} free; the factors hold the "
            f"same in {factors_size}, or use --force",
            file=str(target),
        )
