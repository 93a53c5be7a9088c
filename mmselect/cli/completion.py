"""What a shell completes: strategies, their parameters, formats, columns of the pool on the line.

Nothing numerical is imported for names, so that Tab answers at once, unless a plugin is installed:
one plugin may bring several strategies, which are known once it is loaded. Columns open the pool's
file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from mmselect.strategies import PLUGINS

PARAMETERS: dict[str, tuple[str, ...]] = {
    "random": (),
    "column:NAME": ("order",),
    "entropy": ("activation", "multilabel"),
    "margin": ("activation", "multilabel"),
    "least-confidence": ("activation", "multilabel"),
    "bald": ("activation", "multilabel"),
    "smem": ("preset", "alpha.{modality}", "beta", "gamma", "activation", "multilabel"),
    "contribution": ("multilabel",),
    "badge": ("multilabel",),
    "bmmal": ("multilabel",),
    "facility": ("doubt", "sharpen", "multilabel", "center", "form", "neighbours"),
    "doubt": ("doubt", "sharpen", "multilabel"),
    "mmcsal": (
        *("alignment", "align_over_tau", "tau", "diversity"),
        *("loss", "solver", "steps", "rate", "init"),
    ),
    "activeft": ("tau", "diversity", "loss", "solver", "steps", "rate", "init"),
    "kmeans": ("unit", "init", "iterations"),
    "coreset": ("unit",),
    "alignment": (),
    "deepfool": (),
    "sraal-indicator": (),
    "alfa-mix": ("cap", "iterations"),
    "gcnal": ("variant", "epochs"),
    "typiclust": ("unit", "clusters", "iterations"),
    "learning-loss": ("epochs", "steps"),
    "vaal": ("epochs", "steps"),
    "sraal": ("epochs", "steps"),
}
"""Parameters of every built-in strategy; the registry has them, and a test that they agree."""

Completer = Callable[[Any, str], Iterable[str]]
"""``(context, what was typed) -> whole words``."""


@contextmanager
def whole_words(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Complete words that bash parts at ``:`` and ``=``, such as ``column:loss``.

    Bash replaces what comes behind the mark only, so that what stands before it is not printed.
    """
    if environ.get("_MMSELECT_COMPLETE") != "complete_bash":
        yield
        return
    words = environ.get("COMP_WORDS", "").split("\n")
    last = int(environ.get("COMP_CWORD", "0"))
    joined: list[str] = []
    for word in words[: last + 1]:
        goes_on = joined and joined[-1].endswith((":", "=")) and word and not word.startswith("-")
        if goes_on or (joined and word.startswith((":", "="))):
            joined[-1] += word
        else:
            joined.append(word)
    if last >= len(words) or len(joined) == last + 1:
        yield
        return
    environ["COMP_WORDS"], environ["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)
    kept = joined[-1].removesuffix(words[last].lstrip(":="))
    kept = kept.partition("=")[2] if kept.startswith("--") else kept
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            yield
    finally:
        print("\n".join(line.removeprefix(kept) for line in out.getvalue().split("\n")), end="")


def quietly(complete: Completer) -> Callable[..., list[str]]:
    """Make a completer as typer calls it; where it fails, nothing is completed."""

    def completing(ctx: Any, incomplete: str) -> list[str]:
        try:
            return [word for word in complete(ctx, incomplete) if word.startswith(incomplete)]
        except Exception:  # a message in the middle of what is typed would help nobody
            return []

    # typer tells arguments apart by their types or names, and takes no types that are text
    completing.__annotations__ = {"incomplete": str}
    return completing


def words(*known: str) -> Completer:
    """Complete one of a few words."""
    return lambda *_: known


def several(complete: Completer, mark: str = ",") -> Completer:
    """Complete the last of several words with a comma between them."""

    def completing(ctx: Any, incomplete: str) -> Iterable[str]:
        before, comma, last = incomplete.rpartition(mark)
        return (f"{before}{comma}{word}" for word in complete(ctx, last))

    return completing


def strategy_names(ctx: Any, incomplete: str) -> Iterable[str]:
    """Complete strategies, with the pool's columns for ``column:NAME``."""
    known = [name for name in PARAMETERS if name != "column:NAME"]
    columns = column_names(ctx, "") if incomplete.startswith("col") else ()
    return [
        "auto",
        *known,
        *_of_plugins(),
        *([f"column:{name}" for name in columns] or ["column:"]),
    ]


def parameter_names(ctx: Any, _incomplete: str) -> Iterable[str]:
    """Complete ``NAME=`` with parameters of the strategy on the line, else of all."""
    strategy = ctx.params.get("strategy") or "auto"
    stem = "column:NAME" if str(strategy).startswith("column:") else strategy
    every = dict.fromkeys(name for names in PARAMETERS.values() for name in names)
    names = PARAMETERS.get(stem)
    for name in _of_plugins().get(stem, every) if names is None else names:
        before, per_modality, _ = name.partition("{modality}")
        for modality in _in_pool(ctx, "features", "unimodal_logits") if per_modality else ("",):
            yield f"{before}{modality}="


def _of_plugins() -> dict[str, tuple[str, ...]]:
    """Strategies of installed packages, with their parameters."""
    from importlib.metadata import entry_points  # 30 modules

    if not entry_points(group=PLUGINS):
        return {}
    from mmselect.strategies.registry import installed

    return {name: tuple(p.name for p in each.parameters) for name, each in installed()[0].items()}


def column_names(ctx: Any, _incomplete: str) -> Iterable[str]:
    """Complete columns of ``/metadata``."""
    return _in_pool(ctx, "metadata")


def followed(mark: str, *more: str) -> Completer:
    """Complete a column and what follows its name, such as ``vendor=``."""
    return lambda ctx, _: (f"{name}{mark}" for name in (*column_names(ctx, ""), *more))


def _in_pool(ctx: Any, *groups: str) -> list[str]:
    """Names that groups of the pool on the line have."""
    import h5py

    # of a line that ends with an option, the arguments are not parted yet
    paths = [*(ctx.params.get("pools") or ctx.params.get("paths") or ()), *ctx.args]
    found: dict[str, None] = {}
    for path in (path for path in paths if Path(path).is_file() and h5py.is_hdf5(path)):
        with h5py.File(path, "r") as handle:
            for group in groups:
                found |= dict.fromkeys(handle.get(group, ()))
    return list(found)


COMPLETERS: dict[str, Completer] = {
    "strategy": strategy_names,
    "strategies": several(strategy_names),
    "start": strategy_names,
    "parameters": parameter_names,
    "where": followed("="),
    "columns": several(column_names),
    "text": several(column_names),
    "image": column_names,
    "group": followed(":"),
    "at_most": followed("=", "predicted"),
    "at_least": followed("=", "predicted"),
    "balance": followed("", "predicted"),
    "cost": column_names,
}
"""By option; an option that takes one of a few words completes those of its metavar."""


def completer(name: str, metavar: str | None) -> Callable[..., list[str]] | None:
    """Find what completes an option; None where it is a file, which the shell completes."""
    if name in COMPLETERS:
        return quietly(COMPLETERS[name])
    choices = (metavar or "").split("|")
    fixed = len(choices) > 1 and all(word == word.lower() and word.isascii() for word in choices)
    return quietly(words(*choices)) if fixed and "-" not in choices else None
