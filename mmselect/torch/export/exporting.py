"""From a PyTorch model and a loader to a pool file, in one pass and in bounded memory."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mmselect.core.scores.shapley import MOST_MODALITIES
from mmselect.errors import OutputError, ParameterError
from mmselect.files import check_targets
from mmselect.torch.devices import usable_device
from mmselect.torch.export.batches import (
    Inputs,
    Key,
    order_problem,
    own_generators,
    promised_rows,
)
from mmselect.torch.export.loop import Export
from mmselect.torch.export.modes import (
    dropout_layers,
    evaluating,
    generators,
    same_numbers_after,
)
from mmselect.torch.export.outputs import Given, parse, submodule, unwrapped
from mmselect.torch.export.progress import Progress, reporter
from mmselect.torch.export.recording import recording
from mmselect.torch.export.running import FUSED, Plan
from mmselect.torch.export.settings import settings
from mmselect.torch.export.shards import growing
from mmselect.torch.export.trees import shown


def export_pool(
    model: Any,
    loader: Iterable[Any],
    path: str | os.PathLike[str],
    *,
    features: Mapping[str, Given] | None = None,
    unimodal_logits: Mapping[str, Given] | None = None,
    multimodal_logits: Given | None = "",
    classifier: str | None = None,
    coalitions: bool = False,
    dropout_passes: int = 0,
    function: Callable[[Any], Mapping[str, Any]] | None = None,
    inputs: Inputs = None,
    ids: Key | None = None,
    labels: Key | None = None,
    labeled: Key | None = None,
    metadata: Mapping[str, Key] | None = None,
    class_names: Sequence[str] | None = None,
    n: int | None = None,
    device: Any = None,
    amp: Any = None,
    dtype: Any = None,
    seed: int = 0,
    resume: bool = False,
    part: tuple[int, int] = (0, 1),
    join: bool = True,
    progress: Progress = True,
) -> None:
    """Run a model over a loader and write what it computes as a pool file.

    The model is not changed: hooks on named submodules see what they return. It runs in eval mode
    without gradients; afterwards hooks are gone, every submodule's mode and PyTorch's random
    numbers (those of the loader's own generator too) are as they were, however the export ended.
    Rows go to shards in the folder ``NAME.partial`` beside the target, and are joined at the end;
    the file gets its name when it is whole.

    Parameters
    ----------
    model : torch.nn.Module
        On the device where it is to run. ``DataParallel`` and ``torch.compile`` are taken off.
    loader : iterable of batches
        A ``DataLoader`` or any iterable. A batch is a tensor, a tuple or list, or a mapping.
    path : path
        The pool to write; an existing one is replaced at the end.
    features, unimodal_logits : mapping of modality to output, optional
        Which submodule returns it: ``"image_encoder"``; ``"image_encoder:1"`` or
        ``"text_encoder:pooler_output"`` where it returns a tuple or a mapping; or
        ``("text_encoder", function)`` with a function of what it returns. All are (n, d).
    multimodal_logits : output, optional
        The same; empty is what the model returns, and None leaves them out.
    classifier : str, optional
        A linear layer from the concatenated features to the logits, such as ``"fusion.fc"``. Its
        weight is cut into blocks in the order of `features`; the first batch checks them.
    coalitions : bool
        Write the logits for every set of absent modalities. The model runs once more for each; the
        submodules named in `features` answer from memory, with zeros where they are absent, and do
        not run. Everything else does: name the last submodule that sees one modality only.
    dropout_passes : int
        How often to run the model with dropout layers active, and nothing else in train mode.
    function : callable, optional
        From a batch, moved to the device, to a mapping of names in the pool to arrays
        (``"features/image"``). It runs the model as it likes and takes the place of calling it;
        submodules named above are still looked at.
    inputs : key, position, sequence of them, or function of the batch, optional
        What of a batch the model gets. None is everything that is not written to the pool.
    ids, labels, labeled : key, position, or function of the batch, optional
        Where they are in a batch. Without ids, a sample is called by its row number.
    metadata : mapping of column to key, position, or function of the batch, optional
    class_names : sequence of str, optional
    n : int, optional
        Rows that the loader yields; None asks ``loader.dataset``.
    device : torch.device or str, optional
        Where batches go; None is where the model is.
    amp : torch.dtype or str, optional
        Type for autocast: ``"bfloat16"`` or ``"float16"``.
    dtype : torch.dtype or str, optional
        Type to store floats in; None is as computed, and float32 for bfloat16.
    seed : int
        For the dropout passes. Their random numbers follow from it and from the batch's first row.
    resume : bool
        Go on behind the last finished shard, if there is one. The loader must yield the same
        batches again; ids, settings and the numbers of the last batch are compared.
    part : (int, int)
        Which part of how many, from 0, this process exports, where several do. Each gets a loader
        over its own rows; the one that ends last joins all parts in order. Needs ids.
    join : bool
        False leaves the shards as they are: `path` is then a folder of pool files.
    progress : bool or function
        True draws a bar on a terminal; a function gets the rows done and those to do, or None.

    Raises
    ------
    ParameterError
        If an argument does not fit the model or the batches, or `resume` finds other settings.
    SchemaError
        If an output has another shape or type than the format or the first batch say, or outputs
        differ in rows, or the loader yields more or fewer rows than promised.
    DataError
        If an output has a number that no strategy can use, or ids repeat; names rows and ids.
    OutputError
        If a file cannot be written.

    Examples
    --------
    >>> import mmselect, tempfile
    >>> class Model(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.image, self.text = torch.nn.Linear(4, 3), torch.nn.Linear(5, 2)
    ...         self.head = torch.nn.Linear(3 + 2, 7)
    ...
    ...     def forward(self, image, text):
    ...         return self.head(torch.cat([self.image(image), self.text(text)], dim=1))
    >>> batches = [{"image": torch.rand(8, 4), "text": torch.rand(8, 5)} for _ in range(2)]
    >>> path = Path(tempfile.mkdtemp()) / "pool.h5"
    >>> where = {"image": "image", "text": "text"}
    >>> export_pool(Model(), batches, path, features=where, classifier="head")
    >>> with mmselect.open_pool(path) as pool:
    ...     pool.n, pool.sizes["d of image"], sorted(pool.columns)
    (16, 3, ['/features/image', '/features/text', '/multimodal_logits'])
    """
    if not isinstance(model, torch.nn.Module):
        raise ParameterError(f"model: expected a torch.nn.Module, found {shown(model)}")
    if function is not None and multimodal_logits == "":
        multimodal_logits = None
    given = _named("features", features) | _named("unimodal_logits", unimodal_logits)
    given[FUSED] = multimodal_logits
    columns = {"/id": ids, "/label": labels, "/labeled": labeled} | _named("metadata", metadata)
    inner, passes = unwrapped(model), _whole("dropout_passes", dropout_passes, 0)
    where = _device(inner, device)
    plan = Plan(
        model=inner,
        device=where,
        picks={name: parse(one) for name, one in given.items() if one is not None},
        columns={name: key for name, key in columns.items() if key is not None},
        function=function,
        inputs=inputs,
        coalitions=coalitions,
        classifier=classifier,
        class_names=None if class_names is None else [str(name) for name in class_names],
        passes=passes,
        seed=_whole("seed", seed, 0),
        layers=dropout_layers(inner) if passes else [],
        sources=generators(inner, where),
        amp=_dtype("amp", amp, ("bfloat16", "float16")),
        dtype=_dtype("dtype", dtype, ("float16", "float32", "float64")),
    )
    rows = promised_rows(loader, n if n is None else _whole("n", n, 1))
    part = _part(part, plan)
    _check(plan, loader, Path(path), join)
    with (
        evaluating(model),
        same_numbers_after([*plan.sources, *own_generators(loader)]),
        recording(inner, plan.picks) as recorder,
        growing(Path(path), settings(plan), part, resume) as shards,
        reporter(progress) as report,
    ):
        Export(plan, recorder, shards, Path(path), rows, report).run(loader)
        shards.finish(join)


def _named(group: str, given: Any) -> dict[str, Any]:
    """Call what a mapping holds by its name in the pool."""
    if given is not None and not isinstance(given, Mapping):
        expected = {"metadata": "column to where it is in a batch"}
        of = expected.get(group, "modality to output")
        raise ParameterError(f"{group}: expected a mapping of {of}, found {given!r}")
    return {f"/{group}/{name}": one for name, one in (given or {}).items()}


def _whole(name: str, given: Any, least: int) -> int:
    """Accept what Python accepts as an index: NumPy's integers too, and no float."""
    with suppress(TypeError):
        if (number := operator.index(given)) >= least:
            return number
    raise ParameterError(f"{name}: expected a whole number of at least {least}, found {given!r}")


def _part(given: tuple[int, int], plan: Plan) -> tuple[int, int]:
    part, parts = given if isinstance(given, tuple) and len(given) == 2 else (given, 0)
    if not (isinstance(part, int) and isinstance(parts, int) and 0 <= part < parts <= 10_000):
        raise ParameterError(f"part: expected which of how many, such as (0, 4), found {given!r}")
    if parts > 1 and "/id" not in plan.columns:
        raise ParameterError("part: expected ids= with it, found none")
    return part, parts


def _device(model: Any, device: Any) -> Any:
    """Find where batches go, and see that the model is there."""
    there = [tensor.device for tensor in (*model.parameters(), *model.buffers())]
    if device is None:
        return there[0] if there else torch.device("cpu")
    wanted = usable_device(device)
    if there and wanted not in there:
        message = f"expected the model on {wanted}, found it on {there[0]}"
        raise ParameterError(f"device: {message}: move it with model.to(...)")
    return wanted


def _dtype(name: str, given: Any, accepted: Sequence[str]) -> Any:
    if given is None:
        return None
    text = str(given).removeprefix("torch.")
    if text not in accepted:
        raise ParameterError(f"{name}: expected {', '.join(accepted)} or None, found {given!r}")
    return getattr(torch, text)


def _check(plan: Plan, loader: Any, target: Path, join: bool) -> None:
    """Refuse what can be seen to be wrong before the model runs."""
    if join or not target.is_dir():
        check_targets([target], [])
    if target.exists() and (not target.is_file() or not join):
        wanted = "a file to write" if join else "no folder of this name"
        raise OutputError(f"expected {wanted}, found something else", file=str(target))
    if plan.coalitions not in (True, False):
        found = f"expected True or False, found {plan.coalitions!r}"
        raise ParameterError(f"coalitions: {found}: no submodule has to be named")
    if not plan.picks and plan.function is None:
        raise ParameterError("expected features, logits or a function to export, found none")
    for name, asked in (("coalitions", plan.coalitions), ("dropout_passes", plan.passes)):
        if asked and FUSED not in plan.picks and plan.function is None:
            raise ParameterError(f"{name}: expected multimodal_logits with it, found none")
    if plan.classifier is not None:
        submodule(plan.model, plan.classifier)
    modalities = [path for path in plan.picks if path.startswith("/features/")]
    if plan.coalitions and plan.function is None and not 1 <= len(modalities) <= MOST_MODALITIES:
        message = f"expected features of 1 to {MOST_MODALITIES} modalities"
        raise ParameterError(f"coalitions: {message}, found {len(modalities)}")
    problem = order_problem(loader) if "/id" not in plan.columns and plan.function is None else None
    if problem:
        message = "expected one that goes through the rows in order, once, where there are no ids"
        raise ParameterError(f"loader: {message}, found {problem}: give ids=")
