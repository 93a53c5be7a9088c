"""Replay every strategy on real pools: the tables and figures of ``docs/evidence.md``.

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/build_evidence.py emoji=mmselect/data/emoji.h5 mfeat=mfeat.h5 ...

Each pool is replayed in three regimes, with five rounds and every strategy that the pool has the
data for: few labels (2 % of the training samples at the start and in each round), many (5 %), and
one label per class (a random sample of each class at the start, as many picks in each round). Every
cold start is tried at three sizes. ``--regimes one`` makes that part alone. Writes what the page
has between ``<!-- begin evidence POOL-REGIME -->`` and its end, the figures in ``docs/images``, and
every round's measures in ``docs/evidence/*.csv``.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from shutil import copyfile
from typing import Any

import h5py
import numpy as np

from mmselect.errors import NeedsError
from mmselect.output.emitting import emit
from mmselect.output.tables import as_csv
from mmselect.replay import plots
from mmselect.replay.comparison import area, interval, joint_confidence
from mmselect.replay.runs import Replay, replay
from mmselect.replay.summary import summarize
from mmselect.replay.tables import between, plus_minus

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "evidence.md"
OURS = "facility"
FORMS = (
    *("facility:doubt=none", "facility:doubt=fused", "facility:doubt=heads"),
    "facility:sharpen=true",
)
STRATEGIES = (
    *("random", "entropy", "margin", "least-confidence", "contribution", "smem"),
    *("smem:spread=d2", "badge", "bmmal", OURS, "coreset", "kmeans", "activeft"),
    *("mmcsal", "mmcsal:alignment=0.3"),
    *("doubt", "deepfool", "alignment", "sraal-indicator", "typiclust", "alfa-mix"),
)
TRAINED = ("gcnal", "learning-loss", "vaal:steps=100", "sraal:steps=100")
"""What trains networks to pick: twice the time of all others together, so only where asked for."""

DRAWN = ("random", "entropy", "smem", "smem:spread=d2", "badge", "bmmal", OURS, "coreset")
COMPARED = (OURS, "facility:doubt=none", "facility:doubt=fused", "margin", "badge", "bmmal")
"""Strategies whose heads are looked at one by one."""

STARTS = ("random", OURS, "kmeans", "coreset", "activeft", "mmcsal", "mmcsal:alignment=0.3")
REGIMES = {"few": "2%", "many": "5%"}
ONE = "one"
START = "start"
TITLES = {"few": "Few labels", "many": "Many labels", ONE: "One label per class"}
START_BUDGETS = ("1%", "2%", "5%")
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay every strategy on real pools.")
    parser.add_argument("pools", nargs="+", metavar="NAME=POOL")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--regimes", nargs="+", default=[*TITLES, START], choices=[*TITLES, START])
    parser.add_argument("--trained", action="store_true", help="with few labels, those too")
    parser.add_argument("--runs", type=Path, help="keep finished runs here, and go on from them")
    given = parser.parse_args()
    kept = given.runs or Path(tempfile.mkdtemp())
    for pair in given.pools:
        name, _, path = pair.partition("=")
        how = {"seeds": given.seeds, "jobs": given.jobs, "folder": kept / name}
        strategies = able(path, (*STRATEGIES, *FORMS))
        for regime in given.regimes:
            if regime == START:
                starts = [name for name in STARTS if name in strategies]
                lines = start_table(path, starts, how)
            else:
                more = TRAINED if given.trained and regime == "few" else ()
                lines = evidence(name, played(path, [*strategies, *more], regime, how), regime)
            fill(f"evidence {name}-{regime}", "\n".join(lines))
    fill("evidence overview", "\n".join(overview()))


def evidence(name: str, found: Replay, regime: str) -> Iterator[str]:
    """Make the tables of one regime of a pool, its figure, and its rounds."""
    title = TITLES[regime]
    columns = {key: v for key, v in found.columns.items() if key != "seconds"}
    (DOCS / "evidence").mkdir(exist_ok=True)
    emit(as_csv({**columns}), DOCS / "evidence" / f"{name}-{regime}.csv")
    kept = [run for run in found.runs if run.strategy in DRAWN]
    drawn = Replay({**found.settings, "strategies": list(DRAWN)}, kept, [])
    place = DOCS / "images" / f"evidence-{name}-{regime}.svg"
    emit([plots.render(plots.learning_curves(drawn), "svg")], place)
    yield from query_table(found, title)
    yield ""
    yield f"![Learning curves, {title.lower()}](images/evidence-{name}-{regime}.svg)"
    yield ""
    yield from heads_table(found, title)


def played(path: str, strategies: Sequence[str], regime: str, how: dict[str, Any]) -> Replay:
    """Replay one regime."""
    if regime in REGIMES:
        return replay(path, strategies, rounds=ROUNDS, budget=REGIMES[regime], **how)
    return one_per_class(path, strategies, how)


def one_per_class(path: str, strategies: Sequence[str], how: dict[str, Any]) -> Replay:
    """Replay a start of one label per class.

    Each seed gets a copy of the pool whose labeled mask holds one random training sample of each
    class; then as many are picked in each round.
    """
    with h5py.File(path) as pool:
        labels, split = pool["label"][:], pool["metadata/split"].asstr()[:]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(how["seeds"]):
            rows = one_of_each(labels, split == "train", seed)
            copy = Path(folder) / f"{seed}.h5"
            copyfile(path, copy)
            with h5py.File(copy, "r+") as pool:
                pool.pop("labeled", None)
                pool["labeled"] = np.isin(np.arange(len(labels)), rows)
            more = {**how, "seeds": 1, "seed": seed, "start": "labeled", "budget": len(rows)}
            found.append(replay(copy, strategies, rounds=ROUNDS, **more))
    runs = [
        run for name in strategies for each in found for run in each.runs if run.strategy == name
    ]
    return replace(
        found[0], runs=runs, settings={**found[0].settings, "seeds": [*range(how["seeds"])]}
    )


def one_of_each(labels: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """Draw one training sample of each class that has any."""
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(train & (labels >= 0)))
    return rows[np.unique(labels[rows], return_index=True)[1]]


def overview() -> Iterator[str]:
    """Make the tables over all pools, one for each regime, from the rounds that are stored."""
    for regime, title in TITLES.items():
        places = sorted((DOCS / "evidence").glob(f"*-{regime}.csv"))
        found = {place.stem.removesuffix(f"-{regime}"): against_random(place) for place in places}
        names = {name for column in found.values() for name in column} - {"random"}
        order = {name: [c[name][0] for c in found.values() if name in c] for name in names}
        yield f"| {title.lower()} | {' | '.join(found)} | mean |"
        yield f"|---|{'---|' * len(found)}---|"
        for name in sorted(names, key=lambda name: -float(np.mean(order[name]))):
            cells = [short(column[name]) if name in column else "–" for column in found.values()]
            mean = f"{100 * np.mean(order[name]):+.1f}" if len(order[name]) == len(found) else "–"
            yield f"| `{name}` | {' | '.join(cells)} | {mean} |"
        yield ""


def against_random(place: Path) -> dict[str, tuple[float, float, float]]:
    """Read the rounds of one pool: each strategy's paired difference of areas to random.

    The intervals hold for all strategies of the pool at once.
    """
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with place.open(newline="") as handle:
        for row in csv.DictReader(handle):
            point = (float(row["labeled"]), float(row["accuracy"]))
            curves.setdefault((row["strategy"], row["seed"]), []).append(point)
    areas: dict[str, list[float]] = {}
    for (strategy, _), points in curves.items():
        labeled, accuracy = np.array(points).T
        areas.setdefault(strategy, []).append(float(area(labeled[None], accuracy[None])[0]))
    base, confidence = np.array(areas["random"]), joint_confidence(len(areas) - 1)
    return {name: interval(np.array(values) - base, confidence) for name, values in areas.items()}


def short(values: tuple[float, float, float]) -> str:
    """Show a difference in points; in bold where its interval leaves out 0."""
    text = f"{100 * values[0]:+.1f}"
    return f"**{text}**" if values[1] > 0 or values[2] < 0 else text


def able(path: str, names: Sequence[str]) -> list[str]:
    """Those strategies that a replay of this pool can play."""
    kept = []
    for name in names:
        try:
            replay(path, [name], rounds=1, budget=1, start_budget="2%", seeds=1)
        except NeedsError as error:
            print(f"{path}: {name} is left out: {error}", file=sys.stderr)
        else:
            kept.append(name)
    return kept


def query_table(found: Replay, title: str) -> Iterator[str]:
    """Make the table of one regime, best first."""
    summary, labeled = summarize(found), found.curves("labeled")["random"][0]
    rows = summary["strategies"]
    per_class = f"{labeled[0] / found.settings['classes']:.1f}"
    last = f"{labeled[-1] / found.settings['classes']:.1f}"
    yield (
        f"**{title}**: {labeled[0]:.0f} to {labeled[-1]:.0f} labeled samples, "
        f"{per_class} to {last} per class, {len(found.settings['seeds'])} seeds."
    )
    yield ""
    yield f"| strategy | mean accuracy | against random | `{OURS}` less it | last round | labels |"
    yield "|---|---|---|---|---|---|"
    names = found.settings["strategies"]
    areas, confidence = areas_of(found, "accuracy"), joint_confidence(len(names) - 1)
    for name in sorted(names, key=lambda name: -rows[name]["area"]["accuracy"][0]):
        row, price = rows[name], rows[name]["relative_labels"][0]
        less = interval(areas[OURS] - areas[name], confidence)
        cells = [
            f"`{name}`",
            plus_minus(row["area"]["accuracy"]),
            "" if name == "random" else marked(row["area_difference"]["accuracy"]),
            "" if name == OURS else marked(less),
            plus_minus(row["last"]),
            f"{100 * price:.0f} %" if price == price else "not reached",
        ]
        yield f"| {' | '.join(cells)} |"


def heads_table(found: Replay, title: str) -> Iterator[str]:
    """Make the table of the single-modal heads, and of the balance that BMMAL sets out to change.

    The intervals hold for all strategies of a row at once.
    """
    modalities, last = found.settings["modalities"], "contribution_difference"
    measures = {
        **{f"accuracy.{m}": m for m in modalities},
        **{f"accuracy.balanced.{m}": f"{m}, balanced" for m in modalities},
        last: "contributions, last round",
    }
    yield (
        f"**Heads**, {title.lower()}: mean accuracy of each modality's head (plain, and balanced "
        "over classes) after random picks, and the differences to that; last, how far the largest "
        "contribution is from the smallest."
    )
    yield ""
    yield f"| | `random` | {' | '.join(f'`{name}`' for name in COMPARED)} |"
    yield f"|---|---|{'---|' * len(COMPARED)}"
    for measure, what in measures.items():
        values = areas_of(found, measure)
        if measure == last:
            values = {name: curve[:, -1] for name, curve in found.curves(measure).items()}
        cells = [
            short(interval(values[name] - values["random"], joint_confidence(len(COMPARED))))
            for name in COMPARED
        ]
        level = f"{100 * values['random'].mean():.1f}"
        yield f"| {what} | {level} | {' | '.join(cells)} |"


def areas_of(found: Replay, measure: str) -> dict[str, np.ndarray]:
    """Mean of a measure on the way, by strategy and seed."""
    labeled = found.curves("labeled")
    return {name: area(labeled[name], curve) for name, curve in found.curves(measure).items()}


def marked(values: tuple[float, float, float]) -> str:
    """Show a difference with its interval, in bold where it leaves out 0."""
    text = between(values)
    return f"**{text}**" if values[1] > 0 or values[2] < 0 else text


def start_table(path: str, starts: Sequence[str], how: dict[str, Any]) -> Iterator[str]:
    """Make the table of cold starts: accuracy on the first batch alone."""
    found = replay(path, rounds=0, start=starts, budget=START_BUDGETS, **how)
    sizes = found.curves("labeled")["random"][0]
    head = [f"{budget} ({size:.0f})" for budget, size in zip(START_BUDGETS, sizes, strict=True)]
    rows = summarize(found)["strategies"]
    yield (
        "**The first batch**: accuracy of the fused head on it alone, and the difference to "
        "`random`."
    )
    yield ""
    yield f"| start | {' | '.join(head)} |"
    yield f"|---|{'---|' * len(head)}"
    for start in starts:
        cells = []
        for j in range(len(START_BUDGETS)):
            less = rows[start]["difference"]["accuracy"][j]
            note = "" if start == "random" else f"; {marked(less)}"
            cells.append(f"{100 * rows[start]['mean']['accuracy'][j][0]:.1f}{note}")
        yield f"| `{start}` | {' | '.join(cells)} |"


def fill(name: str, text: str) -> None:
    """Put text between a page's marks."""
    page = PAGE.read_text()
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"error: {PAGE}: expected {begin} and {end}, found none")
    PAGE.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page))


if __name__ == "__main__":
    main()
