"""From a PyTorch model and a loader to a pool file, in one pass and in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from mmselect.errors import OutputError, ParameterError
from mmselect.files import check_targets
from mmselect.keywords import accepts
from mmselect.progress import silent
from mmselect.terminal import bar
from mmselect.torch.export.batches import order_problem, own_generators, promised_rows
from mmselect.torch.export.loop import Export
from mmselect.torch.export.modes import evaluating, same_numbers_after
from mmselect.torch.export.plan import Exporting, Plan
from mmselect.torch.export.running import hooked
from mmselect.torch.export.shards import growing
from mmselect.torch.export.trees import shown


@accepts(Exporting)
def export_pool(
    model: Any, loader: Iterable[Any], path: str | os.PathLike[str], **asked: Any
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
    present : mapping of modality to key, position, or function of the batch, optional
        Where the mask of the samples that have this modality is in a batch, booleans or 0 and 1.
        What the model makes of it in other rows may be nan; zeros are written there.
    metadata : mapping of column to key, position, or function of the batch, optional
    datasets : mapping of dataset path to key, position, or function of the batch, optional
        Any other dataset of the format with a row per sample, such as ``"label_share"``.
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
    ask, target = Exporting(**asked), Path(path)
    plan, rows = Plan(model, ask), promised_rows(loader, ask.n)
    _check(plan, loader, target)
    told = ask.progress if callable(ask.progress) else None
    with (
        evaluating(model),
        same_numbers_after([*plan.sources, *own_generators(loader)]),
        hooked(plan) as runs,
        growing(target, plan.settings(), ask.part, ask.resume) as shards,
        bar("rows exported", hidden=told is not None or not ask.progress) as drawn,
    ):
        Export(runs, shards, target, rows, told or drawn or silent).run(loader)
        shards.finish(ask.join)


def _check(plan: Plan, loader: Any, target: Path) -> None:
    """Refuse a target that cannot be written, and rows without names in an order nobody knows."""
    join = plan.ask.join
    if join or not target.is_dir():
        check_targets([target], [])
    if target.exists() and (not target.is_file() or not join):
        wanted = "a file to write" if join else "no folder of this name"
        raise OutputError(f"expected {wanted}, found something else", file=str(target))
    named = "/id" in plan.columns or plan.ask.function is not None
    if not named and (problem := order_problem(loader)):
        message = "expected one that goes through the rows in order, once, where there are no ids"
        raise ParameterError(f"loader: {message}, found {problem}: give ids=")
