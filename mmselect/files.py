"""Read lists of ids; write files so that a reader sees the old one or the whole new one."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmselect.errors import InputError, OutputError


def read_ids(source: str) -> list[str]:
    """Read ids, one per line, from a file or (``-``) from standard input; blank lines do not count.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {reason(error)}", file=source) from None
    text = raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    return [line for line in (row.removesuffix("\r") for row in text.split("\n")) if line]


def reason(error: OSError) -> str:
    """Say what the system says, without its number and the file's name."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


def check_targets(targets: Sequence[Path], sources: Sequence[str]) -> None:
    """Refuse to write over what is read, one result over another, or where there is no folder.

    Raises
    ------
    OutputError
        If a target is one of the sources, two are the same file, or one cannot be a file.
    """
    seen = {os.path.realpath(source): "the pool" for source in sources}
    for target in targets:
        real = os.path.realpath(target)
        if real in seen and not _is_device(target):
            raise OutputError(f"expected a file of its own, found {seen[real]}", file=str(target))
        _check_place(target)
        seen[real] = "another output"


def _is_device(path: Path) -> bool:
    """Whether it is written in place: a device, a pipe, or a file by its descriptor's name."""
    return str(path).startswith(("/dev/", "/proc/")) or (path.exists() and not path.is_file())


def _check_place(target: Path) -> None:
    if target.is_dir():
        raise OutputError("expected a file to write, found a folder", file=str(target))
    parent = Path(os.path.realpath(target)).parent
    if not _is_device(target) and not parent.is_dir():
        message = f"cannot be written: folder {str(parent)!r} does not exist"
        raise OutputError(message, file=str(target))


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it into place when the block ends well.

    A link is followed. A target that is no regular file (a device, a pipe) is written directly.
    Whatever ends the block early, an interrupt too, removes the temporary file and leaves the
    target as it was.

    Raises
    ------
    OutputError
        If the folder is missing, may not be written, or is full.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "picks.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("dog")
    >>> target.read_text()
    'dog'
    """
    _check_place(target)
    if _is_device(target):
        with writing(target):
            yield target
        return
    target = Path(os.path.realpath(target))
    temporary = _beside(target)
    try:
        with writing(target):
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(target: Path | str) -> Iterator[None]:
    """Turn the system's errors while writing `target` into an `OutputError` that names it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot be written: {reason(error)}", file=str(target)) from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises
    ------
    OutputError
        If it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _beside(target: Path) -> Path:
    """Make an empty file next to `target`, with the mode that `target` has or would get."""
    if target.exists() and not os.access(target, os.W_OK):
        raise OutputError("cannot be written: permission denied", file=str(target))
    with writing(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        mask = os.umask(0)
        os.umask(mask)
        mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~mask
        os.fchmod(handle, mode)
        os.close(handle)
    return Path(name)
