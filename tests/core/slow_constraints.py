"""What constraints say, written down plainly: from scratch before every pick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.caps import Cap
from mmselect.core.constraints.quotas import Quotas


@dataclass
class Rules:
    """Constraints as plain arrays; `quotas` are (codes, needs, by_cost)."""

    n: int
    budget: float
    caps: list[tuple[np.ndarray, float, bool]] = field(default_factory=list)
    quotas: list[tuple[np.ndarray, list[float], list[bool]]] = field(default_factory=list)
    balance: list[np.ndarray] = field(default_factory=list)
    costs: np.ndarray | None = None

    def state(self) -> Allowed:
        return Allowed(
            self.n,
            self.budget,
            caps=[Cap(*cap) for cap in self.caps],
            quotas=[Quotas(c, np.array(n, float), np.array(b)) for c, n, b in self.quotas],
            balance=self.balance,
            costs=self.costs,
        )

    def cost(self) -> np.ndarray:
        return np.ones(self.n) if self.costs is None else self.costs

    def open_to_caps(self, taken: list[int]) -> np.ndarray:
        """Rows that are not picked and fit in every cap."""
        fits, cost = np.ones(self.n, bool), self.cost()
        fits[taken] = False
        for codes, limit, by_cost in self.caps:
            weight = cost if by_cost else np.ones(self.n)
            for row in range(self.n):
                same = [t for t in taken if codes[t] == codes[row]]
                if codes[row] >= 0 and weight[same].sum() + weight[row] > limit + 1e-9:
                    fits[row] = False
        return fits

    def within(self, taken: list[int], fits: np.ndarray, given_up: int) -> np.ndarray:
        """Rows that fit in the budget beside what quotas need."""
        cost, found = self.cost(), fits.copy()
        left = self.budget - cost[taken].sum()
        found &= cost <= left + 1e-9
        for codes, needs, by_cost in self.quotas[: len(self.quotas) - given_up]:
            reserves, dearest = [], []
            for group, need in enumerate(needs):
                mine = [t for t in taken if codes[t] == group]
                still = need - (cost[mine].sum() if by_cost[group] else len(mine))
                prices, spent = sorted(cost[fits & (codes == group)]), 0.0
                used = []
                while prices and still - spent > 1e-9:
                    used.append(prices.pop(0))
                    spent += used[-1] if by_cost[group] else 1
                reserves.append(sum(used))
                dearest.append(used[-1] if used else 0.0)
            for row in range(self.n):
                more = dearest[codes[row]] if codes[row] >= 0 else 0.0
                found[row] &= cost[row] <= left - sum(reserves) + more + 1e-9
        return found

    def balanced(self, taken: list[int], fits: np.ndarray) -> np.ndarray:
        """Rows of groups with the fewest picks, as far as all columns can have that."""
        found = fits.copy()
        for codes in self.balance:
            counts = {int(c): sum(codes[t] == c for t in taken) for c in codes[fits]}
            if counts:
                least = min(counts.values())
                now = found & np.array([counts.get(int(c), -1) == least for c in codes])
                found = now if now.any() else found
        return found


class Slow:
    """Which rows are allowed, as the documentation says it."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.taken, self.given_up = rules, list[int](), 0
        self.now = self.look()

    def look(self) -> np.ndarray:
        rules = self.rules
        fits = rules.open_to_caps(self.taken)
        while not (found := rules.within(self.taken, fits, self.given_up)).any():
            alone = fits & (rules.cost() <= rules.budget - rules.cost()[self.taken].sum() + 1e-9)
            if self.given_up == len(rules.quotas) or not alone.any():
                break
            self.given_up += 1
        return rules.balanced(self.taken, found)

    @property
    def done(self) -> bool:
        spent = self.rules.costs is None and len(self.taken) >= self.rules.budget
        return spent or not self.now.any()

    def take(self, row: int) -> None:
        assert self.now[row]
        self.taken.append(row)
        self.now = self.look()


def random_rules(rng: Any, n: int, *, budget: int | None = None) -> Rules:
    """Draw a set of constraints; costs are small whole numbers, so that sums are exact."""
    costs = rng.integers(1, 6, n).astype(float) if rng.random() < 0.4 else None
    most = n if costs is None else costs.sum()
    budget = int(rng.integers(1, most + 1)) if budget is None else budget
    rules = Rules(n, budget, costs=costs)
    for _ in range(rng.integers(0, 3)):
        codes = rng.integers(-1, rng.integers(1, n + 1), n)
        by_cost = costs is not None and rng.random() < 0.3
        rules.caps.append((codes, float(rng.integers(1, 5 if not by_cost else 12)), by_cost))
    for _ in range(rng.integers(0, 3)):
        groups = int(rng.integers(1, 4))
        needs = rng.integers(0, max(budget // groups, 1) + 1, groups).astype(float)
        by_cost = [costs is not None and rng.random() < 0.5 for _ in range(groups)]
        rules.quotas.append((rng.integers(-1, groups, n), needs.tolist(), by_cost))
    for _ in range(rng.integers(0, 3)):
        rules.balance.append(rng.integers(0, rng.integers(1, 5), n))
    return rules
