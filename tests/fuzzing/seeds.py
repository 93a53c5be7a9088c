"""The whole pools that inputs are made from: small, and stored in every way that HDF5 has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

N, C, D = 12, 3, 3
POOL = "pool.h5"


def numbers(n: int = N) -> dict[str, np.ndarray]:
    """Every dataset of the format, for two modalities."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    return {
        "id": np.array([f"s{i}" for i in range(n)], object),
        "features/image": floats(n, D),
        "features/text": floats(n, D),
        "unimodal_logits/image": floats(n, C),
        "unimodal_logits/text": floats(n, C),
        "multimodal_logits": floats(n, C),
        "classifier/weight/image": floats(C, D),
        "classifier/weight/text": floats(C, D),
        "classifier/bias": floats(C),
        "dropout_logits": floats(n, 2, C),
        "label": rng.integers(0, C, n),
        "labeled": np.arange(n) % 4 == 0,
        "class_names": np.array([f"class {i}" for i in range(C)], object),
        "metadata/loss": rng.random(n),
        "metadata/caption": np.array([f"caption {i}" for i in range(n)], object),
    }


def write(path: Path, how: Mapping[str, Any], **file: Any) -> None:
    """Write a pool whose datasets of a row per sample are stored in a certain way."""
    with h5py.File(path, "w", **file) as handle:
        handle.attrs.update({"format": "mmselect-pool", "format_version": "1.0"})
        for name, values in numbers().items():
            text = {"dtype": h5py.string_dtype()} if values.dtype.kind == "O" else {}
            own = {} if name.startswith("class") else {**how}
            if text:
                own.pop("fletcher32", None)  # HDF5 has no checksums of texts
            handle.create_dataset(name, data=values, **text, **own)


def plain(folder: Path) -> None:
    write(folder / POOL, {})


def newest(folder: Path) -> None:
    write(folder / POOL, {}, libver="latest")


def compressed(folder: Path) -> None:
    write(folder / POOL, {"compression": "gzip", "shuffle": True, "fletcher32": True})


def growing(folder: Path) -> None:
    write(folder / POOL, {"maxshape": None, "chunks": True}, libver="latest", track_order=True)


def apart(folder: Path) -> None:
    """Numbers in other files: behind links, in raw storage, as sources of a virtual dataset."""
    plain(folder)
    with h5py.File(folder / "side.h5", "w") as side:
        side["x"] = numbers()["multimodal_logits"]
    numbers()["features/image"].tofile(folder / "side.bin")
    with h5py.File(folder / POOL, "r+") as handle:
        for name in ("multimodal_logits", "features/image", "unimodal_logits/text"):
            del handle[name]
        handle["multimodal_logits"] = h5py.ExternalLink("side.h5", "/x")
        raw = [("side.bin", 0, 4 * N * D)]
        handle.create_dataset("features/image", (N, D), "f4", external=raw)
        layout = h5py.VirtualLayout((N, C), "f4")
        layout[: N // 2] = h5py.VirtualSource("side.h5", "x", (N, C))[: N // 2]
        layout[N // 2 :] = h5py.VirtualSource("side.h5", "x", (N, C))[N // 2 :]
        handle.create_virtual_dataset("unimodal_logits/text", layout)


SEEDS: tuple[Callable[[Path], None], ...] = (plain, newest, compressed, growing, apart)


def contents(folder: Path) -> list[dict[str, bytes]]:
    """Files of each seed, by name."""
    found = []
    for make in SEEDS:
        place = folder / make.__name__
        place.mkdir()
        make(place)
        found.append({file.name: file.read_bytes() for file in place.iterdir()})
    return found
