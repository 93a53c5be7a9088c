"""Strategies that rank by how unsure the fused head, or its stochastic passes, are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmselect.core.scores import information
from mmselect.strategies.record import (
    Arrays,
    Columns,
    Parameters,
    ScoreFunction,
    Strategy,
    limited,
    need,
)

ACTIVATION = limited(
    "activation",
    "softmax",
    "how logits become probabilities; sigmoid-norm for heads trained with BCE",
)


def _from_logits(path: str, measure: Callable[..., Any]) -> ScoreFunction:
    def score(arrays: Arrays, parameters: Parameters) -> Columns:
        activation = parameters["activation"]
        return {"score": measure(arrays[path], activation=activation, name=path)}

    return score


_TABLE = (
    (
        "entropy",
        "/multimodal_logits",
        information.entropy,
        "entropy of the fused head",
        "Settles, Active Learning Literature Survey, 2009",
    ),
    (
        "margin",
        "/multimodal_logits",
        information.margin,
        "one minus the gap of the fused head's two largest probabilities",
        "Scheffer, Decomain and Wrobel, IDA 2001",
    ),
    (
        "least-confidence",
        "/multimodal_logits",
        information.least_confidence,
        "one minus the fused head's largest probability",
        "Culotta and McCallum, AAAI 2005",
    ),
    (
        "bald",
        "/dropout_logits",
        information.bald,
        "how much stochastic passes disagree: mutual information of prediction and model",
        "Houlsby et al., 2011; Gal, Islam and Ghahramani, ICML 2017",
    ),
)

STRATEGIES = tuple(
    Strategy(
        name=name,
        kind="score",
        summary=summary,
        function=_from_logits(path, measure),
        needs=(need(path),),
        parameters=(ACTIVATION,),
        reference=reference,
    )
    for name, path, measure, summary, reference in _TABLE
)
