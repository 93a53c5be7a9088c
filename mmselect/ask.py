"""What a user may say: each option once, with its type, default, parser and help.

The commands and the Python functions take their options from these dataclasses, so that both know
the same names and defaults and refuse the same values. A new option is one field here and one use
of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

from mmselect.constraint import Group, Share, column_name, column_names, groups, shares
from mmselect.errors import UsageError
from mmselect.lists import ListFile
from mmselect.option import (
    Asked,
    Condition,
    amount_or_share,
    asking,
    assignments,
    between,
    conditions,
    count_or_share,
    folder,
    id_list,
    names,
    one_of,
    option,
    refuse,
    several,
    size,
    text,
    whole,
)

STRATEGY, BUDGET = ("--strategy", "-s"), ("--budget", "-b")
NEUTRAL = "No result depends on it."
FITS = "COLUMN=VALUE, or != < <= > >=; repeatable, all must hold."
SPLIT = "/metadata/split, or 0.2 where there is none."


def engine_name(name: str, value: Any, here: Sequence[str] = ("threads", "processes")) -> str:
    """Take the name of an engine, for some with ``=`` and where it is.

    Examples
    --------
    >>> engine_name("engine", "dask=tcp://10.0.0.1:8786")
    'dask=tcp://10.0.0.1:8786'
    """
    kind, equals, address = text(name, value).partition("=")
    one_of(*here, "dask", "ray")(name, kind)
    if equals and (not address or kind not in ("dask", "ray")):
        raise refuse(name, "dask=SCHEDULER or ray=ADDRESS", value)
    return str(value)


def seconds(name: str, value: Any) -> float:
    """Take a time: a number of seconds, or text such as ``90s``, ``30m`` or ``2h``.

    Examples
    --------
    >>> seconds("timeout", "90"), seconds("timeout", "1.5h"), seconds("timeout", 2)
    (90.0, 5400.0, 2.0)
    """
    expected = "a time above 0 such as 90s, 30m or 2h"
    said = str(value).strip().lower() if isinstance(value, str) else value
    unit = {"s": 1, "m": 60, "h": 3600}.get(said[-1:], 0) if isinstance(said, str) else 0
    try:
        found = float(said[:-1] if unit else said) * (unit or 1)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, bool) or not 0 < found < math.inf:
        raise refuse(name, expected, value)
    return found


def _seed(help: str = "Equal seeds give equal picks.") -> Any:
    return option(0, help, "N", whole(0))


@asking
class Reading(Asked):
    """What every command that reads numbers may be told."""

    memory: int = option("256MiB", f"How much to read at a time. {NEUTRAL}", "SIZE", size)


@asking
class Working(Reading):
    """What every command that works through a pool may be told: with how much, and who does it."""

    threads: int | None = option(None, f"Threads; default: all. {NEUTRAL}", "N", whole(1))
    engine: str = option(
        "threads",
        f"Who works: threads or processes here, or a cluster. {NEUTRAL}",
        "threads|processes|dask[=SCHEDULER]|ray[=ADDRESS]",
        engine_name,
    )


@asking
class Describing(Working):
    """What ``info`` may be told."""

    full: bool = option(False, "Read all rows, in place of at most 20,000 that are evenly spread.")


@asking
class Ask(Working):
    """What a user may say of any selection: with what, from which rows, and at what expense."""

    strategy: str = option("auto", "See: mmselect strategies.", "NAME", text, STRATEGY)
    parameters: Mapping[str, Any] | None = option(
        None, "A strategy's parameter; repeatable.", "NAME=VALUE", assignments, ("-p",), many=True
    )
    labeled: tuple[str | ListFile, ...] | None = id_list("Ids labeled besides the pool's own mask")
    exclude: tuple[str | ListFile, ...] | None = id_list("Ids never to pick")
    among: tuple[str | ListFile, ...] | None = id_list("Ids to pick from")
    where: tuple[Condition, ...] | None = option(
        None, f"Pick from rows whose metadata fits: {FITS}", "EXPR", conditions, many=True
    )
    ignore_mask: bool = option(False, "The pool's own mask of labeled rows does not count.")
    ignore_unknown: bool = option(False, "Skip ids that the pool does not have.")


@asking
class Scoring(Ask):
    """What ``score`` may be told."""

    activation: str | None = option(
        None,
        "How logits become probabilities.",
        "softmax|sigmoid-norm",
        one_of("softmax", "sigmoid-norm"),
    )


@asking
class Constraining(Asked):
    """What may be demanded of the picks together."""

    group: tuple[Group, ...] | None = option(
        None, "At most N picks with one value; repeatable.", "COLUMN:N", groups, many=True
    )
    at_most: tuple[Share, ...] | None = option(
        None,
        "At most so many picks with this value; COLUMN may be predicted; repeatable.",
        "COLUMN=VALUE:N|P%",
        shares,
        many=True,
    )
    at_least: tuple[Share, ...] | None = option(
        None, "At least so many; repeatable.", "COLUMN=VALUE:N|P%", shares, many=True
    )
    balance: tuple[str, ...] | None = option(
        None, "As many picks with each value; repeatable.", "COLUMN", column_names, many=True
    )


@asking
class Costing(Constraining):
    """What may be demanded of the picks together, and what they cost."""

    cost: str | None = option(
        None, "What each row costs; gains count per cost.", "COLUMN", column_name
    )


@asking
class Picking(Costing):
    """How picks are made, whichever command makes them."""

    spread: str | None = option(
        None,
        "Spread a score's picks over the features, in place of the plain top.",
        "d2|facility",
        one_of("d2", "facility"),
    )
    clip_budget: bool = option(False, "Pick all candidates if the budget is larger.")
    cache: str | None = option(
        None,
        f"Keep the neighbours that facility finds in large pools for the next round. {NEUTRAL}",
        "DIR",
        folder,
    )


@asking
class Selecting(Scoring, Picking):
    """What ``select`` may be told."""

    budget: int | float | str = option(
        1,
        "How many to pick, or a share of all rows; with --cost in its unit.",
        "N|P%",
        amount_or_share,
        BUDGET,
        required=True,
    )
    seed: int = _seed()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cost is None:
            count_or_share("budget", self.budget)


@asking
class Verifying(Working):
    """What ``verify`` may be told."""

    labeled: tuple[str | ListFile, ...] | None = id_list("In place of the lists it was made with")
    exclude: tuple[str | ListFile, ...] | None = id_list("The same, of ids never to pick")
    among: tuple[str | ListFile, ...] | None = id_list("The same, of ids to pick from")


@asking
class Looking(Scoring, Picking):
    """What ``look`` may be told."""

    image: str | None = option(
        None, "Column of pictures; default: one that is evidently that.", "COLUMN", text
    )
    text: Sequence[str] | None = option(
        None, "Columns to read; default: those that are evidently text.", "COLUMN,…", names
    )
    columns: Sequence[str] | None = option(
        None, "Columns to show besides; default: the first twelve.", "COLUMN,…", names
    )
    thumbnail: int = option(160, "Pixels of a picture's longer side.", "N", whole(16))
    cards: int = option(2000, "Show the first so many picks.", "N", whole(1))
    map: str = option("pca", "How the map is drawn.", "pca|tsne", one_of("pca", "tsne"))
    budget: int | float | str | None = option(
        None, "Without PICKS: pick so many, with --strategy.", "N|P%", amount_or_share, BUDGET
    )
    seed: int = _seed("Without PICKS: equal seeds give equal picks.")


@asking
class Embedding(Ask):
    """What ``embed`` may be told."""

    strategy: str = option(
        "bmmal", "Rescaled, or as they are.", "bmmal|badge", one_of("bmmal", "badge"), STRATEGY
    )
    form: str = option(
        "factors",
        "Two factors, their product, or a sketch.",
        "factors|full|sketch",
        one_of("factors", "full", "sketch"),
    )
    dim: int = option(512, "Length of the sketch.", "D", whole(1))
    force: bool = option(False, "Write the full form even if it seems not to fit.")
    seed: int = _seed()


def _counts_or_shares(name: str, value: Any) -> tuple[Any, ...]:
    """Take counts, or shares of all rows: one, a sequence, or one text with commas."""
    found = value.split(",") if isinstance(value, str) else value
    each = several(name, "a count or a share such as 10%", found, int, float)
    return tuple(count_or_share(name, x.strip() if isinstance(x, str) else x) for x in each)


_POSITIVE = between(0, math.inf, "a number above 0")


@asking
class Aligning(Reading):
    """What ``align`` may be told."""

    dim: int | None = option(
        None,
        "Width of the shared space; default: that of the narrowest modality, up to 512.",
        "D",
        whole(1),
    )
    epochs: int = option(25, "Passes over the pool.", "N", whole(1))
    warmup: int | None = option(
        None, "Epochs before there are prototypes; default: a fifth.", "N", whole(0)
    )
    rate: float = option(3e-3, "Largest learning rate.", "RATE", _POSITIVE)
    batch_size: int = option(256, "Samples contrasted with each other.", "N", whole(2))
    prototypes: int | None = option(
        None,
        "Clusters of each modality, 0: none; default: one for 44 samples, up to 5000.",
        "K",
        whole(0),
    )
    tau: float = option(0.07, "Temperature.", "TAU", _POSITIVE)
    device: str = option(
        "auto", "Where to train; auto: a GPU if there is one.", "auto|cpu|cuda", text
    )
    seed: int = _seed("Equal seeds give equal pools.")
    threads: int = option(
        1, "Threads of torch; with others, last digits may differ.", "N", whole(1)
    )


@asking
class Replaying(Constraining):
    """What ``replay`` may be told."""

    strategies: Sequence[str] = option(
        ("facility", "bmmal", "badge", "smem", "entropy", "random"),
        "What to compare; with parameters: smem:spread=d2.",
        "NAME,…",
        names,
        ("--strategies", "-s"),
    )
    budget: Sequence[int | str] = option(
        ("2%",),
        "Picks of a round; P% of those to pick from; with --rounds 0 of the first batch; several.",
        "N|P%,…",
        _counts_or_shares,
        BUDGET,
    )
    rounds: int = option(
        5, "How often to pick; 0: compare first batches, by --start and --budget.", "N", whole(0)
    )
    start: Sequence[str] = option(
        ("random",),
        "Strategy of the first picks; labeled: what the pool has labeled; with --rounds 0 several.",
        "NAME|labeled,…",
        names,
    )
    start_budget: int | str | None = option(
        None, "Samples to start with; default: the budget.", "N|P%", count_or_share
    )
    seeds: int = option(5, "How many seeds.", "N", whole(1))
    seed: int = _seed("The first of them.")
    test_fraction: float | None = option(
        None,
        f"Share to test on; default: {SPLIT}",
        "SHARE",
        between(0, 1, "a share between 0 and 1"),
    )
    full: bool = option(False, "Also train on all labels, for a line to end at.")
    jobs: int = option(1, "Runs at a time.", "N", whole(1), ("--jobs", "-j"))
    engine: str = option(
        "processes",
        f"Who plays them: processes here, or a cluster. {NEUTRAL}",
        "processes|dask[=SCHEDULER]|ray[=ADDRESS]",
        partial(engine_name, here=("processes",)),
    )
    train: str | None = option(
        None,
        "Train with this command, run by the shell, in place of linear heads. {labeled} (CSV) and "
        "{out} (pool to write) stand in it, unquoted, and {pool} (ids to export), {seed}, {round}, "
        "{previous}, {dir}, {slot} may.",
        "COMMAND",
        text,
    )
    timeout: float | None = option(
        None, "Longest time of one training, such as 90s, 30m, 2h.", "TIME", seconds
    )
    train_check: bool = option(
        False, "First train round 0 twice, and say whether the trainer repeats itself."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("timeout", "train_check"):
            if self.train is None and getattr(self, name):
                raise UsageError(f"{name}: expected --train with it")
        if self.train is not None and self.engine != "processes":
            message = "expected processes, since commands of --train run here"
            raise UsageError(f"engine: {message}, found {self.engine}")
        if self.rounds:
            for name, given in (("start", self.start), ("budget", self.budget)):
                if len(given) > 1:
                    message = f"expected one, found {len(given)}; several are for --rounds 0"
                    raise UsageError(f"{name}: {message}")
            return
        default = {each.name: each.default for each in fields(self)}
        rest = ("strategies", "start_budget", "full", *(each.name for each in fields(Constraining)))
        for name in rest:
            if getattr(self, name) != default[name]:
                played = "only --start and --budget are played with --rounds 0"
                raise UsageError(f"{name}: expected nothing, since {played}")
        if "labeled" in self.start:
            raise UsageError("start: expected strategies with --rounds 0, found labeled")
