"""Run a model over one batch, and collect what the pool stores of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch

from mmselect.core.scores.coalitions import coalition_names
from mmselect.errors import ParameterError, located
from mmselect.pool.conversion import to_numpy
from mmselect.pool.presence import PRESENT
from mmselect.pool.schema import match, names_in
from mmselect.torch.export.batches import arguments, check_arguments, column, moved
from mmselect.torch.export.blocks import allclose_to_largest, is_float
from mmselect.torch.export.modes import dropping, seeded
from mmselect.torch.export.outputs import picked
from mmselect.torch.export.plan import FUSED, Plan
from mmselect.torch.export.recording import Memory
from mmselect.torch.export.trees import Tensor, shown

RAN_NEVER = "forward never calls it (or calls its .forward(), past hooks; or it is in another one)"
RAN_OFTEN = "say with function= which one counts"

REPEATED = 1e-3
"""How far logits may be off where encoders answer from memory, relative to the largest of them."""


class Runs:
    """The runs of a model over one batch after the other. Made by :func:`hooked`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._call: Callable[[], Any] = dict
        self._found: dict[str, Any] = {}
        self._counts: Counter[Any] = Counter()
        self._memories: dict[Any, Memory] = {}

    @torch.no_grad()
    def compute(self, batch: Any, row: int, first: bool = False) -> dict[str, Any]:
        """Run everything that is to run over a batch, and collect it under its names in the pool.

        `row` is that of the batch's first sample: random numbers follow from it. With `first`, what
        the user said of the model is held against what it does.

        Raises
        ------
        ParameterError
            If the logits of the whole model are needed, and a function did not return them.
        """
        plan, ask, inputs = self.plan, self.plan.ask, moved(batch, self.plan.device)

        def call() -> Any:
            if ask.function is not None:
                return ask.function(inputs)
            args, kwargs = arguments(inputs, ask.inputs, list(plan.columns.values()))
            if first:
                check_arguments(plan.model, args, kwargs)
            return plan.model(*args, **kwargs)

        self._call, self._memories = call, {}
        columns = {path: column(batch, path, key) for path, key in plan.columns.items()}
        with torch.autocast(plan.device.type, ask.amp) if ask.amp else nullcontext():
            found = self._collect(plan.picks)
            for name in ("classifier", "coalitions", "dropout_passes"):
                if getattr(ask, name) and FUSED not in found:
                    raise ParameterError(f"{name}: expected multimodal_logits with it, found none")
            if ask.coalitions:
                found |= self._coalition_logits(found | columns, first)
            if ask.dropout_passes:
                found["/dropout_logits"] = self._dropout_logits(row)
        return found | columns

    def _collect(self, wanted: Iterable[str]) -> dict[str, Any]:
        """Run once: what the hooks picked, in the user's order, and what `function` gave.

        Raises
        ------
        ParameterError
            If a submodule did not run once, or it or the function returned something else.
        """
        self._found, self._counts = dict.fromkeys(wanted), Counter()
        result, found = self._call(), self._found
        answers = [path for memory in self._memories.values() for path in memory.features]
        for path in sorted({*found, *answers}):
            if (count := self._counts[self.plan.modules[path]]) != 1:  # which of several counts?
                message = f"expected one run in a forward pass, found {count}"
                hint = RAN_OFTEN if count else RAN_NEVER
                name = self.plan.picks[path].name
                raise ParameterError(f"{name}: {message}: {hint}", dataset=path)
        if self.plan.ask.function is None:
            return found
        if not isinstance(result, Mapping):
            message = "expected a mapping of names in the pool to arrays"
            raise ParameterError(f"function: {message}, found {shown(result)}")
        given = {f"/{name.removeprefix('/')}": values for name, values in result.items()}
        found |= {path: _tensor(self.plan, path, each) for path, each in given.items()}
        if not any(is_float(path) or match(path) is None for path in found):  # text and labels
            names = ", ".join(found) or "nothing"
            raise ParameterError(f"function: expected features or logits to export, found {names}")
        return found

    def hook(self, module: Any, _args: Any, output: Any) -> None:
        """Keep what is wanted of a submodule's output, in copies: layers may work in place."""
        self._counts[module] += 1
        tensors = {}
        for path in [path for path in self._found if self.plan.modules[path] is module]:
            with located(dataset=path):
                tensors[path] = picked(self.plan.picks[path], output)
        self._found |= {path: tensor.clone() for path, tensor in tensors.items()}
        features = {path: each for path, each in tensors.items() if path.startswith("/features/")}
        if features and self.plan.ask.coalitions:
            name = self.plan.picks[next(iter(features))].name
            self._memories[module] = Memory.of(name, output, features)

    def _logits(self) -> Tensor:
        """Run again, for the logits of the whole model alone."""
        return self._collect({FUSED} & self.plan.picks.keys())[FUSED]

    def _dropout_logits(self, row: int) -> Tensor:
        """Run with dropout active; random numbers follow from the row."""
        plan = self.plan
        with seeded(plan.sources, plan.ask.seed, row), dropping(plan.layers) as ran:
            passes = [self._logits() for _ in range(plan.ask.dropout_passes)]
        if not ran:
            message = "expected dropout layers that run in a forward pass, found none that did"
            raise ParameterError(f"dropout_passes: {message}")
        return torch.stack(passes, dim=1)

    def _coalition_logits(self, found: Mapping[str, Any], first: bool) -> dict[str, Tensor]:
        """Run again for every coalition but the full one, whose logits are its own.

        On the first batch, it is checked that every modality counts.
        """
        names = names_in("/features", self.plan.picks)
        *others, whole = coalition_names(names)
        again = {name: self._logits_of(name, names) for name in others}
        if first:
            self._check_coalitions(found, again, self._logits_of(whole, names))
        return {f"/coalition_logits/{name}": each for name, each in again.items()}

    def _logits_of(self, coalition: str, names: Collection[str]) -> Tensor:
        """Run again, while encoders answer from memory without the modalities that are absent."""
        absent = [f"/features/{name}" for name in names if name not in coalition.split("+")]

        def answer(module: Any, *_: Any, **__: Any) -> Any:
            output = self._memories[module].without(absent)
            self.hook(module, (), output)
            return output

        with ExitStack() as stack:
            for module in self._memories:  # in place of forward and of hooks, whose output it is
                instead = {"_compiled_call_impl": partial(answer, module)}
                stack.enter_context(mock.patch.dict(vars(module), instead))
            return self._logits()

    def _check_coalitions(
        self, found: Mapping[str, Any], again: Mapping[str, Tensor], repeated: Tensor
    ) -> None:
        """See that memory gives the logits that were, and that each modality counts."""
        full, names = found[FUSED], names_in("/features", self.plan.picks)
        if not allclose_to_largest(to_numpy(full), to_numpy(repeated), REPEATED):
            message = "expected the same logits where encoders answer from memory, found others"
            hint = "do they return them, do others of their outputs go in, is something random?"
            raise ParameterError(f"coalitions: {message}: {hint}")
        for name in names:
            rows = np.flatnonzero(to_numpy(found.get(f"{PRESENT}/{name}", np.ones(len(full)))))
            without = again["+".join(other for other in names if other != name) or "none"]
            there = found[f"/features/{name}"][rows].nan_to_num().any()
            if there and torch.equal(without[rows], full[rows]):
                encoder = self.plan.picks[f"/features/{name}"].module
                message = f"expected logits that change where {encoder} returns zeros"
                hint = "name the submodule whose output goes into them, or use function="
                raise ParameterError(f"coalitions: {name}: {message}, found the same: {hint}")


def _tensor(plan: Plan, path: str, values: Any) -> Any:
    """Turn what is stored as floats into a tensor; leave the rest, and what is no number."""
    if isinstance(values, torch.Tensor) or not is_float(path):
        return values
    array = to_numpy(values)
    return torch.as_tensor(array, device=plan.device) if array.dtype.kind in "fiu" else array


@contextmanager
def hooked(plan: Plan) -> Iterator[Runs]:
    """Hang hooks on the submodules of all picks; they are gone when the block ends."""
    runs = Runs(plan)
    with ExitStack() as stack:
        for module in set(plan.modules.values()):
            stack.callback(module.register_forward_hook(runs.hook).remove)
        yield runs
