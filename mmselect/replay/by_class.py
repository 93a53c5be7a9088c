"""Which classes a strategy helps and which it costs, against the baseline (BMMAL, Fig. 8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmselect.replay.measures import tested_on
from mmselect.replay.trainer import Outputs

MOST_CLASSES = 10
"""Classes that are shown on either side, as in the paper."""


def recalls(
    outputs: Outputs,
    labels: NDArray[np.int64],
    classes: int,
    shares: NDArray[np.float32] | None = None,
    present: Mapping[str, NDArray[np.bool_]] | None = None,
) -> dict[str, list[float | None]]:
    """How often each head is right, by the class of the test sample; None where there is none.

    Parameters as for `mmselect.replay.measures.measure`, of which this is the measure ``accuracy``
    (and ``accuracy.{m}``) one class at a time.

    Examples
    --------
    >>> logits = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> said = Outputs(logits, {"a": logits}, ("a",), None, np.array([True, True]))
    >>> recalls(said, np.array([0, 0, 0]), 2)
    {'accuracy': [0.6667, None], 'accuracy.a': [0.6667, None]}
    """
    found = {}
    for head, logits in outputs.heads.items():
        guess, own = logits.argmax(axis=1), tested_on(head, present)
        right = guess == labels if shares is None else shares[np.arange(len(guess)), guess]
        size = np.bincount(labels[own], minlength=classes)
        hits = np.bincount(labels[own], right[own], minlength=classes)
        each = zip(hits.tolist(), size.tolist(), strict=True)
        found[f"accuracy{head}"] = [round(hit / n, 4) if n else None for hit, n in each]
    return found


def class_gains(
    runs: Sequence[Any], base: str, names: Sequence[str], words: Sequence[str] | None
) -> dict[str, Any]:
    """Compare the accuracies of classes in the last round with those after the baseline.

    Parameters
    ----------
    runs : sequence of Run
    base : str
        The baseline.
    names : sequence of str
        Strategies.
    words : sequence of str or None
        Names of the classes; None: their numbers.

    Returns
    -------
    dict
        Per strategy but the baseline ``improved`` and ``dropped``: up to ten classes each, those of
        the largest differences first, with ``class``, ``accuracy`` (of the fused head),
        ``difference``, and the difference of each modality's head (``difference.{m}``); all of
        them means over the seeds in which the class was tested. Empty where a run was stored
        without them.
    """
    if not runs or any(run.recalls is None for run in runs):
        return {}
    heads = [head for head in runs[0].recalls if all(head in run.recalls for run in runs)]
    of = {
        name: {
            head: np.array([run.recalls[head] for run in runs if run.strategy == name], float)
            for head in heads
        }
        for name in names
    }
    tested = ~np.isnan(of[base]["accuracy"]).all(axis=0)
    known = np.flatnonzero(tested)
    found = {}
    for name in names:
        if name == base:
            continue
        means = {
            head.replace("accuracy", "difference"): _mean(values - of[base][head], known)
            for head, values in of[name].items()
        }
        order = np.argsort(-means["difference"], kind="stable")
        level = _mean(of[name]["accuracy"], known)
        rows: list[dict[str, Any]] = [
            {
                "class": words[known[i]] if words and known[i] < len(words) else str(known[i]),
                "accuracy": float(level[i]),
                **{head: float(values[i]) for head, values in means.items()},
            }
            for i in order
        ]
        found[name] = {
            "improved": [row for row in rows if row["difference"] > 0][:MOST_CLASSES],
            "dropped": [row for row in rows[::-1] if row["difference"] < 0][:MOST_CLASSES],
        }
    return found


def _mean(values: NDArray[np.float64], columns: NDArray[np.intp]) -> NDArray[np.float64]:
    """Mean over the seeds that have a number; nan where none has one."""
    some = values[:, columns]
    there = ~np.isnan(some)
    total = np.where(there, some, 0).sum(axis=0)
    return np.where(there.any(axis=0), total / np.maximum(there.sum(axis=0), 1), np.nan)
