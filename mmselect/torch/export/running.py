"""Run a model over one batch, and collect what the pool stores of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from mmselect.core.scores.coalitions import coalition_names
from mmselect.errors import ParameterError
from mmselect.pool.conversion import to_numpy
from mmselect.pool.schema import match, names_in
from mmselect.torch.export.batches import Inputs, Key, arguments, check_arguments, column, moved
from mmselect.torch.export.blocks import allclose_to_largest
from mmselect.torch.export.modes import dropping, seeded
from mmselect.torch.export.outputs import Pick
from mmselect.torch.export.recording import Recorder
from mmselect.torch.export.trees import Tensor, shown

FUSED = "/multimodal_logits"

REPEATED = 1e-3
"""How far logits may be off where encoders answer from memory, relative to the largest of them."""


@dataclass(frozen=True)
class Plan:
    """What an export runs and collects: the arguments of ``export_pool``, read and checked."""

    model: Any
    device: Any
    picks: Mapping[str, Pick]
    columns: Mapping[str, Key]
    function: Callable[[Any], Mapping[str, Any]] | None = None
    inputs: Inputs = None
    coalitions: bool = False
    classifier: str | None = None
    class_names: list[str] | None = None
    passes: int = 0
    seed: int = 0
    layers: list[Any] = field(default_factory=list)
    sources: list[Any] = field(default_factory=list)
    amp: Any = None
    dtype: Any = None


def compute(
    plan: Plan, recorder: Recorder, batch: Any, row: int, first: bool = False
) -> dict[str, Any]:
    """Run everything that is to run over a batch, and collect it under its names in the pool.

    `row` is that of the batch's first sample: random numbers follow from it. With `first`, what
    the user said of the model is held against what it does.
    """
    inputs = moved(batch, plan.device)

    def call() -> Any:
        if plan.function is not None:
            return plan.function(inputs)
        args, kwargs = arguments(inputs, plan.inputs, list(plan.columns.values()))
        if first:
            check_arguments(plan.model, args, kwargs)
        return plan.model(*args, **kwargs)

    runs = Runs(plan, recorder, call)
    autocast = torch.autocast(plan.device.type, plan.amp) if plan.amp else nullcontext()
    with torch.no_grad(), autocast:
        found = runs.collect(frozenset(plan.picks), remember=plan.coalitions)
        _check_numbers(found)
        if plan.coalitions:
            found |= runs.coalition_logits(found, check=first)
        if plan.passes:
            found["/dropout_logits"] = runs.dropout_logits(row)
    return found | {path: column(batch, path, key) for path, key in plan.columns.items()}


def _check_numbers(found: Mapping[str, Any]) -> None:
    """Refuse text and labels alone; a name that is not in the format is told of later."""
    places = [match(path) for path in found]
    if not any(place is None or place.dataset.kind == "float" for place in places):
        names = ", ".join(found) or "nothing"
        raise ParameterError(f"function: expected features or logits to export, found {names}")


def _tensor(plan: Plan, path: str, values: Any) -> Any:
    """Turn what is stored as floats into a tensor; leave the rest, and what is no number."""
    place = match(path)
    if isinstance(values, torch.Tensor) or place is None or place.dataset.kind != "float":
        return values
    array = to_numpy(values)
    return torch.as_tensor(array, device=plan.device) if array.dtype.kind in "fiu" else array


def fused_logits(plan: Plan, found: Mapping[str, Any]) -> Tensor:
    """Logits of the whole model, which a function may not have returned."""
    if FUSED not in found:
        name = "coalitions" if plan.coalitions else "dropout_passes"
        raise ParameterError(f"{name}: expected multimodal logits from function=, found none")
    return found[FUSED]


@dataclass(frozen=True)
class Runs:
    """The runs of a model over one batch, which `call` is one of."""

    plan: Plan
    recorder: Recorder
    call: Callable[[], Any]

    def collect(self, wanted: frozenset[str], remember: bool = False) -> dict[str, Any]:
        """Run once: what the hooks picked, in the user's order, and what `function` gave."""
        result = self.recorder.run(self.call, wanted, remember)
        found: dict[str, Any] = {p: self.recorder.found[p] for p in self.plan.picks if p in wanted}
        if self.plan.function is None:
            return found
        if not isinstance(result, Mapping):
            message = "expected a mapping of names in the pool to arrays"
            raise ParameterError(f"function: {message}, found {shown(result)}")
        given = {f"/{name.removeprefix('/')}": values for name, values in result.items()}
        return found | {path: _tensor(self.plan, path, each) for path, each in given.items()}

    def logits(self) -> Tensor:
        """Run again, for the logits of the whole model alone."""
        found = self.collect(frozenset({FUSED} & self.plan.picks.keys()))
        return fused_logits(self.plan, found)

    def dropout_logits(self, row: int) -> Tensor:
        """Run with dropout active; random numbers follow from the row."""
        plan = self.plan
        with seeded(plan.sources, plan.seed, row), dropping(plan.layers) as ran:
            passes = [self.logits() for _ in range(plan.passes)]
        if not ran:
            message = "expected dropout layers that run in a forward pass, found none that did"
            raise ParameterError(f"dropout_passes: {message}")
        return torch.stack(passes, dim=1)

    def coalition_logits(self, found: Mapping[str, Any], check: bool) -> dict[str, Tensor]:
        """Run again for every coalition but the full one, whose logits are its own."""
        names = names_in("/features", found)
        self._check_encoders(names)

        def logits(present: Collection[str]) -> Tensor:
            absent = [f"/features/{name}" for name in names if name not in present]
            with self.recorder.answering(absent):
                return self.logits()

        again = {name: logits(name.split("+")) for name in coalition_names(names)[:-1]}
        if check:
            full = fused_logits(self.plan, found)
            _check_repeated(full, logits(names))
            for name in names:
                if not found[f"/features/{name}"].any():
                    continue
                without = again["+".join(other for other in names if other != name) or "none"]
                _check_heard(self.plan, name, full, without)
        return {f"/coalition_logits/{name}": each for name, each in again.items()}

    def _check_encoders(self, names: list[str]) -> None:
        """Accept features that hooks took, from submodules that return no logits as well."""
        picks, recorder = self.plan.picks, self.recorder
        if not names:
            raise ParameterError("coalitions: expected features of modalities, found none")
        if others := [name for name in names if f"/features/{name}" not in picks]:
            message = "expected features= to name their submodule, found them from function="
            hint = "name it, or return /coalition_logits/… too"
            raise ParameterError(f"coalitions: {others[0]}: {message}: {hint}")
        if FUSED in picks and recorder.modules[FUSED] in recorder.memories:
            name = picks[FUSED].module or "the model"
            message = f"found those of {name}, which returns the logits"
            raise ParameterError(f"coalitions: expected features of submodules, {message}")


def _check_repeated(full: Tensor, again: Tensor) -> None:
    if not allclose_to_largest(to_numpy(full), to_numpy(again), REPEATED):
        message = "expected the same logits where encoders answer from memory, found others"
        hint = "do others of their outputs go into the logits, or is something random or counted?"
        raise ParameterError(f"coalitions: {message}: {hint}")


def _check_heard(plan: Plan, name: str, full: Tensor, without: Tensor) -> None:
    if torch.equal(without, full):
        encoder = plan.picks[f"/features/{name}"].module
        message = f"expected logits that change where {encoder} returns zeros, found the same"
        hint = "name the submodule whose output goes into them"
        raise ParameterError(f"coalitions: {name}: {message}: {hint}, or use function=")
