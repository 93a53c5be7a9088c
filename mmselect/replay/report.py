"""A replay as one page that needs nothing beside it, and its figures and tables as files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from mmselect.errors import printable
from mmselect.files import make_folder
from mmselect.output.emitting import emit
from mmselect.output.page import assemble
from mmselect.replay.comparison import band
from mmselect.replay.runs import Replay
from mmselect.replay.summary import seeds_to_play
from mmselect.replay.tables import (
    FORMS,
    between,
    head_rows,
    settings_rows,
    summary_rows,
    verdict,
)

PAGE = "report.html"
PARTS = ("page.html", "page.css", "page.js")


def write_report(found: Replay, summary: dict[str, Any], folder: Path, command: str) -> list[Path]:
    """Write the page, ``rounds.csv``, ``replay.json`` and, with matplotlib, figures (SVG, PNG).

    Parameters
    ----------
    found : Replay
    summary : dict
        From `mmselect.replay.summary.summarize`.
    folder : path
        Made if it is missing.
    command : str
        The command line that made it, for the page.

    Returns
    -------
    list of path
        What was written; the page is the first.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    files: dict[str, Iterable[bytes]] = {
        PAGE: [page(found, summary, command)],
        "rounds.csv": FORMS["csv"](found, summary),
        "replay.json": FORMS["json"](found, summary),
        **{name: [content] for name, content in _figures(found, summary).items()},
    }
    make_folder(folder)
    for name, chunks in files.items():
        emit(chunks, folder / name)
    return [folder / name for name in files]


def _figures(found: Replay, summary: dict[str, Any]) -> dict[str, bytes]:
    """Draw the figures that go into papers; none without matplotlib, as the page has its own."""
    try:
        from mmselect.replay.plots import FORMS as FIGURE_FORMS
        from mmselect.replay.plots import contribution_curves, learning_curves, render, wins_matrix
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return {}
    wins = summary["wins"]["accuracy"]
    drawn = {
        "learning-curves": learning_curves(found),
        "contributions": contribution_curves(found),
        "wins": wins_matrix(found.settings["strategies"], wins, "wins, all modalities"),
    }
    return {
        f"{name}.{form}": render(figure, form)
        for name, figure in drawn.items()
        for form in FIGURE_FORMS
    }


def page(found: Replay, summary: dict[str, Any], command: str) -> bytes:
    """Make the page: verdict, differences, curves, tables, contributions, pairs, settings."""
    body, style, script = (
        Path(__file__).with_name(name).read_text(encoding="utf-8") for name in PARTS
    )
    settings = found.settings
    title = f"Replay of {', '.join(Path(file).name for file in settings['pool']['paths'])}"
    names, modalities = settings["strategies"], settings["modalities"]
    filled = Template(body).substitute(
        title=_shown(title),
        verdict="".join(f"<li>{_shown(line)}</li>" for line in verdict(summary, False)),
        baseline=_shown(summary["baseline"]),
        table=_table(summary_rows(summary, names)),
        heads=_table(head_rows(summary, names, modalities)),
        pairs=_all_pairs(summary, names, modalities),
        chance=f"{(1 - summary['confidence']['tests']) / 2:.2f}",
        settings=_table([("", ""), *settings_rows(found)], head=False),
        command=_shown(command),
        warnings="".join(f"<li>{_shown(line)}</li>" for line in found.warnings) or "<li>none</li>",
    )
    return assemble(title, filled, style=style, script=script, data=_data(found, summary))


def _data(found: Replay, summary: dict[str, Any]) -> dict[str, Any]:
    """Collect what the page's script draws: shares in percent, differences in points."""
    base, modalities = summary["baseline"], found.settings["modalities"]
    alone = modalities if len(modalities) > 1 else ()
    curves = [("accuracy", "all modalities"), *((f"accuracy.{m}", f"{m} alone") for m in alone)]
    shares = [(f"contribution.{m}", m) for m in modalities]
    shares.append(("contribution_difference", "largest − smallest"))
    return {
        "strategies": [base, *(n for n in found.settings["strategies"] if n != base)],
        "differences": _differences(summary),
        "charts": {
            name: [made for panel in panels if (made := _chart(found, *panel))["series"]]
            for name, panels in {"curves": curves, "contributions": shares}.items()
        },
    }


def _differences(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Paired differences to the baseline, the largest first."""
    rows = []
    for name, row in summary["strategies"].items():
        if name != summary["baseline"]:
            mean, low, high = (round(100 * x, 4) for x in row["area_difference"]["accuracy"])
            more = seeds_to_play(row["more_seeds"])
            rows.append({"name": name, "mean": mean, "low": low, "high": high, "more": more})
    return sorted(rows, key=lambda row: -row["mean"])


def _chart(found: Replay, measure: str, title: str) -> dict[str, Any]:
    """One panel: a curve per strategy, the mean over seeds with its interval."""
    labeled, series = found.curves("labeled"), []
    for name, values in found.curves(measure).items():
        lines = np.vstack([labeled[name].mean(axis=0), np.round(100 * band(values), 3)])
        there = lines[:, ~np.isnan(lines).any(axis=0)].tolist()
        if there[0]:
            series.append(
                {"name": name, **dict(zip(("x", "mean", "low", "high"), there, strict=True))}
            )
    return {"title": title, "series": series}


def _all_pairs(summary: dict[str, Any], names: Sequence[str], modalities: Sequence[str]) -> str:
    """Make a matrix for every measure of accuracy; those after the first are folded."""
    titles = {"accuracy": "all modalities", "macro_f1": "all modalities, macro-F1"}
    titles["accuracy.balanced"] = "all modalities, balanced over classes"
    for m in modalities if len(modalities) > 1 else ():
        titles |= {f"accuracy.{m}": f"{m} alone", f"accuracy.balanced.{m}": f"{m} alone, balanced"}
    measured = {m: t for m, t in titles.items() if _any_known(summary["differences"][m])}
    return "".join(
        f"<details{'' if i else ' open'}><summary>{_shown(title)}</summary>"
        f"{_pairs(names, summary['wins'][m], summary['differences'][m])}</details>"
        for i, (m, title) in enumerate(measured.items())
    )


def _any_known(differences: Sequence[Sequence[Sequence[float]]]) -> bool:
    """Whether a measure has any number: soft labels have no classes to balance over."""
    return any(mean == mean for row in differences for mean, *_ in row)


def _shown(text: str) -> str:
    """Escape what a browser would take for markup, or a terminal for a command."""
    return html.escape(printable(text))


def _pairs(
    names: Sequence[str],
    wins: Sequence[Sequence[float]],
    differences: Sequence[Sequence[Sequence[float]]],
) -> str:
    """Make one matrix: the share of rounds won, with the paired difference under it."""

    def cell(i: int, j: int) -> str:
        if i == j:
            return "<td></td>"
        won, difference = wins[i][j], between(differences[i][j])
        shade, shown = (0.0, "–") if won != won else (won, f"{won:.1f}")
        return f'<td data-won="{shade:.2f}"><b>{shown}</b><br><small>{difference}</small></td>'

    head = "".join(f"<th>{_shown(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{_shown(name)}</th>{''.join(cell(i, j) for j in range(len(names)))}</tr>"
        for i, name in enumerate(names)
    )
    return f'<div class="wide"><table class="pairs"><tr><th></th>{head}</tr>{body}</table></div>'


def _table(rows: Sequence[Sequence[str]], head: bool = True) -> str:
    def line(tag: str, row: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{_shown(cell)}</{tag}>' for cell in row)}</tr>"

    first = line("th", rows[0]) if head else ""
    body = "".join(line("td", row) for row in rows[1:])
    return f'<div class="wide"><table>{first}{body}</table></div>'
