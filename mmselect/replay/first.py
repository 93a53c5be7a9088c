"""First batches alone: how good are heads that are fitted on what a cold start picks?

MMCSAL's Tables 1, 2 and 6. Every batch stands for itself: larger ones do not hold the smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from mmselect.ask import Replaying
from mmselect.engine import Progress
from mmselect.replay.comparison import INTERVAL, Curves, interval, joint_confidence
from mmselect.replay.data import Data
from mmselect.replay.measures import accuracies
from mmselect.replay.picked import confidence_bins
from mmselect.replay.plan import Case
from mmselect.replay.power import visible
from mmselect.replay.rounds import Run, begin, play
from mmselect.replay.trainer import Trainers
from mmselect.replay.ways import Way
from mmselect.replay.workers import counter


def play_first(
    case: Case, progress: Progress | None, way: Way, _early: Callable[[list[Run]], None]
) -> list[Run]:
    """Play every start with every seed, one first batch for each budget.

    Parameters
    ----------
    case : Case
        With 0 rounds; every batch is kept in a file of its own.
    progress : callable or None
    way : Way
        What trains.

    Returns
    -------
    list of Run
        One for each pair; its rounds are the budgets.
    """
    found, todo = case.batches()
    step = counter(progress, len(todo))
    batch = partial(_batch, case.data, case.ask, trainers=way.trainers)
    for i, run in way.run(batch, todo, case.ask.jobs):
        found[todo[i]] = run
        case.kept(todo[i][0]).save(run)
        step()
    return [_joined([found[(b, *pair)] for b in case.ask.budget]) for pair in case.pairs]


def _batch(
    data: Data, ask: Replaying, budget: int | str, start: str, seed: int, trainers: Trainers
) -> Run:
    """Play the start alone."""
    one = replace(ask, start=(start,), budget=(budget,))
    return play(data, one, start, seed, begin(data, one, seed, trainers), trainers)


def _joined(runs: Sequence[Run]) -> Run:
    """Put the batches of one start and seed together, by budget."""
    rounds = [{**run.rounds[0], "round": i} for i, run in enumerate(runs)]
    picks = [run.picks[0] for run in runs]
    warnings = [line for run in runs for line in run.warnings]
    one = replace(runs[-1], rounds=rounds, picks=picks, warnings=list(dict.fromkeys(warnings)))
    if any(run.ranks is None for run in runs):
        return replace(one, ranks=None, heads=None)
    sums = [np.sum([getattr(run, n) for run in runs], axis=0).tolist() for n in ("ranks", "heads")]
    return replace(one, ranks=sums[0], heads=sums[1])


def summarize_first(found: Any) -> dict[str, Any]:
    """Sum first batches up.

    Parameters
    ----------
    found : Replay
        With 0 rounds.

    Returns
    -------
    dict
        ``baseline``, ``labeled`` (samples of each budget),
        ``strategies``: per start and measure, for each budget, the mean with its interval
        (``mean``), the paired difference to the baseline with an interval that holds for all starts
        of a budget at once (``difference``), and the smallest difference of accuracies that the
        seeds can see at 80 % power (``visible``);
        ``bins``: see `mmselect.replay.picked.confidence_bins`, over all budgets.
    """
    base, names = found.baseline, found.settings["strategies"]
    confidence = joint_confidence(len(names) - 1)
    curves = {m: found.curves(m) for m in accuracies(found.settings["modalities"])}
    return {
        "baseline": base,
        "labeled": found.curves("labeled")[base].mean(axis=0).tolist(),
        "confidence": {"intervals": INTERVAL, "differences to baseline": confidence},
        "strategies": {
            name: {
                "mean": {m: _each(c[name], INTERVAL) for m, c in curves.items()},
                "difference": {m: _each(c[name] - c[base], confidence) for m, c in curves.items()},
                "visible": [
                    max(visible([d], len(d), confidence), own_floor(found))
                    for d in (curves["accuracy"][name] - curves["accuracy"][base]).T
                ],
            }
            for name in names
        },
        "bins": confidence_bins(found.runs, names, 0),
        **said_floor(found),
    }


def own_floor(found: Any) -> float:
    """Find what two equal trainings differed by, 0 where that is not known."""
    return float(found.settings.get("repeats", {}).get("floor", 0.0))


def said_floor(found: Any) -> dict[str, float]:
    """Give the same for a summary; nothing where it is not known."""
    return {"floor": own_floor(found)} if "repeats" in found.settings else {}


def _each(values: Curves, confidence: float) -> list[tuple[float, float, float]]:
    """Mean and interval of each column."""
    return [interval(np.asarray(column), confidence) for column in values.T]
