"""What the columns of metadata are for: pictures, signs, texts, ways to part the pool."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmselect.arrays import Index
from mmselect.looking.shares import Facet, facet
from mmselect.output.tables import number, plain
from mmselect.pool.ids import as_stored
from mmselect.pool.reading import Pool

METADATA = "/metadata"
PICTURE = re.compile(r".*\.(jpe?g|png|gif|webp|bmp|tiff?|avif|ppm)([?#].*)?", re.I | re.DOTALL)

MOSTLY = 0.8
"""Share of the values of a column that must look like pictures."""

SIGN = 12
"""Characters of an emoji at most: flags of regions and families have that many."""

DISTINCT = 0.9
"""Share of different values from which on a column is text to read, be it single words."""

PARTS = 30
"""Values of a column at most for it to part the pool."""

MOST = 12
"""Columns that are shown where none are asked for."""

LONGEST = 1000
"""Characters of one value that are shown."""


@dataclass(frozen=True)
class Roles:
    """Names of columns, each in one role.

    Attributes
    ----------
    image : str or None
        Paths or addresses of pictures.
    sign : str or None
        Emoji or other signs, drawn in place of a picture.
    text : tuple of str
        To be read: the shortest first.
    others : tuple of str
        Shown among the details.
    """

    image: str | None
    sign: str | None
    text: tuple[str, ...]
    others: tuple[str, ...]


def values_of(pool: Pool, column: str, rows: Index) -> list[str]:
    """Values of a column as text to show."""
    return [shown(value) for value in plain(pool.columns[f"{METADATA}/{column}"][rows])]


def shown(value: Any) -> str:
    """Write a value out, not longer than anybody reads.

    Examples
    --------
    >>> shown(0.123456789012), shown(True), shown("x" * 2000)[-2:]
    ('0.123456789012', 'True', 'x…')
    """
    text = number(value) if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def roles(
    texts: Mapping[str, Sequence[str]],
    others: Sequence[str] = (),
    *,
    image: str | None = None,
    text: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Roles:
    """Decide what each column is for.

    Parameters
    ----------
    texts : mapping of column to sequence of str
        Columns of text, with the picks' values.
    others : sequence of str
        Further columns: numbers.
    image, text, columns
        What was asked for; None: what the values look like.

    Examples
    --------
    >>> texts = {"file": ["a.jpg", "b.jpg"], "caption": ["a dog", "two cats"], "set": ["x", "x"]}
    >>> roles(texts, ["width"])
    Roles(image='file', sign=None, text=('caption',), others=('set', 'width'))
    """
    signs = [name for name, values in texts.items() if _mostly(is_sign, values)]
    pictures = [name for name, values in texts.items() if _mostly(PICTURE.fullmatch, values)]
    sign = None
    if image is None:
        image = pictures[0] if pictures else None
        sign = signs[0] if signs and image is None else None
    elif image in signs:
        image, sign = None, image
    if text is None:
        lengths = {
            name: float(np.mean([len(value) for value in values]))
            for name, values in texts.items()
            if name not in (image, sign, *pictures) and _is_read(values)
        }
        text = sorted(lengths, key=lambda name: (lengths[name], name))
    if columns is None:
        columns = [*texts, *others][: MOST + len(text)]
    used = {image, sign, *text}
    return Roles(image, sign, tuple(text), tuple(name for name in columns if name not in used))


def _is_read(values: Sequence[str]) -> bool:
    """Whether values are texts: several words each, and not a few that repeat; or all different."""
    different = len({*values})
    several = _mostly(lambda value: " " in value.strip(), values)
    return different >= DISTINCT * len(values) or (several and different > PARTS)


def _mostly(fits: Callable[[str], Any], values: Sequence[str]) -> bool:
    there = [value for value in values if value]
    return sum(map(bool, map(fits, there))) >= max(MOSTLY * len(there), 1)


def is_sign(value: str) -> bool:
    """Whether a text is one emoji or another sign, rather than words.

    Examples
    --------
    >>> is_sign("🐝"), is_sign("3️⃣"), is_sign("bee"), is_sign("a 🐝")
    (True, True, False, False)
    """
    kinds = [unicodedata.category(character) for character in value]
    symbol = any(kind == "So" for kind in kinds) or "\u20e3" in value
    return symbol and len(value) <= SIGN and not any(kind[0] in "LZ" for kind in kinds)


def facet_of(pool: Pool, column: str, rows: Index, picked: Index) -> Facet | None:
    """Part some rows of the pool by a column; None where it has too many values for that, or one.

    Parameters
    ----------
    rows : (n,) integer array
        Rows of the pool.
    picked : (k,) integer array
        Positions of the picks among them.
    """
    source = pool.columns[f"{METADATA}/{column}"]
    if source.dtype.kind not in "OSUiub" or len({*plain(source[rows[picked]])}) > PARTS:
        return None
    values = source[rows]
    values = as_stored(values) if values.dtype.kind in "OSU" else values
    labels, of = np.unique(values, return_inverse=True)
    if not 1 < len(labels) <= PARTS:
        return None
    return facet(column, [shown(label) for label in plain(labels)], of, picked)
