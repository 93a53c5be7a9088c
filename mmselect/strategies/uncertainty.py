"""Strategies that rank by how unsure the fused head, or its stochastic passes, are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mmselect.core.scores.confidence import least_confidence, margin
from mmselect.core.scores.information import bald, entropy
from mmselect.core.scores.softmax import Activation
from mmselect.errors import ParameterError
from mmselect.strategies.record import (
    Arrays,
    Columns,
    Parameter,
    Parameters,
    Strategy,
    limited,
    need,
)

ACTIVATION = limited(
    "activation",
    "softmax",
    "how logits become probabilities; sigmoid-norm for heads trained with BCE",
)

MULTILABEL = Parameter(
    "multilabel", False, "sigmoid of each logit in place of softmax: means over the classes"
)


def reading(parameters: Parameters) -> Activation:
    """How logits become probabilities, by the parameters `multilabel` and `activation`."""
    return "sigmoid" if parameters["multilabel"] else parameters.get("activation", "softmax")


def one_reading(parameters: Parameters, given: frozenset[str]) -> Parameters:
    """Accept an activation or a multi-label reading, but not both.

    Raises
    ------
    ParameterError
        If both were given.
    """
    if parameters["multilabel"] and "activation" in given:
        found = parameters["activation"]
        raise ParameterError(f"activation: expected none with multilabel=true, found {found!r}")
    return parameters


def score_logits(
    arrays: Arrays, parameters: Parameters, *, path: str, measure: Callable[..., Any]
) -> Columns:
    """Score each sample by one measure of the logits at `path`."""
    return {"score": measure(arrays[path], activation=reading(parameters), name=path)}


_TABLE = (
    (
        "entropy",
        "/multimodal_logits",
        entropy,
        "entropy of the fused head",
        "Settles, Active Learning Literature Survey, 2009",
    ),
    (
        "margin",
        "/multimodal_logits",
        margin,
        "one minus the gap of the fused head's two largest probabilities",
        "Scheffer, Decomain and Wrobel, IDA 2001",
    ),
    (
        "least-confidence",
        "/multimodal_logits",
        least_confidence,
        "one minus the fused head's largest probability",
        "Culotta and McCallum, AAAI 2005",
    ),
    (
        "bald",
        "/dropout_logits",
        bald,
        "how much stochastic passes disagree: mutual information of prediction and model",
        "Houlsby et al., 2011; Gal, Islam and Ghahramani, ICML 2017",
    ),
)

STRATEGIES = tuple(
    Strategy(
        name=name,
        kind="score",
        summary=summary,
        function=partial(score_logits, path=path, measure=measure),
        needs=(need(path),),
        parameters=(ACTIVATION, MULTILABEL),
        reference=reference,
        finish=one_reading,
    )
    for name, path, measure, summary, reference in _TABLE
)
