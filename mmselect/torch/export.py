"""From a PyTorch model and a loader to a pool file, in one pass and in bounded memory."""

from __future__ import annotations

import hashlib
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
from mmselect.torch.batches import Inputs, Key, own_generators, promised_rows, shuffles
from mmselect.torch.capture import Given, parse, qualname, recording, submodule, unwrapped
from mmselect.torch.devices import usable_device
from mmselect.torch.modes import dropout_layers, evaluating, generators, same_numbers_after
from mmselect.torch.partial import partial_pool
from mmselect.torch.progress import Progress, reporter
from mmselect.torch.running import FUSED, Plan
from mmselect.torch.streaming import Export
from mmselect.torch.trees import shown

DIGESTED = 4096
"""Bytes of each tensor of a model that a continuation holds against those of the export before."""


def export_pool(
    model: Any,
    loader: Iterable[Any],
    path: str | os.PathLike[str],
    *,
    features: Mapping[str, Given] | None = None,
    unimodal_logits: Mapping[str, Given] | None = None,
    multimodal_logits: Given | None = "",
    classifier: str | None = None,
    coalitions: Given | None = None,
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
    progress: Progress = True,
) -> None:
    """Run a model over a loader and write what it computes as a pool file.

    The model is not changed: hooks on named submodules see what they return. It runs in eval mode
    without gradients; afterwards hooks are gone, every submodule's mode and PyTorch's random
    numbers (those of the loader's own generator too) are as they were, however the export ended.
    Rows go to ``NAME.partial`` beside the target batch by batch; the file gets its name when it is
    whole.

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
    coalitions : output, optional
        The submodule that takes all features and returns the multimodal logits. It runs again,
        and nothing else does, once for each set of absent modalities, whose features are zero.
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
        Rows that the loader yields; None asks ``loader.dataset``. Where neither knows, the file
        grows and is copied once more at the end.
    device : torch.device or str, optional
        Where batches go; None is where the model is.
    amp : torch.dtype or str, optional
        Type for autocast: ``"bfloat16"`` or ``"float16"``.
    dtype : torch.dtype or str, optional
        Type to store floats in; None is as computed, and float32 for bfloat16.
    seed : int
        For the dropout passes. Their random numbers follow from it and from the batch's first row.
    resume : bool
        Go on with a partial file, if there is one, behind the last batch that it holds. The loader
        must yield the same batches again; ids, settings and the numbers of the last batch are
        compared.
    progress : bool or function
        True counts rows on a terminal; a function gets the rows done and those to do, or None.

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
        If the file cannot be written.

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
    dropout_passes = _whole("dropout_passes", dropout_passes, 0)
    seed = _whole("seed", seed, 0)
    n = n if n is None else _whole("n", n, 1)
    for name, named in (("features", features), ("unimodal_logits", unimodal_logits)):
        _check_mapping(name, named, "modality", "output")
    _check_mapping("metadata", metadata, "column", "where it is in a batch")
    if function is not None and multimodal_logits == "":
        multimodal_logits = None
    given = {
        **{f"/features/{name}": one for name, one in (features or {}).items()},
        **{f"/unimodal_logits/{name}": one for name, one in (unimodal_logits or {}).items()},
        FUSED: multimodal_logits,
    }
    columns = {"/id": ids, "/label": labels, "/labeled": labeled} | {
        f"/metadata/{name}": key for name, key in (metadata or {}).items()
    }
    inner = unwrapped(model)
    where = _device(inner, device)
    plan = Plan(
        model=inner,
        device=where,
        picks={name: parse(one) for name, one in given.items() if one is not None},
        columns={name: key for name, key in columns.items() if key is not None},
        function=function,
        inputs=inputs,
        fusion=None if coalitions is None else parse(coalitions),
        classifier=classifier,
        class_names=None if class_names is None else [str(name) for name in class_names],
        passes=dropout_passes,
        seed=seed,
        layers=dropout_layers(inner) if dropout_passes else [],
        sources=generators(inner, where),
        amp=_dtype("amp", amp, ("bfloat16", "float16")),
        dtype=_dtype("dtype", dtype, ("float16", "float32", "float64")),
    )
    target = Path(path)
    _check(plan, target, loader, resume)
    with (
        evaluating(model),
        same_numbers_after([*plan.sources, *own_generators(loader)]),
        recording(inner, plan.picks, plan.fusion) as recorder,
        partial_pool(target, _settings(plan), resume) as pool,
        reporter(progress) as report,
    ):
        rows = promised_rows(loader, n)
        Export(plan, recorder, pool, target, rows, report).run(loader)


def _whole(name: str, given: Any, least: int) -> int:
    """Accept what Python accepts as an index: NumPy's integers too, and no float."""
    with suppress(TypeError):
        if (number := operator.index(given)) >= least:
            return number
    raise ParameterError(f"{name}: expected a whole number of at least {least}, found {given!r}")


def _check_mapping(name: str, given: Any, key: str, value: str) -> None:
    if given is not None and not isinstance(given, Mapping):
        raise ParameterError(f"{name}: expected a mapping of {key} to {value}, found {given!r}")


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


def _check(plan: Plan, target: Path, loader: Any, resume: bool) -> None:
    """Refuse what can be seen to be wrong before the model runs."""
    check_targets([target], [])
    if target.exists() and not target.is_file():
        raise OutputError("expected a file to write, found something else", file=str(target))
    if not plan.picks and plan.function is None:
        raise ParameterError("expected features, logits or a function to export, found none")
    for name, asked in (("coalitions", plan.fusion), ("dropout_passes", plan.passes)):
        if asked and FUSED not in plan.picks and plan.function is None:
            raise ParameterError(f"{name}: expected multimodal_logits with it, found none")
    if plan.classifier is not None:
        submodule(plan.model, plan.classifier)
    modalities = [path for path in plan.picks if path.startswith("/features/")]
    if plan.fusion and plan.function is None and not 1 <= len(modalities) <= MOST_MODALITIES:
        message = f"expected features of 1 to {MOST_MODALITIES} modalities"
        raise ParameterError(f"coalitions: {message}, found {len(modalities)}")
    unnamed = "/id" not in plan.columns and plan.function is None
    if shuffles(loader) and (resume or unnamed):
        why = "to go on with the same batches" if resume else "for rows that have no ids"
        raise ParameterError(f"loader: expected a fixed order {why}, found a shuffling sampler")


def _settings(plan: Plan) -> dict[str, Any]:
    """List what must not change between an export and its continuation, as text."""
    named: dict[str, Any] = {path: str(pick) for path, pick in plan.picks.items()}
    named |= {path: _text(key) for path, key in plan.columns.items()}
    named |= {
        "function": _text(plan.function),
        "inputs": _text(plan.inputs),
        "coalitions": _text(plan.fusion),
        "classifier": plan.classifier
        and f"{plan.classifier} {_digest(submodule(plan.model, plan.classifier))}",
        "model": _digest(plan.model, DIGESTED),
        "class_names": plan.class_names,
        "dropout_passes": plan.passes,
        "seed": plan.seed if plan.passes else None,
        "amp": _text(plan.amp),
        "dtype": _text(plan.dtype),
    }
    return named


def _text(thing: Any) -> str | None:
    """Name a setting the same way in every process."""
    return thing if thing is None else qualname(thing) if callable(thing) else str(thing)


def _digest(model: Any, most: int | None = None) -> str:
    """Tell models apart: names, shapes, types and the first bytes of what a checkpoint holds.

    `most` bytes of each tensor are looked at, all of them if None: training changes every tensor
    everywhere, so that a few tell.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor) and not torch.nn.parameter.is_lazy(tensor):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            count = None if most is None else most // tensor.element_size()
            first = tensor.detach().reshape(-1)[:count].cpu().contiguous()
            digest.update(first.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
