"""Small copies of the picks' pictures, as text that a page can hold.

Only files beside the pool or in the working folder, or below, are opened; no address is followed.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from mmselect.engine import Engine
from mmselect.errors import few

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM")
"""Of Pillow's, those that people keep pictures in."""

QUALITY = 82
PAPER = "white"
"""What is behind a drawing that lets things through."""

State = Literal["picture", "link", "missing", "outside", "unreadable"]

FAULTS: dict[State, str] = {
    "missing": "not there",
    "outside": "outside of the pool's folder and of the working folder, so not opened",
    "unreadable": "no pictures that can be read",
}


class Picture(NamedTuple):
    """What became of a value: a small copy as a data URI, an address to follow, or a fault."""

    state: State
    content: str


def can_read() -> bool:
    """Whether Pillow is installed."""
    try:
        import PIL.Image  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def pictures(
    values: Sequence[str], folders: Iterable[Path], size: int, engine: Engine
) -> list[Picture]:
    """Make a small copy of each picture.

    Parameters
    ----------
    values : sequence of str
        Paths, relative to one of the folders or absolute, or addresses.
    folders : iterable of path
        Nothing outside of them is opened; the first that has a file is taken.
    size : int
        Pixels of the longer side.
    engine : Engine
    """
    from PIL import Image

    Image.init()
    roots = list(dict.fromkeys(Path(folder).resolve() for folder in folders))
    with warnings.catch_warnings():  # what Pillow warns of is said in our own words, or nobody's
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return list(engine.map(partial(_picture, roots=roots, size=size), values))


def faults(column: str, values: Sequence[str], found: Sequence[Picture]) -> list[str]:
    """Say which pictures are not on the page, and why.

    Examples
    --------
    >>> faults("file", ["a.png", "b.png"], [Picture("missing", ""), Picture("link", "b.png")])
    ['/metadata/file: 1 of 2 pictures are not there: a.png']
    """
    lines = []
    for state, said in FAULTS.items():
        bad = [v for v, picture in zip(values, found, strict=True) if picture.state == state and v]
        if bad:
            count = f"{len(bad):,} of {len(values):,} pictures are"
            lines.append(f"/metadata/{column}: {count} {said}: {few(bad)}")
    return lines


def _picture(value: str, *, roots: Sequence[Path], size: int) -> Picture:
    if value.startswith(("http://", "https://")):
        return Picture("link", value)
    if not value or "\0" in value:
        return Picture("missing", "")
    state: State = "missing"
    for root in roots:
        try:
            file = (root / value).resolve()
            if not file.is_file():
                continue
        except (OSError, RuntimeError):  # a name that is too long, links in a circle
            continue
        if not any(file.is_relative_to(allowed) for allowed in roots):
            state = "outside"
            continue
        copy = _small_copy(file, size)
        return Picture("picture", copy) if copy else Picture("unreadable", "")
    return Picture(state, "")


def _small_copy(file: Path, size: int) -> str | None:
    """Read a picture and write it small, as JPEG on white; None if it cannot be read."""
    from PIL import Image, ImageOps

    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(file, formats=known) as picture:
            picture.draft("RGB", (2 * size, 2 * size))  # JPEG: decode only what is needed
            picture.thumbnail((size, size), reducing_gap=2)
            drawn = ImageOps.exif_transpose(picture).convert("RGBA")
    # A damaged file raises whatever its decoder came upon; it is a fault of this picture alone.
    except (OSError, ValueError, SyntaxError, ArithmeticError, LookupError, MemoryError):
        return None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    paper = Image.new("RGB", drawn.size, PAPER)
    paper.paste(drawn, mask=drawn.getchannel("A"))
    buffer = io.BytesIO()
    paper.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
