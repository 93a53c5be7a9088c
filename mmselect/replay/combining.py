"""Several replays as one matrix: who beats whom over pools and settings (BMMAL, Fig. 5)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmselect.errors import InputError, UsageError
from mmselect.files import reason
from mmselect.replay.comparison import TEST, area, beaten, interval, joint_confidence, wins
from mmselect.replay.rounds import FULL, Run
from mmselect.replay.runs import Replay

WHOLE = "replay.json"
"""What a report holds of its replay."""


class Setting(NamedTuple):
    """One replay among several: a pool with a budget, a start, a number of rounds."""

    name: str
    found: Replay


def combine(places: Sequence[str | Path]) -> dict[str, Any]:
    """Count over several replays in how many rounds one strategy is better than another.

    Parameters
    ----------
    places : sequence of path
        Folders of finished runs, folders of reports, or ``replay.json`` files.

    Returns
    -------
    dict
        ``settings``: name, seeds, rounds and labeled samples of each replay;
        ``strategies``: those that all of them have; ``left_out``: the others;
        ``wins``: per kind of head (``all modalities``, ``strongest alone``, ``weakest alone``) the
        matrix of BMMAL's Fig. 5, sums over the settings; ``beaten``: its bottom row;
        ``baseline`` and ``differences``: per setting and strategy the paired difference of mean
        accuracies, with an interval that holds for all strategies of the setting at once.

    Raises
    ------
    InputError
        If something is no replay.
    UsageError
        If there are fewer than two strategies in common, or a replay is given twice.
    """
    settings = [setting for place in places for setting in read(Path(place))]
    prints = [_fingerprint(found) for _, found in settings]
    if again := [s.name for i, s in enumerate(settings) if prints[i] in prints[:i]]:
        raise UsageError(f"combine: expected each replay once, found {again[0]} again")
    each = [setting.found.settings["strategies"] for setting in settings]
    names = [name for name in each[0] if all(name in others for others in each)]
    if len(names) < 2:
        raise UsageError(f"combine: expected 2 strategies in all replays, found {len(names)}")
    kinds = [_kinds(found) for _, found in settings]
    matrices = {kind: np.zeros((len(names),) * 2) for kind in kinds[0]}
    for (_, found), measures in zip(settings, kinds, strict=True):
        for kind, measure in measures.items():
            matrices[kind] += _wins(found, names, measure)
    base = "random" if "random" in names else names[0]
    return {
        "settings": [_described(*setting) for setting in settings],
        "strategies": names,
        "left_out": [n for n in dict.fromkeys(n for some in each for n in some) if n not in names],
        "confidence": {"tests": TEST},
        "wins": {kind: matrix.tolist() for kind, matrix in matrices.items()},
        "beaten": {kind: beaten(matrix.tolist()) for kind, matrix in matrices.items()},
        "baseline": base,
        "differences": {
            n: [_difference(found, n, base, names) for _, found in settings] for n in names
        },
    }


def _fingerprint(found: Replay) -> dict[str, Any]:
    """Accuracies in as many digits as a report has, whatever the order of strategies."""
    return {name: values.round(6).tolist() for name, values in found.curves("accuracy").items()}


def _wins(found: Replay, names: Sequence[str], measure: str) -> np.ndarray[Any, Any]:
    after = {name: values[:, 1:] for name, values in found.curves(measure).items()}
    return np.array([[0.0 if a == b else wins(after[a], after[b]) for b in names] for a in names])


def _difference(
    found: Replay, name: str, base: str, names: Sequence[str]
) -> tuple[float, float, float]:
    accuracy, labeled = found.curves("accuracy"), found.curves("labeled")
    areas = [area(labeled[n], accuracy[n]) for n in (name, base)]
    return interval(areas[0] - areas[1], joint_confidence(len(names) - 1))


def _kinds(found: Replay) -> dict[str, str]:
    """Which measure each matrix takes; the strongest modality has the best head on average."""
    heads = {m: [*found.curves(f"accuracy.{m}").values()] for m in found.settings["modalities"]}
    alone = {m: float(np.nanmean(values)) for m, values in heads.items()}
    order = sorted(alone, key=lambda m: -alone[m])
    return {
        "all modalities": "accuracy",
        "strongest alone": f"accuracy.{order[0]}",
        "weakest alone": f"accuracy.{order[-1]}",
    }


def _described(name: str, found: Replay) -> dict[str, Any]:
    labeled = found.curves("labeled")[found.settings["strategies"][0]].mean(axis=0)
    return {
        "name": name,
        "seeds": len(found.settings["seeds"]),
        "rounds": len(labeled) - 1,
        "labeled": [float(labeled[0]), float(labeled[-1])],
        "modalities": found.settings["modalities"],
    }


def read(place: Path) -> Iterator[Setting]:
    """Read the replays of one file or folder.

    Raises
    ------
    InputError
        If there is none, or none with two seeds.
    """
    if place.is_dir() and not (place / WHOLE).exists():
        yield from _of_runs(place)
        return
    file = place / WHOLE if place.is_dir() else place
    content = _json(file)
    try:
        if content["settings"].get("rounds") == 0:
            raise InputError("expected rounds, found first batches alone", file=str(file))
        runs: dict[tuple[str, int], Run] = {}
        for row in content["rounds"]:
            pair = (row.pop("strategy"), row.pop("seed"))
            runs.setdefault(pair, Run(*pair, [], [], [])).rounds.append(row)
        pools = ", ".join(Path(path).stem for path in content["settings"]["pool"]["paths"])
        name = f"{pools}, {content['settings']['budget']}"
    except (TypeError, KeyError, AttributeError):
        raise _no_replay(file) from None
    yield Setting(name, _paired([*runs.values()], file))


def _of_runs(folder: Path) -> Iterator[Setting]:
    """Read a folder of finished runs; those with one key belong to one replay."""
    groups: dict[str, list[Run]] = {}
    for file in sorted(folder.glob("*.json")):
        content = _json(file)
        try:
            key, run = content.pop("key"), Run(**content)
        except (TypeError, KeyError, AttributeError):
            raise _no_replay(file) from None
        if run.strategy != FULL and len(run.rounds) > 1:
            groups.setdefault(key, []).append(run)
    if not groups:
        raise _no_replay(folder)
    for key, runs in groups.items():
        name = folder.name if len(groups) == 1 else f"{folder.name}, {key[:6]}"
        yield Setting(name, _paired(runs, folder))


def _paired(runs: list[Run], place: Path) -> Replay:
    """Keep the seeds that all strategies have."""
    names = list(dict.fromkeys(run.strategy for run in runs))
    seeds = [{run.seed for run in runs if run.strategy == name} for name in names]
    shared = sorted(set.intersection(*seeds)) if seeds else []
    if len(shared) < 2 or min(len(run.rounds) for run in runs) < 2:
        message = f"expected 2 seeds of all strategies and a round, found {len(shared)} seeds"
        raise InputError(message, file=str(place))
    kept = sorted((r for r in runs if r.seed in shared), key=lambda r: r.seed)
    modalities = sorted(
        key.removeprefix("contribution.")
        for key in runs[0].rounds[0]
        if key.startswith("contribution.")
    )
    settings = {"strategies": names, "seeds": shared, "modalities": modalities}
    return Replay(settings, kept, [])


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {reason(error)}", file=str(file)) from None
    except ValueError:
        raise _no_replay(file) from None


def _no_replay(place: Path) -> InputError:
    return InputError("expected finished runs or a replay, found something else", file=str(place))
