"""Build a large pool of two modalities from six sets of icons: drawing and name.

Some 21,500 icons of user interfaces and games. The image modality is the drawing, the text modality
its name and the other names that its set gives it. Features are what frozen encoders give, whole,
as most people have them: 1,704 and 384 numbers in float32. There are no labels, since the sets have
no classes in common: it is a pool to measure speed and cover on, not to replay strategies.

Of a set that draws everything in several styles one is taken: Tabler's and Bootstrap's outlines
without their filled twins, Phosphor's regular weight. Left out, too, is what its set has withdrawn.

Usage
-----
Run from the repository root (``npm`` must be on the path)::

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/build_icons_pool.py icons.h5

Sources and licences
--------------------
- Material Design Icons (Pictogrammers): Apache-2.0. Tabler Icons (Paweł Kuna), Phosphor Icons,
  Bootstrap Icons (The Bootstrap Authors): MIT. Lucide: ISC. Game-icons.net: CC BY 3.0. All from the
  npm packages ``@iconify-json/…``. Only vectors computed from the drawings are stored, and names.
- EfficientNet-Lite0 and all-MiniLM-L6-v2: Apache-2.0 (see ``build_emoji_pool.py``).
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from encoders import IMAGE_SIDE, encode_images, encode_texts, square
from PIL import Image
from pool_building import Arrays, Package, as_text, fetch, run

SETS = {
    "mdi": ("1.2.3", "ddd817a7213f91de51147943915c0cda8c8b818a53c92b5c068cfa9883c6d7ac"),
    "tabler": ("1.2.41", "3bf99af156d28d05568aff524a35ed1ba238df640a7835a5e02e1f8e439685f6"),
    "game-icons": ("1.2.4", "f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4"),
    "lucide": ("1.2.137", "e74db8c3a55fff55bc82de21268c4bced9f65ff10aacc0d5f3a395b0e93243c3"),
    "ph": ("1.2.2", "e3a582a047d9829fc7e8842c660d8065e598d1b68bb58cb68e75a1f1e5a614cc"),
    "bi": ("1.2.7", "86a7f213711c929169dbcd64318cd678a0845385156fc707401ba07cbde4da0d"),
}
TWINS = {
    "tabler": re.compile("-filled$"),
    "ph": re.compile("-(thin|light|bold|fill|duotone)$"),
    "bi": re.compile("-fill(-|$)"),
}
"""Names of what a set draws a second time."""

SIDE = 16  # of a drawing whose set does not say it
BLOCK = 1024  # drawings that are in memory together
CREDITS = (
    "Material Design Icons (Apache-2.0), Tabler, Phosphor and Bootstrap Icons (MIT), Lucide (ISC), "
    "Game-icons.net (CC BY 3.0), by the makers that these sets name. Only vectors computed from "
    "the drawings are stored, and names."
)


@dataclass(frozen=True)
class Icon:
    """One icon: its set, its name and others of it, and its drawing as SVG."""

    source: str
    names: tuple[str, ...]
    drawing: str

    @property
    def text(self) -> str:
        """What it is called, in words."""
        return ", ".join(name.replace("-", " ") for name in self.names)


def read_set(name: str, cache: Path) -> Iterator[Icon]:
    """Icons of a set in the order of their names."""
    version, digest = SETS[name]
    package = Package(
        "npm", f"@iconify-json/{name}", version, f"iconify-json-{name}-{version}.tgz", digest
    )
    with tarfile.open(fetch(package, cache)) as archive:
        file = archive.extractfile("package/icons.json")
        assert file is not None
        found = json.load(file)
    others: dict[str, list[str]] = {}
    for alias, what in found.get("aliases", {}).items():
        others.setdefault(what["parent"], []).append(alias)
    for key, icon in sorted(found["icons"].items()):
        if icon.get("hidden") or (name in TWINS and TWINS[name].search(key)):
            continue
        box = [icon.get(side, found.get(side, SIDE)) for side in ("width", "height")]
        drawing = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{icon.get("left", 0)} '
            f'{icon.get("top", 0)} {box[0]} {box[1]}" width="{IMAGE_SIDE}" '
            f'height="{IMAGE_SIDE}" color="black">{icon["body"]}</svg>'
        )
        yield Icon(name, (key, *sorted(others.get(key, ()))), drawing)


def draw(icon: Icon) -> Image.Image:
    """Render a drawing on white; no font of the machine is used, so that bytes do not differ."""
    import resvg_py

    picture = bytes(resvg_py.svg_to_bytes(svg_string=icon.drawing, skip_system_fonts=True))
    return square(Image.open(io.BytesIO(picture)))


def build(cache: Path) -> tuple[Arrays, dict[str, Any]]:
    """Every dataset of the pool, and the attributes of the file."""
    icons = [icon for name in SETS for icon in read_set(name, cache)]
    blocks = (icons[start : start + BLOCK] for start in range(0, len(icons), BLOCK))
    image = np.vstack([encode_images([draw(icon) for icon in block]) for block in blocks])
    arrays = {
        "features/image": image.astype(np.float32),
        "features/text": encode_texts([icon.text for icon in icons]).astype(np.float32),
        "id": as_text([f"{icon.source}/{icon.names[0]}" for icon in icons]),
        "metadata/name": as_text([icon.text for icon in icons]),
        "metadata/set": as_text([icon.source for icon in icons]),
    }
    return arrays, {"credits": CREDITS}


if __name__ == "__main__":
    run("Build a pool from six sets of icons.", build)
