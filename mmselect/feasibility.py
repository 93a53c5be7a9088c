"""Whether constraints can be met: bounds that are cheap to prove, before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import numpy as np

from mmselect.arrays import Floats
from mmselect.constraining import Constraints, Grouped, Mask, Valued, amount, by_column
from mmselect.errors import SelectionError

Count: TypeAlias = Callable[[Mask], int]


def reach(given: Constraints, rows: Mask, budget: float) -> tuple[int, str]:
    """Bound how many of some candidates can be picked, and say by which constraints.

    Each group counts as far as its limit allows; of the values of a column with ``--at-most`` each
    counts no more than that, the groups among its candidates counted alike.
    """
    counts: list[tuple[str, Count]] = [("", lambda some: int(some.sum()))]
    counts += [
        (f"group {group}", partial(values.most, group.limit)) for group, values in given.groups
    ]
    bounds = [(count(rows), said) for said, count in counts]
    for shares in by_column(given.at_most):
        names = [f"at-most {valued.share}" for valued in shares]
        for said, count in counts:
            by = " and ".join([*filter(None, [said]), *names])
            bounds.append((_within(given, rows, budget, shares, count), by))
    return min(bounds, key=lambda bound: bound[0])


def _within(
    given: Constraints, rows: Mask, budget: float, shares: list[Valued], count: Count
) -> int:
    """Add up what each value of one column allows, the rows of other values counted whole."""
    others, total = rows, 0
    for share, has in shares:
        if given.costs is None or share.percent is None:
            total += min(int(given.limit(share, budget)), count(rows & has))
            others = others & ~has
    return total + count(others)


def check(given: Constraints, budget: float) -> None:
    """Refuse constraints that cannot be met.

    Raises
    ------
    SelectionError
        With the arithmetic.
    """
    for shares in by_column(given.at_least):
        for valued in shares:
            if problem := _unmet(given, valued, budget):
                raise SelectionError(f"at-least {valued.share}: {problem}", file=given.file)
        prices = [price(given, valued, budget) for valued in shares]
        if sum(prices) > budget * (1 + 1e-12):
            parts = f"{' + '.join(map(amount, prices))} = {amount(sum(prices))}"
            said = " and ".join(f"at-least {valued.share}" for valued in shares)
            found = f"{parts} needed, the budget is {amount(budget)}"
            raise SelectionError(f"{said}: {found}", file=given.file)


def _unmet(given: Constraints, valued: Valued, budget: float) -> str | None:
    """Say why one quota cannot be met."""
    need, share, has = given.need(valued.share, budget), valued.share, valued.has
    if given.costs is not None and share.percent is not None:
        total = float(given.costs[has].sum())
        found = f"{amount(need)} of {given.cost} needed, the candidates that have it cost"
        return f"{found} {amount(total)}" if total < need * (1 - 1e-12) else None
    count, (most, by) = int(has.sum()), reach(given, has, budget)
    if need <= most:
        return None
    by = f", of which {by} allows {most:,}" if by else ""
    return f"{amount(need)} needed, {count:,} candidates have it{by}"


def price(given: Constraints, valued: Valued, budget: float) -> float:
    """Find the least that meets a quota: picks, or with costs what its cheapest rows cost."""
    need = given.need(valued.share, budget)
    if given.costs is None or valued.share.percent is not None:
        return need
    return float(np.sort(given.costs[valued.has])[: int(need)].sum())


def clipped(given: Constraints, budget: float) -> tuple[float, str]:
    """Largest budget, up to this one, that the constraints may allow, and by which of them."""
    if given.costs is not None:
        total = float(given.costs.sum())
        return min(budget, total), f"all candidates together cost {amount(total)}"
    everyone, why = np.ones(given.n, bool), ""
    while (found := reach(given, everyone, budget))[0] < budget:
        budget, by = found  # percentages count the budget, so that less of it may allow less
        why = f"{by} allows {budget:,} picks"
    return budget, why


def lines(given: Constraints, budget: float) -> Iterator[tuple[str, str]]:
    """Say of each constraint what it comes to, for a dry run."""
    yield from ((f"--group {g}", _groups(g.limit, grouped)) for g, grouped in given.groups)
    for name, shares in (("at-most", given.at_most), ("at-least", given.at_least)):
        for valued in shares:
            of = given.limit if name == "at-most" else given.need
            unit = f" of {given.cost}" if given.costs is not None and valued.share.percent else ""
            word = name.removeprefix("at-")
            found = f"at {word} {amount(of(valued.share, budget))}{unit}"
            count = f"{int(valued.has.sum()):,} candidates have it"
            yield f"--{name} {valued.share}", f"{found}; {count}"
    for column, grouped in given.balance:
        yield f"--balance {column}", f"{_values(grouped):,} values among the candidates"
    if given.costs is not None:
        yield f"--cost {given.cost}", _spread(given.costs)


def _groups(limit: int, grouped: Grouped) -> str:
    found = f"{_values(grouped):,} values among the candidates"
    return f"{found}, so at most {grouped.most(limit):,} picks"


def _values(grouped: Grouped) -> int:
    return len(np.unique(grouped.codes))


def _spread(costs: Floats) -> str:
    if not len(costs):
        return "no candidates"
    least, most, total = (amount(float(v)) for v in (costs.min(), costs.max(), costs.sum()))
    return f"{least} to {most} each, {total} for all candidates"
