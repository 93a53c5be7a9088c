"""What ``info`` says without reading a number: sizes, datasets, which strategies can run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmselect.core.presence import patterns_of
from mmselect.describe.report import BLANK, Table
from mmselect.output.layout import percent
from mmselect.pool.reading import Pool
from mmselect.request import lacking
from mmselect.strategies import registry
from mmselect.strategies.record import Strategy


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
    patterns: list[dict[str, Any]] | None = None

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
        for pattern in self.patterns or ():
            share = f"{pattern['samples']:,} ({percent(pattern['samples'] / max(n, 1))})"
            lacks = f", without {', '.join(pattern['lacks'])}" if pattern["lacks"] else ""
            summary.append((f"with {', '.join(pattern['has'])}{lacks}", share))
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
    lacks = {name: [*lacking(r, pool), *_package(r)] for name, r in strategies.items()}
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
        patterns=_patterns(pool),
    )
    return report, skipped + pool.notices


def _package(record: Strategy) -> list[str]:
    """Name the package that a strategy needs, where it is not installed: it comes last."""
    return [] if record.installed else record.required[-1:]


def _patterns(pool: Pool) -> list[dict[str, Any]] | None:
    """Which sets of modalities samples have, the most frequent first; None: all have all."""
    if not pool.present:
        return None
    names = pool.modalities
    found = [
        {
            "has": [names[m] for m in own],
            "lacks": [name for m, name in enumerate(names) if m not in own],
            "samples": len(rows),
            "labeled": int(pool.labeled[rows].sum()),
        }
        for own, rows in patterns_of(pool.present, names, pool.n).rows()
    ]
    return sorted(found, key=lambda pattern: -pattern["samples"])


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
