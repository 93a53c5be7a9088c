"""Run a model over one batch, and collect what the pool stores of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

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
from mmselect.torch.export.outputs import picked, submodule
from mmselect.torch.export.plan import FUSED, Plan
from mmselect.torch.export.recording import Memory, answering
from mmselect.torch.export.trees import Tensor, shown

RAN_NEVER = "forward never calls it (or calls its .forward(), which hooks do not see)"
RAN_OFTEN = "say with function= which one counts"

REPEATED = 1e-3
"""How far logits may be off where encoders answer from memory, relative to the largest of them."""


class Runs:
    """The runs of a model over one batch after the other. Made by :func:`hooked`.

    Attributes
    ----------
    plan : Plan
    modules : dict of path to submodule
        Whose output a pick is taken from.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.modules = {path: submodule(plan.model, p.module) for path, p in plan.picks.items()}
        self._call: Callable[[], Any] = dict
        self._wanted: Collection[str] = ()
        self._found: dict[str, Tensor] = {}
        self._counts: Counter[Any] = Counter()
        self._memories: dict[Any, Memory] = {}

    @torch.no_grad()
    def compute(self, batch: Any, row: int, first: bool = False) -> dict[str, Any]:
        """Run everything that is to run over a batch, and collect it under its names in the pool.

        `row` is that of the batch's first sample: random numbers follow from it. With `first`, what
        the user said of the model is held against what it does.
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
            found = self._collect(list(plan.picks))
            _check_numbers(found)
            if ask.coalitions:
                found |= self._coalition_logits(found, columns if first else None)
            if ask.dropout_passes:
                found["/dropout_logits"] = self._dropout_logits(row)
        return found | columns

    def _collect(self, wanted: list[str]) -> dict[str, Any]:
        """Run once: what the hooks picked, in the user's order, and what `function` gave.

        Raises
        ------
        ParameterError
            If a submodule did not run once, or it or the function returned something else.
        """
        self._wanted, self._found, self._counts = wanted, {}, Counter()
        result = self._call()
        for path in sorted(wanted):
            if (count := self._counts[self.modules[path]]) != 1:  # which of several would count?
                name = self.plan.picks[path].module or "the model"
                message = f"expected one run in a forward pass, found {count}"
                hint = RAN_OFTEN if count else RAN_NEVER
                raise ParameterError(f"{name}: {message}: {hint}", dataset=path)
        found: dict[str, Any] = {path: self._found[path] for path in wanted}
        if self.plan.ask.function is None:
            return found
        if not isinstance(result, Mapping):
            message = "expected a mapping of names in the pool to arrays"
            raise ParameterError(f"function: {message}, found {shown(result)}")
        given = {f"/{name.removeprefix('/')}": values for name, values in result.items()}
        return found | {path: _tensor(self.plan, path, each) for path, each in given.items()}

    def hook(self, module: Any, _args: Any, output: Any) -> None:
        """Keep what is wanted of a submodule's output, in copies: layers may work in place."""
        self._counts[module] += 1
        here = [path for path in self._wanted if self.modules[path] is module]
        if not here or self._counts[module] > 1:
            return
        tensors = {}
        for path in here:
            with located(dataset=path):
                tensors[path] = picked(self.plan.picks[path], output)
        self._found |= {path: tensor.clone() for path, tensor in tensors.items()}
        features = {path: each for path, each in tensors.items() if path.startswith("/features/")}
        if features and self.plan.ask.coalitions:
            name = self.plan.picks[here[0]].module or "the model"
            self._memories[module] = Memory.of(name, output, features)

    def _logits(self) -> Tensor:
        """Run again, for the logits of the whole model alone."""
        return fused_logits(self.plan, self._collect([FUSED] if FUSED in self.plan.picks else []))

    def _dropout_logits(self, row: int) -> Tensor:
        """Run with dropout active; random numbers follow from the row."""
        plan = self.plan
        with seeded(plan.sources, plan.ask.seed, row), dropping(plan.layers) as ran:
            passes = [self._logits() for _ in range(plan.ask.dropout_passes)]
        if not ran:
            message = "expected dropout layers that run in a forward pass, found none that did"
            raise ParameterError(f"dropout_passes: {message}")
        return torch.stack(passes, dim=1)

    def _coalition_logits(
        self, found: Mapping[str, Any], columns: Mapping[str, Any] | None
    ) -> dict[str, Tensor]:
        """Run again for every coalition but the full one, whose logits are its own.

        With `columns`, which say who has what, it is checked that every modality counts.
        """
        names = names_in("/features", found)
        self._check_encoders(names)

        def logits(present: Collection[str]) -> Tensor:
            absent = [f"/features/{name}" for name in names if name not in present]
            with answering(self._memories, absent):
                return self._logits()

        again = {name: logits(name.split("+")) for name in coalition_names(names)[:-1]}
        if columns is not None:
            self._check_coalitions(found, columns, logits(names), again)
        return {f"/coalition_logits/{name}": each for name, each in again.items()}

    def _check_coalitions(
        self,
        found: Mapping[str, Any],
        columns: Mapping[str, Any],
        repeated: Tensor,
        again: Mapping[str, Tensor],
    ) -> None:
        """See that memory gives the logits that were, and that each modality counts."""
        full, names = fused_logits(self.plan, found), names_in("/features", found)
        if not allclose_to_largest(to_numpy(full), to_numpy(repeated), REPEATED):
            message = "expected the same logits where encoders answer from memory, found others"
            hint = "do others of their outputs go into them, or is something random or counted?"
            raise ParameterError(f"coalitions: {message}: {hint}")
        for name in names:
            rows = np.flatnonzero(to_numpy(columns.get(f"{PRESENT}/{name}", np.ones(len(full)))))
            without = again["+".join(other for other in names if other != name) or "none"]
            there = found[f"/features/{name}"][rows].nan_to_num().any()
            if there and torch.equal(without[rows], full[rows]):
                encoder = self.plan.picks[f"/features/{name}"].module
                message = f"expected logits that change where {encoder} returns zeros"
                hint = "name the submodule whose output goes into them, or use function="
                raise ParameterError(f"coalitions: {name}: {message}, found the same: {hint}")

    def _check_encoders(self, names: list[str]) -> None:
        """Accept features that hooks took, from submodules that return no logits as well."""
        if not names:
            raise ParameterError("coalitions: expected features of modalities, found none")
        if others := [name for name in names if f"/features/{name}" not in self.modules]:
            message = "expected features= to name their submodule, found them from function="
            hint = "name it, or return /coalition_logits/… too"
            raise ParameterError(f"coalitions: {others[0]}: {message}: {hint}")
        if memory := self._memories.get(self.modules.get(FUSED)):
            message = f"found those of {memory.name}, which returns the logits"
            raise ParameterError(f"coalitions: expected features of submodules, {message}")


def fused_logits(plan: Plan, found: Mapping[str, Any]) -> Tensor:
    """Logits of the whole model, which a function may not have returned."""
    if FUSED not in found:
        name = "coalitions" if plan.ask.coalitions else "dropout_passes"
        raise ParameterError(f"{name}: expected multimodal logits from function=, found none")
    return found[FUSED]


def _tensor(plan: Plan, path: str, values: Any) -> Any:
    """Turn what is stored as floats into a tensor; leave the rest, and what is no number."""
    if isinstance(values, torch.Tensor) or not is_float(path):
        return values
    array = to_numpy(values)
    return torch.as_tensor(array, device=plan.device) if array.dtype.kind in "fiu" else array


def _check_numbers(found: Mapping[str, Any]) -> None:
    """Refuse text and labels alone; a name that is not in the format is told of later."""
    if not any(is_float(path) or match(path) is None for path in found):
        names = ", ".join(found) or "nothing"
        raise ParameterError(f"function: expected features or logits to export, found {names}")


@contextmanager
def hooked(plan: Plan) -> Iterator[Runs]:
    """Hang hooks on the submodules of all picks; they are gone when the block ends.

    Raises
    ------
    ParameterError
        If a submodule does not exist, or takes no hooks.
    """
    runs = Runs(plan)
    with ExitStack() as stack:
        for module, path in {runs.modules[path]: path for path in plan.picks}.items():
            try:
                stack.callback(module.register_forward_hook(runs.hook).remove)
            except RuntimeError:  # TorchScript's way to say no
                message = "expected a submodule that takes hooks, found a scripted one"
                hint = "export the model as it was before torch.jit.script, or use function="
                name = plan.picks[path].module or "the model"
                raise ParameterError(f"{name}: {message}: {hint}") from None
        yield runs
