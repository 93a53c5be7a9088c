"""Write the emoji pool as files such as people have them: arrays, and a table of the samples.

    python examples/emoji_files.py [DIR]

The documentation packs these files. ``samples.csv`` has a label only where a sample is labeled.
``has_text.npy`` says that three tenths of the samples, drawn at random, have no text, and
``fused_lacking.npy`` is what the fused head says then: an absent modality is zeros to it.
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
        has_text = np.random.default_rng(0).random(pool.n) >= 0.3
        np.save(folder / "has_text.npy", has_text)
        fused = pool.constants["/classifier/bias"].astype(np.float64)
        for name, has in (("image", np.ones(pool.n)), ("text", has_text)):
            z = pool.columns[f"/features/{name}"][:] * has[:, None]
            fused = fused + z @ pool.constants[f"/classifier/weight/{name}"].T
        np.save(folder / "fused_lacking.npy", fused.astype(np.float32))
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
