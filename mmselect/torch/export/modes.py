"""The state a model runs in, and how it is put back: eval mode, dropout alone, random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.modules.dropout import _DropoutNd

from mmselect.errors import ParameterError


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run a block with every submodule in eval mode, then put each back into the mode it had.

    Modes go back through ``train``, since some modules do more in it than set a flag (those that
    merge an adapter into their weights, for example); the flag itself is set last.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout().eval())
    >>> with evaluating(model):
    ...     model[0].training
    False
    >>> model[0].training, model[1].training
    (True, False)
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            if module.training != mode:
                module.train(mode)
        for module, mode in modes:
            module.training = mode


def dropout_layers(model: Any) -> list[Any]:
    """List the layers that drop out something: subclasses of PyTorch's own, with p above 0.

    Raises
    ------
    ParameterError
        If there is none. Dropout called as a function inside ``forward`` cannot be found.
    """
    layers = [m for m in model.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    if not layers:
        message = "expected dropout layers in the model, found none with p > 0"
        raise ParameterError(f"dropout_passes: {message} (dropout called as a function is not one)")
    return layers


@contextmanager
def dropping(layers: Sequence[Any]) -> Iterator[list[Any]]:
    """Run a block with these layers in train mode; the list is of those that ran in it, afterwards.

    Everything else stays in eval mode. PyTorch's fused transformer layers are switched off: they
    look at their own mode only and would leave out the dropout inside them.
    """
    ran: list[Any] = []
    fused = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        torch.backends.mha.set_fastpath_enabled(False)
        for layer in layers:
            hook = layer.register_forward_hook(lambda m, *_: ran.append(m) if m.training else None)
            stack.callback(hook.remove)
            stack.callback(setattr, layer, "training", False)
            layer.training = True
        yield ran


def generators(model: Any, device: Any) -> list[Any]:
    """List PyTorch's global random generators that the model may draw from: CPU, and its GPUs."""
    devices = {device, *(tensor.device for tensor in model.parameters())}
    indices = sorted({d.index or 0 for d in devices if d.type == "cuda"})
    return [torch.default_generator, *(torch.cuda.default_generators[i] for i in indices)]


@contextmanager
def same_numbers_after(sources: Sequence[Any]) -> Iterator[None]:
    """Run a block, then let the generators go on as if it had not been.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> with same_numbers_after([torch.default_generator]):
    ...     first = torch.rand(1)
    >>> bool(first == torch.rand(1))
    True
    """
    with ExitStack() as stack:
        for source in sources:
            stack.callback(source.set_state, source.get_state())
        yield


@contextmanager
def seeded(sources: Sequence[Any], seed: int, row: int) -> Iterator[None]:
    """Run a block with random numbers that follow from a seed and a row, whatever ran before."""
    with same_numbers_after(sources):
        number = int(np.random.SeedSequence((seed, row)).generate_state(1, np.uint64)[0])
        for source in sources:
            source.manual_seed(number)
        yield
