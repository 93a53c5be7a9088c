"""A replay as one page that needs nothing beside it, and its figures and tables as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from mmselect.files import make_folder
from mmselect.output.emitting import emit
from mmselect.output.page import assemble
from mmselect.replay.comparison import band
from mmselect.replay.runs import Replay
from mmselect.replay.sections import Section, joined, of_first, of_rounds, shown, table
from mmselect.replay.summary import seeds_to_play
from mmselect.replay.tables import FORMS, first_verdict, settings_rows, verdict

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
    drawn = {
        "learning-curves": learning_curves(found),
        "contributions": contribution_curves(found),
    }
    if found.settings["rounds"]:
        wins = summary["wins"]["accuracy"]
        drawn["wins"] = wins_matrix(found.settings["strategies"], wins, "wins, all modalities")
    return {
        f"{name}.{form}": render(figure, form)
        for name, figure in drawn.items()
        for form in FIGURE_FORMS
    }


def page(found: Replay, summary: dict[str, Any], command: str) -> bytes:
    """Make the page: verdict, differences, curves, tables, contributions, pairs, settings."""
    rounds = found.settings["rounds"]
    said = verdict(summary, False) if rounds else first_verdict(found, summary)
    title = f"Replay of {', '.join(Path(p).name for p in found.settings['pool']['paths'])}"
    return fill(
        title,
        verdict=said,
        sections=(of_rounds if rounds else of_first)(found, summary),
        settings=table([("", ""), *settings_rows(found)], head=False),
        command=command,
        warnings=found.warnings,
        data=_data(found, summary),
    )


def fill(
    title: str,
    *,
    verdict: Iterable[str],
    sections: Sequence[Section],
    settings: str,
    command: str,
    warnings: Iterable[str] = (),
    data: dict[str, Any],
) -> bytes:
    """Fill the page of one replay, or of several; all are text but `settings`, which is HTML."""
    body, style, script = (
        Path(__file__).with_name(name).read_text(encoding="utf-8") for name in PARTS
    )
    filled = Template(body).substitute(
        title=shown(title),
        verdict=_items(verdict),
        sections=joined(sections),
        settings=settings,
        command=shown(command),
        warnings=_items(warnings) or _items(["none"]),
    )
    return assemble(title, filled, style=style, script=script, data=data)


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{shown(line)}</li>" for line in lines)


def _data(found: Replay, summary: dict[str, Any]) -> dict[str, Any]:
    """Collect what the page's script draws: shares in percent, differences in points."""
    base, modalities = summary["baseline"], found.settings["modalities"]
    alone = modalities if len(modalities) > 1 else ()
    curves = [("accuracy", "all modalities"), *((f"accuracy.{m}", f"{m} alone") for m in alone)]
    shares = [(f"contribution.{m}", m) for m in modalities]
    shares.append(("contribution_difference", "largest − smallest"))
    return {
        "strategies": [base, *(n for n in found.settings["strategies"] if n != base)],
        "differences": _differences(summary) if found.settings["rounds"] else [],
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
            seen = row["visible"]
            said = [f"seen from {100 * seen:.1f}"] if seen == seen else []
            more = "; ".join([*said, *filter(None, [seeds_to_play(row["more_seeds"])])])
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
    ends = [run.rounds[0][measure] for run in found.full]
    known = [x for x in ends if x is not None]
    full = round(100 * float(np.mean(known)), 3) if known else None
    return {"title": title, "series": series, "full": full}
