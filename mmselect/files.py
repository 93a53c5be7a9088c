"""Write files so that a reader sees the old one or the whole new one."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mmselect.errors import OutputError, UsageError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

LARGEST_CALL = 1 << 30
"""Bytes that one call reads or writes, where the system has no call for a place of a file."""

_SEEKING = threading.Lock()
"""Held between going to a place of a file and reading there, where the system cannot do both."""

_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def read_at(descriptor: int, size: int, place: int) -> bytes:
    """Read up to `size` bytes at a place of a file, whatever other threads read of it."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, place)
    with _SEEKING:  # Windows
        os.lseek(descriptor, place, os.SEEK_SET)
        return os.read(descriptor, size)


def read_into(descriptor: int, buffer: memoryview, place: int) -> int:
    """Fill a buffer from a place of a file; return how many bytes there were."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], place)
    found = read_at(descriptor, min(len(buffer), LARGEST_CALL), place)  # Windows
    buffer[: len(found)] = found
    return len(found)


def write_at(descriptor: int, data: memoryview, place: int) -> int:
    """Write at a place of a file; return how many bytes were written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, place)
    with _SEEKING:  # Windows
        os.lseek(descriptor, place, os.SEEK_SET)
        return os.write(descriptor, data[:LARGEST_CALL])


def begin_write_back(descriptor: int, place: int, size: int) -> None:
    """Let the system put on disk what was just written there, while more is being written.

    Linux does so with dirty pages of which it is told that nobody needs them, and keeps them.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # a hint
            os.posix_fadvise(descriptor, place, size, os.POSIX_FADV_DONTNEED)


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
        if real in seen and not _is_special(target):
            raise OutputError(f"expected a file of its own, found {seen[real]}", file=str(target))
        _check_place(target)
        seen[real] = "another output"


def _stream(path: Path) -> int | None:
    """Descriptor that a path names, such as 1 for ``/dev/stdout``, also through links."""
    for _ in range(40):  # links in a circle have no end
        name = os.path.normpath(Path.cwd() / path)
        if name in _STREAMS:
            return _STREAMS[name]
        ours = rf"/(?:dev|proc/(?:self|thread-self|{os.getpid()}))/fd/(\d+)"
        if found := re.fullmatch(ours, name):
            return int(found[1])
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def _is_special(path: Path) -> bool:
    """Whether it is written in place: an open descriptor, a device or a pipe."""
    return _stream(path) is not None or (path.exists() and not path.is_file())


def _check_place(target: Path) -> None:
    with writing(target):
        if target.is_dir():
            raise OutputError("expected a file to write, found a folder", file=str(target))
        parent = Path(os.path.realpath(target)).parent
        if not _is_special(target) and not parent.is_dir():
            message = f"cannot be written: folder {str(parent)!r} does not exist"
            raise OutputError(message, file=str(target))


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """Yield a new file beside `target`; rename it into place when the block ends well.

    A link is followed. What is no regular file (a device, a pipe, ``/dev/stdout``) is written
    directly and cannot be read back. Whatever ends the block early, an interrupt too, removes the
    new file and leaves the target as it was.

    Raises
    ------
    OutputError
        If the folder is missing, may not be written, or is full.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> target = pathlib.Path(tempfile.mkdtemp()) / "picks.txt"
    >>> with replacing(target) as file:
    ...     _ = file.write(b"dog")
    >>> target.read_text()
    'dog'
    """
    _check_place(target)
    if _is_special(target):
        with writing(target), _in_place(target) as file:
            yield file
        return
    real = Path(os.path.realpath(target))
    old = real.stat() if real.exists() else None
    if old and not os.access(real, os.W_OK):
        raise OutputError("cannot be written: permission denied", file=str(target))
    temporary = real.with_name(f".mmselect-{os.urandom(8).hex()}")  # short, whatever the name
    try:
        with writing(target):
            with temporary.open("x+b") as file:
                if old:
                    temporary.chmod(stat.S_IMODE(old.st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(real)
    except BaseException:
        with contextlib.suppress(OSError):  # what ended the block is what to tell
            temporary.unlink(missing_ok=True)
        raise


def _in_place(target: Path) -> BinaryIO:
    """Open a device or a pipe; a stream by its own descriptor, so that nothing in it is lost."""
    stream = _stream(target)
    if stream is None:
        return target.open("wb")
    for text in (sys.stdout, sys.stderr):
        if text is not None:
            text.flush()
    return os.fdopen(os.dup(stream), "wb")


@contextlib.contextmanager
def writing(target: Path | str) -> Iterator[None]:
    """Turn the system's errors while writing `target` into an `OutputError` that names it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot be written: {reason(error)}", file=str(target)) from error


PAGES = (".html", ".htm")


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless it is there.

    Raises
    ------
    UsageError
        If its name is that of a page, which whoever gives it expects to find there.
    OutputError
        If it cannot be made.
    """
    if folder.suffix.lower() in PAGES and not folder.is_dir():
        raise UsageError(f"{folder}: expected the name of a folder, found that of a page")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def locked(path: Path, busy: Callable[[], object] | None = None) -> Iterator[int]:
    """Hold a lock that the system takes back when all who hold it have ended; yield its descriptor.

    Who gets the descriptor, such as a command that is run, holds the lock too.

    Parameters
    ----------
    path : path
        The file that is locked; it is made if it is not there.
    busy : callable, optional
        Called again and again while another process holds the lock, to wait a moment.

    Raises
    ------
    OutputError
        If another process holds it, and there is no `busy`.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "lock"
    >>> with locked(path), locked(path):  # the second, be it in the same process
    ...     pass
    Traceback (most recent call last):
    mmselect.errors.OutputError: ...lock: expected no other process at work, found one
    """
    with path.open("ab") as file:
        while not _lock(file):
            if busy is None:
                raise OutputError("expected no other process at work, found one", file=str(path))
            busy()
        try:
            yield file.fileno()
        finally:
            _unlock(file)


def _lock(file: BinaryIO) -> bool:
    with contextlib.suppress(BlockingIOError, PermissionError):
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        return True
    return False


def _unlock(file: BinaryIO) -> None:
    """Let go at once, for whatever the command left running as well."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_UN)
    else:
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
