"""The main job on a real pool that ships with the package: emoji, as drawings and as names."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from mmselect.ask import Looking
from mmselect.core.scores.shapley import contributions
from mmselect.errors import OutputError, printable
from mmselect.files import make_folder, replacing, writing
from mmselect.looking.page import page_of, view_of
from mmselect.option import conditions
from mmselect.output.emitting import ALONE, SCORE_FORMS, SELECT_FORMS
from mmselect.output.layout import LINE, WHOLE_WORDS, Paint, aligned, percent, unpainted
from mmselect.output.tables import class_names
from mmselect.pool.reading import Pool, open_pool
from mmselect.selection import Selection, score, select
from mmselect.strategies.gradients import shapley

EMOJI = Path(__file__).parent / "data" / "emoji.h5"
"""The shipped pool; ``data/SOURCES.md`` beside it credits its sources."""

BUDGET = 60
WHERE = "split=train"
"""The test rows stay unseen, so that they can judge the next model."""

Rows: TypeAlias = list[tuple[str, ...]]

SHOWN, TAB = 12, 8
CHANCES = 200
"""Random selections of the same size that the picks are compared with."""


MEASURED = (
    "the current model is wrong",
    "different classes",
    "mean contribution of the image",
    "the image contributes more than the text",
)
"""What a set of picks is like, judged with labels that no strategy has seen: shares and a count."""

COUNTED = "different classes"


def play(folder: Path, width: int = LINE, paint: Paint = unpainted) -> Iterator[str]:
    """Write the emoji pool, run the main job on it, and say what happened, line by line.

    Parameters
    ----------
    folder : path
        Where the pool, the scores and the picks are written; made if it is missing.
    width : int
        Columns that the lines are to fit.
    paint : callable
        Colours of a table, as :func:`~mmselect.output.layout.aligned` takes them.

    Yields
    ------
    str
        One line of text at a time.

    Raises
    ------
    OutputError
        If the folder cannot be written, or holds other files of these names.
    """
    for told in _told(folder):
        if isinstance(told, str):
            yield from folded(told, width)
        else:
            yield from (f"  {line.decode().rstrip()}" for line in aligned(told, width - 2, paint))


def folded(line: str, width: int = LINE) -> list[str]:
    r"""Break a line that is too wide between words; a command so that it still runs.

    What stands behind a tab stays behind one, and what would move a cursor is written out.

    Examples
    --------
    >>> print("\n".join(folded("$ mmselect select " + "a-long-name.h5 " * 5)))
    $ mmselect select a-long-name.h5 a-long-name.h5 a-long-name.h5 a-long-name.h5 \
        a-long-name.h5
    """
    head, tab, rest = line.partition("\t")
    first, rest = printable(head), printable(rest)
    if tab:
        parts = wrap(rest, width - TAB, **WHOLE_WORDS)
        return [f"{'    ' if i else first}\t{part}" for i, part in enumerate(parts)]
    if len(first) <= width:
        return [first]
    command = first.removeprefix("$").strip().startswith("mmselect ")
    indent = "    " if command or first.startswith(" ") else ""
    parts = wrap(first, width - 2 * command, subsequent_indent=indent, **WHOLE_WORDS)
    return [f"{part} \\" for part in parts[:-1]] + parts[-1:] if command else parts


def _told(folder: Path) -> Iterator[str | Rows]:
    """Say what was done, in lines of any length and tables."""
    with open_pool(EMOJI) as pool:
        table = score(pool, "smem", where=[WHERE])
        picks = select(pool, budget=BUDGET, where=[WHERE])
        made = {
            "emoji.h5": EMOJI.read_bytes(),
            "scores.csv": b"".join(SCORE_FORMS["csv"].make(table, pool, ALONE)),
            "picks.txt": b"".join(SELECT_FORMS["ids"].make(picks, pool, ALONE)),
            "picks.html": page_of(view_of(pool, Looking(where=conditions("where", WHERE)), picks)),
        }
        pool_file, scores, picks_file, page = _put(folder, made)
        here = shlex.quote(str(pool_file))
        labeled = int(pool.labeled.sum())
        yield (
            f"{pool.n:,} drawings of emoji by two vendors, each with a name and keywords. "
            f"{labeled} are labeled with one of {pool.sizes['c']} classes, and a small model was "
            "fitted on those. Which ones should a person label next?"
        )
        yield ""
        to = shlex.quote(str(scores))
        yield f"$ mmselect score {here} --strategy smem --where {WHERE} -o {to}"
        columns = ", ".join(["id", "score", *table.components])
        yield f"  {len(table.ids):,} candidates: {columns}"
        yield ""
        budget = f"--budget {BUDGET} --where {WHERE}"
        yield f"$ mmselect select {here} {budget} -o {shlex.quote(str(picks_file))}"
        yield f"  {BUDGET} ids, picked with {picks.provenance['strategy']}; the first ones:"
        yield ""
        yield from _first_picks(pool, picks)
        yield ""
        yield from _comparison(pool, picks, table.indices)
        yield ""
        yield f"$ mmselect look {here} {budget} -o {shlex.quote(str(page))}"
        yield "  The same picks on one page: open it in a browser."
    yield ""
    listed = shlex.quote(str(picks_file))
    yield "Next, for example:"
    yield f"  mmselect info {here}"
    yield f"  mmselect strategies {here}"
    yield f"  mmselect select {here} -b 5% --where {WHERE} --exclude {listed} | head"
    yield f"  mmselect replay {here}"


def _put(folder: Path, made: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder; one that holds something else is somebody's, and all stay away.

    Raises
    ------
    OutputError
        Naming the file that is in the way, before anything is written.
    """
    make_folder(folder)
    targets = {folder / name: data for name, data in made.items()}
    missing = {target: data for target, data in targets.items() if not _holds(target, data)}
    for target, data in missing.items():
        with replacing(target) as file:
            file.write(data)
    return list(targets)


def _holds(target: Path, data: bytes) -> bool:
    """Whether a file is there with these bytes; no other may be there."""
    with writing(target):
        if not os.path.lexists(target):
            return False
        if target.is_file() and target.read_bytes() == data:
            return True
    expected = "expected what the demo writes, or nothing, found another file"
    raise OutputError(f"{expected}; choose another folder", file=str(target))


def _first_picks(pool: Pool, picks: Selection) -> Iterator[str]:
    """Show the first picks as emoji: name, class, and what the model takes them for."""
    rows = picks.indices[:SHOWN]
    character, name, vendor = (
        [text.decode() for text in pool.columns[f"/metadata/{column}"][rows]]
        for column in ("character", "name", "vendor")
    )
    classes = class_names(pool, pool.sizes["c"])
    truth = pool.columns["/label"][rows]
    guess = pool.columns["/multimodal_logits"][rows].argmax(axis=1)
    for i in range(len(rows)):
        right = truth[i] == guess[i]
        takes = "and the model knows" if right else f"the model says {classes[guess[i]]}"
        yield f"  {character[i]}\t{name[i]} ({vendor[i]})"
        yield f"    \t{classes[truth[i]]}, {takes}"


def _comparison(pool: Pool, picks: Selection, candidates: NDArray[np.intp]) -> Iterator[str | Rows]:
    """Compare the picks with as many random candidates."""
    measure = _measurer(pool)
    ours = measure(picks.indices)
    rng = np.random.default_rng(0)
    chance = np.array([measure(rng.permutation(candidates)[:BUDGET]) for _ in range(CHANCES)])
    low, middle, high = np.percentile(chance, [5, 50, 95], axis=0)
    yield f"Judged with the labels, which no strategy reads, against {CHANCES} random selections:"
    yield ""
    table: Rows = [("", "picks", "random, median (5 % to 95 %)")]
    for text, *numbers in zip(MEASURED, ours, middle, low, high, strict=True):
        shown = [f"{x:.0f}" if text == COUNTED else percent(x, 0) for x in numbers]
        table.append((text, shown[0], f"{shown[1]} ({shown[2]} to {shown[3]})"))
    yield table


def _measurer(pool: Pool) -> Callable[[NDArray[np.intp]], list[float]]:
    """Make a function that measures a set of rows, as :data:`MEASURED` names it."""
    phi, pseudo = shapley({**pool.columns, **pool.constants})
    image = contributions(phi)[:, pool.names("/features").index("image")]
    labels = pool.columns["/label"][:]

    def measure(rows: NDArray[np.intp]) -> list[float]:
        wrong, share = labels[rows] != pseudo[rows], image[rows]
        return [wrong.mean(), len(np.unique(labels[rows])), share.mean(), (share > 0.5).mean()]

    return measure
