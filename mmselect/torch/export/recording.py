"""Keep what submodules return while the model runs, and let encoders answer from memory.

A fusion is seen without some modalities by running the model again: each submodule named as a
modality's features returns what it returned before, without running, or zeros of it where the
modality is absent. Whatever lies between the encoders and the logits runs as it stands in the
model's own forward.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mmselect.errors import ParameterError, located
from mmselect.torch.export.outputs import Pick, picked, submodule
from mmselect.torch.export.trees import Tensor


@dataclass
class Memory:
    """A copy of what one submodule returned, whatever it is: tensors, mappings, objects.

    Attributes
    ----------
    output : any
    features : dict of path to tensor or None
        The tensor in `output` that is exported under a path; None if it was computed from it.
    """

    output: Any
    features: dict[str, Tensor | None]

    @classmethod
    def of(cls, name: str, output: Any, features: Mapping[str, Tensor]) -> Memory:
        """Copy an output, and find its features in the copy.

        Raises
        ------
        ParameterError
            If it cannot be copied, or holds the features of several modalities and it cannot be
            told which tensor is whose.
        """
        memo: dict[int, Any] = {}
        try:
            own = copy.deepcopy(output, memo)
        except (RuntimeError, TypeError) as error:  # a tensor with a gradient, a generator
            reason = str(error).splitlines()[0]
            message = f"expected an output that can be copied, found one that cannot: {reason}"
            raise ParameterError(f"coalitions: {name}: {message}") from None
        there = {path: memo.get(id(tensor)) for path, tensor in features.items()}
        if len(there) > 1:
            if None in there.values():
                message = f'name the part of each modality as "{name}:part", not by a function'
                raise ParameterError(f"coalitions: {name} returns several modalities: {message}")
            if len({id(tensor) for tensor in there.values()}) < len(there):
                names = " and ".join(path.rpartition("/")[2] for path in there)
                message = f"expected different features, found the same for {names}"
                raise ParameterError(f"coalitions: {name}: {message}")
        return cls(own, there)

    def without(self, absent: Collection[str]) -> Any:
        """Copy the output; where its features are absent, with zeros for every number.

        Of an output that holds several modalities, what is exported for one that is present is
        kept. All else is zero, as nobody can tell which modality it speaks of.

        Examples
        --------
        >>> both = {"a": torch.ones(1), "b": torch.ones(1), "a + b": torch.full((1,), 2.0)}
        >>> memory = Memory(both, {name: both[name] for name in ("a", "b")})
        >>> memory.without(["b"])
        {'a': tensor([1.]), 'b': tensor([0.]), 'a + b': tensor([0.])}
        """
        memo: dict[int, Any] = {}
        again = copy.deepcopy(self.output, memo)
        present = [own for path, own in self.features.items() if path not in absent]
        if present and len(self.features) == 1:
            return again
        kept = [memo[id(own)] for own in present]
        values = [tensor.clone() for tensor in kept]
        for tensor in memo.values():
            if isinstance(tensor, torch.Tensor):
                _blank(tensor)
        for tensor, value in zip(kept, values, strict=True):
            tensor.copy_(value)  # it may share memory with what is zero now
        return again


def _blank(tensor: Tensor) -> None:
    """Make every number zero; rows that are one row, expanded, are reached by their memory only."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return  # masks and lengths
    if tensor.layout == torch.strided:
        tensor.untyped_storage().fill_(0)
    else:
        tensor.zero_()


@dataclass
class Recorder:
    """What the hooks have seen in one run of the model. Made by :func:`recording`.

    Attributes
    ----------
    found : dict of path to tensor
        Copies of what was picked: later layers may work in place.
    memories : dict of submodule to Memory
        What each submodule that returns features returned in the last run that was remembered.
    """

    picks: Mapping[str, Pick]
    modules: Mapping[str, Any]
    wanted: frozenset[str] = frozenset()
    remember: bool = False
    found: dict[str, Tensor] = field(default_factory=dict)
    runs: Counter[Any] = field(default_factory=Counter)
    memories: dict[Any, Memory] = field(default_factory=dict)

    def run(self, call: Callable[[], Any], wanted: frozenset[str], remember: bool = False) -> Any:
        """Run the model and keep the picks that are `wanted`, each from exactly one run.

        With `remember`, what the submodules of features return is kept as a whole.

        Raises
        ------
        ParameterError
            If a submodule did not run, ran more than once, or returned something else.
        """
        self.found, self.runs, self.wanted, self.remember = {}, Counter(), wanted, remember
        if remember:
            self.memories = {}
        try:
            result = call()
        finally:
            self.wanted = frozenset()
        for path in sorted(wanted):
            with located(dataset=path):
                _check_runs(self.picks[path].module, self.runs[self.modules[path]])
        return result

    def hook(self, module: Any, _args: Any, output: Any) -> None:
        """Keep what is wanted of a submodule's output (a forward hook)."""
        here = [path for path in self.picks if path in self.wanted and self.modules[path] is module]
        self.runs[module] += 1
        if not here or self.runs[module] > 1:
            return
        tensors = {}
        for path in here:
            with located(dataset=path):
                tensors[path] = picked(self.picks[path], output)
        self.found |= {path: tensor.clone() for path, tensor in tensors.items()}
        features = {path: each for path, each in tensors.items() if path.startswith("/features/")}
        if features and self.remember:
            self.memories[module] = Memory.of(self.picks[here[0]].module, output, features)

    @contextmanager
    def answering(self, absent: Collection[str]) -> Iterator[None]:
        """Let the submodules of features answer from memory, without what is absent.

        Raises
        ------
        ParameterError
            If the model did not ask each of them once.
        """
        asked: Counter[Any] = Counter()
        with ExitStack() as stack:
            for module, memory in self.memories.items():
                stack.enter_context(_answering(module, memory, absent, asked))
            yield
        for module, memory in self.memories.items():
            name = self.picks[next(iter(memory.features))].module or "the model"
            if asked[module] != 1:
                message = "expected every submodule of features to run again, once"
                found = f"found {asked[module]} runs: is it within another one of them?"
                raise ParameterError(f"coalitions: {name}: {message}, {found}")


@contextmanager
def _answering(
    module: Any, memory: Memory, absent: Collection[str], asked: Counter[Any]
) -> Iterator[None]:
    """Replace a module's forward; hooks, which have seen the output before, do not run again."""

    def forward(*_: Any, **__: Any) -> Any:
        asked[module] += 1
        return memory.without(absent)

    place = vars(module)
    changed = {
        "forward": forward,
        "_forward_hooks": OrderedDict(),
        "_forward_pre_hooks": OrderedDict(),
        "_compiled_call_impl": None,  # of module.compile(), which has the old forward inside
    }
    before = {name: place[name] for name in changed if name in place}
    place.update(changed)
    try:
        yield
    finally:
        for name in changed:
            del place[name]
        place.update(before)


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
def recording(model: Any, picks: Mapping[str, Pick]) -> Iterator[Recorder]:
    """Hang hooks on the submodules of all picks; they are gone when the block ends.

    Raises
    ------
    ParameterError
        If a submodule does not exist, or takes no hooks.
    """
    modules = {path: submodule(model, pick.module) for path, pick in picks.items()}
    names = {modules[path]: pick.module for path, pick in picks.items()}
    recorder = Recorder(picks, modules)
    with ExitStack() as stack:
        for module, name in names.items():
            try:
                stack.callback(module.register_forward_hook(recorder.hook).remove)
            except RuntimeError:  # TorchScript's way to say no
                message = "expected a submodule that takes hooks, found a scripted one"
                hint = "export the model as it was before torch.jit.script, or use function="
                raise ParameterError(f"{name or 'the model'}: {message}: {hint}") from None
        yield recorder
