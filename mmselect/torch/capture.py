"""Find submodules by name, and keep what they return while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mmselect.errors import ParameterError, SchemaError, located
from mmselect.torch.masking import Heard, heard
from mmselect.torch.trees import Tensor, look, nearest, parts, shown, tensors

Given = str | tuple[str, Callable[[Any], Any]]
"""How a user names an output: ``"module"``, ``"module:part"`` or ``("module", function)``."""


@dataclass(frozen=True)
class Pick:
    """Which tensor, of which submodule's output.

    Attributes
    ----------
    module : str
        Dotted name; empty for the model itself.
    part : str
        Key, attribute or position in the output; empty for the output itself.
    function : callable, optional
        From the output to the tensor.
    """

    module: str
    part: str = ""
    function: Callable[[Any], Any] | None = None

    def __str__(self) -> str:
        if self.function is None:
            return f"{self.module}:{self.part}" if self.part else self.module
        return f"{self.module}, {qualname(self.function)}"


def qualname(function: Callable[..., Any]) -> str:
    """Name a function the same way in every process."""
    return getattr(function, "__qualname__", type(function).__name__)


def parse(given: Given) -> Pick:
    """Read how an output was named.

    Examples
    --------
    >>> parse("text_encoder:last_hidden_state")
    Pick(module='text_encoder', part='last_hidden_state', function=None)
    """
    if isinstance(given, str):
        module, _, part = given.partition(":")
        return Pick(module, part)
    if not (isinstance(given, tuple) and len(given) == 2 and callable(given[1])):
        message = 'expected "module", "module:part" or ("module", function)'
        raise ParameterError(f"{message}, found {given!r}")
    return Pick(given[0], function=given[1])


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
    name = pick.module or "the model"
    try:
        part = look(output, pick.part) if pick.part else output
    except LookupError as error:
        raise ParameterError(f"{name}: {error}") from None
    found = pick.function(part) if pick.function else part
    if not isinstance(found, torch.Tensor):
        how = f'"{pick.module}:{_first_part(found)}" or ("{pick.module}", function)'
        message = f"expected a tensor, found {shown(found)}: say which part, such as {how}"
        raise ParameterError(f"{name}: {message}")
    if found.ndim != 2:
        how = f'("{pick.module}", lambda out: …)'
        message = f"expected a row per sample, (n, d), found {shown(found)}: reduce it with {how}"
        raise ParameterError(f"{name}: {message}")
    return found


def _first_part(tree: Any) -> str:
    if isinstance(tree, tuple | list | torch.Tensor):
        return "0"
    named = tree if isinstance(tree, Mapping) else parts(tree)
    return str(next(iter(named), "0"))


def unwrapped(model: Any) -> Any:
    """Take off what runs a model on several devices, or compiled: export needs the model itself."""
    while (attribute := _wrapper(model)) is not None:
        model = getattr(model, attribute)
    return model


def _wrapper(module: Any) -> str | None:
    """Name the attribute under which a wrapper keeps its module; None for other modules."""
    if isinstance(module, DataParallel | DistributedDataParallel):
        return "module"
    return "_orig_mod" if "_orig_mod" in module._modules else None


def submodule(model: Any, name: str) -> Any:
    """Find a submodule by its dotted name, with or without the steps that wrappers add.

    Raises
    ------
    ParameterError
        If there is none; the message lists the nearest names.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.DataParallel(torch.nn.Linear(1, 2)))
    >>> submodule(model, "0.module") is submodule(model, "module.0.module")
    True
    >>> submodule(model, "1")
    Traceback (most recent call last):
    mmselect.errors.ParameterError: expected a submodule of Sequential, found '1'; nearest: 0
    """
    real = dict(model.named_modules(remove_duplicate=False))
    short = {_without_wrappers(path, real): path for path in real}
    for candidate in (name, name.removeprefix("module."), name.removeprefix("_orig_mod.")):
        if candidate in real:
            return real[candidate]
        if candidate in short:
            return real[short[candidate]]
    message = f"expected a submodule of {type(model).__name__}, found {name!r}"
    raise ParameterError(f"{message}; nearest: {nearest(name, [n for n in short if n])}")


def _without_wrappers(path: str, modules: Mapping[str, Any]) -> str:
    """Leave out of a dotted name the steps from a wrapper to what it wraps."""
    steps = path.split(".")
    parents = [modules[".".join(steps[:i])] for i in range(len(steps))]
    return ".".join(s for s, parent in zip(steps, parents, strict=True) if _wrapper(parent) != s)


@dataclass
class Recorder:
    """What the hooks have seen in one run of the model.

    Attributes
    ----------
    found : dict of path to tensor
        Copies of what was picked: later layers may work in place.
    outputs : dict of path to list of tensors
        Copies of all tensors that the features' submodules returned, where `fusion` is recorded.
    calls : list of Heard
        Copies of what the fusion was called with.
    constants : mapping of position to tensor, optional
        What it got beside the features in the first batch of this run.
    """

    model: Any
    picks: Mapping[str, Pick]
    fusion: Pick | None = None
    wanted: frozenset[str] = frozenset()
    watch: bool = False
    found: dict[str, Tensor] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    calls: list[Heard] = field(default_factory=list)
    constants: Mapping[int, Tensor] | None = None

    def run(self, call: Callable[[], Any], wanted: frozenset[str], watch: bool = False) -> Any:
        """Run the model and keep the picks that are `wanted`, each from exactly one run.

        With `watch`, what is needed to run the fusion again is kept too.

        Raises
        ------
        ParameterError
            If a submodule did not run, ran more than once, or returned something else.
        """
        self.found, self.runs, self.outputs, self.calls = {}, {}, {}, []
        self.wanted, self.watch = wanted, watch and self.fusion is not None
        try:
            result = call()
        finally:
            self.wanted, self.watch = frozenset(), False
        for path in sorted(wanted):
            with located(dataset=path):
                _check_runs(self.picks[path].module, self.runs.get(path, 0))
        if watch and self.fusion:
            _check_runs(self.fusion.module, len(self.calls))
        return result

    def keep(self, path: str) -> Callable[..., None]:
        """Make the hook of one pick."""

        def hook(_module: Any, _args: Any, output: Any) -> None:
            if path not in self.wanted:
                return
            self.runs[path] = self.runs.get(path, 0) + 1
            if self.runs[path] == 1:
                with located(dataset=path):
                    self.found[path] = picked(self.picks[path], output).clone()
                if self.watch and path.startswith("/features/"):
                    self.outputs[path] = [t.clone() for t in tensors(output) if t.ndim > 1]

        return hook

    def keep_call(self, _module: Any, args: Any, kwargs: Any) -> None:
        """Keep what the fusion is called with (a hook that runs before it)."""
        if self.watch:
            self.calls.append(heard(self.model, (args, kwargs)))


def _check_runs(module: str, count: int) -> None:
    """Accept a submodule that ran once: of several runs, nobody could tell which one counts."""
    if count == 1:
        return
    hint = (
        "say with function= which one counts"
        if count
        else "forward never calls it (or calls its .forward(), which hooks do not see)"
    )
    message = f"expected one run in a forward pass, found {count}: {hint}"
    raise ParameterError(f"{module or 'the model'}: {message}")


@contextmanager
def recording(model: Any, picks: Mapping[str, Pick], fusion: Pick | None) -> Iterator[Recorder]:
    """Hang hooks on the submodules of all picks; they are gone when the block ends.

    Raises
    ------
    ParameterError
        If a submodule does not exist, or takes no hooks.
    """
    recorder = Recorder(model, picks, fusion)
    with ExitStack() as stack:

        def hang(name: str, register: str, hook: Callable[..., None], **options: Any) -> None:
            try:
                handle = getattr(submodule(model, name), register)(hook, **options)
            except RuntimeError as error:  # TorchScript
                message = f"expected a submodule that takes hooks, found: {error}: use function="
                raise ParameterError(f"{name or 'the model'}: {message}") from None
            stack.callback(handle.remove)

        for path, pick in picks.items():
            hang(pick.module, "register_forward_hook", recorder.keep(path))
        if fusion:
            hook = recorder.keep_call
            hang(fusion.module, "register_forward_pre_hook", hook, with_kwargs=True)
        yield recorder


def linear_parts(
    model: Any, name: str, widths: Mapping[str, int]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Cut a linear layer's weight into one block of columns per modality.

    Parameters
    ----------
    model : Module
    name : str
        Dotted name of a layer with a (c, Σd) weight and perhaps a (c,) bias.
    widths : mapping of modality to int
        Feature sizes, in the order in which the model concatenates them.

    Raises
    ------
    ParameterError
        If the layer has no such weight.
    SchemaError
        If its columns are not as many as the features together.

    Examples
    --------
    >>> weight, bias = linear_parts(torch.nn.Linear(5, 2), "", {"image": 3, "text": 2})
    >>> weight["text"].shape, bias.shape
    (torch.Size([2, 2]), torch.Size([2]))
    """
    layer = submodule(model, name)
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2:
        found = type(layer).__name__ if weight is None else shown(weight)
        message = f"expected a linear layer with a (c, Σd) weight, found {found}"
        raise ParameterError(f"classifier {name}: {message}")
    if weight.shape[1] != sum(widths.values()):
        sizes = " + ".join(f"{m} {d}" for m, d in widths.items())
        message = f"expected {sum(widths.values())} columns ({sizes}), found {weight.shape[1]}"
        raise SchemaError(f"{name}: {message}", dataset="/classifier/weight")
    blocks = weight.detach().split(list(widths.values()), dim=1)
    bias = getattr(layer, "bias", None)
    parts = dict(zip(widths, blocks, strict=True))
    return parts, None if bias is None else bias.detach()
