"""Find submodules by name, and take from what they return the tensor that is meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mmselect.errors import ParameterError, few, suggestion
from mmselect.torch.export.trees import Tensor, look, names, shown

Given = str | tuple[str, Callable[[Any], Any]]
"""How a user names an output: ``"module"``, ``"module:part"`` or ``("module", function)``."""


WRAPPED = ("module", "_orig_mod")
"""Under which names ``DataParallel`` and ``torch.compile`` keep what they wrap."""


@dataclass(frozen=True)
class Pick:
    """Which tensor, of which submodule's output.

    Attributes
    ----------
    module : str
        Dotted name; empty for the model itself.
    said : str
        How the user named it; of a function its name, which is the same in every process.
    part : str
        Key, attribute or position in the output; empty for the output itself.
    function : callable, optional
        From the output to the tensor.
    """

    module: str
    said: str
    part: str = ""
    function: Callable[[Any], Any] | None = None

    @property
    def name(self) -> str:
        """The submodule, for an error."""
        return self.module or "the model"


def qualname(function: Callable[..., Any]) -> str:
    """Name a function the same way in every process."""
    return getattr(function, "__qualname__", type(function).__name__)


def parse(given: Given) -> Pick:
    """Read how an output was named.

    Examples
    --------
    >>> parse("text_encoder:last_hidden_state")
    Pick(module='text_encoder', said='text_encoder:last_hidden_state',
         part='last_hidden_state', function=None)
    """
    if isinstance(given, str):
        module, _, part = given.partition(":")
        return Pick(module, given, part)
    if not (isinstance(given, tuple) and len(given) == 2 and callable(given[1])):
        message = 'expected "module", "module:part" or ("module", function)'
        raise ParameterError(f"{message}, found {given!r}")
    return Pick(given[0], f"{given[0]}, {qualname(given[1])}", function=given[1])


def picked(pick: Pick, output: Any) -> Tensor:
    """Take the (n, d) tensor that a pick means from what its submodule returned.

    Raises
    ------
    ParameterError
        If it is not there, or is no tensor of two axes; the message says how to pick one.

    Examples
    --------
    >>> picked(parse("encoder:1"), ("text", torch.zeros(2, 3))).shape
    torch.Size([2, 3])
    """
    part = look(output, pick.part, pick.name) if pick.part else output
    found = pick.function(part) if pick.function else part
    if not isinstance(found, torch.Tensor):
        first = next(iter(names(found)), "0")
        how = f'"{pick.module}:{first}" or ("{pick.module}", function)'
        message = f"expected a tensor, found {shown(found)}: say which part, such as {how}"
        raise ParameterError(f"{pick.name}: {message}")
    if found.ndim != 2:
        how = f'("{pick.module}", lambda out: …)'
        message = f"expected a row per sample, (n, d), found {shown(found)}: reduce it with {how}"
        raise ParameterError(f"{pick.name}: {message}")
    return found


def unwrapped(model: Any) -> Any:
    """Take off what runs a model on several devices, or compiled: export needs the model itself."""
    while (
        isinstance(model, DataParallel | DistributedDataParallel) or "_orig_mod" in model._modules
    ):
        model = next(model.children())
    return model


def submodule(model: Any, name: str) -> Any:
    """Find a submodule by its dotted name, with or without the steps that wrappers add.

    Raises
    ------
    ParameterError
        If there is none; the message has the nearest name.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.DataParallel(torch.nn.Linear(1, 2)))
    >>> submodule(model, "0.module") is submodule(model, "module.0.module")
    True
    >>> submodule(model, "1")
    Traceback (most recent call last):
    mmselect.errors.ParameterError: expected a submodule of Sequential (0), found '1'
    """
    real = dict(model.named_modules(remove_duplicate=False))
    short = {_without_wrappers(path): module for path, module in real.items()}
    if (found := real.get(name, short.get(_without_wrappers(name)))) is not None:
        return found
    known = [path for path in short if path]
    expected = f"expected a submodule of {type(model).__name__} ({few(known)})"
    raise ParameterError(f"{expected}, found {name!r}{suggestion(name, known)}")


def _without_wrappers(path: str) -> str:
    """Leave out of a dotted name the steps from a wrapper to what it wraps."""
    return ".".join(step for step in path.split(".") if step not in WRAPPED)
