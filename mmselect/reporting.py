"""What ``info``, ``strategies`` and ``select --dry-run`` say, as plain data."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from mmselect import engine
from mmselect.core.scores.alignment import Alignment, GapSums
from mmselect.core.scores.guidelines import guideline_report, guideline_sums
from mmselect.core.scores.shapley import contributions
from mmselect.pool.reading import Pool
from mmselect.request import Request, lacking
from mmselect.scoring import task_rows
from mmselect.strategies import gradients, registry

BASE_MEMORY = 100_000_000
"""Bytes of the interpreter and its libraries, before any data."""


def describe_pool(pool: Pool) -> dict[str, Any]:
    """Sizes, modalities, datasets, and which strategies can run on a pool; reads no numbers.

    Examples
    --------
    >>> import mmselect
    >>> from mmselect.demo import EMOJI
    >>> with mmselect.open_pool(EMOJI) as pool:
    ...     list(describe_pool(pool)["modalities"])
    ['image', 'text']
    """
    strategies, skipped = registry.every()
    lacks = {name: lacking(record, pool) for name, record in strategies.items()}
    del lacks["column:NAME"]
    return {
        "files": pool.files,
        "samples": pool.n,
        "labeled": int(pool.labeled.sum()),
        "classes": pool.sizes.get("c"),
        "modalities": {name: _modality(pool, name) for name in pool.modalities},
        "datasets": [_dataset(pool, path) for path in sorted(pool.paths)],
        "unknown": pool.unknown,
        "strategies": {
            "can_run": [name for name, missing in lacks.items() if not missing],
            "lack": {name: missing for name, missing in lacks.items() if missing},
        },
        "warnings": skipped,
    }


def describe_numbers(
    pool: Pool, threads: int | None = None, memory: int = engine.DEFAULT_MEMORY
) -> dict[str, Any]:
    """Modality gap and contributions of the modalities: two passes over a pool."""
    with pool.located():
        how = engine.Engine(engine.thread_count(threads), memory)
        return {
            "alignment": describe_alignment(pool, memory),
            "contributions": _contributions(pool, how),
        }


def _modality(pool: Pool, name: str) -> dict[str, Any]:
    return {
        "features": pool.sizes.get(f"d of {name}"),
        "head": f"/unimodal_logits/{name}" in pool.paths,
        "classifier": f"/classifier/weight/{name}" in pool.paths,
    }


def _dataset(pool: Pool, path: str) -> dict[str, Any]:
    if path in pool.constants:
        values = pool.constants[path]
        return {"path": path, "shape": list(values.shape), "type": _type(values.dtype)}
    column = pool.columns[path]
    storage = "compressed" if column.compressed else "plain"
    shape = list(column.shape)
    return {"path": path, "shape": shape, "type": _type(column.dtype), "storage": storage}


def describe_alignment(pool: Pool, memory: int = engine.DEFAULT_MEMORY) -> list[dict[str, Any]]:
    """Modality gap and mean cosines of each pair of modalities (MMCSAL, Eq. 10 and Table 3).

    One pass over the features; pairs of unequal widths are left out.
    """
    if len(pool.names("/features")) < 2 or not pool.n:
        return []
    return alignment_pairs(measure_alignment(pool, memory))


def measure_alignment(pool: Pool, memory: int = engine.DEFAULT_MEMORY) -> Alignment:
    """Measure the modality gap; the modalities are called by their paths."""
    sums = GapSums()
    paths = [f"/features/{name}" for name in pool.names("/features")]
    step = engine.compute_rows(max(pool.columns[path].shape[1] for path in paths))
    for start, arrays in pool.blocks(paths, step, memory):
        with pool.located(range(start, pool.n)):
            sums.add(arrays)
    return sums.report()


def alignment_pairs(found: Alignment) -> list[dict[str, Any]]:
    """List the pairs of modalities whose widths are equal, as plain data."""
    names = [(path.removeprefix("/features/"), path) for path in found.within]
    return [
        {
            "modalities": [a, b],
            "gap": found.gap[p, q],
            f"within_{a}": found.within[p],
            f"within_{b}": found.within[q],
            "across": found.across[p, q],
            "matched": found.matched[p, q],
        }
        for (a, p), (b, q) in combinations(names, 2)
        if (p, q) in found.gap
    ]


def _contributions(pool: Pool, how: engine.Engine) -> dict[str, Any] | None:
    """Say what each modality contributes over the unlabeled rows, and the guideline report.

    BMMAL, Sec. 3.3: Eq. 9's two ratios, and the mean weight per dominating modality as in Fig. 6.
    None where the pool lacks what BMMAL needs.
    """
    record = registry.BUILT_IN["bmmal"]
    rows = np.flatnonzero(~pool.labeled)
    if lacking(record, pool) or not len(rows):
        return None
    sources: dict[str, Any] = {**pool.columns, **pool.constants}
    phi, _ = gradients.shapley(sources, rows, how)
    share = contributions(phi)
    before, after = gradients.gradient_norms(sources, rows, share, how)
    found = guideline_report(guideline_sums(share, before, after))
    names = pool.names("/features")
    return {
        "samples": found.samples,
        "mean": dict(zip(names, found.contribution.tolist(), strict=True)),
        "dominates": dict(zip(names, found.share.tolist(), strict=True)),
        "dominance": found.dominance,
        "weaker": names[found.weaker],
        "stronger": names[found.stronger],
        "norm_ratio_before": found.ratio_before,
        "norm_ratio_after": found.ratio_after,
        "weight_where_dominated_by": {
            name: dict(zip(names, row.tolist(), strict=True))
            for name, row in zip(names, found.weight, strict=True)
        },
    }


def _type(dtype: np.dtype[Any]) -> str:
    return "text" if dtype.kind in "OSU" else str(dtype)


def describe_strategies(pool: Pool | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Describe every strategy, with what a pool lacks for it; and name the plugins skipped."""
    strategies, skipped = registry.every()
    rows = []
    for name, record in strategies.items():
        row: dict[str, Any] = {
            "name": name,
            "kind": record.kind,
            "summary": record.summary,
            "needs": [need.described for need in record.needs],
            "parameters": [
                {"name": p.name, "default": p.default, "expected": p.expected, "meaning": p.meaning}
                for p in record.parameters
            ],
            "reference": record.reference,
        }
        if pool is not None and name != "column:NAME":
            row["lacks"] = lacking(record, pool)
        rows.append(row)
    return rows, skipped


def describe_request(request: Request, k: int, seed: int) -> dict[str, Any]:
    """Say what a selection would do: candidates, bytes to read, peak memory, parameters."""
    to_read = sum(column.row_bytes * len(column) for column in request.columns.values())
    to_read += sum(array.nbytes for array in request.constants.values())
    return {
        "strategy": request.strategy.name,
        "parameters": request.parameters,
        "seed": seed,
        "budget": k,
        "candidates": len(request.candidates),
        "labeled": len(request.labeled),
        "reads": request.reads,
        "bytes_to_read": to_read,
        "peak_memory": _peak_memory(request, k),
        "threads": request.threads,
    }


def _peak_memory(request: Request, k: int) -> int:
    """Estimate the peak of the process's memory."""
    columns, step = list(request.columns.values()), task_rows(request)
    row = sum(column.row_bytes for column in columns)
    locked = sum(column.row_bytes for column in columns if not column.plain)
    window = max(request.memory // 2, row * step)
    loaded = min(2 * window * locked // max(row, 1), locked * request.pool.n)
    scratch = request.threads * 3 * step * max(row, 8)
    per_sample = 8 * (8 + len(columns)) * request.pool.n
    own = request.strategy.footprint(request, k) if request.strategy.footprint else 0
    return BASE_MEMORY + loaded + scratch + per_sample + own
