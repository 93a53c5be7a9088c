"""Files that are no pools: how to make a pool of them."""

from __future__ import annotations

import shlex
from pathlib import Path

KEYS = {
    **dict.fromkeys((".npy", ".txt", ""), ""),
    **dict.fromkeys((".npz", ".safetensors", ".pt", ".pth"), "KEY"),
    **dict.fromkeys((".csv", ".tsv", ".parquet", ".pq"), "COLUMN"),
    **dict.fromkeys((".h5", ".hdf5"), "/PATH"),
    ".h5ad": "obsm/KEY",
    ".h5mu": "MODALITY/obsm/KEY",
}
"""What follows a file's name where it holds several arrays, by extension; of folders, nothing."""


def how_to_pack(path: Path) -> str:
    """Say which command makes a pool of a file; nothing for files that cannot be packed.

    Examples
    --------
    >>> how_to_pack(Path("clip.npz"))
    '; to make a pool of it: mmselect pack -o pool.h5 --features NAME=clip.npz:KEY'
    """
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix not in KEYS or (not suffix and not path.is_dir()):
        return ""
    key = f":{KEYS[suffix]}" if KEYS[suffix] else ""
    source = shlex.quote(f"NAME={path}{key}")
    return f"; to make a pool of it: mmselect pack -o pool.h5 --features {source}"
