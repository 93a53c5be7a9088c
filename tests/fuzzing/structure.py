"""Changes of a pool's structure, made with h5py: shapes, types, links, attributes, storage."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t, h5z

from fuzzing.seeds import C, D, N

TYPES: tuple[Any, ...] = (
    *("f2", "f4", "f8", ">f4", "i1", "i8", ">i2", "u8", "?", "S1", "S5", "c8", "V3", "g"),
    *([("a", "f4"), ("b", "i4")], ("f4", (2,)), h5py.string_dtype(), h5py.string_dtype("ascii")),
    *(h5py.vlen_dtype("f4"), h5py.vlen_dtype(h5py.string_dtype()), h5py.ref_dtype),
    *(
        h5py.regionref_dtype,
        h5py.enum_dtype({"NO": 0, "YES": 1}, "i1"),
        h5py.string_dtype(length=9),
    ),
)
SHAPES: tuple[Any, ...] = (
    *((), (0,), (1,), (N,), (N - 1,), (N + 1,), (N, C), (N, C + 1), (N, 0), (0, C), (C, N)),
    *((N, 2, C), (N, 0, C), (N, C, 1), (C,), (1, 1, 1, 1), (N, 1), (1 << 20,), (1 << 40, C)),
    *((N, 1 << 20), (1 << 33,), (1 << 15, 1 << 15)),
)
NUMBERS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e30, -1e38, 3.4e38, 1e300, 1e-45, 1.0, -1.0, 2**63)
WORDS = (
    *("", "s1", "a\nb", "\x1b[31mred", "\u202e", "é", "e\u0301", " s1 ", "none", "a+b", ".", ".."),
    *("x" * 300, "x" * 70_000, "predicted", "image", "ids", "1", "-1", "1e400", "%s{0}", "\u2028"),
)
RAW = (b"\xff\xfe", b"a\0b", b"\xc2\x9b31m", b"\xed\xa0\x80")
# What lies elsewhere has to be what nobody can write: HDF5 writes to external storage, too.
FILES = (
    *("side.h5", "side.bin", "pool.h5", ".", "", "../away.h5", "/dev/zero", "/proc/version"),
    *("gone", "pipe", "loop.h5", "x" * 5000, "%b.h5", "a\0b", "\x1b[2J"),
)

Random = random.Random


def datasets(handle: h5py.File) -> list[str]:
    """Names under which datasets may be put."""
    names = ["features/extra", "unimodal_logits/image", "coalition_logits/none", "metadata/split"]
    for top in list(handle):
        link = handle.get(top, getlink=True)
        if isinstance(link, h5py.HardLink) and isinstance(handle[top], h5py.Group):
            names += [f"{top}/{name}" for name in handle[top]]
        names.append(top)
    return names


def drop(handle: h5py.File, name: str) -> str:
    """Make room for something under a name."""
    if name in handle or handle.get(name, getlink=True) is not None:
        del handle[name]
    return name


def some(rng: Random, handle: h5py.File) -> str:
    return rng.choice(datasets(handle))


def delete(rng: Random, handle: h5py.File) -> None:
    drop(handle, some(rng, handle))


def retype(rng: Random, handle: h5py.File) -> None:
    name, dtype = some(rng, handle), rng.choice(TYPES)
    shape = getattr(handle.get(name), "shape", None) or (N, C)
    made = handle.create_dataset(drop(handle, name), shape, dtype)
    if rng.random() < 0.5:
        made[...] = np.ones(shape, np.int8)


def reshape(rng: Random, handle: h5py.File) -> None:
    name, how = some(rng, handle), {}
    shape, dtype = rng.choice(SHAPES), rng.choice(TYPES if rng.random() < 0.3 else TYPES[:8])
    if shape and 0 not in shape and rng.random() < 0.5:
        how = {"chunks": tuple(rng.choice((1, s, min(s, 1 << 12))) for s in shape)}
    if shape and rng.random() < 0.2:
        how["maxshape"] = (None,) * len(shape)
    if rng.random() < 0.3:
        how["fillvalue"] = rng.choice(NUMBERS)
    handle.create_dataset(drop(handle, name), shape, dtype, **how)


def link(rng: Random, handle: h5py.File) -> None:
    names = datasets(handle)
    target = rng.choice(
        [*names, *(f"/{n}" for n in names), "/", ".", "..", "/features/../id", "no"]
    )
    make = rng.choice((h5py.SoftLink, lambda t: h5py.ExternalLink(rng.choice(FILES), t)))
    handle[drop(handle, rng.choice([*names, "features", "metadata"]))] = make(target)


def ring(rng: Random, handle: h5py.File) -> None:
    """Give a group to itself, or a dataset a second name."""
    group = rng.choice(("/", "features", "metadata", "classifier"))
    handle[drop(handle, rng.choice(("features/loop", "metadata/loop", "metadata/id")))] = handle[
        group
    ]


def attribute(rng: Random, handle: h5py.File) -> None:
    name = rng.choice(("format", "format_version", "more", *WORDS[2:6]))
    owner = handle if rng.random() < 0.7 else handle[rng.choice(("features", "metadata"))]
    value = rng.choice(
        (
            *("mmselect-pool", "1.0", "1.9", "2.0", b"1.0", np.bytes_(b"1.0"), 1, 1.0, np.nan),
            *("x" * 60_000, np.zeros(900), ["1.0", "1.0"], h5py.Empty("f4"), h5py.Empty("S9")),
            *(np.array(["a", "b"], object), np.void(b"\0\1"), handle.ref, *WORDS[:6]),
        )
    )
    if name in owner.attrs:
        del owner.attrs[name]
    owner.attrs[name] = value
    for i in range(rng.choice((0, 0, 0, 20))):
        owner.attrs[f"more {i}"] = "x" * i


def filtered(rng: Random, handle: h5py.File) -> None:
    """Store chunks behind filters, known or not, and sometimes what no filter has written."""
    name, chunk = drop(handle, some(rng, handle)), (rng.choice((1, 5, N, 99)), C)
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_chunk(chunk)
    for _ in range(rng.choice((1, 1, 2, 3))):
        code = rng.choice((1, 1, 2, 3, 5, 6, 32000, 32000, 307, 32001, 32015, 4, 0x7FFF))
        values = tuple(rng.choice((0, 1, 2, 9, 255, 1 << 31)) for _ in range(rng.randrange(5)))
        properties.set_filter(code, h5z.FLAG_OPTIONAL, values)
    space = h5s.create_simple((N, C), (h5s.UNLIMITED, C))
    made = h5d.create(handle.id, name.encode(), h5t.IEEE_F32LE, space, properties)
    for start in range(0, N, chunk[0]):
        if rng.random() < 0.8:
            made.write_direct_chunk((start, 0), rng.randbytes(rng.choice((0, 7, 60, 400))))


def layout(rng: Random, handle: h5py.File) -> None:
    """Store a dataset in the header, from the start, or not at all; with a value for the rest."""
    name, properties = drop(handle, some(rng, handle)), h5p.create(h5p.DATASET_CREATE)
    properties.set_layout(rng.choice((h5d.COMPACT, h5d.CONTIGUOUS)))
    properties.set_alloc_time(rng.choice((h5d.ALLOC_TIME_EARLY, h5d.ALLOC_TIME_DEFAULT)))
    properties.set_fill_time(rng.choice((h5d.FILL_TIME_NEVER, h5d.FILL_TIME_ALLOC)))
    kinds = (h5t.IEEE_F32LE, h5t.STD_I64LE, h5t.C_S1, h5t.py_create(h5py.string_dtype(), True))
    kind, space = rng.choice(kinds), h5s.create_simple(rng.choice(((N, C), (N,))))
    made = h5py.Dataset(h5d.create(handle.id, name.encode(), kind, space, properties))
    if rng.random() < 0.5:
        made[...] = np.full(made.shape, "text") if made.dtype.kind in "OS" else np.ones(made.shape)


def virtual(rng: Random, handle: h5py.File) -> None:
    name, shape = some(rng, handle), rng.choice(((N, C), (N, C), (2 * N, C), (1 << 20, C)))
    made = h5py.VirtualLayout(shape, rng.choice(("f4", "f4", "f8", "i4", "?")))
    for _ in range(rng.randrange(1, 4)):
        a, b = sorted((rng.randrange(shape[0]), rng.randrange(1, shape[0] + 1)))
        place = rng.choice(("x", "/x", "multimodal_logits", name, "gone", "x%b"))
        extent = (None, C) if rng.random() < 0.2 else None
        source = h5py.VirtualSource(rng.choice(FILES[:9]), place, shape, maxshape=extent)
        # HDF5 takes the square of the number of gaps to open such a dataset
        cut = slice(a, max(b, a + 1), rng.choice((1, 1, 1, 2)) if shape[0] <= 2 * N else 1)
        made[cut] = source[cut]
    handle.create_virtual_dataset(drop(handle, name), made)


def external(rng: Random, handle: h5py.File) -> None:
    sizes = (0, 1, 4 * N * D, 1 << 40, h5s.UNLIMITED)
    pieces = [
        (rng.choice(FILES[:9]), rng.choice((0, 0, 7, 1 << 20)), rng.choice(sizes[:-1]))
        for _ in range(rng.choice((0, 0, 1, 2)))
    ]
    pieces.append((rng.choice(FILES[:9]), rng.choice((0, 0, 9)), rng.choice(sizes)))
    name, dtype = drop(handle, some(rng, handle)), rng.choice(TYPES[:8])
    handle.create_dataset(name, rng.choice(((N, D), (N,), (1 << 18,))), dtype, external=pieces)


def values(rng: Random, handle: h5py.File) -> None:
    """Put numbers that lie, or names that nobody can print, into what is there."""
    found = handle.get(some(rng, handle))
    if not isinstance(found, h5py.Dataset) or not found.shape or not found.size:
        return
    rows = rng.choice((slice(None), rng.randrange(len(found)), slice(0, 3)))
    if found.dtype.kind == "O":
        found[rows] = rng.choice((*WORDS, *RAW))
    elif found.dtype.kind == "f":
        with np.errstate(over="ignore"):
            found[rows] = np.array(rng.choice(NUMBERS)).astype(found.dtype)
    elif found.dtype.kind in "iu":
        found[rows] = rng.choice((0, 1, -1, C, 100))


def name(rng: Random, handle: h5py.File) -> None:
    """Give something another name: of another modality, of nothing known, of odd characters."""
    names = datasets(handle)
    words = [w for w in WORDS if w and w not in (".", "..")]
    group = rng.choice(("", "features/", "unimodal_logits/", "metadata/", "coalition_logits/"))
    target, source = group + rng.choice(words), handle.get(rng.choice(names), getlink=True)
    if isinstance(source, h5py.HardLink) and target not in handle:
        handle[target] = np.zeros((N, C), "f4")


def misplaced(rng: Random, handle: h5py.File) -> None:
    """Put a group, or a named type, where a dataset belongs; and a dataset for a group."""
    target = drop(handle, rng.choice([*datasets(handle), "features", "metadata"]))
    handle[target] = rng.choice((np.dtype("f4"), np.dtype("S3"), np.zeros(N)))
    if rng.random() < 0.5:
        del handle[target]
        handle.create_group(target)["x"] = 1


def scale(rng: Random, handle: h5py.File) -> None:
    """Attach dimension scales, as other programs do: references in attributes."""
    owner = handle.get(some(rng, handle))
    if isinstance(owner, h5py.Dataset) and owner.shape:
        if "scale" not in handle:
            handle["scale"] = np.arange(N)
            handle["scale"].make_scale("rows")
        owner.dims[0].attach_scale(handle["scale"])


def expand(rng: Random, handle: h5py.File) -> None:
    """Say that there are more rows than were ever written."""
    for each in [handle.get(n) for n in datasets(handle)]:
        if isinstance(each, h5py.Dataset) and each.maxshape and each.maxshape[0] is None:
            each.resize(rng.choice((0, 1, N + 1, 1 << 20, 1 << 45)), axis=0)


CHANGES: tuple[Callable[[Random, h5py.File], None], ...] = (
    *(delete, retype, reshape, link, ring, attribute, filtered, layout, virtual, external),
    *(values, values, name, misplaced, scale, expand),
)
