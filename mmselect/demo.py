"""The main job on a real pool that ships with the package: emoji, as drawings and as names."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmselect.core.scores.shapley import contributions
from mmselect.files import make_folder, replacing
from mmselect.looking.page import look
from mmselect.output.emitting import write
from mmselect.pool.reading import Pool, open_pool
from mmselect.selection import Selection, score, select
from mmselect.strategies.gradients import shapley

EMOJI = Path(__file__).parent / "data" / "emoji.h5"
"""The shipped pool; ``data/SOURCES.md`` beside it credits its sources."""

BUDGET = 60
WHERE = "split=train"
"""The test rows stay unseen, so that they can judge the next model."""

SHOWN = 12
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


def play(folder: Path) -> Iterator[str]:
    """Write the emoji pool, run the main job on it, and say what happened, line by line.

    Parameters
    ----------
    folder : path
        Where the pool, the scores and the picks are written; made if it is missing.

    Yields
    ------
    str
        One line of text at a time.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    pool_file = _copy_pool(folder)
    here = shlex.quote(str(pool_file))
    with open_pool(pool_file) as pool:
        labeled = int(pool.labeled.sum())
        yield f"{pool.n:,} drawings of emoji by two vendors, each with a name and keywords."
        yield f"{labeled} are labeled with one of {pool.sizes['c']} classes, and a small model was"
        yield "fitted on those. Which ones should a person label next?"
        yield ""
        scores = folder / "scores.csv"
        to = shlex.quote(str(scores))
        yield f"$ mmselect score {here} --strategy smem --where {WHERE} -o {to}"
        table = score(pool, "smem", where=[WHERE])
        write(table, "csv", scores, pool)
        columns = ", ".join(["id", "score", *table.components])
        yield f"  {len(table.ids):,} candidates: {columns}"
        yield ""
        picks_file = folder / "picks.txt"
        budget = f"--budget {BUDGET} --where {WHERE}"
        yield f"$ mmselect select {here} {budget} -o {shlex.quote(str(picks_file))}"
        picks = select(pool, budget=BUDGET, where=[WHERE])
        write(picks, "ids", picks_file, pool)
        yield f"  {BUDGET} ids, picked with {picks.provenance['strategy']}; the first ones:"
        yield ""
        yield from _first_picks(pool, picks)
        yield ""
        yield from _comparison(pool, picks, table.indices)
        yield ""
        page = folder / "picks.html"
        yield f"$ mmselect look {here} {budget} -o {shlex.quote(str(page))}"
        look(pool, picks, output=page, where=[WHERE])
        yield "  The same picks on one page: open it in a browser."
    yield ""
    listed = shlex.quote(str(picks_file))
    yield "Next, for example:"
    yield f"  mmselect info {here}"
    yield f"  mmselect strategies {here}"
    yield f"  mmselect select {here} -b 5% --where {WHERE} --exclude {listed} | head"
    yield f"  mmselect replay {here}"


def _copy_pool(folder: Path) -> Path:
    make_folder(folder)
    target = folder / "emoji.h5"
    with replacing(target) as file, EMOJI.open("rb") as emoji:
        shutil.copyfileobj(emoji, file)
    return target


def _first_picks(pool: Pool, picks: Selection) -> Iterator[str]:
    """Show the first picks as emoji: name, class, and what the model takes them for."""
    rows = picks.indices[:SHOWN]
    character, name, vendor = (
        [text.decode() for text in pool.columns[f"/metadata/{column}"][rows]]
        for column in ("character", "name", "vendor")
    )
    classes = [text.decode() for text in pool.constants["/class_names"]]
    truth = pool.columns["/label"][rows]
    guess = pool.columns["/multimodal_logits"][rows].argmax(axis=1)
    for i in range(len(rows)):
        right = truth[i] == guess[i]
        takes = "and the model knows" if right else f"the model says {classes[guess[i]]}"
        what = f"{name[i]} ({vendor[i]})"
        yield f"  {character[i]}\t{what:<42} {classes[truth[i]]}, {takes}"


def _comparison(pool: Pool, picks: Selection, candidates: NDArray[np.intp]) -> Iterator[str]:
    """Compare the picks with as many random candidates."""
    measure = _measurer(pool)
    ours = measure(picks.indices)
    rng = np.random.default_rng(0)
    chance = np.array([measure(rng.permutation(candidates)[:BUDGET]) for _ in range(CHANCES)])
    low, middle, high = np.percentile(chance, [5, 50, 95], axis=0)
    yield f"Judged with the labels, which no strategy reads, against {CHANCES} random selections:"
    yield ""
    yield f"  {'':<44}{'picks':>7}{'random, median (5 % to 95 %)':>32}"
    for text, *numbers in zip(MEASURED, ours, middle, low, high, strict=True):
        shown = [f"{x:.0f}" if text == COUNTED else f"{100 * x:.0f} %" for x in numbers]
        yield f"  {text:<44}{shown[0]:>7}{f'{shown[1]} ({shown[2]} to {shown[3]})':>32}"


def _measurer(pool: Pool) -> Callable[[NDArray[np.intp]], list[float]]:
    """Make a function that measures a set of rows, as :data:`MEASURED` names it."""
    phi, pseudo = shapley({**pool.columns, **pool.constants})
    image = contributions(phi)[:, pool.names("/features").index("image")]
    labels = pool.columns["/label"][:]

    def measure(rows: NDArray[np.intp]) -> list[float]:
        wrong, share = labels[rows] != pseudo[rows], image[rows]
        return [wrong.mean(), len(np.unique(labels[rows])), share.mean(), (share > 0.5).mean()]

    return measure
