"""What values each parameter takes: one table, read by the core and by ``-p NAME=VALUE``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import numpy as np

from mmselect.errors import ParameterError

_KINDS = {bool: bool | np.bool_, int: Integral, float: Real, str: str}
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@dataclass(frozen=True)
class Limits:
    """The type and range of a parameter.

    Attributes
    ----------
    kind : type
        ``bool``, ``int``, ``float`` or ``str``.
    choices : tuple of str
        The allowed values of a text parameter; empty: any.
    minimum, maximum : float
        The allowed range of a number.

    Examples
    --------
    >>> Limits(int, minimum=1).allows(0), Limits(str, choices=("a", "b")).expected
    (False, 'a or b')
    """

    kind: type
    choices: tuple[str, ...] = ()
    minimum: float = -np.inf
    maximum: float = np.inf

    def allows(self, value: Any) -> bool:
        """Whether `value` has the type and lies in the range; nan and infinities never do."""
        typed = isinstance(value, _KINDS[self.kind])
        if self.kind in (int, float):
            largest = sys.float_info.max if self.kind is float else 2**63 - 1
            return bool(typed and abs(value) <= largest and self.minimum <= value <= self.maximum)
        return typed and (not self.choices or value in self.choices)

    @property
    def expected(self) -> str:
        """What values it takes, in words."""
        if self.choices:
            return " or ".join(self.choices)
        words = _WORDS[self.kind]
        if np.isfinite(self.minimum) and np.isfinite(self.maximum):
            return f"{words} from {self.minimum:g} to {self.maximum:g}"
        return f"{words} of at least {self.minimum:g}" if np.isfinite(self.minimum) else words


LIMITS: Mapping[str, Limits] = MappingProxyType(
    {
        "activation": Limits(str, choices=("softmax", "sigmoid-norm")),
        "alignment": Limits(float, minimum=0),
        "cap": Limits(float, minimum=1 / 1024, maximum=1),
        "clusters": Limits(int, minimum=1),
        "diversity": Limits(float, minimum=0),
        "dropout": Limits(float, minimum=0, maximum=0.99),
        "epochs": Limits(int, minimum=1),
        "form": Limits(str, choices=("auto", "exact", "sparse")),
        "init": Limits(str, choices=("uniform", "kmeans++")),
        "iterations": Limits(int, minimum=1),
        "kind": Limits(str, choices=("bce", "softmax")),
        "loss": Limits(str, choices=("paper", "code")),
        "neighbours": Limits(int, minimum=1),
        "rate": Limits(float, minimum=1e-12),
        "prototypes": Limits(int, minimum=1),
        "smoothing": Limits(float, minimum=1 + 1e-6),
        "solver": Limits(str, choices=("adam", "lbfgs")),
        "steps": Limits(int, minimum=0),
        "tau": Limits(float, minimum=1e-6),
        "variant": Limits(str, choices=("uncertain", "core")),
        "weight": Limits(float, minimum=0),
    }
)
"""By name. A strategy's parameter of that name has these limits, and so has the core's."""


def check_limits(**values: Any) -> None:
    """Accept parameters by the table.

    Raises
    ------
    ParameterError
        For the first one that is out of its range.

    Examples
    --------
    >>> check_limits(tau=0.07, solver="adam")
    >>> check_limits(tau=0.0)
    Traceback (most recent call last):
    mmselect.errors.ParameterError: tau: expected a number of at least 1e-06, found 0.0
    """
    for name, value in values.items():
        if not LIMITS[name].allows(value):
            raise ParameterError(f"{name}: expected {LIMITS[name].expected}, found {value!r}")
