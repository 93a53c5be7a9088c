"""What ``pack`` may be told: each option once, as in :mod:`mmselect.ask`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mmselect.ask import Reading
from mmselect.option import anything, asking, columns, names, one_of, option, several, sources, text


def _named(help: str, *names: str) -> Any:
    return option(None, f"{help}; repeatable.", "NAME=SOURCE", sources, names, many=True)


def _pools(name: str, value: Any) -> tuple[str, ...]:
    """Take a path, or the paths of shards."""
    given = [value] if isinstance(value, str | os.PathLike) else several(name, "paths", value)
    return tuple(text(name, os.fspath(path)) for path in given)


def _source(help: str, *names: str) -> Any:
    return option(None, help, "SOURCE", anything, names)


@asking
class Packing(Reading):
    """What ``pack`` may be told: each dataset of the format, and how they are brought together."""

    features: Mapping[str, Any] | None = _named("Features of a modality")
    unimodal_logits: Mapping[str, Any] | None = _named("Logits of a modality's head")
    multimodal_logits: str | Sequence[Any] | None = _source("Logits of the fused head.")
    coalition_logits: Mapping[str, Any] | None = _named(
        "Fused logits with other modalities masked, such as a+b or none"
    )
    classifier_weight: Mapping[str, Any] | None = _named(
        "Weight of the linear fused head, of one modality or of a+b side by side", "--classifier"
    )
    classifier_bias: str | Sequence[Any] | None = _source(
        "Bias of the linear fused head.", "--bias"
    )
    dropout_logits: str | Sequence[Any] | None = _source("Logits of stochastic passes.")
    present: Mapping[str, Any] | None = _named("Which samples have a modality, 0 or 1")
    ids: str | Sequence[Any] | None = _source("Names of the samples.", "--id")
    labels: str | Sequence[Any] | None = _source(
        "Classes, by index or name; -1 or empty: unknown.", "--label"
    )
    label_share: str | Sequence[Any] | None = _source("Soft labels in [0, 1].")
    labeled: str | Sequence[Any] | None = _source(
        "Which samples are labeled: 0 or 1 each, or a list of ids."
    )
    class_names: str | Sequence[Any] | None = _source(
        "Names of the classes, in the order of the logits."
    )
    metadata: Mapping[str, Any] | Sequence[Any] | None = option(
        None,
        "Columns of metadata, by their own name or another; a table gives all; repeatable.",
        "[NAME=]SOURCE",
        columns,
        many=True,
    )
    base: Sequence[str] | None = option(
        None,
        "Link to everything else in this pool, beside or below; its shards: repeat.",
        "POOL",
        _pools,
        ("--from",),
        many=True,
    )
    without: Sequence[str] | None = option(
        None, "Leave this dataset of --from out; repeatable.", "DATASET", names, many=True
    )
    join: str | None = option(
        None,
        "How rows of sources meet; default: by order, if their ids agree.",
        "order|id",
        one_of("order", "id"),
    )
    dtype: str | None = option(
        None,
        "Type of features and logits; default: as they come.",
        "float16|float32",
        one_of("float16", "float32"),
    )
    link: bool = option(False, "Point at sources beside the pool or below, in place of a copy.")
