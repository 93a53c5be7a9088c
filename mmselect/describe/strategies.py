"""What ``strategies`` says: kind, needs, parameters, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmselect.describe.report import Table, plain
from mmselect.pool.reading import Pool
from mmselect.request import lacking
from mmselect.strategies import registry


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
            default = "" if p["default"] != p["default"] else f" = {plain(p['default'])}"
            lines.append(("-p", f"{p['name']}{default}: {p['meaning']} ({p['expected']})"))
        lines += [("paper", self.reference)] if self.reference else []
        lines += [("lacks", "; ".join(self.lacks))] if self.lacks else []
        yield [(f"    {word}", said) for word, said in lines]


def describe_strategies(pool: Pool | None = None) -> tuple[list[StrategyReport], list[str]]:
    """Describe every strategy, with what a pool lacks for it; and name the plugins skipped."""
    strategies, skipped = registry.every()
    shown = ("name", "default", "expected", "meaning")
    return [
        StrategyReport(
            name=name,
            kind=record.kind,
            summary=record.summary,
            needs=[need.described for need in record.needs]
            + ([f"{record.extra} (pip install 'mmselect[{record.extra}]')"] * bool(record.extra)),
            parameters=[{word: getattr(p, word) for word in shown} for p in record.parameters],
            reference=record.reference,
            lacks=None if pool is None or name == "column:NAME" else lacking(record, pool),
        )
        for name, record in strategies.items()
    ], skipped
