"""Build a pool of three modalities from the stamps of Tux Paint: picture, text, spoken text.

A stamp is a picture that children put into their paintings. With it come a sentence that names it,
translated and read aloud by volunteers, and a folder, which is the label here. The image modality
is the picture, the text modality the English sentence, the speech modality the recording of the
French sentence, the language that has the most recordings. Frozen encoders turn them into vectors,
PCA shortens these to 64 numbers. A stamp without a recording has a zero row in ``speech``, which
stands for the average recording; the column ``absent`` says so.

Usage
-----
Run from the repository root on Debian (``apt-get`` and ``dpkg-deb``; elsewhere put the ``.deb``
into the cache by hand)::

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/build_stamps_pool.py stamps.h5

Sources and licences
--------------------
- Tux Paint stamps, Debian package ``tuxpaint-stamps-default``: GPL-2 or later, copyright Bill
  Kendrick and the contributors that the package names.
- EfficientNet-Lite0 and all-MiniLM-L6-v2: Apache-2.0 (see ``build_emoji_pool.py``).
- Speech embedding by Google, by way of ``openwakeword`` 0.4.0: Apache-2.0. The wake word models in
  the same wheel are not used.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from encoders import (
    as_features,
    encode_images,
    encode_speech,
    encode_texts,
    reduce,
    reduce_present,
    square,
)
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

STAMPS = Package(
    "debian",
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
OPENWAKEWORD = Package(
    "pypi",
    "openwakeword",
    "0.4.0",
    "openwakeword-0.4.0-py3-none-any.whl",
    "2c353f49a35d384507403efde3db439353d8281a52d08a0e42a5b493e5145075",
)
ROOT = "./usr/share/tuxpaint/stamps/"
SPOKEN = "_desc_fr.ogg"
STYLES = {"cartoon", "00_symbols"}  # folders that say how a stamp is drawn, not what it shows
SMALLEST_CLASS = 20
CREDITS = (
    "Tux Paint stamps, copyright 2002-2022 Bill Kendrick and contributors, GPL-2 or later. Only "
    "vectors computed from pictures and recordings are stored, and the English descriptions."
)


@dataclass(frozen=True)
class Stamp:
    """One stamp: its path without ending, and the content of its files (empty: no such file)."""

    path: str
    picture: bytes
    text: str
    recording: bytes

    @property
    def folder(self) -> list[str]:
        """Folders it lies in, the outermost first."""
        return [part for part in self.path.split("/")[:-1] if part not in STYLES]


def read_stamps(files: dict[str, bytes]) -> list[Stamp]:
    """Every stamp by path, without the mirrored drawings of others.

    The first line of the text file is the English description.
    """
    files = {name.removeprefix(ROOT): content for name, content in files.items()}
    pictures = sorted((name for name in files if name.endswith((".svg", ".png"))), reverse=True)
    stamps = {}
    for name in pictures:  # where a stamp has both, the .png comes last and counts
        path = str(PurePosixPath(name).with_suffix(""))
        if not path.endswith("_mirror"):
            text = files.get(f"{path}.txt", b"").decode().partition("\n")[0].strip()
            stamps[path] = Stamp(path, files[name], text, files.get(path + SPOKEN, b""))
    return sorted(stamps.values(), key=lambda stamp: stamp.path)


def draw(picture: bytes) -> Image.Image:
    """Open or render the picture; no font of the machine is used, so that bytes do not differ."""
    import resvg_py

    if not picture.startswith(b"\x89PNG"):
        picture = bytes(
            resvg_py.svg_to_bytes(svg_string=picture.decode(), dpi=96, skip_system_fonts=True)
        )
    return square(Image.open(io.BytesIO(picture)))


def build(cache: Path) -> tuple[Arrays, dict[str, Any]]:
    """Every dataset of the pool, and the attributes of the file."""
    stamps = read_stamps(read_deb(fetch(STAMPS, cache), (".png", ".svg", ".txt", SPOKEN)))
    wheel = fetch(OPENWAKEWORD, cache)
    label, class_names = classes_of([stamp.folder for stamp in stamps], SMALLEST_CLASS)
    texts = without_class_names([stamp.text for stamp in stamps], class_names)
    spoken = np.array([bool(stamp.recording) for stamp in stamps])
    test = draw_test_groups(label, [stamp.text.lower() for stamp in stamps])

    recordings = [stamp.recording for stamp in stamps if stamp.recording]
    features, kept = as_features(
        {
            "image": reduce(encode_images([draw(stamp.picture) for stamp in stamps])),
            "speech": reduce_present(encode_speech(recordings, wheel), spoken),
            "text": reduce(encode_texts(texts)),
        }
    )
    arrays = {
        **features,
        **columns([stamp.path for stamp in stamps], label, class_names, test),
        "metadata/description": as_text([stamp.text for stamp in stamps]),
        "metadata/absent": as_text(["" if there else "speech" for there in spoken]),
    }
    return arrays, {"credits": CREDITS, **kept}


if __name__ == "__main__":
    run("Build a pool from the stamps of Tux Paint.", build)
