"""Facility location: cover every unlabeled sample by something similar that is labeled."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from mmselect.arrays import Floats, Rows
from mmselect.core.chosen import held
from mmselect.core.constraints.allowed import Allowed
from mmselect.core.coverage.exact import ExactGreedy
from mmselect.core.coverage.matching import Coverage
from mmselect.core.coverage.neighbours import sparse_greedy
from mmselect.core.coverage.similarity import labeled_cover
from mmselect.core.coverage.sparse import NEIGHBOURS, edges_among, known_neighbours
from mmselect.core.features import Features, Given, checked
from mmselect.core.limits import check_limits
from mmselect.core.presence import Present
from mmselect.core.unit_rows import held_as, unit_rows
from mmselect.engine import SERIAL, Engine, Progress, blas_threads
from mmselect.errors import ParameterError

EXACT_UP_TO = 50_000
"""Clients up to which "auto" is exact: the first gains need all n² similarities once."""


def facility(
    features: Features,
    k: int,
    *,
    labeled: ArrayLike | None = None,
    present: Present | None = None,
    weights: Floats | None = None,
    center: bool = True,
    form: Literal["auto", "exact", "sparse"] = "auto",
    neighbours: int = NEIGHBOURS,
    allowed: Allowed | None = None,
    engine: Engine = SERIAL,
    progress: Progress | None = None,
) -> Coverage:
    """Pick, k times, the sample that brings the unlabeled ones closest to something labeled.

    ``argmax_j Σ_i w_i max(0, s_ij - best_i)``, where the clients i are all unlabeled samples,
    ``s_ij`` is the mean cosine over the modalities that both have, 0 where negative, ``best_i`` the
    largest s to anything labeled or picked so far, and ``w_i`` what client i counts: greedy
    maximisation of the facility location function (Nemhauser, Wolsey and Fisher, 1978; lazily,
    Minoux, 1978). Ties go to the lower row.

    The exact form keeps all gains up to date: a pick changes them only through the clients that it
    covers better, by rows of similarities that are held for up to some 16,000 clients. Above, first
    picks are drafted and then proved by bounds from one pass over all pairs
    (:class:`~mmselect.core.coverage.ahead.Ahead`), until few pairs are left in which a client could
    still improve. The sparse form
    knows, of each client, its `neighbours` most similar samples, and is greedy, exactly, on those;
    others are taken to be half as similar to it as the last of them.

    Parameters
    ----------
    features : mapping or sequence of arrays, each (n, d_m)
        Widths may differ.
    k : int
        Budget: at most the number of rows that are not labeled.
    labeled : sequence of int, optional
        Rows that are labeled already: never picked, and what they cover is covered.
    present : mapping of str to (n,) ndarray of bool, optional
        Which rows have a modality; the features of the others are not read.
    weights : (n - labeled,) ndarray of float64, optional
        Weight w_i ≥ 0 of each unlabeled row, in row order; they are divided by their mean, so that
        gains have the same size with and without. None, or all 0, is 1.
    center : bool
        Remove each modality's mean over the pool first.
    form : {"auto", "exact", "sparse"}
        "auto" is exact for up to 50,000 unlabeled rows.
    neighbours : int
        Candidates known of each client in the sparse form.
    allowed : Allowed, optional
        Which unlabeled rows may be picked next, by position among them; told of every pick. It
        ends the selection, in place of `k`, and costs divide the gains that are compared.
    engine : Engine
        Its memory is also what similarities to single candidates may take, where not all are held.
    progress : callable, optional
        Called with the number of picks made and `k`.

    Returns
    -------
    Coverage
        The gain of a pick is what it added to the sum; `form` says how it was computed. `work` of
        the exact form: clients covered better where all similarities are held, each a row of them
        (``rows``), else passes over all pairs (``passes``) and candidates whose n similarities were
        computed beside (``columns``); float64 similarities (``decided``).

    Raises
    ------
    SchemaError, DataError, BudgetError, SelectionError
        See :func:`mmselect.core.features.checked` and
        :func:`mmselect.core.unit_rows.unit_rows`.
    ParameterError
        If `form`, `neighbours` or `weights` is not as above.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.9, -0.1], [0.0, 1.0]])
    >>> facility([x], 2, center=False).picks
    array([1, 3])
    """
    check_limits(form=form, neighbours=neighbours)
    given = checked(features, k, labeled, present)
    scale = _scaled(weights, len(given.candidates))
    with blas_threads():
        if is_exact(form, len(given.candidates)):
            return _exactly(given, scale, center, allowed, engine, progress)
        known = known_neighbours(given, neighbours, center, engine)
        name, zero_rows = str(known["name"]), known["zero_rows"].tolist()
        edges, best = edges_among(known, given.candidates)
        del known
        picks, gains = sparse_greedy(edges, best, k, scale, progress, allowed)
    named = dict(zip(given.features, zero_rows, strict=True))
    return Coverage(given.candidates[picks], gains, name, named)


def is_exact(form: str, clients: int) -> bool:
    """Whether so many unlabeled samples are covered by all similarities.

    Examples
    --------
    >>> is_exact("auto", 50_000), is_exact("auto", 50_001), is_exact("sparse", 10)
    (True, False, False)
    """
    return form == "exact" or (form == "auto" and clients <= EXACT_UP_TO)


def _exactly(
    given: Given,
    scale: Floats | None,
    center: bool,
    allowed: Allowed | None,
    engine: Engine,
    progress: Progress | None,
) -> Coverage:
    """Pick by all similarities; rows are made anew each time where they are not held."""
    how: dict[str, Any] = {"center": center, "present": given.present, "engine": engine}
    features, n = given.features, len(given.candidates) + len(given.labeled)
    stored, made = held_as([*features.values()], n, engine.memory)
    if stored:
        features = {name: held(array) for name, array in features.items()}
    every = unit_rows(features, **how)
    best = labeled_cover(every, given, engine)
    chosen = every.chosen(given.candidates)
    clients: Rows = chosen.whole(engine) if made else chosen
    greedy = ExactGreedy(clients, given, every, best, scale, engine, allowed)
    picks, gains = greedy.run(progress)
    return Coverage(given.candidates[picks], gains, "exact", every.zero_rows, greedy.work)


def _scaled(weights: Floats | None, clients: int) -> Floats | None:
    """Weights of mean 1; None where all count the same because none counts."""
    if weights is None:
        return None
    if weights.shape != (clients,):
        expected = f"expected shape ({clients},), one of each unlabeled row"
        raise ParameterError(f"weights: {expected}, found {weights.shape}")
    scale = weights.astype(np.float64)
    if not (np.isfinite(scale) & (scale >= 0)).all():
        bad = np.flatnonzero(~(np.isfinite(scale) & (scale >= 0)))
        found = f"found {scale[bad[0]]} at position {bad[0]}"
        raise ParameterError(f"weights: expected finite numbers of at least 0, {found}")
    mean = scale.mean()
    return scale / mean if mean > 0 else None
