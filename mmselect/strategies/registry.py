"""All strategies by name: the built-in ones, and those of installed packages.

A package adds strategies through the entry-point group ``mmselect.strategies``; each entry point
names a :class:`~mmselect.strategies.record.Strategy`, or a sequence of them. One that cannot be
loaded is reported and skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from mmselect.errors import UsageError, suggestion
from mmselect.strategies import PLUGINS, baselines
from mmselect.strategies.record import Strategy

FAMILIES = {
    "baselines": ("random", "column:NAME"),
    "uncertainty": ("entropy", "margin", "least-confidence", "bald"),
    "smem": ("smem",),
    "gradients": ("contribution", "badge", "bmmal"),
    "facility": ("facility", "doubt"),
    "coldstart": ("mmcsal", "activeft", "kmeans", "coreset", "alignment"),
    "systems": ("deepfool", "sraal-indicator", "alfa-mix", "gcnal", "typiclust"),
    "networks": ("learning-loss", "vaal", "sraal"),
}
"""Which module has which strategies: it is imported when one of them is asked for."""


class BuiltIn(Mapping[str, Strategy]):
    """The built-in strategies by name."""

    def __getitem__(self, name: str) -> Strategy:
        for family, names in FAMILIES.items():
            if name in names:
                return _family(family)[name]
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for names in FAMILIES.values() for name in names)

    def __len__(self) -> int:
        return sum(map(len, FAMILIES.values()))


@lru_cache
def _family(name: str) -> dict[str, Strategy]:
    module = import_module(f"mmselect.strategies.{name}")
    return {strategy.name: strategy for strategy in module.STRATEGIES}


BUILT_IN: Mapping[str, Strategy] = BuiltIn()

AUTO = ("facility", "margin", "random")
"""What ``auto`` tries, best first (``docs/evidence.md``)."""

AUTO_SCORES = ("doubt", "margin")
"""What ``auto`` tries where a score is asked for: what facility location counts samples by."""


def installed() -> tuple[dict[str, Strategy], list[str]]:
    """Strategies of other packages by name, and a line for each that had to be skipped."""
    found: dict[str, Strategy] = {}
    skipped = []
    for point in sorted(entry_points(group=PLUGINS), key=lambda point: (point.name, point.value)):
        try:
            for strategy in _load(point):
                if strategy.name in BUILT_IN or strategy.name in found:
                    raise ValueError(f"the name {strategy.name!r} is taken")
                found[strategy.name] = strategy
        except Exception as error:  # a plugin may fail in any way; it must not take others along
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            skipped.append(f"plugin {point.name!r} ({point.value}) is skipped: {reason}")
    return found, skipped


def every() -> tuple[dict[str, Strategy], list[str]]:
    """All strategies by name, built-in first, and a line for each plugin that was skipped."""
    others, skipped = installed()
    return {**BUILT_IN, **others}, skipped


def find(name: str) -> tuple[Strategy, list[str]]:
    """Find a strategy by name; plugins are loaded only if no built-in one has it.

    Raises
    ------
    UsageError
        If there is none.

    Examples
    --------
    >>> find("column:loss")[0].needs[0].any_of
    ('/metadata/loss',)
    """
    stem, _, column = name.partition(":")
    if stem == "column" and column not in ("", "NAME"):
        return baselines.column_strategy(column), []
    if stem == "column":
        raise UsageError(f"strategy {name}: NAME stands for a column of /metadata")
    if name in BUILT_IN:
        return BUILT_IN[name], []
    strategies, skipped = every()
    if name in strategies:
        return strategies[name], skipped
    expected = f"strategy: expected one of {', '.join(strategies)}"
    found = f"{expected}, found {name!r}{suggestion(name, strategies)}"
    raise UsageError("; ".join([found, *skipped]))


def _load(point: EntryPoint) -> Iterator[Strategy]:
    loaded = point.load()
    strategies = [loaded] if isinstance(loaded, Strategy) else loaded
    if not isinstance(strategies, Iterable):
        raise TypeError(f"expected a Strategy or a sequence of them, found {type(loaded).__name__}")
    for strategy in strategies:
        if not isinstance(strategy, Strategy):
            raise TypeError(f"expected a Strategy, found {type(strategy).__name__}")
        yield strategy
