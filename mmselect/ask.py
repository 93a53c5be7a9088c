"""What a user may say: each option once, with its type, default, parser and help.

The commands and the Python functions take their options from these dataclasses, so that both know
the same names and defaults and refuse the same values. A new option is one field here and one use
of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from mmselect import engine
from mmselect.option import (
    Asked,
    Condition,
    Option,
    assignments,
    between,
    budget,
    conditions,
    ids,
    names,
    one_of,
    size,
    text,
    whole,
)

Ids = tuple[str, ...]
Seed = Annotated[int, Option("Equal seeds give equal picks.", "N", whole(0))]


@dataclass(frozen=True, kw_only=True)
class Reading(Asked):
    """What every command that reads numbers may be told."""

    memory: Annotated[
        int,
        Option(
            "How much to read at a time. No result depends on it.",
            "SIZE",
            size,
            shown=f"{engine.DEFAULT_MEMORY >> 20}MiB",
        ),
    ] = engine.DEFAULT_MEMORY


@dataclass(frozen=True, kw_only=True)
class Ask(Reading):
    """What a user may say of any selection: with what, from which rows, and at what expense."""

    strategy: Annotated[
        str, Option("See: mmselect strategies.", "NAME", text, ("--strategy", "-s"))
    ] = "auto"
    parameters: Annotated[
        Mapping[str, Any] | None,
        Option(
            "A strategy's parameter; repeatable.", "NAME=VALUE", assignments, ("-p",), many=True
        ),
    ] = None
    labeled: Annotated[
        Ids | None,
        Option(
            "Ids labeled besides the pool's own mask; repeatable.",
            "FILE|-",
            ids,
            many=True,
            lists=True,
        ),
    ] = None
    exclude: Annotated[
        Ids | None,
        Option("Ids never to pick; repeatable.", "FILE|-", ids, many=True, lists=True),
    ] = None
    among: Annotated[
        Ids | None,
        Option("Ids to pick from; repeatable.", "FILE|-", ids, many=True, lists=True),
    ] = None
    where: Annotated[
        tuple[Condition, ...] | None,
        Option(
            "Pick from rows whose metadata fits: COLUMN=VALUE, or != < <= > >=; repeatable, all "
            "must hold.",
            "EXPR",
            conditions,
            many=True,
        ),
    ] = None
    ignore_mask: Annotated[bool, Option("The pool's own mask of labeled rows does not count.")] = (
        False
    )
    ignore_unknown: Annotated[bool, Option("Skip ids that the pool does not have.")] = False
    threads: Annotated[
        int | None, Option("Threads; default: all. No result depends on it.", "N", whole(1))
    ] = None


@dataclass(frozen=True, kw_only=True)
class Scoring(Ask):
    """What ``score`` may be told."""

    activation: Annotated[
        str | None,
        Option(
            "How logits become probabilities.",
            "softmax|sigmoid-norm",
            one_of("softmax", "sigmoid-norm"),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Selecting(Scoring):
    """What ``select`` may be told."""

    budget: Annotated[
        int | str,
        Option(
            "How many to pick, or a share of all rows.",
            "N|P%",
            budget,
            ("--budget", "-b"),
            required=True,
        ),
    ] = 1
    spread: Annotated[
        str | None,
        Option(
            "Spread a score's picks over the features, in place of the plain top.",
            "d2|facility",
            one_of("d2", "facility"),
        ),
    ] = None
    seed: Seed = 0
    clip_budget: Annotated[bool, Option("Pick all candidates if the budget is larger.")] = False


@dataclass(frozen=True, kw_only=True)
class Embedding(Ask):
    """What ``embed`` may be told."""

    strategy: Annotated[
        str,
        Option(
            "Rescaled, or as they are.",
            "bmmal|badge",
            one_of("bmmal", "badge"),
            ("--strategy", "-s"),
        ),
    ] = "bmmal"
    form: Annotated[
        str,
        Option(
            "Two factors, their product, or a sketch.",
            "factors|full|sketch",
            one_of("factors", "full", "sketch"),
        ),
    ] = "factors"
    dim: Annotated[int, Option("Length of the sketch.", "D", whole(1))] = 512
    force: Annotated[bool, Option("Write the full form even if it seems not to fit.")] = False
    seed: Seed = 0


_POSITIVE = between(0, math.inf, "a number above 0")


@dataclass(frozen=True, kw_only=True)
class Aligning(Reading):
    """What ``align`` may be told."""

    dim: Annotated[
        int | None,
        Option(
            "Width of the shared space; default: that of the narrowest modality, up to 512.",
            "D",
            whole(1),
        ),
    ] = None
    epochs: Annotated[int, Option("Passes over the pool.", "N", whole(1))] = 25
    warmup: Annotated[
        int | None,
        Option("Epochs before there are prototypes; default: a fifth.", "N", whole(0)),
    ] = None
    rate: Annotated[float, Option("Largest learning rate.", "RATE", _POSITIVE)] = 3e-3
    batch_size: Annotated[int, Option("Samples contrasted with each other.", "N", whole(2))] = 256
    prototypes: Annotated[
        int | None,
        Option(
            "Clusters of each modality, 0: none; default: one for 44 samples, up to 5000.",
            "K",
            whole(0),
        ),
    ] = None
    tau: Annotated[float, Option("Temperature.", "TAU", _POSITIVE)] = 0.07
    device: Annotated[
        str, Option("Where to train; auto: a GPU if there is one.", "auto|cpu|cuda", text)
    ] = "auto"
    seed: Annotated[int, Option("Equal seeds give equal pools.", "N", whole(0))] = 0
    threads: Annotated[
        int, Option("Threads of torch; with others, last digits may differ.", "N", whole(1))
    ] = 1


@dataclass(frozen=True, kw_only=True)
class Replaying(Asked):
    """What ``replay`` may be told."""

    strategies: Annotated[
        Sequence[str],
        Option(
            "What to compare; with parameters: smem:spread=d2.",
            "NAME,…",
            names,
            ("--strategies", "-s"),
            shown="bmmal,badge,smem,entropy,random",
        ),
    ] = ("bmmal", "badge", "smem", "entropy", "random")
    budget: Annotated[
        int | str,
        Option("Picks of a round; P% of those to pick from.", "N|P%", budget, ("--budget", "-b")),
    ] = "2%"
    rounds: Annotated[int, Option("How often to pick.", "N", whole(1))] = 5
    start: Annotated[
        str,
        Option(
            "Strategy that picks the first samples; labeled: those of the pool.",
            "NAME|labeled",
            text,
        ),
    ] = "random"
    start_budget: Annotated[
        int | str | None, Option("Samples to start with; default: the budget.", "N|P%", budget)
    ] = None
    seeds: Annotated[int, Option("How many seeds.", "N", whole(1))] = 5
    seed: Annotated[int, Option("The first of them.", "N", whole(0))] = 0
    test_fraction: Annotated[
        float | None,
        Option(
            "Share to test on; default: /metadata/split, or 0.2 where there is none.",
            "SHARE",
            between(0, 1, "a share between 0 and 1"),
        ),
    ] = None
    jobs: Annotated[int, Option("Processes.", "N", whole(1), ("--jobs", "-j"))] = 1
