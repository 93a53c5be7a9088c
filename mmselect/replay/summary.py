"""What a replay says in the end: who is better, by how much, and how sure that is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mmselect.errors import UsageError
from mmselect.replay.by_class import class_gains
from mmselect.replay.comparison import (
    INTERVAL,
    TEST,
    Curves,
    area,
    beaten,
    interval,
    joint_confidence,
    labels_interval,
    labels_to_reach,
    wins,
)
from mmselect.replay.first import own_floor, said_floor, summarize_first
from mmselect.replay.forecast import Fit, fit, labels_for, parameters
from mmselect.replay.measures import accuracies
from mmselect.replay.picked import confidence_bins
from mmselect.replay.power import more_seeds, visible
from mmselect.replay.runs import Replay

STEP = 0.05
"""Between accuracies whose price in labels is foretold."""

ALIKE = "as good as equal"
"""Two strategies that more than 1,000 seeds would not tell apart."""


def summarize(found: Replay, target: float | None = None) -> dict[str, Any]:
    """Sum a replay up.

    Parameters
    ----------
    found : Replay
        With 0 rounds: see `mmselect.replay.first.summarize_first` for what is returned.
    target : float, optional
        Accuracy whose price in labels is compared; default: the baseline's mean in the last round.

    Returns
    -------
    dict
        ``baseline``, ``target``, ``target_given``;
        ``strategies``: per strategy the area under the curve of each measure with its interval, its
        paired difference to the baseline with an interval that holds for all strategies at once,
        how many more seeds would tell that difference from noise, the smallest difference that the
        seeds played can see, accuracy in the last round with its interval, labels to reach the
        target, the same relative to the baseline with an interval that holds for all strategies at
        once, seconds to select;
        ``wins``: per measure the matrix of BMMAL's Fig. 5;
        ``differences``: per measure the paired differences of areas between all strategies, each
        with its own interval;
        ``best``: the two strategies of the largest areas, the baseline aside, and how many more
        seeds would tell them apart; None for one;
        ``visible``: the smallest difference of mean accuracies between each two strategies that so
        many seeds tell from noise with a chance of 80 %, at the confidence of the intervals against
        the baseline;
        ``beaten``: per measure the bottom row of that figure, means of the columns;
        ``classes``: see `mmselect.replay.by_class.class_gains`;
        ``bins``: see `mmselect.replay.picked.confidence_bins`;
        ``full``: per measure the mean of heads fitted on all labels with its interval; None where
        they were not asked for;
        ``floor``: what two equal trainings of a command differ by, where that was asked for
        (`mmselect.replay.repeats`): no smaller difference counts as seen or beyond noise;
        ``forecast``: ``targets`` (the one given, or the next two multiples of 5 %), and per
        strategy ``parameters`` of the curve that fits best and ``labels`` for each target: median
        and bounds (`mmselect.replay.forecast`), all equal where it was reached.

    Raises
    ------
    UsageError
        If the target is not an accuracy between 0 and 1.
    """
    check_target(target)
    if found.settings.get("rounds") == 0:
        return summarize_first(found)
    accuracy, labeled = found.curves("accuracy"), found.curves("labeled")
    base, names = found.baseline, found.settings["strategies"]
    confidence = joint_confidence(len(names) - 1)
    # as the mean curve has it, to the last bit: the baseline itself must reach it
    goal = float(accuracy[base].mean(axis=0)[-1]) if target is None else target
    measures = accuracies(found.settings["modalities"])
    areas = {
        m: {name: area(labeled[name], values) for name, values in found.curves(m).items()}
        for m in measures
    }
    floor = own_floor(found)
    rows = {name: _row(found, name, goal, areas, confidence, floor) for name in names}
    for name, row in rows.items():
        row["relative_labels"] = _relative(found, name, rows, confidence)
    won = {m: _wins(found.curves(m), names) for m in measures}
    return {
        "baseline": base,
        "target": goal,
        "target_given": target is not None,
        "confidence": {"intervals": INTERVAL, "differences to baseline": confidence, "tests": TEST},
        "strategies": rows,
        "best": _best(areas["accuracy"], base, confidence),
        "wins": won,
        "beaten": {m: beaten(matrix) for m, matrix in won.items()},
        "differences": {m: _differences(areas[m], names) for m in measures},
        "visible": _visible(areas["accuracy"], names, confidence, floor),
        "classes": class_gains(found.runs, base, names, found.settings.get("class_names")),
        "bins": confidence_bins(found.runs, names, 1),
        "full": _full(found, measures),
        "forecast": _forecast(found, target),
        **said_floor(found),
    }


def _full(found: Replay, measures: list[str]) -> dict[str, Any] | None:
    rows = [run.rounds[0] for run in found.full]
    if not rows:
        return None
    return {m: interval(np.array([row[m] for row in rows], float)) for m in measures}


def _relative(
    found: Replay, name: str, rows: dict[str, Any], confidence: float
) -> tuple[float, float, float]:
    """Labels as a share of those of the baseline, for what the baseline reaches with its labels.

    The interval is that of the labels after which the strategy is as accurate as the baseline is,
    with the same seed, after the labels that its mean curve needs for the target.
    """
    price, base = (rows[n]["labels_to_target"] for n in (name, found.baseline))
    if name == found.baseline or math.isnan(base):
        return (base / base,) * 3
    accuracy, labeled = found.curves("accuracy"), found.curves("labeled")
    theirs = zip(labeled[found.baseline], accuracy[found.baseline], strict=True)
    level = np.array([np.interp(base, x, y) for x, y in theirs])
    low, high = labels_interval(labeled[name], accuracy[name], level, confidence)
    return price / base, low / base, high / base


def _row(
    found: Replay,
    name: str,
    goal: float,
    areas: dict[str, dict[str, Curves]],
    confidence: float,
    floor: float,
) -> dict[str, Any]:
    """Sum one strategy up."""
    accuracy, labeled = found.curves("accuracy")[name], found.curves("labeled")[name]
    less = {m: of[name] - of[found.baseline] for m, of in areas.items()}
    return {
        "area": {m: interval(of[name]) for m, of in areas.items()},
        "area_difference": {m: interval(d, confidence) for m, d in less.items()},
        "more_seeds": more_seeds(less["accuracy"], confidence),
        "visible": _smallest(areas["accuracy"], name, found.baseline, confidence, floor),
        "last": interval(accuracy[:, -1]),
        "labels_to_target": labels_to_reach(labeled.mean(axis=0), accuracy.mean(axis=0), goal),
        "seconds": float(np.nanmean(found.curves("seconds")[name])),
    }


def check_target(target: float | None) -> None:
    """Refuse a target that is no accuracy.

    Raises
    ------
    UsageError
        If it is not above 0 and up to 1.
    """
    if target is not None and not 0 < target <= 1:
        raise _no_target(f"{target:g}")


def parse_target(text: str) -> float:
    """Read an accuracy: a share, or percent.

    Examples
    --------
    >>> parse_target("0.9"), parse_target("90%")
    (0.9, 0.9)
    """
    number, sign, _ = text.partition("%")
    try:
        target = float(number) / (100 if sign else 1)
    except ValueError:
        target = math.nan
    if not 0 < target <= 1:
        raise _no_target(repr(text))
    return target


def _no_target(found: str) -> UsageError:
    return UsageError(f"target: expected an accuracy above 0 and up to 1, found {found}")


def _forecast(found: Replay, target: float | None) -> dict[str, Any]:
    """Labels that accuracies take which have not been reached, by the fits of the curves."""
    accuracy, labeled = found.curves("accuracy"), found.curves("labeled")
    best = max(float(values.mean(axis=0).max()) for values in accuracy.values())
    ahead = [STEP * (math.floor(best / STEP) + i) for i in (1, 2)]
    targets = [round(x, 2) for x in ahead if x < 1] if target is None else [target]
    rows = {}
    for name, values in accuracy.items():
        fitted, palm = fit(labeled[name], values), parameters(labeled[name], values)
        rows[name] = {
            "parameters": palm and palm._asdict(),
            "labels": [_price(labeled[name], values, fitted, goal) for goal in targets],
        }
    return {"targets": targets, "strategies": rows}


def _price(
    labeled: Curves, accuracy: Curves, fitted: Fit | None, goal: float
) -> tuple[float, float, float]:
    """Labels for a goal: those that the mean curve needed, if it got there, else by the fit."""
    there = labels_to_reach(labeled.mean(axis=0), accuracy.mean(axis=0), goal)
    if there == there:
        return there, there, there
    return (math.nan,) * 3 if fitted is None else labels_for(fitted, goal)


def _wins(curves: dict[str, Curves], names: list[str]) -> list[list[float]]:
    """Entry i, j: the share of the rounds after the start in which i is better than j."""
    after = {name: curves[name][:, 1:] for name in names}
    return [[0.0 if a == b else wins(after[a], after[b]) for b in names] for a in names]


def _best(areas: dict[str, Curves], base: str, confidence: float) -> dict[str, Any] | None:
    """Name the two best strategies, and the seeds that it would take to tell them apart."""
    names = sorted((n for n in areas if n != base), key=lambda n: -areas[n].mean())[:2]
    if len(names) < 2:
        return None
    first, second = names
    return {
        "names": names,
        "more_seeds": more_seeds(areas[first] - areas[second], confidence),
    }


def _differences(
    areas: dict[str, Curves], names: list[str]
) -> list[list[tuple[float, float, float]]]:
    """Entry i, j: mean and interval of the area of i less that of j, within each seed."""
    return [[interval(areas[a] - areas[b]) for b in names] for a in names]


def _visible(
    areas: dict[str, Curves], names: list[str], confidence: float, floor: float
) -> list[list[float]]:
    """Entry i, j: the smallest difference between i and j that the seeds played can see."""
    return [[_smallest(areas, a, b, confidence, floor) for b in names] for a in names]


def _smallest(
    areas: dict[str, Curves], one: str, other: str, confidence: float, floor: float
) -> float:
    differences = areas[one] - areas[other]
    return max(visible([differences], len(differences), confidence), floor)  # nan stays nan


def foresight(found: Replay, seeds: int) -> list[str]:
    """Say, from the seeds played so far, what differences to the baseline all of them will see.

    Parameters
    ----------
    found : Replay
        Some seeds of it.
    seeds : int
        How many there will be.
    """
    accuracy, labeled = found.curves("accuracy"), found.curves("labeled")
    areas = {name: area(labeled[name], values) for name, values in accuracy.items()}
    base = areas.pop(found.baseline)
    differences = [values - base for values in areas.values()]
    least = visible(differences, seeds, joint_confidence(len(differences)))
    if math.isnan(least):
        return []
    return [
        f"by the spread over the first {len(base)} seeds, {seeds} will tell differences to "
        f"{found.baseline} from about {100 * least:.1f} points on (80 % power)"
    ]


def noteworthy(summary: dict[str, Any]) -> list[str]:
    """Say in words which strategies differ from the baseline by more than noise, in points.

    That is: the interval of the paired difference of mean accuracies, which holds for all
    strategies at once, leaves out 0. Nothing for one seed, or where seeds are alike.

    Examples
    --------
    >>> noteworthy({"baseline": "random", "strategies": {
    ...     "random": {"area_difference": {"accuracy": (0, 0, 0)}},
    ...     "bmmal": {"area_difference": {"accuracy": (0.02, 0.01, 0.03)}}}})
    ['better than random, beyond noise: bmmal (+2.0)', 'worse than random, beyond noise: none']
    """
    base, floor = summary["baseline"], summary.get("floor", 0.0)
    differences = {
        name: row["area_difference"]["accuracy"]
        for name, row in summary["strategies"].items()
        if name != base
    }
    if all(math.isnan(low) for _, low, _ in differences.values()):
        return []  # one seed, or copies: nothing can be said
    lines = []
    for word, sign in (("better", 1), ("worse", -1)):
        names = [
            f"{name} ({100 * mean:+.1f})"
            for name, (mean, low, high) in differences.items()
            if sign * (low if sign > 0 else high) > 0 and abs(mean) >= floor
        ]
        lines.append(f"{word} than {base}, beyond noise: {', '.join(names) or 'none'}")
    if len(differences) > 1:
        lines.append(f"intervals against {base} hold for all {len(differences)} strategies at once")
    return lines


def undecided(summary: dict[str, Any], baseline: bool = True) -> list[str]:
    """Say how many more seeds would tell strategies apart that are not told apart yet.

    Each from the baseline, unless it is left out, and the two best from each other.

    Examples
    --------
    >>> undecided({"baseline": "random", "best": {"names": ["smem", "badge"], "more_seeds": 0.0},
    ...     "strategies": {"smem": {"more_seeds": 12.0}, "badge": {"more_seeds": float("inf")}}})
    ['play 12 more seeds to tell smem from random', 'badge and random: as good as equal']
    """
    base, best = summary["baseline"], summary["best"]
    rows = summary["strategies"].items() if baseline else ()
    pairs = [(name, base, row["more_seeds"]) for name, row in rows]
    pairs += [(*best["names"], best["more_seeds"])] if best else []
    return [_told_apart(*pair) for pair in pairs if pair[2] > 0]  # nan is not


def _told_apart(one: str, other: str, seeds: float) -> str:
    if math.isinf(seeds):
        return f"{one} and {other}: {ALIKE}"
    return f"{seeds_to_play(seeds)} to tell {one} from {other}"


def seeds_to_play(seeds: float) -> str:
    """Say how many more seeds a difference takes; nothing where it is decided, or cannot be.

    Examples
    --------
    >>> seeds_to_play(1.0), seeds_to_play(float("inf")), seeds_to_play(0.0)
    ('play 1 more seed', 'as good as equal', '')
    """
    if not seeds > 0:
        return ""
    return ALIKE if math.isinf(seeds) else f"play {seeds:,.0f} more seed{'s'[: seeds != 1]}"
