"""What ``strategies`` says: kind, needs, parameters, and where each comes from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mmselect.describe.report import Table, plain
from mmselect.pool.reading import Pool
from mmselect.request import lacking
from mmselect.strategies import registry
from mmselect.strategies.record import Strategy


@dataclass(frozen=True)
class StrategyReport:
    """One strategy, for people.

    `lacks` is what a pool has not, None where no pool was given; `example` is a line that runs on a
    pool that has what it needs, None where many are listed.
    """

    name: str
    kind: str
    summary: str
    needs: list[str]
    parameters: list[dict[str, Any]]
    reference: str
    lacks: list[str] | None = None
    example: str | None = None

    def rows(self) -> Iterator[Table]:
        """Tables for people: the strategy, and below it what it takes."""
        yield [(f"{self.name}  ({self.kind})", self.summary)]
        lines: Table = [("needs", "; ".join(self.needs) or "nothing")]
        for p in self.parameters:
            default = "" if p["default"] != p["default"] else f" = {plain(p['default'])}"
            lines.append(("-p", f"{p['name']}{default}: {p['meaning']} ({p['expected']})"))
        lines += [("paper", self.reference)] if self.reference else []
        lines += [("lacks", "; ".join(self.lacks))] if self.lacks else []
        lines += [("example", self.example)] if self.example else []
        yield [(f"    {word}", said) for word, said in lines]


def describe_strategies(pool: Pool | None = None) -> tuple[list[StrategyReport], list[str]]:
    """Describe every strategy, with what a pool lacks for it; and name the plugins skipped."""
    strategies, skipped = registry.every()
    return [_report(name, record, pool) for name, record in strategies.items()], skipped


def describe_strategy(
    name: str, pool: Pool | None = None
) -> tuple[list[StrategyReport], list[str]]:
    """Describe one strategy with an example; and name the plugins skipped.

    Raises
    ------
    UsageError
        If there is none of this name.

    Examples
    --------
    >>> describe_strategy("entropy")[0][0].example
    'mmselect select pool.h5 --strategy entropy -p activation=softmax --budget 5%'
    """
    if name == "column:NAME":
        record, skipped = registry.BUILT_IN[name], list[str]()
    else:
        record, skipped = registry.find(name)
    files = pool.files if pool else ["pool.h5"]
    set_one = next((p for p in record.parameters if p.default == p.default), None)
    given = ["-p", f"{set_one.name}={plain(set_one.default)}"] if set_one else []
    example = shlex.join(
        ["mmselect", "select", *files, "--strategy", name, *given, "--budget", "5%"]
    )
    return [replace(_report(name, record, pool), example=example)], skipped


def _report(name: str, record: Strategy, pool: Pool | None) -> StrategyReport:
    shown = ("name", "default", "expected", "meaning")
    return StrategyReport(
        name=name,
        kind=record.kind,
        summary=record.summary,
        needs=record.required,
        parameters=[{word: getattr(p, word) for word in shown} for p in record.parameters],
        reference=record.reference,
        lacks=None if pool is None or name == "column:NAME" else lacking(record, pool),
    )
