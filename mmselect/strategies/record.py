"""What a strategy is: a record.

A **score** strategy looks at each sample alone: ``function(arrays, parameters) -> columns``.
`arrays` maps dataset paths to blocks of rows (or to constants, such as the classifier), and
`columns` is a dict of (rows,) arrays that begins with ``score``, larger = label first. Streaming,
threads and shards come for free. Where some samples lack a modality, their rows of it are zeros,
and ``/present/{modality}`` is among the arrays.

A **batch** strategy looks at all candidates: ``function(batch, k, rng) -> Picks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.core.constraints.allowed import Allowed
from mmselect.core.limits import LIMITS, Limits
from mmselect.core.presence import Mask
from mmselect.engine import Engine, Progress
from mmselect.errors import ParameterError, few, suggestion
from mmselect.option import shortened

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Columns: TypeAlias = dict[str, NDArray[Any]]
Parameters: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a strategy, as ``-p NAME=VALUE`` gives it.

    Attributes
    ----------
    name : str
        Its name; one that ends in ``.{modality}`` is given once per modality.
    default : bool, int, float or str
        Value where none is given; its type is the parameter's type.
    meaning : str
        One line for people.
    choices : tuple of str
        The allowed values of a text parameter.
    minimum, maximum : float
        The allowed range of a number.
    """

    name: str
    default: bool | int | float | str
    meaning: str
    choices: tuple[str, ...] = ()
    minimum: float = -np.inf
    maximum: float = np.inf

    def parse(self, value: Any) -> Any:
        """Turn a given value, or its text, into the parameter's type, and check its range.

        Examples
        --------
        >>> Parameter("beta", 1.0, "weight of the divergence", minimum=0).parse("0.5")
        0.5
        """
        kind = self.limits.kind
        try:
            parsed = _TRUTH[str(value).lower()] if kind is bool else kind(value)
        except (KeyError, ValueError, TypeError, OverflowError):
            parsed = None
        if not self.limits.allows(parsed):
            found = shortened(value)
            raise ParameterError(f"{self.name}: expected {self.expected}, found {found}")
        return parsed

    @property
    def expected(self) -> str:
        """What values it takes, in words."""
        return self.limits.expected

    @property
    def limits(self) -> Limits:
        """The type of its default, and its range."""
        return Limits(type(self.default), self.choices, self.minimum, self.maximum)


def limited(name: str, default: bool | int | float | str, meaning: str) -> Parameter:
    """Make a parameter with the limits that the core's parameter of this name has.

    Examples
    --------
    >>> limited("tau", 0.07, "temperature").minimum
    1e-06
    """
    limits = LIMITS[name]
    return Parameter(name, default, meaning, limits.choices, limits.minimum, limits.maximum)


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Need:
    """Something a strategy reads.

    Attributes
    ----------
    any_of : tuple of str
        Dataset paths or groups of the format; one of them is enough.
        Only the first of them that a pool has is read.
    unless : (str, value, …), optional
        A parameter and the values with which it is not needed.
    welcome : bool
        Read where it is there, even if it is not needed.
    optional : bool
        Never missed: read where it is there, unless it is not needed.
    """

    any_of: tuple[str, ...]
    unless: tuple[Any, ...] | None = None
    welcome: bool = False
    optional: bool = False

    def met_by(self, paths: set[str], parameters: Mapping[str, Any]) -> bool:
        """Whether a pool with these datasets is enough."""
        return self.optional or self.waived(parameters) or bool(self.found_in(paths))

    def waived(self, parameters: Mapping[str, Any]) -> bool:
        """Whether these parameters make it unnecessary."""
        return self.unless is not None and parameters.get(self.unless[0]) in self.unless[1:]

    def found_in(self, paths: set[str]) -> list[str]:
        """Name the datasets that meet it: those of the first item that has any."""
        return next(filter(None, (datasets_of(item, paths) for item in self.any_of)), [])

    def __str__(self) -> str:
        return self.any_of[0] if len(self.any_of) == 1 else f"({' or '.join(self.any_of)})"

    @property
    def described(self) -> str:
        """The need with the parameter that waives it."""
        name, *values = self.unless or ("",)
        shown = " or ".join(v if isinstance(v, str) else f"{v:g}" for v in values)
        waiver = f" unless {name}={shown}" if values else ""
        return f"{self}{' if there' if self.optional else ''}{waiver}"


def need(*any_of: str, **how: Any) -> Need:
    """Shorthand for :class:`Need`."""
    return Need(any_of, **how)


def datasets_of(item: str, paths: set[str]) -> list[str]:
    """Those of `paths` that are `item` or stand in it, sorted.

    Examples
    --------
    >>> datasets_of("/features", {"/features/text", "/features/image", "/id"})
    ['/features/image', '/features/text']
    """
    return sorted(path for path in paths if path == item or path.startswith(f"{item}/"))


PRESENT = "/present"


def masks_in(columns: Mapping[str, Any], group: str, rows: Any = slice(None)) -> dict[str, Mask]:
    """Which rows have the modality of each dataset of a group; those that all rows have left out.

    Examples
    --------
    >>> columns = {"/present/a": np.array([1, 0]), "/features/a": np.zeros((2, 1))}
    >>> masks_in(columns, "/features")
    {'/features/a': array([ True, False])}
    """
    paths = {p: f"{PRESENT}{p.removeprefix(group)}" for p in columns if p.startswith(f"{group}/")}
    return {p: columns[mask][rows].astype(bool) for p, mask in paths.items() if mask in columns}


class Nearest(NamedTuple):
    """Which pick stands for each candidate.

    Attributes
    ----------
    pick : (n,) integer array
        Position in the picks.
    distance : (n,) array
    """

    pick: NDArray[np.intp]
    distance: NDArray[np.float64]


@dataclass(frozen=True)
class Picks:
    """What a batch strategy returns.

    Attributes
    ----------
    positions : (k,) integer array
        Picks, in pick order, as positions among the candidates.
    scores : (k,) array, optional
        What each pick was worth when it was picked.
    warnings : tuple of str
        What the user should know.
    details : dict
        Numbers for the provenance.
    nearest : callable, optional
        Computes which pick stands for each candidate, in the strategy's own distance.
    """

    positions: NDArray[np.intp]
    scores: NDArray[np.float64] | None = None
    warnings: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    nearest: Callable[[], Nearest] | None = None


@dataclass(frozen=True)
class Batch:
    """What a batch strategy may see.

    Attributes
    ----------
    columns : mapping of path to array-like
        Per-sample datasets over the whole pool, on disk; index them with rows.
    constants : mapping of path to array
        The classifier.
    candidates, labeled : integer arrays
        Row numbers, increasing.
    parameters : dict
        With defaults filled in.
    engine : Engine
        Who does the work, with how many threads and how much memory.
    progress : callable
        To be told ``(done, total)`` now and then.
    labels : (l,) integer array, optional
        Classes of the rows in `labeled`, -1 = unknown, for a strategy that needs ``/label``. Those
        of other rows are not to be had: `columns` leaves ``/label`` out.
    allowed : Allowed, optional
        Which candidates may be picked next, by position; to be told of each pick. None: any that
        is not picked yet.
    """

    columns: Mapping[str, Any]
    constants: Arrays
    candidates: NDArray[np.intp]
    labeled: NDArray[np.intp]
    parameters: Parameters
    engine: Engine
    progress: Progress
    labels: NDArray[np.intp] | None = None
    allowed: Allowed | None = None

    def rows(self, path: str) -> NDArray[Any]:
        """Candidates' rows of a dataset, in memory."""
        found: NDArray[Any] = self.columns[path][self.candidates]
        return found

    def present(self, group: str = "/features", rows: Any = slice(None)) -> dict[str, Mask]:
        """Which rows have the modality of each dataset of a group; see :func:`masks_in`."""
        return masks_in(self.columns, group, rows)

    def group(self, name: str) -> list[str]:
        """Per-sample datasets in a group, sorted."""
        return datasets_of(name, set(self.columns))


def _as_they_are(constants: Arrays) -> Arrays:
    return constants


def _unchanged(parameters: Parameters, _given: frozenset[str]) -> Parameters:
    return parameters


@dataclass(frozen=True)
class Strategy:
    """One way to select.

    Attributes
    ----------
    name : str
        As in ``--strategy NAME``.
    kind : {"score", "batch"}
        Row by row, or all candidates together.
    summary : str
        One line for people.
    function : callable
        See the module's text.
    needs : tuple of Need
        What the pool must have.
    parameters : tuple of Parameter
        What ``-p`` can set.
    reference : str
        Where it comes from.
    finish : callable
        Completes parameters that depend on each other: ``(parameters, given names) -> parameters``.
    footprint : callable, optional
        Estimates the bytes a batch strategy keeps in memory: ``(request, k) -> int``.
    joins : bool
        Whether it holds all features in memory, joined to one matrix; the plan says so.
    distance : bool
        Whether its picks come with `Picks.nearest`.
    complete : callable, optional
        Completes the columns of a score once all candidates have theirs, such as by their means:
        ``(columns, parameters) -> columns``.
    conditions : callable, optional
        Says what else a pool lacks: ``(paths, sizes of axes, parameters) -> lines``.
    prepare : callable
        Computes what every block of a score strategy needs of the classifier, once:
        ``constants -> constants``.
    compares : tuple of str
        Datasets or groups in which two samples are equal if their distance is 0.
    dealt : bool
        Whether samples with the same modalities get picks in proportion to their number: where the
        strategy compares what cannot be compared over different modalities.
    constrained : bool
        Whether a batch strategy asks `Batch.allowed`, where there is one, before each pick.
    extra : str
        A package that it needs and not everybody has; the extra that installs it has its name.
    """

    name: str
    kind: Literal["score", "batch"]
    summary: str
    function: Callable[..., Any]
    needs: tuple[Need, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    reference: str = ""
    finish: Callable[[Parameters, frozenset[str]], Parameters] = _unchanged
    footprint: Callable[[Any, int], int] | None = None
    joins: bool = False
    distance: bool = False
    complete: Callable[[Columns, Parameters], Columns] | None = None
    conditions: Callable[[set[str], Mapping[str, int], Parameters], list[str]] | None = None
    prepare: Callable[[Arrays], Arrays] = _as_they_are
    compares: tuple[str, ...] = ("/features",)
    constrained: bool = False
    dealt: bool = False
    extra: str = ""

    @property
    def installed(self) -> bool:
        """Whether what it needs beside the pool is there; looked for without importing it."""
        return not self.extra or find_spec(self.extra) is not None

    @property
    def required(self) -> list[str]:
        """What it needs, in words: datasets of the pool, and a package."""
        package = [f"{self.extra} (pip install 'mmselect[{self.extra}]')"] * bool(self.extra)
        return [*(need.described for need in self.needs), *package]

    def resolve(self, given: Mapping[str, Any], modalities: Sequence[str]) -> Parameters:
        """Fill in defaults and check what was given.

        Raises
        ------
        ParameterError
            For an unknown name or modality, or a value out of range.
        """
        known = {p.name: p for p in self._expanded(modalities)}
        if unknown := [name for name in given if name not in known]:
            raise ParameterError(self._unknown(unknown[0], list(known), modalities))
        values = {n: p.parse(given[n]) if n in given else p.default for n, p in known.items()}
        return self.finish(values, frozenset(given))

    def lacks(self, paths: set[str], sizes: Mapping[str, int], parameters: Parameters) -> list[str]:
        """Say what a pool with these datasets and sizes of axes does not have."""
        unmet = [str(need) for need in self.needs if not need.met_by(paths, parameters)]
        if unmet or self.conditions is None:
            return unmet
        return self.conditions(paths, sizes, parameters)

    def reads(self, paths: set[str], parameters: Mapping[str, Any]) -> list[str]:
        """Datasets of a pool that the strategy reads."""
        read = [n for n in self.needs if n.welcome or not n.waived(parameters)]
        return sorted({path for need in read for path in need.found_in(paths)})

    def _expanded(self, modalities: Sequence[str]) -> list[Parameter]:
        """One parameter per modality for each that is given per modality."""
        expanded = []
        for parameter in self.parameters:
            stem, found, _ = parameter.name.partition("{modality}")
            names = [f"{stem}{m}" for m in modalities] if found else [stem]
            expanded += [replace(parameter, name=name) for name in names]
        return expanded

    def _unknown(self, name: str, known: list[str], modalities: Sequence[str]) -> str:
        stem, _, last = name.rpartition(".")
        if f"{stem}.{{modality}}" in {p.name for p in self.parameters}:
            found = f"found modality {last!r} in {name!r}{suggestion(name, known)}"
            return f"expected one of the pool's modalities ({few(list(modalities))}), {found}"
        expected = f"one of {', '.join(known)}" if known else "no parameters"
        near = suggestion(name, known)
        return f"strategy {self.name}: expected {expected}, found {name!r}{near}"
