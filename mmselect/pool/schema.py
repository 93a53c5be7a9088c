"""Pool format 1.1, as one table.

Everything that knows the format reads it from here: the reader, ``check``, ``info``,
``write_pool``, the strategies' needs, the error texts and the page ``docs/format.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmselect.errors import SchemaError

FORMAT = "mmselect-pool"
VERSION = "1.1"
NAME = r"[A-Za-z0-9_.-]+"
RESERVED = "none"

ONE_LOGIT = "of a head with one logit x, write two columns: 0 and x"
ONE_WEIGHT = "of a head with one logit, write two rows: zeros, and its own"

Kind = Literal["float", "integer", "boolean", "text", "text or integer", "any scalar"]

KINDS: dict[Kind, str] = {
    "float": "f",
    "integer": "iu",
    "boolean": "biu",
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
    argument : str
        The keyword of :func:`mmselect.write_pool` that takes it.
    """

    path: str
    axes: tuple[str, ...]
    kind: Kind
    meaning: str
    argument: str

    @property
    def group(self) -> str:
        """The path without its free name: ``/features`` of ``/features/{modality}``."""
        return self.path.split("/{")[0]

    @property
    def named(self) -> bool:
        """Whether there may be several, under names that the user chooses."""
        return "{" in self.path

    @property
    def per_sample(self) -> bool:
        """Whether axis 0 is the sample axis."""
        return self.axes[0] == "n"

    @property
    def is_logits(self) -> bool:
        """Whether the numbers go through a softmax."""
        return "logits" in self.path


SCHEMA = (
    Dataset(
        "/id",
        ("n",),
        "text or integer",
        "unique name of each sample; absent: the row number, as text",
        "ids",
    ),
    Dataset("/features/{modality}", ("n", "d"), "float", "features of one modality", "features"),
    Dataset(
        "/unimodal_logits/{modality}",
        ("n", "c"),
        "float",
        "logits of a head that sees only this modality",
        "unimodal_logits",
    ),
    Dataset(
        "/multimodal_logits",
        ("n", "c"),
        "float",
        "logits of the fused head, all modalities",
        "multimodal_logits",
    ),
    Dataset(
        "/coalition_logits/{coalition}",
        ("n", "c"),
        "float",
        "logits of the fused head with the modalities outside the coalition masked; "
        "names sorted and joined by `+`, `none` = all masked",
        "coalition_logits",
    ),
    Dataset(
        "/classifier/weight/{modality}",
        ("c", "d"),
        "float",
        "linear fused head: one block of columns per modality",
        "classifier_weight",
    ),
    Dataset("/classifier/bias", ("c",), "float", "linear fused head: bias", "classifier_bias"),
    Dataset(
        "/present/{modality}",
        ("n",),
        "boolean",
        "which samples have this modality; absent: all. Where false, its features, head logits and "
        "coalitions are never read and may be nan",
        "present",
    ),
    Dataset(
        "/dropout_logits",
        ("n", "t", "c"),
        "float",
        "logits of stochastic passes, or of ensemble members",
        "dropout_logits",
    ),
    Dataset(
        "/label",
        ("n",),
        "integer",
        "class index, -1 = unknown; never read by a strategy for a row that is not labeled",
        "labels",
    ),
    Dataset(
        "/label_share",
        ("n", "c"),
        "float",
        "soft labels in [0, 1], such as shares of the annotators; never read by a strategy",
        "label_share",
    ),
    Dataset("/labeled", ("n",), "boolean", "already labeled; absent: nothing is", "labeled"),
    Dataset("/class_names", ("c",), "text", "names of the classes", "class_names"),
    Dataset(
        "/metadata/{column}",
        ("n",),
        "any scalar",
        "anything to group, weigh, filter or rank by",
        "metadata",
    ),
)

BY_GROUP = {dataset.group: dataset for dataset in SCHEMA}


def by_path(given: Mapping[str, Any]) -> dict[str, Any]:
    """Call what is given under the table's arguments by its path, in the table's order; no None.

    Examples
    --------
    >>> by_path({"labels": 3, "features": {"text": 2, "image": 1}, "labeled": None, "path": 0})
    {'/features/text': 2, '/features/image': 1, '/label': 3}
    """
    found: dict[str, Any] = {}
    for dataset in SCHEMA:
        values = given.get(dataset.argument)
        if dataset.named:
            found |= {f"{dataset.group}/{name}": each for name, each in (values or {}).items()}
        else:
            found[dataset.path] = values
    return {path: each for path, each in found.items() if each is not None}


def names_in(group: str, paths: Iterable[str]) -> list[str]:
    """User-chosen names of the datasets in a group, sorted.

    Examples
    --------
    >>> names_in("/features", ["/features/text", "/features/image", "/id"])
    ['image', 'text']
    """
    prefix = f"{group}/"
    return sorted(path.removeprefix(prefix) for path in paths if path.startswith(prefix))


def modalities_in(paths: Iterable[str]) -> list[str]:
    """Every modality that a dataset is of, sorted; ``/present`` does not count.

    Examples
    --------
    >>> modalities_in(["/features/text", "/coalition_logits/audio+image", "/present/video"])
    ['audio', 'image', 'text']
    """
    return sorted({name for path in paths for name in modalities_of(path)})


def modalities_of(path: str) -> tuple[str, ...]:
    """Modalities without which a dataset's numbers mean nothing: all those of a coalition.

    Examples
    --------
    >>> modalities_of("/features/text"), modalities_of("/coalition_logits/image+text")
    (('text',), ('image', 'text'))
    >>> modalities_of("/multimodal_logits"), modalities_of("/coalition_logits/none")
    ((), ())
    """
    group, _, name = path.rpartition("/")
    if group == "/coalition_logits":
        return () if name == RESERVED else tuple(name.split("+"))
    return (name,) if group in ("/features", "/unimodal_logits", "/classifier/weight") else ()


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
    if path in BY_GROUP and not BY_GROUP[path].named:
        return Place(BY_GROUP[path], None)
    group, _, name = path.rpartition("/")
    dataset = BY_GROUP.get(group)
    if dataset is None or not dataset.named or not _is_name(dataset, name):
        return None
    return Place(dataset, name)


def place_of(path: str) -> Place:
    """Find a path in the table, or refuse it.

    Raises
    ------
    SchemaError
        If the format has no such dataset.
    """
    place = match(path)
    if place is None:
        message = f"expected a name of {NAME} (coalitions: sorted, joined by +)"
        raise SchemaError(message, dataset=path)
    return place


def per_sample(path: str) -> bool:
    """Whether axis 0 of a dataset is the sample axis."""
    return place_of(path).dataset.per_sample


def in_schema_order(paths: Iterable[str]) -> list[str]:
    """Paths in the order of the table, then by name.

    Examples
    --------
    >>> in_schema_order(["/label", "/features/text", "/features/image", "/id"])
    ['/id', '/features/image', '/features/text', '/label']
    """
    order = {dataset: i for i, dataset in enumerate(SCHEMA)}
    return sorted(paths, key=lambda path: (order[place_of(path).dataset], path))


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


def shape_problem(dataset: Dataset, shape: tuple[int, ...] | None) -> str | None:
    """Say how a shape differs from what the table asks for; None if it does not.

    Examples
    --------
    >>> shape_problem(BY_GROUP["/features"], (3,)), shape_problem(BY_GROUP["/features"], (0, 2))
    ('expected axes (n, d), found shape (3,)', None)
    """
    axes = f"expected axes ({', '.join(dataset.axes)})"
    if shape is None or len(shape) != len(dataset.axes):
        return f"{axes}, found shape {shape}"
    if 0 in shape[dataset.per_sample :]:
        beside = " beside n" if dataset.per_sample else ""
        return f"{axes} of at least 1{beside}, found shape {shape}"
    if dataset.is_logits and shape[-1] == 1:
        return f"expected two or more classes, found one; {ONE_LOGIT}"
    if dataset.axes[0] == "c" and dataset.kind == "float" and shape[0] == 1:
        return f"expected two or more classes, found one; {ONE_WEIGHT}"
    return None


class Axes:
    """The size of each axis, learned from one dataset after the other.

    Attributes
    ----------
    sizes : dict of str to int
        By letter; ``d`` by modality.

    Examples
    --------
    >>> axes = Axes()
    >>> list(axes.problems("/id", (3,))), list(axes.problems("/features/a", (2, 5)))
    ([], ['expected 3 rows, as in /id, found 2'])
    >>> axes.sizes
    {'n': 3, 'd of a': 5}
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self._sources: dict[str, str] = {}

    def problems(self, path: str, shape: tuple[int, ...]) -> Iterator[str]:
        """Say which axes of a dataset have another size than before; learn the new ones."""
        for axis, size in zip(place_of(path).axes, shape, strict=True):
            expected = self.sizes.setdefault(axis, size)
            source = self._sources.setdefault(axis, path)
            if size != expected:
                counted = _COUNTED.get(axis, f"dimensions ({axis})")
                yield f"expected {expected:,} {counted}, as in {source}, found {size:,}"

    def restart(self, where: str) -> int:
        """Forget the sample axis and return its length; other sizes are now known from `where`."""
        rows = self.sizes.pop("n", 0)
        self._sources = dict.fromkeys(self.sizes, where)
        return rows


_COUNTED = {"n": "rows", "c": "classes", "t": "passes"}


def axes_of(arrays: Mapping[str, NDArray[Any]], axes: Axes | None = None) -> Axes:
    """Hold arrays against the table and against each other.

    Parameters
    ----------
    arrays : mapping of path to array
    axes : Axes, optional
        What is known of the axes before.

    Raises
    ------
    SchemaError
        If a name, shape or type is not in the table, sizes differ, or no array has the sample axis.
    """
    axes = axes or Axes()
    for path, array in arrays.items():
        dataset = place_of(path).dataset
        problem = shape_problem(dataset, array.shape) or type_problem(dataset, array.dtype)
        if problem := problem or next(axes.problems(path, array.shape), None):
            raise SchemaError(problem, dataset=path)
    if "n" not in axes.sizes:
        raise SchemaError("expected at least one array with a row per sample, found none")
    return axes
