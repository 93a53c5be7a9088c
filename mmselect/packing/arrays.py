"""Files of plain numbers: npy, folders of npy, npz, safetensors. No pickle is ever read."""

from __future__ import annotations

import json
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mmselect.errors import InputError, MmselectError, needing
from mmselect.packing.source import (
    Converted,
    Files,
    InOrder,
    Source,
    choose,
    opened,
    raw_part,
    widened,
)
from mmselect.pool.parts import ArrayPart, Part

BLOCK = 1 << 22
"""Bytes of an array that are unpacked at a time."""

LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a member of a zip file: the lengths of its name and of what follows the name."""

NUMBERS = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "BOOL": "?",
    "BF16": "<u2",
    "I8": "i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}
"""NumPy's names for the types of safetensors."""

BFLOAT16 = "two-byte values without a type are read as bfloat16"


def npy_layout(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Read the header of an npy file: shape, whether columns come first, type, and its length.

    Raises
    ------
    InputError
        If it is none, or holds Python objects or fields.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = readers[npy.read_magic(file)](file)
    except Exception:  # the header is text that NumPy reads as Python, and it may be anything
        raise InputError("expected an npy file, found something else", file=name) from None
    if dtype.hasobject:
        raise InputError(OBJECTS, file=name)
    if dtype.names:
        raise InputError(f"expected numbers, found fields {', '.join(dtype.names)}", file=name)
    if not shape or min(shape) < 0:
        raise InputError(f"expected a row per sample, found shape {shape}", file=name)
    return shape, fortran, dtype, file.tell()


OBJECTS = (
    "expected numbers or text, found Python objects, which are a pickle and are not read; "
    "save np.stack(list(x)), or x.astype(str) of text, again"
)


def open_npy(path: Path, key: str, files: Files) -> Source:
    """Open an npy file: its rows as they lie in the file."""
    with ExitStack() as brief:
        shape, fortran, dtype, offset = npy_layout(opened(path, brief), str(path))
    if key:
        raise InputError(
            f"expected no key, as an npy file holds one array, found {key!r}", file=str(path)
        )
    if fortran and len(shape) > 1:
        raw_part(path, key, (shape, dtype, offset), files)  # all its bytes are there
        mapped = np.memmap(path, dtype, "r", offset, shape, "F")
        return Source(path, key, (ArrayPart(str(path), key, shape, dtype, mapped),))
    return _raw(path, key, (shape, dtype, offset), files)


def _raw(
    path: Path, key: str, layout: tuple[tuple[int, ...], np.dtype[Any], int], files: Files
) -> Source:
    """Numbers as they lie in a file; two bytes without a type are bfloat16, as JAX saves it."""
    shape, dtype, offset = layout
    if dtype.kind == "V":
        if dtype.itemsize != 2:
            raise InputError(f"expected numbers, found {dtype}", file=str(path))
        return _bfloat16(
            Source(path, key, (raw_part(path, key, (shape, np.dtype("<u2"), offset), files),))
        )
    part = raw_part(path, key, layout, files)
    pieces = ((path, offset, prod(shape) * dtype.itemsize),) if dtype.kind in "fiu" else ()
    return Source(path, key, (part,), pieces=pieces)


def _bfloat16(source: Source) -> Source:
    part = source.parts[0]
    wide = Converted(part.file, part.path, part.shape, np.dtype("<f4"), part, widened)
    return Source(source.path, source.key, (wide,), notices=(f"{source.name}: {BFLOAT16}",))


def open_folder(path: Path, key: str, files: Files) -> Source:
    """Open a folder of npy files: its shards, by the numbers in their names."""
    paths = in_numeric_order(path, ".npy")
    shards = [open_npy(shard, key, files) for shard in paths]
    pieces = [piece for shard in shards for piece in shard.pieces]
    alike = len({shard.parts[0].dtype for shard in shards}) == 1
    return Source(
        path,
        key,
        tuple(part for shard in shards for part in shard.parts),
        pieces=tuple(pieces) if alike and all(shard.pieces for shard in shards) else (),
        notices=(*gap(paths), *(line for shard in shards for line in shard.notices)),
    )


def in_numeric_order(folder: Path, *suffixes: str) -> list[Path]:
    """Files of a folder with such an extension, `2` before `10`.

    Raises
    ------
    InputError
        If there are none.
    """
    found = [p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.name[:1] != "."]
    if not found:
        expected = f"expected a folder of {' or '.join(suffixes)} files, found none in it"
        raise InputError(expected, file=str(folder))
    return sorted(found, key=_numbers_first)


def _numbers_first(path: Path) -> list[tuple[bool, int, str]]:
    words = re.findall(r"\d+|\D+", path.name)
    return [(not w.isdigit(), int(w) if w.isdigit() else 0, w) for w in words]


def gap(shards: Sequence[Path]) -> tuple[str, ...]:
    """Say where a number is left out in the names of a folder's files, in numeric order.

    Examples
    --------
    >>> gap([Path("x/a-1.npy"), Path("x/a-2.npy"), Path("x/a-3.npy"), Path("x/a-5.npy")])
    ('x: nothing between a-3.npy and a-5.npy; is a file missing?',)
    >>> gap([Path("x/a-0.npy"), Path("x/a-100.npy"), Path("x/a-200.npy"), Path("x/b-0.npy")])
    ()
    """
    keys = [_numbers_first(path) for path in shards]
    steps = [_step(a, b) for a, b in pairwise(keys)]
    usual, often = Counter(filter(None, steps)).most_common(1)[0] if any(steps) else (0, 0)
    if often <= len(steps) / 2:
        return ()
    wide = [i for i, step in enumerate(steps) if step > usual]
    named = [f"nothing between {shards[i].name} and {shards[i + 1].name}" for i in wide[:1]]
    return tuple(f"{shards[0].parent}: {said}; is a file missing?" for said in named)


def _step(a: list[tuple[bool, int, str]], b: list[tuple[bool, int, str]]) -> int:
    """How far the one number is in which two names differ; 0 if they differ in anything else."""
    unlike = [(x, y) for x, y in zip(a, b, strict=False) if x[:2] != y[:2] or (x[0] and x != y)]
    if len(a) != len(b) or len(unlike) != 1 or unlike[0][0][0] or unlike[0][1][0]:
        return 0
    return unlike[0][1][1] - unlike[0][0][1]


def npz_keys(path: Path) -> list[str]:
    """Names of the arrays in an npz file."""
    with ExitStack() as files:
        names = _archive(path, files).namelist()
    return [name.removesuffix(".npy") for name in names]


def _archive(path: Path, files: ExitStack) -> zipfile.ZipFile:
    with _unzipping("expected an npz file", path):
        return files.enter_context(zipfile.ZipFile(opened(path, files)))


@contextmanager
def _unzipping(said: str, path: Path, key: str | None = None) -> Iterator[None]:
    """Turn whatever the standard library raises over a spoilt zip file into one error."""
    try:
        yield
    except MmselectError:
        raise
    except Exception as error:  # of a dozen kinds
        raise InputError(f"{said}: {error}", file=str(path), dataset=key) from None


def open_npz(path: Path, key: str, files: Files) -> Source:
    """Open an array of an npz file: in place if it is stored as it is, else unpacked in order."""
    keys = npz_keys(path)
    key, archive = choose(key, keys, path), _archive(path, files)
    if keys.count(key) > 1:
        raise InputError(
            "expected arrays of different names, found it twice", file=str(path), dataset=key
        )
    name = key if key in archive.namelist() else f"{key}.npy"
    info = archive.getinfo(name)
    with _unzipping("cannot be unpacked", path, key), archive.open(name) as member:
        shape, fortran, dtype, offset = npy_layout(member, f"{path}: {key}")
    if offset + prod(shape) * dtype.itemsize > info.file_size:
        found = f"expected numbers of shape {shape}, found {info.file_size:,} bytes"
        message = f"truncated: {found}"
        raise InputError(message, file=str(path), dataset=key)
    if fortran and len(shape) > 1:
        message = "expected rows one after the other, found columns; save np.ascontiguousarray(x)"
        raise InputError(message, file=str(path), dataset=key)
    if info.compress_type == zipfile.ZIP_STORED:
        with ExitStack() as brief:
            file = opened(path, brief)
            file.seek(info.header_offset)
            offset += info.header_offset + 30 + sum(LOCAL_HEADER.unpack(file.read(30)))
        return _raw(path, key, (shape, dtype, offset), files)
    typed = np.dtype("<u2") if dtype.kind == "V" and dtype.itemsize == 2 else dtype
    layout = (shape, typed, offset)
    part: Part = InOrder(
        str(path), key, shape, typed, lambda: _unpacked(archive, name, layout, path)
    )
    source = Source(path, key, (part,), in_order=True)
    return source if typed is dtype else _bfloat16(source)


def _unpacked(
    archive: zipfile.ZipFile,
    name: str,
    layout: tuple[tuple[int, ...], np.dtype[Any], int],
    path: Path,
) -> Iterator[NDArray[Any]]:
    """Unpack an array, block by block."""
    shape, dtype, offset = layout
    size = max(prod(shape[1:]) * dtype.itemsize, 1)
    rows = max(BLOCK // size, 1)
    with _unzipping("cannot be unpacked", path, name), archive.open(name) as member:
        member.read(offset)
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            block = np.frombuffer(member.read(count * size), np.uint8)
            yield block[: len(block) // size * size].view(dtype).reshape(-1, *shape[1:])


def safetensors_keys(path: Path) -> list[str]:
    """Names of the tensors in a safetensors file."""
    return sorted(_tensors(path)[0])


def _tensors(path: Path) -> tuple[dict[str, Any], int]:
    """Read types, shapes and places of the tensors, once safetensors has checked the file."""
    with needing(str(path), "safetensors", "safetensors"):
        from safetensors import SafetensorError, safe_open
    with ExitStack() as brief:
        file = opened(path, brief)
        try:
            with safe_open(path, "numpy"):
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"expected safetensors: {error}", file=str(path)) from None
    header.pop("__metadata__", None)
    return header, 8 + length


def open_safetensors(path: Path, key: str, files: Files) -> Source:
    """Open one tensor of a safetensors file, where it lies; bfloat16 becomes float32."""
    tensors, start = _tensors(path)
    key = choose(key, sorted(tensors), path, "tensors")
    about = tensors[key]
    if about["dtype"] not in NUMBERS:
        message = f"expected {', '.join(NUMBERS)}, found {about['dtype']}"
        raise InputError(message, file=str(path), dataset=key)
    if not about["shape"]:
        raise InputError("expected a row per sample, found one number", file=str(path), dataset=key)
    layout = (
        tuple(about["shape"]),
        np.dtype(NUMBERS[about["dtype"]]),
        start + about["data_offsets"][0],
    )
    source = _raw(path, key, layout, files)
    if about["dtype"] != "BF16":
        return source
    return Source(path, key, _bfloat16(source).parts)
