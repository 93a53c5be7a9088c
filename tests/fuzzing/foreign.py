"""Files of other programs, which ``pack`` reads: spoilt in their bytes, and in their headers."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np

from fuzzing.seeds import D, N, numbers
from fuzzing.spoiling import spoil

WHOLE = "whole.npy"
PACK = ("pack", "-o", "made.h5")

FILES: Mapping[str, tuple[str, ...]] = {
    "a.npy": ("--features", "a=a.npy"),
    "b.npz": ("--features", "a=b.npz:x"),
    "c.safetensors": ("--features", "a=c.safetensors:x"),
    "d.csv": ("--features", f"a={WHOLE}", *("--id", "d.csv:id"), *("--label", "d.csv:label")),
    "e.parquet": ("--features", "a=e.parquet:x", *("--id", "e.parquet:id")),
    "f.h5": ("--features", "a=f.h5:/features/image", *("--metadata", "text=f.h5:/id")),
}
"""What is spoilt, and what of it ``pack`` is asked for."""

VALUES = (b"0", b"-1", b"1", b"7", b"999999999999", b"18446744073709551615", b"4611686018427387904")
WORDS = (b"|O", b"<f8", b"|V9", b">f2", b"True", b"F32", b"I64", b"data_offsets", b"../x", b"nan")


def _csv(path: Path) -> None:
    rows = (f"s{i},class {i % 3},{i}" for i in range(N))
    path.write_text("\n".join(["id,label,number", *rows, ""]))


def _safetensors(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.ones((N, D), np.float32), "y": np.arange(N)}, path)


def _parquet(path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    x = [[float(i), 1.0] for i in range(N)]
    parquet.write_table(pa.table({"id": [f"s{i}" for i in range(N)], "x": x}), path)


def _hdf5(path: Path) -> None:
    with h5py.File(path, "w") as handle:
        for name, values in numbers().items():
            text = {"dtype": h5py.string_dtype()} if values.dtype.kind == "O" else {}
            handle.create_dataset(name, data=values, **text)


MAKE: Mapping[str, Callable[[Path], object]] = {
    "a.npy": lambda path: np.save(path, np.ones((N, D), np.float32)),
    "b.npz": lambda path: np.savez_compressed(path, x=np.ones((N, D)), y=np.arange(N)),
    "c.safetensors": _safetensors,
    "d.csv": _csv,
    "e.parquet": _parquet,
    "f.h5": _hdf5,
}
NEEDS = {"c.safetensors": "safetensors", "e.parquet": "pyarrow"}


def contents(folder: Path) -> dict[str, bytes]:
    """Whole files by name: those whose packages are installed."""
    found = {}
    for name, make in MAKE.items():
        if name not in NEEDS or find_spec(NEEDS[name]):
            make(folder / name)
            found[name] = (folder / name).read_bytes()
    return found


def make(rng: random.Random, whole: Mapping[str, bytes], folder: Path) -> list[str]:
    """Spoil one of the files, and put it into a folder; return the command that reads it."""
    name = rng.choice(sorted(whole))
    data = whole[name]
    if rng.random() < 0.5:
        data = rewritten(rng, data)
    if rng.random() < 0.6:
        data = spoil(rng, data)
    (folder / name).write_bytes(data)
    np.save(folder / WHOLE, np.ones((N, D), np.float32))
    more = [] if rng.random() < 0.8 else ["--link"]
    return [*PACK, *FILES[name], *more]


def rewritten(rng: random.Random, data: bytes) -> bytes:
    """Write other numbers, or other words, into what can be read of a file's header."""
    head, rest = data[:600], data[600:]
    found = list(re.finditer(rb"\d+|[<>|][a-z]\d|[A-Za-z_]{2,}", head))
    for match in rng.sample(found, min(len(found), rng.choice((1, 1, 2)))):
        new = rng.choice(VALUES if match[0].isdigit() else WORDS)
        if rng.random() < 0.7:  # of the same length, so that what stands behind it stays in place
            new = new[: len(match[0])].ljust(len(match[0]))
        return head[: match.start()] + new + head[match.end() :] + rest
    return data
