"""Pool format 1.0, as one table.

Everything that knows the format reads it from here: the reader, ``check``, ``info``,
``write_pool``, the strategies' needs, the error texts and the page ``docs/format.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

FORMAT = "mmselect-pool"
VERSION = "1.0"
NAME = r"[A-Za-z0-9_.-]+"
RESERVED = "none"

Kind = Literal["float", "integer", "boolean", "text", "text or integer", "any scalar"]

KINDS: dict[Kind, str] = {
    "float": "f",
    "integer": "iu",
    "boolean": "b",
    "text": "OSU",
    "text or integer": "OSUiu",
    "any scalar": "OSUiufb",
}
"""NumPy's one-letter type kinds that each kind of dataset accepts."""


@dataclass(frozen=True)
class Dataset:
    """One row of the format's table.

    Attributes
    ----------
    path : str
        Where it stands; a part in braces is a name the user chooses.
    axes : tuple of str
        Axis letters. Equal letters have equal sizes throughout a pool; ``d`` is per modality.
    kind : str
        A key of :data:`KINDS`.
    meaning : str
        What the numbers are.
    """

    path: str
    axes: tuple[str, ...]
    kind: Kind
    meaning: str

    @property
    def group(self) -> str:
        """The path without its free name: ``/features`` of ``/features/{modality}``."""
        return self.path.split("/{")[0]

    @property
    def per_sample(self) -> bool:
        """Whether axis 0 is the sample axis."""
        return self.axes[0] == "n"

    @property
    def is_logits(self) -> bool:
        """Whether the numbers go through a softmax."""
        return self.kind == "float" and self.axes[0] == "n" and self.axes[-1] == "c"


SCHEMA = (
    Dataset(
        "/id",
        ("n",),
        "text or integer",
        "unique name of each sample; absent: the row number, as text",
    ),
    Dataset("/features/{modality}", ("n", "d"), "float", "features of one modality"),
    Dataset(
        "/unimodal_logits/{modality}",
        ("n", "c"),
        "float",
        "logits of a head that sees only this modality",
    ),
    Dataset("/multimodal_logits", ("n", "c"), "float", "logits of the fused head, all modalities"),
    Dataset(
        "/coalition_logits/{coalition}",
        ("n", "c"),
        "float",
        "logits of the fused head with the modalities outside the coalition masked; "
        "names sorted and joined by `+`, `none` = all masked",
    ),
    Dataset(
        "/classifier/weight/{modality}",
        ("c", "d"),
        "float",
        "linear fused head: one block of columns per modality",
    ),
    Dataset("/classifier/bias", ("c",), "float", "linear fused head: bias"),
    Dataset(
        "/dropout_logits",
        ("n", "t", "c"),
        "float",
        "logits of stochastic passes, or of ensemble members",
    ),
    Dataset(
        "/label",
        ("n",),
        "integer",
        "class index, -1 = unknown; never read by a strategy for a row that is not labeled",
    ),
    Dataset("/labeled", ("n",), "boolean", "already labeled; absent: nothing is"),
    Dataset("/class_names", ("c",), "text", "names of the classes"),
    Dataset(
        "/metadata/{column}",
        ("n",),
        "any scalar",
        "anything to group, weigh, filter or rank by",
    ),
)

BY_GROUP = {dataset.group: dataset for dataset in SCHEMA}


def names_in(group: str, paths: Iterable[str]) -> list[str]:
    """User-chosen names of the datasets in a group, sorted.

    Examples
    --------
    >>> names_in("/features", ["/features/text", "/features/image", "/id"])
    ['image', 'text']
    """
    prefix = f"{group}/"
    return sorted(path.removeprefix(prefix) for path in paths if path.startswith(prefix))


@dataclass(frozen=True)
class Place:
    """A path matched against the table: which row of it, and the user's name if it has one."""

    dataset: Dataset
    name: str | None

    @property
    def axes(self) -> tuple[str, ...]:
        """Axis letters, with ``d`` made the modality's own: ``d of image``."""
        return tuple(f"d of {self.name}" if axis == "d" else axis for axis in self.dataset.axes)


def match(path: str) -> Place | None:
    """Find a path in the table.

    Examples
    --------
    >>> match("/features/image").axes
    ('n', 'd of image')
    >>> match("/feature/image") is None, match("/metadata/what ever") is None
    (True, True)
    """
    if path in BY_GROUP and "{" not in BY_GROUP[path].path:
        return Place(BY_GROUP[path], None)
    group, _, name = path.rpartition("/")
    dataset = BY_GROUP.get(group)
    if dataset is None or "{" not in dataset.path or not _is_name(dataset, name):
        return None
    return Place(dataset, name)


def _is_name(dataset: Dataset, name: str) -> bool:
    if dataset.group == "/coalition_logits":
        parts = name.split("+")
        return parts == sorted(set(parts)) and all(re.fullmatch(NAME, part) for part in parts)
    reserved = name == RESERVED and dataset.group != "/metadata"
    return re.fullmatch(NAME, name) is not None and not reserved


def type_problem(dataset: Dataset, dtype: np.dtype[Any]) -> str | None:
    """Say how a NumPy type differs from what the table asks for; None if it does not.

    Examples
    --------
    >>> type_problem(BY_GROUP["/features"], np.dtype("int64"))
    'expected floats (float16, float32 or float64), found int64'
    >>> type_problem(BY_GROUP["/features"], np.dtype(">f4")) is None
    True
    """
    expected: str = dataset.kind
    if dataset.kind == "float":
        if dtype.kind == "f" and dtype.itemsize in (2, 4, 8):
            return None
        expected = "floats (float16, float32 or float64)"
    elif dtype.kind in KINDS[dataset.kind] and dtype.names is None:
        return None
    found = "text" if dtype.kind in "OSU" else str(dtype)
    return f"expected {expected}, found {found}"
