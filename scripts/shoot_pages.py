"""Make the pictures of pages in docs/images: what a browser shows of them.

    python scripts/shoot_pages.py [NAME ...]

Needs Chromium and Pillow. Plays a short replay for its report, which takes minutes.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

import mmselect
from mmselect.cli import run
from mmselect.demo import EMOJI

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))
from browser import browser  # noqa: E402

COLOURS = 128
PLAY = ["-s", "bmmal,badge,smem,random", "--seeds", "5", "--rounds", "4", "-q"]

SHOTS = {
    "look-light": ("look", 1280, 980, False, 1),
    "look-dark": ("look", 1280, 980, True, 1),
    "look-phone": ("look", 390, 1100, False, 1),
    "replay-report": ("replay", 1280, 1060, False, 1),
    "replay-report-phone": ("replay", 390, 1100, True, 1),
}
"""By name of the picture: page, width, height, whether in the dark, pixels of a point."""


def look_page(folder: Path) -> Path:
    page = folder / "look.html"
    mmselect.look(EMOJI, output=page, budget=60, where="split=train", map="tsne")
    return page


def replay_page(folder: Path) -> Path:
    run(["replay", str(EMOJI), *PLAY, "--report", str(folder), "-o", str(folder / "replay.txt")])
    return folder / "report.html"


PAGES = {"look": look_page, "replay": replay_page}


def small(png: bytes) -> bytes:
    """Write a picture with few colours, which a page has."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main(names: list[str]) -> None:
    wanted = {name: SHOTS[name] for name in names or SHOTS}
    with tempfile.TemporaryDirectory() as folder, browser() as tab:
        pages = {kind: PAGES[kind](Path(folder)) for kind in {shot[0] for shot in wanted.values()}}
        for name, (kind, width, height, dark, dense) in wanted.items():
            tab.open(pages[kind], width, height, dark, dense)
            time.sleep(1)  # pictures are decoded after the page is there
            target = IMAGES / f"{name}.png"
            tab.shot(target)
            target.write_bytes(small(target.read_bytes()))
            print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
