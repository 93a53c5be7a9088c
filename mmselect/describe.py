"""What ``info``, ``strategies``, ``select --dry-run`` and ``align`` report.

One dataclass per report: its fields are the JSON, and ``rows()`` is what people read, a sequence of
tables, each aligned on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np

from mmselect import engine
from mmselect.core.scores.alignment import Alignment, modality_gap
from mmselect.core.scores.guidelines import guideline_report
from mmselect.core.scores.shapley import contributions
from mmselect.pool.reading import Pool
from mmselect.request import Request, lacking
from mmselect.scoring import task_rows
from mmselect.strategies import covering, gradients, registry

BASE_MEMORY = 100_000_000
"""Bytes of the interpreter and its libraries, before any data."""

NAME_BYTES = 300
"""Bytes that a sample's id takes while the ids are read, where they are text."""

Table: TypeAlias = list[tuple[Any, ...]]
BLANK: Table = [("",)]


def as_data(report: Any) -> dict[str, Any]:
    """Fields of a report, for JSON; one whose default is None only where it says something."""
    said = asdict(report)
    return {f.name: v for f in fields(report) if (v := said[f.name]) is not None or f.default}


@dataclass(frozen=True)
class PoolReport:
    """What ``info`` says without reading a number: sizes, datasets, and which strategies can run.

    Examples
    --------
    >>> import mmselect
    >>> from mmselect.demo import EMOJI
    >>> with mmselect.open_pool(EMOJI) as pool:
    ...     list(describe_pool(pool)[0].modalities)
    ['image', 'text']
    """

    files: list[str]
    samples: int
    labeled: int
    classes: int | None
    modalities: dict[str, dict[str, Any]]
    datasets: list[dict[str, Any]]
    unknown: list[str]
    strategies: dict[str, Any]

    def rows(self) -> Iterator[Table]:
        """Tables for people."""
        n, labeled = self.samples, self.labeled
        summary: Table = [
            ("files", ", ".join(self.files)),
            ("samples", f"{n:,} ({labeled:,} labeled, {n - labeled:,} candidates)"),
            ("classes", self.classes or "none"),
        ]
        for name, has in self.modalities.items():
            parts = [f"features of {has['features']}"] if has["features"] else []
            parts += [word for word in ("head", "classifier") if has[word]]
            summary.append((f"modality {name}", ", ".join(parts)))
        table: Table = [("dataset", "shape", "type", "storage")]
        for row in self.datasets:
            shape = " × ".join(f"{size:,}" for size in row["shape"])
            table.append((row["path"], shape, row["type"], row.get("storage", "")))
        able: Table = [("can run", ", ".join(self.strategies["can_run"]))]
        lack = self.strategies["lack"].items()
        able += [(f"not {name}", f"lacks {', '.join(missing)}") for name, missing in lack]
        yield from (summary, BLANK, table, BLANK, able)


def describe_pool(pool: Pool) -> tuple[PoolReport, list[str]]:
    """Describe a pool without reading a number; and name the plugins that were skipped."""
    strategies, skipped = registry.every()
    lacks = {name: lacking(record, pool) for name, record in strategies.items()}
    del lacks["column:NAME"]
    report = PoolReport(
        files=pool.files,
        samples=pool.n,
        labeled=int(pool.labeled.sum()),
        classes=pool.sizes.get("c"),
        modalities={name: _modality(pool, name) for name in pool.modalities},
        datasets=[_dataset(pool, path) for path in sorted(pool.paths)],
        unknown=pool.unknown,
        strategies={
            "can_run": [name for name, missing in lacks.items() if not missing],
            "lack": {name: missing for name, missing in lacks.items() if missing},
        },
    )
    return report, skipped


def _modality(pool: Pool, name: str) -> dict[str, Any]:
    return {
        "features": pool.sizes.get(f"d of {name}"),
        "head": f"/unimodal_logits/{name}" in pool.paths,
        "classifier": f"/classifier/weight/{name}" in pool.paths,
    }


def _dataset(pool: Pool, path: str) -> dict[str, Any]:
    values = pool.constants[path] if path in pool.constants else pool.columns[path]
    kind = "text" if values.dtype.kind in "OSU" else str(values.dtype)
    found = {"path": path, "shape": list(values.shape), "type": kind}
    if path in pool.columns:
        found["storage"] = "compressed" if pool.columns[path].compressed else "plain"
    return found


@dataclass(frozen=True)
class NumbersReport:
    """What ``info`` says after two passes over a pool: the modality gap, and contributions."""

    alignment: list[dict[str, Any]]
    contributions: dict[str, Any] | None

    def rows(self) -> Iterator[Table]:
        """Tables for people, each with a blank line before it."""
        for pair in self.alignment:
            a, b = pair["modalities"]
            cosines = (
                f"within {a} {pair[f'within_{a}']:.6f}, within {b} {pair[f'within_{b}']:.6f}, "
                f"across {pair['across']:.6f}, matched {pair['matched']:.6f}"
            )
            gap = (f"modality gap, {a} and {b}", f"{pair['gap']:.6f}")
            yield from (BLANK, [gap, ("mean cosine", cosines)])
        if self.contributions:
            yield from (BLANK, *_contribution_rows(self.contributions))


def _contribution_rows(found: Mapping[str, Any]) -> Iterator[Table]:
    """BMMAL's view of the pool: contributions, dominance, and the guidelines' ratios."""
    names = list(found["mean"])
    table: Table = [
        ("unlabeled rows", "mean contribution", "dominates", *(f"weight of {m}" for m in names))
    ]
    for name in names:
        weights = [_three(found["weight_where_dominated_by"][name][other]) for other in names]
        share = f"{100 * found['dominates'][name]:.1f} %"
        table.append((name, f"{found['mean'][name]:.3f}", share, *weights))
    yield table
    rows: Table = [("mean dominance degree", _three(found["dominance"]))]
    if len(names) > 1:
        ratio = f"gradient norm where each dominates, {found['weaker']} over {found['stronger']}"
        rows.append((ratio, _three(found["norm_ratio_before"])))
        rows.append(("the same, rescaled by BMMAL", _three(found["norm_ratio_after"])))
    yield rows


def _three(value: float) -> str:
    """Three decimals, or a dash for a mean over nothing."""
    return "–" if value != value else f"{value:.3f}"


def describe_numbers(
    pool: Pool, threads: int | None = None, memory: int = engine.DEFAULT_MEMORY
) -> NumbersReport:
    """Modality gap and contributions of the modalities: two passes over a pool."""
    how = engine.Engine(threads or engine.processors(), memory)
    with pool.located():
        return NumbersReport(
            alignment=describe_alignment(pool, how),
            contributions=_contributions(pool, how),
        )


def describe_alignment(pool: Pool, how: engine.Engine) -> list[dict[str, Any]]:
    """Modality gap and mean cosines of each pair of modalities (MMCSAL, Eq. 10 and Table 3).

    One pass over the features; pairs of unequal widths are left out.
    """
    if len(pool.names("/features")) < 2 or not pool.n:
        return []
    return alignment_pairs(measure_alignment(pool, how))


def measure_alignment(pool: Pool, how: engine.Engine) -> Alignment:
    """Measure the modality gap; the modalities are called by their paths."""
    paths = [f"/features/{name}" for name in pool.names("/features")]
    with pool.located():
        return modality_gap({path: pool.columns[path] for path in paths}, engine=how)


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
    found = guideline_report(share, before, after)
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


@dataclass(frozen=True)
class StrategyReport:
    """One strategy, for people; `lacks` is what a pool has not, None where no pool was given."""

    name: str
    kind: str
    summary: str
    needs: list[str]
    parameters: list[dict[str, Any]]
    reference: str
    lacks: list[str] | None = None

    def rows(self) -> Iterator[Table]:
        """Tables for people: the strategy, and below it what it takes."""
        yield [(f"{self.name}  ({self.kind})", self.summary)]
        lines: Table = [("needs", "; ".join(self.needs) or "nothing")]
        for p in self.parameters:
            default = "" if p["default"] != p["default"] else f" = {_plain(p['default'])}"
            lines.append(("-p", f"{p['name']}{default}: {p['meaning']} ({p['expected']})"))
        lines += [("paper", self.reference)] if self.reference else []
        lines += [("lacks", "; ".join(self.lacks))] if self.lacks else []
        yield [(f"    {word}", said) for word, said in lines]


def _plain(value: Any) -> str:
    """Write a parameter's value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def describe_strategies(pool: Pool | None = None) -> tuple[list[StrategyReport], list[str]]:
    """Describe every strategy, with what a pool lacks for it; and name the plugins skipped."""
    strategies, skipped = registry.every()
    shown = ("name", "default", "expected", "meaning")
    return [
        StrategyReport(
            name=name,
            kind=record.kind,
            summary=record.summary,
            needs=[need.described for need in record.needs],
            parameters=[{word: getattr(p, word) for word in shown} for p in record.parameters],
            reference=record.reference,
            lacks=None if pool is None or name == "column:NAME" else lacking(record, pool),
        )
        for name, record in strategies.items()
    ], skipped


@dataclass(frozen=True)
class RequestReport:
    """What a selection would do: candidates, bytes to read, peak memory, parameters."""

    strategy: str
    parameters: dict[str, Any]
    seed: int
    budget: int
    candidates: int
    labeled: int
    reads: list[str]
    bytes_to_read: int
    peak_memory: int
    threads: int
    spread: str | None = None
    joined: list[str] | None = None

    def rows(self) -> Iterator[Table]:
        """One table for people."""
        parameters = " ".join(f"{name}={_plain(v)}" for name, v in self.parameters.items())
        spread = f" --spread {self.spread}" if self.spread else ""
        holds = f", with {', '.join(self.joined)} joined in it" if self.joined else ""
        yield [
            ("strategy", f"{self.strategy}{spread}"),
            ("parameters", parameters or "none"),
            ("seed", self.seed),
            ("budget", f"{self.budget:,}"),
            ("candidates", f"{self.candidates:,} ({self.labeled:,} labeled)"),
            ("reads", ", ".join(self.reads) or "nothing"),
            ("to read", engine.format_bytes(self.bytes_to_read)),
            ("peak memory", f"about {engine.format_bytes(self.peak_memory)}{holds}"),
            ("threads", self.threads),
        ]


def describe_request(request: Request, k: int, seed: int) -> RequestReport:
    """Say what a selection would do."""
    columns = {**request.columns, **request.spread_columns}
    to_read = sum(column.row_bytes * len(column) for column in columns.values())
    to_read += sum(array.nbytes for array in request.constants.values())
    joins = request.strategy.joins or request.spread == "facility"
    joined = [f"/features/{m}" for m in request.pool.names("/features")] if joins else None
    return RequestReport(
        strategy=request.strategy.name,
        parameters=request.parameters,
        seed=seed,
        budget=k,
        candidates=len(request.candidates),
        labeled=len(request.labeled),
        reads=sorted({*request.reads, *columns}),
        bytes_to_read=to_read,
        peak_memory=_peak_memory(request, k),
        threads=request.engine.threads,
        spread=request.spread,
        joined=joined,
    )


def _peak_memory(request: Request, k: int) -> int:
    """Estimate the peak of the process's memory."""
    columns, step = list(request.columns.values()), task_rows(request)
    row = sum(column.row_bytes for column in columns)
    locked = sum(column.row_bytes for column in columns if not column.plain)
    window = max(request.engine.memory // 2, row * step)
    loaded = min(2 * window * locked // max(row, 1), locked * request.pool.n)
    scratch = request.engine.threads * 3 * step * max(row, 8)
    named = NAME_BYTES if request.pool.ids.values.dtype.kind == "O" else 0
    per_sample = (8 * (8 + len(columns)) + named) * request.pool.n
    own = request.strategy.footprint(request, k) if request.strategy.footprint else 0
    return BASE_MEMORY + loaded + scratch + per_sample + own + _spread_memory(request, k)


def _spread_memory(request: Request, k: int) -> int:
    """Estimate what spreading keeps: of D² the picks' features, of facility location all."""
    width = sum(column.shape[1] for column in request.spread_columns.values())
    if request.spread == "facility":
        return covering.facility_footprint(request, k)
    return 4 * k * width + 150 * len(request.candidates) if request.spread else 0


def aligned_rows(found: Mapping[str, Any]) -> Iterator[Table]:
    """Tables for people of what ``align`` did: the gap and the losses, before and after."""
    before = {tuple(pair["modalities"]): pair for pair in found["before"]}
    table: Table = [("", "before", "after")]
    for after in found["after"]:
        a, b = after["modalities"]
        old = before.get((a, b), {})
        for key, name in (
            ("gap", f"modality gap, {a} and {b}"),
            ("across", f"mean cosine across {a} and {b}"),
            ("matched", f"mean cosine of matched {a} and {b}"),
        ):
            was, now = (f"{pair[key]:.6f}" if key in pair else "–" for pair in (old, after))
            table.append((name, was, now))
    for name, cosine in found["within"].items():
        was, now = (f"{cosine[when]:.6f}" for when in ("before", "after"))
        table.append((f"mean cosine within {name}", was, now))
    yield from (table, BLANK)
    for name in ("cross_modal", "unimodal"):
        values = [losses[name] for losses in found["losses"] if losses[name] is not None]
        if values:
            change = f"{values[0]:.4f} → {values[-1]:.4f}"
            yield [(f"{name.replace('_', '-')} loss", change)]
