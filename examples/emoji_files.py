"""Write the emoji pool as files such as people have them: arrays, and a table of the samples.

    python examples/emoji_files.py [DIR]

The documentation packs these files. ``samples.csv`` has a label only where a sample is labeled.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

import mmselect
from mmselect.demo import EMOJI

ARRAYS = {
    "image.npy": "/features/image",
    "text.npy": "/features/text",
    "fused.npy": "/multimodal_logits",
    "image_head.npy": "/unimodal_logits/image",
    "text_head.npy": "/unimodal_logits/text",
}
COLUMNS = ("name", "character", "vendor", "split")


def write_files(folder: Path) -> None:
    """Write all files into a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with mmselect.open_pool(EMOJI) as pool:
        for name, path in ARRAYS.items():
            np.save(folder / name, pool.columns[path][:])
        classes = [text.decode() for text in pool.constants["/class_names"]]
        (folder / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        labels = np.where(pool.labeled, pool.columns["/label"][:], -1)
        named = [classes[label] if label >= 0 else "" for label in labels]
        more = [[v.decode() for v in pool.columns[f"/metadata/{c}"][:]] for c in COLUMNS]
        rows = zip(pool.ids.text(range(pool.n)), named, *more, strict=True)
        with (folder / "samples.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("id", "label", *COLUMNS), *rows])


if __name__ == "__main__":
    write_files(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
