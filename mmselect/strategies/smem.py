"""SMEM, the single-modal entropic measure.

``S = Σ_m α_m H(y_m) + β JSD(y_1, …, y_M) + γ H(ŷ)``: Eqs. 5-7 of Kim et al., *Single-Modal Entropy
based Active Learning for Visual Question Answering*, BMVC 2021, plus the main entropy.
"""

from __future__ import annotations

import math

import numpy as np

from mmselect.arrays import Floats
from mmselect.core.presence import Mask, matrix_of
from mmselect.core.scores.information import entropy, information
from mmselect.errors import ParameterError
from mmselect.strategies.record import (
    Arrays,
    Columns,
    Parameter,
    Parameters,
    Strategy,
    masks_in,
    need,
)
from mmselect.strategies.uncertainty import ACTIVATION, MULTILABEL, one_reading, reading

HEADS = "/unimodal_logits"
FUSED = "/multimodal_logits"

PRESETS = {
    "full": (1.0, 1.0),
    "jsd": (1.0, 0.0),
    "entropies": (0.0, 0.0),
    "mutual-information": (0.0, -1.0),
}
"""β and γ of the paper's ablation: Fig. 4 (b), and the pure mutual information of Sec. 3.2."""

EVEN = math.nan
"""Stands for a modality weight that is not given: an even share of what the others leave."""


def score(arrays: Arrays, parameters: Parameters) -> Columns:
    """Score each sample, with its components."""
    heads = {path: block for path, block in arrays.items() if path.startswith(HEADS)}
    modalities = [path.removeprefix(f"{HEADS}/") for path in heads]
    activation = reading(parameters)
    present = masks_in(arrays, HEADS)
    found = information(heads, present=present, activation=activation)
    total = parameters["beta"] * found.jsd
    shares = _shares(modalities, parameters, matrix_of(present, list(heads), np.arange(len(total))))
    for share, own in zip(shares, found.entropy, strict=True):
        total = total + share * np.where(np.isnan(own), 0.0, own)
    columns = {f"entropy.{m}": h for m, h in zip(modalities, found.entropy, strict=True)}
    columns["jsd"] = found.jsd
    if FUSED not in arrays:
        return {"score": total, **columns}
    fused = entropy(arrays[FUSED], activation=activation, name=FUSED)
    if len(modalities) == 2:
        for modality, other in zip(modalities, found.entropy[::-1], strict=True):
            columns[f"information.{modality}"] = other - fused
    return {"score": total + parameters["gamma"] * fused, "entropy": fused, **columns}


def _shares(
    modalities: list[str], parameters: Parameters, has: Mask | None
) -> list[float] | Floats:
    """α of each head; where samples lack heads, (m, n), shared out among those that are there."""
    alpha = [parameters[f"alpha.{modality}"] for modality in modalities]
    if has is None:
        return alpha
    own = np.where(has.T, np.array(alpha)[:, None], 0.0)
    total = own.sum(axis=0)
    shares: Floats = np.divide(own, total, out=own, where=total > 0)
    return shares


def finish(parameters: Parameters, given: frozenset[str]) -> Parameters:
    """Fill β and γ from the preset, and share out what the given weights leave to the others.

    Raises
    ------
    ParameterError
        If the weights of the modalities do not sum to 1, or both an activation and a multi-label
        reading were given.
    """
    one_reading(parameters, given)
    preset = dict(zip(("beta", "gamma"), PRESETS[parameters["preset"]], strict=True))
    finished = {**parameters, **{k: v for k, v in preset.items() if k not in given}}
    weights = {name: value for name, value in parameters.items() if name.startswith("alpha.")}
    if not weights:
        return finished
    set_ones = sum(value for name, value in weights.items() if name in given)
    others = [name for name in weights if name not in given]
    if (not others and not math.isclose(set_ones, 1, abs_tol=1e-6)) or set_ones > 1 + 1e-6:
        shown = " + ".join(f"{name}={weights[name]:g}" for name in weights if name in given)
        message = f"alpha: expected weights that sum to 1, found {shown} = {set_ones:g}"
        raise ParameterError(message)
    return {**finished, **{name: max(1 - set_ones, 0) / len(others) for name in others}}


STRATEGIES = (
    Strategy(
        name="smem",
        kind="score",
        summary="entropies of the single-modal heads, their divergence, and the main entropy",
        function=score,
        needs=(
            need(HEADS),
            need(FUSED, unless=("gamma", 0.0), welcome=True),
        ),
        parameters=(
            Parameter("preset", "full", "beta and gamma of the paper's ablation", tuple(PRESETS)),
            Parameter(
                "alpha.{modality}", EVEN, "weight of one head's entropy; default: even", minimum=0
            ),
            Parameter("beta", 1.0, "weight of the Jensen-Shannon divergence", minimum=0),
            Parameter("gamma", 1.0, "weight of the main entropy", minimum=0),
            ACTIVATION,
            MULTILABEL,
        ),
        reference="Kim et al., Single-Modal Entropy based Active Learning for VQA, BMVC 2021",
        finish=finish,
    ),
)
