"""A replay as figures: learning curves, contributions of the modalities, wins."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mmselect.replay.comparison import band
from mmselect.replay.runs import Replay

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8B5A2B")
"""Distinct to most colour-blind eyes (after Okabe and Ito); the baseline is grey."""

BASELINE = "#777777"
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "axes.edgecolor": "#999999",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "svg.fonttype": "none",  # text stays text: small, and it can be searched
    "svg.hashsalt": "mmselect",  # equal figures have equal bytes
}
FORMS = ("svg", "png")


def learning_curves(found: Replay) -> Figure:
    """Draw the accuracy of the fused head and of each modality's head against the labels."""
    modalities = found.settings["modalities"]
    panels = [("accuracy", "all modalities")]
    panels += [(f"accuracy.{m}", f"{m} alone") for m in modalities if len(modalities) > 1]
    return _grid(found, panels, "accuracy on test samples, %")


def contribution_curves(found: Replay) -> Figure:
    """Draw how much each modality contributes to the true class (BMMAL, Figs. 2 and 3)."""
    panels = [(f"contribution.{m}", m) for m in found.settings["modalities"]]
    panels.append(("contribution_difference", "largest − smallest"))
    return _grid(found, panels, "mean contribution on test samples, %")


def _grid(found: Replay, panels: Sequence[tuple[str, str]], label: str) -> Figure:
    """Draw one panel per measure: a line per strategy, the mean over seeds, with its interval."""
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.1 * columns, 3.3 * rows + 0.5), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for i, (axis, (measure, title)) in enumerate(zip(axes, panels, strict=False)):
            _curves(axis, found, measure)
            axis.set_title(title)
            axis.tick_params(labelbottom=i + columns >= len(panels))  # nothing stands below it
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.supylabel(label, fontsize=10)
        figure.supxlabel("labeled samples", fontsize=10)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=min(len(names), 6))
    return figure


def _curves(axis: Any, found: Replay, measure: str) -> None:
    labeled = found.curves("labeled")
    looks = zip(cycle(COLOURS), cycle(MARKS), strict=False)
    for name, values in found.curves(measure).items():
        colour, mark = (BASELINE, ".") if name == found.baseline else next(looks)
        mean, low, high = 100 * band(values)
        x = labeled[name].mean(axis=0)
        axis.plot(x, mean, color=colour, marker=mark, markersize=4, linewidth=1.6, label=name)
        axis.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    ends = [run.rounds[0][measure] for run in found.full]
    if known := [x for x in ends if x is not None]:
        level = 100 * float(np.mean(known))
        axis.axhline(level, color=BASELINE, linestyle="--", linewidth=1, label="all labels")


def wins_matrix(names: Sequence[str], wins: Sequence[Sequence[float]], title: str) -> Figure:
    """Draw the share of the rounds in which the row's strategy beats the column's."""
    values = np.array(wins, float)
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        side = 1.6 + 0.52 * len(names)
        figure = Figure(figsize=(side + 0.6, side), layout="constrained")
        axis = figure.subplots()
        axis.imshow(values, cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(names)), names)
        axis.set_title(title)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                text = "" if i == j else "–" if np.isnan(value) else f"{value:.1f}"
                axis.text(j, i, text, ha="center", va="center", color=_ink(value))
    return figure


def _ink(value: float) -> str:
    return "white" if value > 0.55 else "#333333"


def render(figure: Figure, form: str) -> bytes:
    """Turn a figure into one of the forms; no time is stored in it."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=160, metadata=metadata)
    return buffer.getvalue()
