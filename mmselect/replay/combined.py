"""Several replays, combined, as tables for people, as files, and as a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmselect.files import make_folder
from mmselect.output.emitting import emit
from mmselect.output.layout import aligned
from mmselect.output.tables import as_csv, as_json
from mmselect.replay.report import PAGE, fill
from mmselect.replay.sections import Section, pairs, shown, table
from mmselect.replay.tables import between

BESIDE = "combined.json"
"""Name of everything as plain data, beside the page."""


def setting_rows(made: dict[str, Any]) -> list[tuple[str, ...]]:
    """Say what was combined."""
    rows: list[tuple[str, ...]] = [("setting", "seeds", "rounds", "labeled samples")]
    for s in made["settings"]:
        first, last = s["labeled"]
        rows.append((s["name"], str(s["seeds"]), str(s["rounds"]), f"{first:,.0f} to {last:,.0f}"))
    return rows


def matrix_rows(made: dict[str, Any], kind: str) -> list[tuple[str, ...]]:
    """Make one matrix, with its bottom row."""
    names = made["strategies"]
    rows = [(f"wins, {kind}", *names)]
    for i, (name, row) in enumerate(zip(names, made["wins"][kind], strict=True)):
        rows.append((name, *("" if i == j else f"{x:.1f}" for j, x in enumerate(row))))
    return [*rows, ("mean of the column", *(f"{x:.2f}" for x in made["beaten"][kind]))]


def difference_rows(made: dict[str, Any]) -> list[tuple[str, ...]]:
    """Make the table of differences to the baseline: a column for each setting."""
    base = made["baseline"]
    rows = [(f"against {base}", *(s["name"] for s in made["settings"]))]
    others = (name for name in made["strategies"] if name != base)
    return [*rows, *((name, *map(between, made["differences"][name])) for name in others)]


def notes(made: dict[str, Any]) -> list[str]:
    """Say how to read it, and what is missing."""
    many, gone = len(made["settings"]), made["left_out"]
    said = f"wins: the share of rounds won, summed over {many} setting{'s'[: many != 1]}"
    return [said, *([f"not in all settings, left out: {', '.join(gone)}"] if gone else [])]


def combined_tables(made: dict[str, Any]) -> Iterator[Sequence[tuple[str, ...]]]:
    """Say who beats whom, and by how much in each setting."""
    blank = [("",)]
    yield from (setting_rows(made), blank)
    for kind in made["wins"]:
        yield from (matrix_rows(made, kind), blank)
    yield from (difference_rows(made), blank)
    yield [(line,) for line in notes(made)]


def _as_columns(made: dict[str, Any]) -> dict[str, list[Any]]:
    """One row for each matrix and pair of strategies."""
    names = made["strategies"]
    rows = [
        (kind, a, b, made["wins"][kind][i][j])
        for kind in made["wins"]
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i != j
    ]
    columns = zip(*rows, strict=True)
    return dict(zip(("heads", "strategy", "over", "wins"), map(list, columns), strict=True))


FORMS: dict[str, Callable[[dict[str, Any]], Iterable[bytes]]] = {
    "text": lambda made: (line for rows in combined_tables(made) for line in aligned(rows)),
    "csv": lambda made: as_csv({**_as_columns(made)}),
    "json": lambda made: [f"{as_json(made, indent=1)}\n".encode()],
}


def write_combined(made: dict[str, Any], folder: Path, command: str) -> Path:
    """Write the page, and ``combined.json`` beside it; return the page."""
    make_folder(folder)
    emit([_page(made, command)], folder / PAGE)
    emit(FORMS["json"](made), folder / BESIDE)
    return folder / PAGE


def _page(made: dict[str, Any], command: str) -> bytes:
    many = len(made["settings"])
    names, means = made["strategies"], made["beaten"]
    matrices = "".join(
        f"<h3>{shown(kind)}</h3>{pairs(names, matrix, None, means[kind], many)}"
        for kind, matrix in made["wins"].items()
    )
    sections = [
        Section(
            "Pairwise comparison",
            "The share of the rounds in which the row's strategy is better than the column's by a "
            f"two-sided t-test over seeds at 0.9 confidence, summed over {many} settings, which is "
            "the most that an entry can be (BMMAL, Fig. 5). Last row: how often the column's "
            "strategy is beaten, the mean over the others; less is better.",
            matrices,
        ),
        Section(
            f"Against {made['baseline']}",
            "Paired difference of mean accuracies in each setting, in points, with an interval "
            "that holds for all strategies of the setting at once.",
            table(difference_rows(made)),
        ),
    ]
    return fill(
        "Replays, combined",
        verdict=notes(made),
        sections=sections,
        settings=table(setting_rows(made)),
        command=command,
        data={"strategies": [], "differences": [], "charts": {}},
    )
