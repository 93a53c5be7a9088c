"""The parts of a replay's page, each a heading, a note that says how to read it, and what is shown.

What users wrote is escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

from mmselect.errors import printable
from mmselect.replay.comparison import TEST
from mmselect.replay.runs import Replay
from mmselect.replay.tables import (
    between,
    bin_rows,
    class_table,
    first_rows,
    forecast_rows,
    head_rows,
    last_labels,
    summary_rows,
    visible_rows,
)

PANEL = ' class="panel"'
UNIT = "\u00a0%"
"""No line ends between a number and its unit."""


class Section(NamedTuple):
    """One part of a page; heading and note are text, the body is HTML."""

    heading: str
    note: str
    body: str
    panel: bool = False


def joined(sections: Sequence[Section]) -> str:
    """Put sections one below the other; where there is nothing to show there is no section."""
    return "".join(
        f"<section{PANEL if s.panel else ''}><h2>{shown(s.heading)}</h2>"
        f'<p class="note">{shown(s.note).replace(" %", UNIT)}</p>{s.body}</section>\n'
        for s in sections
        if s.body
    )


def charts(name: str) -> str:
    """Make room for figures that the page's script draws, with keys to show and hide lines."""
    keys = f'<div class="keys" data-for="{name}"></div>'
    return f'{keys}<div class="charts" id="{name}"></div>'


def _against(baseline: str) -> Section:
    """Make room for the figure of paired differences."""
    return Section(
        f"Against {baseline}",
        "Paired difference of the mean accuracies (area under the learning curve over its "
        "width), in points. Every strategy starts from the same samples for the same seed, and "
        "differences are taken within a seed. Bars: 95 % intervals of Student's t over the "
        "seeds, widened (Bonferroni) so that all of them hold at once; filled: 0 is left out. "
        "Seen from: the smallest difference that the seeds played tell from noise with a "
        "chance of 80 %. Seeds still to play: so many that a difference of this size and "
        "spread is told from noise with the same chance.",
        '<div id="differences" class="differences"></div>',
        panel=True,
    )


def _ahead(found: Replay, summary: dict[str, Any]) -> Section:
    """Make the section on labels still to come; none where no curve could be fitted."""
    rows = summary["forecast"]["strategies"]
    fitted = {name: row["parameters"] for name, row in rows.items() if row["parameters"]}
    numbers = [("curve that fits best", "A_max", "δ", "α", "β")]
    for name, p in fitted.items():
        most = f"{100 * p['most']:.1f}{UNIT}"
        numbers.append((name, most, f"{p['delta']:.3g}", f"{p['alpha']:.2f}", f"{p['beta']:.2f}"))
    return Section(
        "How many more labels?",
        "Labels that accuracies take which have not been reached, drawn on from the rounds by the "
        "curve A(x) = A_max (1 − (1 − δ)^((x / batch + α)^β)) (PALM, ICCV 2025): the median over "
        "all such curves, weighed by how well they fit, with bounds that hold 95 % of the weight. "
        "∞: curves that end below the accuracy cannot be ruled out. Far beyond the rounds played "
        "it is a guess.",
        table(forecast_rows(summary, last_labels(found))) + table(numbers) if fitted else "",
    )


def of_rounds(found: Replay, summary: dict[str, Any]) -> list[Section]:
    """Make the sections of a replay with rounds."""
    names, modalities = found.settings["strategies"], found.settings["modalities"]
    return [
        _against(summary["baseline"]),
        Section(
            "Learning curves",
            "Accuracy on test samples, % against labeled samples; mean over seeds, shaded: its "
            "95 % interval.",
            charts("curves"),
        ),
        Section(
            "In numbers",
            "±: half of a 95 % interval; brackets: as in the first figure. Second table: mean "
            "accuracy over all test samples / over the classes, each class counting the same. A "
            "head whose second number is much the lower one has learned the large classes.",
            table(summary_rows(summary, names)) + table(head_rows(summary, names, modalities)),
        ),
        Section(
            "What each modality contributes to the true class",
            "Mean contribution on test samples, % against labeled samples (BMMAL, Figs. 2 and 3).",
            charts("contributions"),
        ),
        Section(
            "Pairwise comparison",
            "Bold: the share of the rounds in which the row's strategy is better than the column's "
            f"by a two-sided t-test over seeds at {TEST} confidence (by chance alone: "
            f"{(1 - TEST) / 2:.2f}). Below: the paired difference of the areas under the curves, "
            "in points, with its 95 % interval. Tests and intervals here stand each for itself: "
            "one interval in twenty leaves out 0 by chance. Below all: how often the column's "
            "strategy is beaten, the mean over the others (BMMAL, Fig. 5).",
            all_pairs(summary, names, modalities),
        ),
        _ahead(found, summary),
        *described(found, summary),
        *power_sections(summary, names, len(found.settings["seeds"])),
    ]


def described(found: Replay, summary: dict[str, Any]) -> list[Section]:
    """Make the sections on classes and on what was picked; none for runs that lack them."""
    gains, folds = summary["classes"], []
    for name in gains:
        rows = table(class_table(gains[name], found.settings["modalities"]))
        folds.append(f"<details><summary>{shown(name)}</summary>{rows}</details>")
    return [
        Section(
            "Classes",
            f"The classes whose accuracy after the last round differs most from that after "
            f"{summary['baseline']}, up to ten improved and ten dropped (BMMAL, Fig. 8): accuracy "
            "of the fused head, %, and differences in points, means over the seeds. Among many "
            "small classes some differ much by chance.",
            "".join(folds),
        ),
        picked_section(summary),
    ]


def picked_section(summary: dict[str, Any]) -> Section:
    """Make the section on how confident heads are of what was picked."""
    bins = summary["bins"]
    return Section(
        "Does it pick what is easy?",
        "Share of the picks in each fifth of the samples, from the least to the most confident "
        "(MMCSAL, Figs. 3 to 5). Confidence: mean rank of the probability of the true class over "
        "the heads of all strategies and rounds that were not fitted on the sample. Random picks "
        "have a fifth in each.",
        table(bin_rows(summary)) if bins else "",
    )


def of_first(found: Replay, summary: dict[str, Any]) -> list[Section]:
    """Make the sections of a comparison of first batches."""
    fused, *rest = first_rows(found, summary)
    seeds = len(found.settings["seeds"])
    return [
        Section(
            "The first batch alone",
            "Accuracy on test samples of heads fitted on it, % (MMCSAL, Tables 1, 2 and 6); ±: "
            "half of a 95 % interval over the seeds. A start without chance gives all seeds one "
            "batch, and has no interval where the pool has a split of its own.",
            table(fused),
        ),
        Section(
            f"Against {summary['baseline']}",
            "Paired difference of accuracies, in points, with intervals of Student's t over the "
            "seeds that hold for all starts of a budget at once (Bonferroni); below: the smallest "
            f"difference that {seeds} seeds tell from noise with a chance of 80 %.",
            "".join(map(table, rest)),
        ),
        Section(
            "Accuracy against labeled samples",
            "Mean over seeds, shaded: its 95 % interval. Batches stand each for itself: a larger "
            "one need not hold the smaller.",
            charts("curves"),
        ),
        Section(
            "What each modality contributes to the true class",
            "Mean contribution on test samples, % against labeled samples.",
            charts("contributions"),
        ),
        picked_section(summary),
    ]


def power_sections(summary: dict[str, Any], names: Sequence[str], seeds: int) -> list[Section]:
    """Make the matrix of what the seeds can see; none for one seed or one strategy."""
    if seeds < 2 or len(names) < 2:
        return []
    return [
        Section(
            f"What {seeds} seeds can see",
            "The smallest difference of mean accuracies between two strategies, in points, that so "
            "many seeds tell from noise with a chance of 80 %, if their differences spread as they "
            "do here; at the confidence of the first figure. A smaller one may be there unseen. –: "
            "seeds that are alike.",
            table(visible_rows(summary, names, seeds)),
        )
    ]


def all_pairs(summary: dict[str, Any], names: Sequence[str], modalities: Sequence[str]) -> str:
    """Make a matrix for every measure of accuracy; those after the first are folded."""
    titles = {"accuracy": "all modalities", "macro_f1": "all modalities, macro-F1"}
    titles["accuracy.balanced"] = "all modalities, balanced over classes"
    for m in modalities if len(modalities) > 1 else ():
        titles |= {f"accuracy.{m}": f"{m} alone", f"accuracy.balanced.{m}": f"{m} alone, balanced"}
    measured = {m: t for m, t in titles.items() if _any_known(summary["differences"][m])}
    return "".join(
        f"<details{'' if i else ' open'}><summary>{shown(title)}</summary>"
        f"{pairs(names, summary['wins'][m], summary['differences'][m], summary['beaten'][m])}"
        "</details>"
        for i, (m, title) in enumerate(measured.items())
    )


def _any_known(differences: Sequence[Sequence[Sequence[float]]]) -> bool:
    """Whether a measure has any number: soft labels have no classes to balance over."""
    return any(mean == mean for row in differences for mean, *_ in row)


def shown(text: str) -> str:
    """Escape what a browser would take for markup, or a terminal for a command."""
    return html.escape(printable(text))


def pairs(
    names: Sequence[str],
    wins: Sequence[Sequence[float]],
    differences: Sequence[Sequence[Sequence[float]]] | None,
    means: Sequence[float],
    most: int = 1,
) -> str:
    """Make one matrix: the rounds won of `most`, the difference under each, means of columns."""

    def cell(i: int, j: int) -> str:
        if i == j:
            return "<td></td>"
        won = wins[i][j]
        shade, said = (0.0, "–") if won != won else (won / most, f"{won:.1f}")
        below = f"<br><small>{between(differences[i][j])}</small>" if differences else ""
        return f'<td data-won="{shade:.2f}"><b>{said}</b>{below}</td>'

    head = "".join(f"<th>{shown(name)}</th>" for name in names)
    body = "".join(
        f"<tr><th>{shown(name)}</th>{''.join(cell(i, j) for j in range(len(names)))}</tr>"
        for i, name in enumerate(names)
    )
    foot = "".join(f"<td>{'–' if x != x else f'{x:.2f}'}</td>" for x in means)
    body += f"<tr><th>mean of the column</th>{foot}</tr>"
    return f'<div class="wide"><table class="pairs"><tr><th></th>{head}</tr>{body}</table></div>'


def table(rows: Sequence[Sequence[str]], head: bool = True) -> str:
    """Lay rows out as a table; without `head` the first row is left out."""

    def line(tag: str, row: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{shown(cell)}</{tag}>' for cell in row)}</tr>"

    first = line("th", rows[0]) if head else ""
    body = "".join(line("td", row) for row in rows[1:])
    return f'<div class="wide"><table>{first}{body}</table></div>'
