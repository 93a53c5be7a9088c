"""Where torch can run here."""

from __future__ import annotations

from typing import Any

import torch

from mmselect.errors import ParameterError


def usable_device(given: Any, otherwise: str = "") -> Any:
    """Read a device, and see that torch can use it here.

    Parameters
    ----------
    given : torch.device or str
    otherwise : str
        What else the caller accepts, for the error.

    Returns
    -------
    torch.device
        With its number, where it is a GPU.

    Raises
    ------
    ParameterError
        If torch cannot, or there is no such device.

    Examples
    --------
    >>> usable_device("cpu")
    device(type='cpu')
    """
    try:
        probe = torch.zeros(1, device=given)
        probe.cpu()
    except (RuntimeError, AssertionError, TypeError):  # torch without CUDA asserts
        expected = f"expected {otherwise}a device that torch can use here"
        raise ParameterError(f"device: {expected}, found {str(given)!r}") from None
    return probe.device
