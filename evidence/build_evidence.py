"""Replay every strategy on real pools: the tables and figures of ``docs/evidence.md``.

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/build_evidence.py emoji=mmselect/data/emoji.h5 mfeat=mfeat.h5 ...

Each pool is replayed in two regimes (few labels: 2 % at the start and 2 % in each of five rounds;
many: 5 %), with every strategy that its features allow, and every cold start is tried at three
sizes. Writes the parts of the page between ``<!-- begin evidence POOL -->`` and its end, the
figures in ``docs/images``, and every round's measures in ``docs/evidence/*.csv``.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
STRATEGIES = (
    *("random", "entropy", "margin", "least-confidence", "contribution", "smem"),
    *("smem:spread=d2", "badge", "bmmal", "facility", "coreset", "kmeans", "activeft"),
    *("mmcsal", "mmcsal:alignment=0.3"),
)
DRAWN = ("random", "entropy", "smem", "smem:spread=d2", "badge", "bmmal", "facility", "coreset")
STARTS = ("random", "facility", "kmeans", "coreset", "activeft", "mmcsal", "mmcsal:alignment=0.3")
REGIMES = {"few": "2%", "many": "5%"}
START_BUDGETS = ("1%", "2%", "5%")
ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Replay every strategy on real pools.")
    parser.add_argument("pools", nargs="+", metavar="NAME=POOL")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--runs", type=Path, help="keep finished runs here, and go on from them")
    given = parser.parse_args()
    kept = given.runs or Path(tempfile.mkdtemp())
    for pair in given.pools:
        name, _, path = pair.partition("=")
        how = {"seeds": given.seeds, "jobs": given.jobs, "folder": kept / name}
        fill(f"evidence {name}", "\n".join(evidence(name, path, how)))
    fill("evidence overview", "\n".join(overview()))


def evidence(name: str, path: str, how: dict[str, Any]) -> Iterator[str]:
    """Make the tables of one pool, and its figure."""
    strategies = able(path, STRATEGIES)
    for regime, budget in REGIMES.items():
        found = replay(path, strategies, rounds=ROUNDS, budget=budget, **how)
        columns = {key: v for key, v in found.columns.items() if key != "seconds"}
        (DOCS / "evidence").mkdir(exist_ok=True)
        emit(as_csv({**columns}), DOCS / "evidence" / f"{name}-{regime}.csv")
        kept = [run for run in found.runs if run.strategy in DRAWN]
        drawn = Replay({**found.settings, "strategies": list(DRAWN)}, kept, [])
        place = DOCS / "images" / f"evidence-{name}-{regime}.svg"
        emit([plots.render(plots.learning_curves(drawn), "svg")], place)
        yield from query_table(found, regime)
        yield ""
        yield f"![Learning curves, {regime} labels](images/evidence-{name}-{regime}.svg)"
        yield ""
        yield from balance_table(found, regime)
        yield ""
    yield from start_table(path, [name for name in STARTS if name in strategies], how)


def overview() -> Iterator[str]:
    """Make the table over all pools, from the rounds that are stored for each."""
    found = {}
    for regime in REGIMES:
        for place in sorted((DOCS / "evidence").glob(f"*-{regime}.csv")):
            found[place.stem.replace("-", ", ")] = against_random(place)
    order = {name: [c[name][0] for c in found.values() if name in c] for name in STRATEGIES}
    yield f"| strategy | {' | '.join(found)} |"
    yield f"|---|{'---|' * len(found)}"
    for name in sorted(STRATEGIES, key=lambda name: -float(np.mean(order[name]))):
        if name != "random":
            cells = [short(column[name]) if name in column else "–" for column in found.values()]
            yield f"| `{name}` | {' | '.join(cells)} |"


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


def query_table(found: Replay, regime: str) -> Iterator[str]:
    """Make the table of one regime, best first."""
    summary, labeled = summarize(found), found.curves("labeled")["random"][0]
    rows = summary["strategies"]
    per_class = f"{labeled[0] / found.settings['classes']:.1f}"
    last = f"{labeled[-1] / found.settings['classes']:.1f}"
    yield (
        f"**{regime.capitalize()} labels**: {labeled[0]:.0f} to {labeled[-1]:.0f} labeled samples, "
        f"{per_class} to {last} per class, {len(found.settings['seeds'])} seeds."
    )
    yield ""
    yield "| strategy | mean accuracy | against random | against bmmal | last round | labels |"
    yield "|---|---|---|---|---|---|"
    differences = summary["differences"]["accuracy"]
    names = found.settings["strategies"]
    bmmal = names.index("bmmal")
    for name in sorted(names, key=lambda name: -rows[name]["area"]["accuracy"][0]):
        row, price = rows[name], rows[name]["relative_labels"][0]
        cells = [
            f"`{name}`",
            plus_minus(row["area"]["accuracy"]),
            "" if name == "random" else marked(row["area_difference"]["accuracy"]),
            "" if name == "bmmal" else marked(differences[names.index(name)][bmmal]),
            plus_minus(row["last"]),
            f"{100 * price:.0f} %" if price == price else "not reached",
        ]
        yield f"| {' | '.join(cells)} |"


def balance_table(found: Replay, regime: str) -> Iterator[str]:
    """Make the table of what BMMAL sets out to change: the balance of the modalities."""
    names = ("random", "badge", "bmmal")
    modalities = found.settings["modalities"]
    measures = {
        "contribution_difference": "largest less smallest contribution, last round",
        **{f"accuracy.{m}": f"accuracy of {m} alone, mean" for m in modalities},
        **{f"accuracy.balanced.{m}": f"the same, balanced, {m}" for m in modalities},
    }
    yield f"**Balance**, {regime} labels:"
    yield ""
    yield f"| measure | {' | '.join(f'`{name}`' for name in names)} | `bmmal` less `badge` |"
    yield "|---|---|---|---|---|"
    labeled = found.curves("labeled")
    for measure, title in measures.items():
        curves = found.curves(measure)
        last = measure == "contribution_difference"
        values = {n: curves[n][:, -1] if last else area(labeled[n], curves[n]) for n in names}
        cells = [plus_minus(interval(values[name])) for name in names]
        cells.append(marked(interval(values["bmmal"] - values["badge"])))
        yield f"| {title} | {' | '.join(cells)} |"


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
