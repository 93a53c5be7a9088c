"""A replay as one page that needs nothing beside it, and its figures and tables as files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from mmselect.errors import printable
from mmselect.files import make_folder
from mmselect.output.emitting import emit
from mmselect.replay.plots import FORMS as FIGURE_FORMS
from mmselect.replay.plots import contribution_curves, learning_curves, render, wins_matrix
from mmselect.replay.runs import Replay
from mmselect.replay.tables import FORMS, between, head_rows, settings_rows, summary_rows, verdict

PAGE = "report.html"
TEMPLATE = Path(__file__).with_name("page.html")


def write_report(found: Replay, summary: dict[str, Any], folder: Path, command: str) -> list[Path]:
    """Write the page, its figures (SVG and PNG), ``rounds.csv`` and ``replay.json``.

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
    names = found.settings["strategies"]
    figures = {
        "learning-curves": learning_curves(found),
        "contributions": contribution_curves(found),
        "wins": wins_matrix(names, summary["wins"]["accuracy"], "wins, all modalities"),
    }
    drawn = {
        f"{name}.{form}": render(figure, form)
        for name, figure in figures.items()
        for form in FIGURE_FORMS
    }
    files: dict[str, Iterable[bytes]] = {
        PAGE: [page(found, summary, drawn, command).encode()],
        "rounds.csv": FORMS["csv"](found, summary),
        "replay.json": FORMS["json"](found, summary),
        **{name: [content] for name, content in drawn.items()},
    }
    make_folder(folder)
    for name, chunks in files.items():
        emit(chunks, folder / name)
    return [folder / name for name in files]


def page(found: Replay, summary: dict[str, Any], drawn: dict[str, bytes], command: str) -> str:
    """Make the page: verdict, table, curves, contributions, wins and differences, settings."""
    settings = found.settings
    files = ", ".join(Path(file).name for file in settings["pool"]["paths"])
    names, modalities = settings["strategies"], settings["modalities"]
    titles = {"accuracy": "all modalities", "macro_f1": "all modalities, macro-F1"}
    titles["accuracy.balanced"] = "all modalities, balanced over classes"
    for m in modalities if len(modalities) > 1 else ():
        titles |= {f"accuracy.{m}": f"{m} alone", f"accuracy.balanced.{m}": f"{m} alone, balanced"}
    pairs = "".join(
        _pairs(title, names, summary["wins"][m], summary["differences"][m])
        for m, title in titles.items()
    )
    return Template(TEMPLATE.read_text()).substitute(
        title=_shown(f"Replay of {files}"),
        verdict="".join(f"<li>{_shown(line)}</li>" for line in verdict(summary)),
        baseline=_shown(summary["baseline"]),
        table=_table(summary_rows(summary, names)),
        heads=_table(head_rows(summary, names, modalities)),
        curves=_svg(drawn["learning-curves.svg"]),
        contributions=_svg(drawn["contributions.svg"]),
        pairs=pairs,
        chance=f"{(1 - summary['confidence']['tests']) / 2:.2f}",
        settings=_table([("", ""), *settings_rows(found)], head=False),
        command=_shown(command),
        warnings="".join(f"<li>{_shown(line)}</li>" for line in found.warnings) or "<li>none</li>",
    )


def _shown(text: str) -> str:
    """Escape what a browser would take for markup, or a terminal for a command."""
    return html.escape(printable(text))


def _pairs(
    title: str,
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
        style = f"background: rgb(0 114 178 / {0.4 * shade:.2f})"
        return f'<td style="{style}"><b>{shown}</b><br><small>{difference}</small></td>'

    head = "".join(f"<th>{_shown(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{_shown(name)}</th>{''.join(cell(i, j) for j in range(len(names)))}</tr>"
        for i, name in enumerate(names)
    )
    table = f"<table><tr><th></th>{head}</tr>{body}</table>"
    return f"<h3>{_shown(title)}</h3><div class=wide>{table}</div>"


def _table(rows: Sequence[Sequence[str]], head: bool = True) -> str:
    def line(tag: str, row: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{_shown(cell)}</{tag}>' for cell in row)}</tr>"

    first = line("th", rows[0]) if head else ""
    body = "".join(line("td", row) for row in rows[1:])
    return f"<div class=wide><table>{first}{body}</table></div>"


def _svg(file: bytes) -> str:
    """Take the element to put into a page out of an SVG file."""
    text = file.decode()
    return text[text.index("<svg") :]
