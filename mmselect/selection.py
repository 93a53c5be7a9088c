"""The two verbs: score every candidate, and select the picks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from mmselect.arrays import Index
from mmselect.ask import Scoring, Selecting
from mmselect.constraint import joined
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.constraints.highest import top
from mmselect.core.presence import cut, patterns_of
from mmselect.engine import ranges
from mmselect.errors import NeedsError, SelectionError, few, needing
from mmselect.keywords import accepts
from mmselect.pool.conversion import ARGUMENTS
from mmselect.pool.memory import held_pool
from mmselect.pool.reading import Pool, PoolPath, opened_pool
from mmselect.progress import Progress, counted
from mmselect.request import FEATURES, Request, count_budget, prepare, provenance
from mmselect.scoring import compute_scores
from mmselect.strategies import registry
from mmselect.strategies.record import Batch, Picks

if TYPE_CHECKING:
    import pandas

DEALT = "samples that lack a modality get picks in proportion to their number (docs/methods.md)"

UNUSED = "not used: only facility in its sparse form has something to keep"

COPY_ROWS = 1024
"""Picks whose features are read at a time to find copies among them."""


@dataclass(frozen=True, repr=False)
class Scores:
    """A score and its components for every candidate, in row order.

    Attributes
    ----------
    ids : list of str
    indices : (n,) integer array
        Row numbers in the pool.
    score : (n,) float64 array
        Larger = label first.
    components : dict of str to (n,) array
    provenance : dict
        What made them: strategy, parameters, pool, version, warnings.
    """

    ids: list[str]
    indices: NDArray[np.intp]
    score: NDArray[np.float64]
    components: dict[str, NDArray[Any]]
    provenance: dict[str, Any]

    def __repr__(self) -> str:
        what = f"{len(self.ids):,} candidates by {self.provenance['strategy']}"
        return f"Scores({what}, with {', '.join(['score', *self.components])}: {few(self.ids)})"

    def to_frame(self) -> pandas.DataFrame:
        """Table with a row per candidate: ``id``, ``index``, ``score`` and the components.

        Raises
        ------
        NeedsError
            If pandas is not installed.
        """
        return _frame(
            {"id": self.ids, "index": self.indices, "score": self.score, **self.components}
        )


@dataclass(frozen=True)
class Neighbours:
    """For every candidate, in row order, the pick that is nearest in the strategy's distance.

    Attributes
    ----------
    ids : list of str
    nearest : list of str
        Id of the nearest pick.
    distance : (n,) float64 array
    """

    ids: list[str]
    nearest: list[str]
    distance: NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Selection:
    """The picks, in pick order.

    Attributes
    ----------
    ids : list of str
    indices : (k,) integer array
        Row numbers in the pool.
    scores : (k,) float64 array
        What each pick was worth; nan where the strategy gives no number.
    provenance : dict
        What made them: strategy, parameters, seed, budget, pool, version, warnings.
    nearest : Neighbours, optional
        Where it was asked for: which pick stands for each candidate.
    costs : (k,) float64 array, optional
        With ``cost``: what each pick costs.
    """

    ids: list[str]
    indices: NDArray[np.intp]
    scores: NDArray[np.float64]
    provenance: dict[str, Any]
    nearest: Neighbours | None = None
    costs: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        what = f"{len(self.ids):,} picks by {self.provenance['strategy']}"
        return f"Selection({what}: {few(self.ids)})"

    def to_frame(self) -> pandas.DataFrame:
        """Table with a row per pick, in pick order: ``rank``, ``index``, ``id``, ``score``.

        Raises
        ------
        NeedsError
            If pandas is not installed.
        """
        ranks = np.arange(1, len(self.ids) + 1)
        fields = {"rank": ranks, "index": self.indices, "id": self.ids, "score": self.scores}
        return _frame(fields)


def _frame(fields: dict[str, Any]) -> pandas.DataFrame:
    """Make a table of columns; with a copy of them, so that changing it changes no result."""
    with needing("to_frame", "pandas"):
        import pandas
    return pandas.DataFrame(fields, copy=True)


@accepts(Scoring, ARGUMENTS)
def score(
    pool: Pool | PoolPath | Sequence[PoolPath] | None = None,
    strategy: str = "auto",
    *,
    progress: Progress | None = None,
    **asked: Any,
) -> Scores:
    """Score every candidate: each sample that is neither labeled nor excluded.

    Parameters
    ----------
    pool : Pool, path, or sequence of paths, optional
        Several paths are shards of one pool. None: the pool is given as arrays, with the keywords
        of :func:`mmselect.write_pool` (``features``, ``multimodal_logits``, ``ids``, …); `labeled`
        is then a mask, or ids.
    strategy : str
        Name of a strategy that scores; ``auto`` is the best that the pool has the data for.
    progress : callable, optional
        Told ``(done, total)`` of each phase of the work, now and then.
    {options}

    Returns
    -------
    Scores

    Raises
    ------
    MmselectError
        Of the kind that fits; see :mod:`mmselect.errors`.

    Examples
    --------
    >>> import mmselect
    >>> from mmselect.demo import EMOJI
    >>> table = mmselect.score(EMOJI, strategy="smem", memory="64MB")
    >>> list(table.components)[:3]
    ['entropy', 'entropy.image', 'entropy.text']
    """
    held, asked = held_pool(pool, asked)
    ask = Scoring(strategy=strategy, **asked)
    with opened_pool(held) as opened:
        return carry_out_scores(prepare(opened, ask, scores_only=True, progress=progress))


def carry_out_scores(request: Request) -> Scores:
    """Score, and name the candidates; for parameters see :func:`score`."""
    columns = compute_scores(request)
    request.warnings.extend(request.empty_rows())
    with request.pool.located():
        ids = request.pool.ids.text(request.candidates)
    return Scores(
        ids=ids,
        indices=request.candidates,
        score=columns.pop("score"),
        components=columns,
        provenance=provenance(request),
    )


@accepts(Selecting, ARGUMENTS)
def select(
    pool: Pool | PoolPath | Sequence[PoolPath] | None = None,
    strategy: str = "auto",
    budget: int | float | str = 1,
    *,
    constraints: Sequence[str] = (),
    nearest: bool = False,
    progress: Progress | None = None,
    **asked: Any,
) -> Selection:
    """Select the samples to label next.

    Parameters
    ----------
    pool, strategy, progress
        As in :func:`score`.
    budget : int or str
        How many samples to pick: a count, or a share of all rows of the pool such as ``"5%"``,
        rounded down, at least 1. With `cost`, in its unit, or a share of what all rows cost.
    constraints : sequence of str
        The options `group`, `at_most`, `at_least`, `balance` and `cost` as texts, as provenance
        tells them: ``["--group video:2", "--cost seconds"]``; the dashes may be left out.
    nearest : bool
        Also find which pick stands for each candidate.
    {options}

    Returns
    -------
    Selection
        In pick order; never a labeled or excluded sample, never one twice.

    Raises
    ------
    MmselectError
        Of the kind that fits; see :mod:`mmselect.errors`.

    Examples
    --------
    >>> import mmselect
    >>> from mmselect.demo import EMOJI
    >>> mmselect.select(EMOJI, strategy="smem", budget=3)
    Selection(3 picks by smem: twitter/derelict-house, google/key, twitter/warning)

    Without a file:

    >>> import numpy as np
    >>> image = np.random.default_rng(0).standard_normal((100, 8))
    >>> mmselect.select(features={"image": image}, budget=3, labeled=np.arange(100) < 10)
    Selection(3 picks by facility: 20, 97, 87)
    """
    held, asked = held_pool(pool, asked)
    ask = Selecting(strategy=strategy, budget=budget, **joined(asked, constraints))
    with opened_pool(held) as opened:
        request = prepare(opened, ask, progress=progress)
        found = carry_out(request, count_budget(ask, request), ask.seed, nearest)
    for notice in request.notices:
        warn(notice, stacklevel=2)
    return found


def carry_out(
    request: Request,
    budget: int | float,
    seed: int,
    nearest: bool = False,
) -> Selection:
    """Pick, and name the picks; for parameters see :func:`select`.

    The budget is a number of picks, or with costs what they may cost together.
    """
    if nearest:
        require_distance(request)
    picks, cache = pick(request, budget, seed), request.engine.cache
    if cache is not None and not cache.uses:
        cache.notices.append(f"cache: {UNUSED}")
    indices = request.candidates[picks.positions]
    scores = np.full(len(indices), np.nan) if picks.scores is None else picks.scores
    made = provenance(request, seed=seed, budget=budget, **picks.details)
    costs = request.constraints.costs if request.constraints else None
    with request.pool.located():
        ids = request.pool.ids.text(indices)
    near = _neighbours(request, picks, ids) if nearest else None
    paid = None if costs is None else costs[picks.positions]
    return Selection(ids, indices, scores, made, near, paid)


def require_distance(request: Request) -> None:
    """Refuse to look for nearest picks where the strategy knows no distance.

    Raises
    ------
    NeedsError
        Naming strategies that do.
    """
    if not request.strategy.distance and not request.spread:
        name = request.strategy.name
        able = ", ".join(n for n, record in registry.BUILT_IN.items() if record.distance)
        message = f"strategy {name} has no distance between samples; expected one of {able}"
        raise NeedsError(f"nearest: {message}")


def _neighbours(request: Request, picks: Picks, ids: list[str]) -> Neighbours:
    """Name the pick that stands for each candidate."""
    assert picks.nearest is not None  # asked for only where the strategy has a distance
    with request.pool.located():
        found = picks.nearest()
    names = [ids[pick] for pick in found.pick.tolist()]
    return Neighbours(request.pool.ids.text(request.candidates), names, found.distance)


def pick(request: Request, budget: int | float, seed: int) -> Picks:
    """Pick candidates: by a batch strategy, or the top of a score, or the score spread out."""
    given, dealt = request.constraints, _patterns_to_deal(request)
    if given:
        allowed: Allowed | None = given.allowed(budget, dealt)
    else:
        n = len(request.candidates)
        allowed = None if dealt is None else Allowed(n, budget, dealt=dealt)
    if allowed and allowed.done:
        message = "the constraints together allow no candidate"
        raise SelectionError(message, file=request.pool.files[0])
    k = allowed.expected if allowed else int(budget)
    rng, batch = np.random.default_rng(seed), batch_of(request, allowed)
    with request.pool.located():
        if request.strategy.kind == "batch":
            picks: Picks = request.strategy.function(batch, k, rng)
        else:
            values = compute_scores(request)["score"]
            if request.spread:
                from mmselect.strategies.diversity import spread

                picks = spread(batch, values, k, rng, request.spread)
            else:
                best = top(values, k, allowed)
                picks = Picks(best, values[best])
        copies = _copies(request, batch, picks) if len(batch.group(FEATURES)) else 0
    request.warnings.extend([*picks.warnings, *request.empty_rows()])
    if allowed:
        if picks.positions.tolist() != allowed.taken:
            raise NeedsError(f"strategy {request.strategy.name}: picks that it did not tell")
        request.warnings.extend(given.shortfalls(allowed, budget) if given else [])
    if copies:
        found = f"{copies:,} of the picks are copies of others"
        equal = " and ".join(path for path in request.strategy.compares if batch.group(path))
        request.warnings.append(f"{found}: {equal} are equal")
    return picks


def _patterns_to_deal(request: Request) -> Index | None:
    """Which modalities each candidate has, as a number, where picks are dealt by that."""
    names = request.pool.names("/features")
    if not (request.strategy.dealt or request.spread == "facility"):
        return None
    own = cut(request.pool.present, request.candidates)
    patterns = patterns_of(own, names, len(request.candidates))
    if len(patterns.has) < 2:
        return None
    request.warnings.append(DEALT)
    return patterns.code


def _copies(request: Request, batch: Batch, picks: Picks) -> int:
    """Count picks at distance 0 from an earlier one: equal in all that the strategy compares."""
    if request.strategy.kind != "batch" and not request.spread:
        return 0
    paths = [path for item in request.strategy.compares for path in batch.group(item)]
    rows, seen = batch.candidates[picks.positions], set[bytes]()
    for start, stop in ranges(0, len(rows), COPY_ROWS):
        parts = [batch.columns[path][rows[start:stop]] + 0 for path in paths]  # -0 is 0
        for row in range(stop - start):
            whole = b"".join(part[row].tobytes() for part in parts)
            seen.add(hashlib.blake2b(whole, digest_size=16).digest())
    return len(rows) - len(seen)


def batch_of(request: Request, allowed: Allowed | None = None) -> Batch:
    """Collect what a batch strategy may see: of the labels only those of labeled rows."""
    columns = {**request.columns, **request.spread_columns}
    labels = columns.pop("/label", None)
    return Batch(
        columns=columns,
        constants=request.constants,
        candidates=request.candidates,
        labeled=request.labeled,
        parameters=request.parameters,
        engine=request.engine,
        progress=counted(request.engine.progress, "picking"),
        labels=None if labels is None else labels[request.labeled].astype(np.intp),
        allowed=allowed,
    )
