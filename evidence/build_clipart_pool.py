"""Build a pool of two modalities from the Open Clip Art Library: picture and title.

The library is some eight thousand drawings that people gave to the public domain, sorted into
folders, each with a title and sometimes a description in the maker's language. The image modality
is the drawing, the text modality title and description, the label the folder. Frozen encoders turn
both into vectors, PCA shortens these to 64 numbers.

Left out are drawings without a title, with a title that more than `LARGEST_SERIES` of them share
(icon themes, 1,375 computed stars, playing cards: the title names the series, not the drawing), in
a folder that says nothing of what they show, under another licence than the public domain, and
all but one of the copies of a drawing that lies in several folders.

Usage
-----
Run from the repository root on Debian (``apt-get`` and ``dpkg-deb``; elsewhere put the two ``.deb``
into the cache by hand)::

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/build_clipart_pool.py clipart.h5

Sources and licences
--------------------
- Open Clip Art Library 0.18, Debian packages ``openclipart-png`` (drawings) and
  ``openclipart-svg`` (titles): public domain.
- EfficientNet-Lite0 and all-MiniLM-L6-v2: Apache-2.0 (see ``build_emoji_pool.py``).
"""

from __future__ import annotations

import html
import io
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders import as_features, encode_images, encode_texts, reduce, square
from PIL import Image
from pool_building import (
    Arrays,
    Package,
    as_text,
    classes_of,
    columns,
    draw_test_groups,
    fetch,
    read_deb,
    run,
    without_class_names,
)

DRAWINGS = Package(
    "debian",
    "openclipart-png",
    "1:0.18+dfsg-19",
    "openclipart-png_1%3a0.18+dfsg-19_all.deb",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
)
TITLES = Package(
    "debian",
    "openclipart-svg",
    "1:0.18+dfsg-19",
    "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)
Image.MAX_IMAGE_PIXELS = None  # one drawing is enormous; the digest says that it is the right one
ROOT = "./usr/share/openclipart"
SAYS_NOTHING = {"special", "unsorted"}  # first folders
LARGEST_SERIES = 40  # drawings with one title
SMALLEST_CLASS = 40
NOISE = re.compile(r"^Clipart by [^-]+ - |\S+@\S+|HASH\(\w*\)|_")  # makers, addresses, slips
CREDITS = (
    "Open Clip Art Library 0.18, public domain, by the makers that its files name. Only vectors "
    "computed from the drawings are stored, and titles."
)


@dataclass(frozen=True)
class Drawing:
    """One drawing: its path without ending, title, description, licence, picture (PNG)."""

    path: str
    title: str
    description: str
    licence: str
    picture: bytes

    @property
    def folder(self) -> list[str]:
        """Folders it lies in, the outermost first."""
        return self.path.split("/")[:-1]

    @property
    def series(self) -> str:
        """Title without digits and signs, the same for ``wheel 1`` and ``Wheel-2``."""
        return " ".join(re.findall(r"[^\W\d_]+", self.title.lower()))


def clean(text: str | None) -> str:
    return " ".join(NOISE.sub(" ", html.unescape(text or "")).split())


def read_drawing(path: str, svg: bytes, png: bytes) -> Drawing:
    """Read title, description and licence from the metadata inside the SVG file."""
    work: dict[str, str | None] = {}
    licence = ""
    for element in ET.fromstring(svg).iter():
        name = element.tag.rpartition("}")[2]
        if name == "Work":
            work = {child.tag.rpartition("}")[2]: child.text for child in element}
        elif name == "license":
            licence = " ".join(element.attrib.values())
    return Drawing(path, clean(work.get("title")), clean(work.get("description")), licence, png)


def read_drawings(svgs: dict[str, bytes], pngs: dict[str, bytes]) -> list[Drawing]:
    """Every drawing by path, without those that the module's text says are left out."""
    paths = sorted(name.removeprefix(f"{ROOT}/svg/").removesuffix(".svg") for name in svgs)
    drawings = [
        read_drawing(path, svgs[f"{ROOT}/svg/{path}.svg"], pngs[f"{ROOT}/png/{path}.png"])
        for path in paths
    ]
    size = Counter(drawing.series for drawing in drawings)
    kept = [
        drawing
        for drawing in drawings
        if "public" in drawing.licence.lower()
        and drawing.series
        and size[drawing.series] <= LARGEST_SERIES
        and drawing.folder[0] not in SAYS_NOTHING
    ]
    return without_copies(kept)


def without_copies(drawings: Sequence[Drawing]) -> list[Drawing]:
    """One drawing for each picture, that in the deepest folder, and of these the first by path."""
    seen: dict[bytes, Drawing] = {}
    for drawing in sorted(drawings, key=lambda one: (-len(one.folder), one.path)):
        seen.setdefault(drawing.picture, drawing)
    return sorted(seen.values(), key=lambda one: one.path)


def build(cache: Path) -> tuple[Arrays, dict[str, Any]]:
    """Every dataset of the pool, and the attributes of the file."""
    svgs = read_deb(fetch(TITLES, cache), (".svg",))
    drawings = read_drawings(svgs, read_deb(fetch(DRAWINGS, cache), (".png",)))
    label, class_names = classes_of([drawing.folder for drawing in drawings], SMALLEST_CLASS)
    texts = [f"{drawing.title}. {drawing.description}" for drawing in drawings]
    pictures = [square(Image.open(io.BytesIO(drawing.picture))) for drawing in drawings]
    test = draw_test_groups(label, [drawing.series for drawing in drawings])
    features, kept = as_features(
        {
            "image": reduce(encode_images(pictures)),
            "text": reduce(encode_texts(without_class_names(texts, class_names))),
        }
    )
    arrays = {
        **features,
        **columns([drawing.path for drawing in drawings], label, class_names, test),
        "metadata/title": as_text([drawing.title for drawing in drawings]),
    }
    return arrays, {"credits": CREDITS, **kept}


if __name__ == "__main__":
    run("Build a pool from the Open Clip Art Library.", build)
