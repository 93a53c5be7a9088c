"""What a selection found out about a pool, kept in a folder for the next one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmselect.errors import OutputError
from mmselect.files import make_folder, reason, replacing

if TYPE_CHECKING:
    from mmselect.arrays import Array

Arrays = dict[str, "Array"]

KEY = "key"
"""Name of the array that holds what a file is kept by: it is what it says, under whatever name."""

DAMAGED = (
    *(EOFError, LookupError, AttributeError, TypeError, SyntaxError),
    *(MemoryError, NotImplementedError, RuntimeError),
)
"""What NumPy and zipfile raise, besides their own, for files that are damaged or none of theirs."""


@dataclass(frozen=True)
class Cache:
    """A folder of ``.npz`` files, named by a digest of all that what they hold depends on.

    A file is taken only if it is whole, by the checksums of its format, was kept by the same
    digest, and holds what the caller expects. Else it is computed anew, and the folder's files are
    replaced whole: any number of runs may share a folder.

    Attributes
    ----------
    folder : Path
        Made when something is kept.
    notices : list of str
        What the user should know, and no part of a result: what was damaged, or could not be kept.
    uses : list of Path
        Files that were asked for.
    """

    folder: Path
    notices: list[str] = field(default_factory=list)
    uses: list[Path] = field(default_factory=list)

    def kept(
        self,
        what: str,
        digest: str,
        valid: Callable[[Arrays], bool],
        compute: Callable[[], Arrays],
    ) -> Arrays:
        """Arrays that were kept, or that are computed now, and kept.

        Parameters
        ----------
        what : str
            Begins the name of the file.
        digest : str
            Of everything that the arrays depend on.
        valid : callable
            Whether arrays are such as `compute` returns.
        compute : callable
        """
        file = self.file(what, digest)
        self.uses.append(file)
        if file.exists():
            try:
                return self._read(file, digest, valid)
            except (OSError, ValueError) as error:
                said = reason(error) if isinstance(error, OSError) else str(error)
                self.notices.append(f"cache: {file}: not used: {said}; computed anew")
        found = compute()
        try:
            make_folder(self.folder)
            _write(file, digest, found)
        except OutputError as error:
            self.notices.append(f"cache: nothing is kept: {error}")
        return found

    def file(self, what: str, digest: str) -> Path:
        """Where what has this digest is kept."""
        return self.folder / f"{what}-{digest[:32]}.npz"

    def _read(self, file: Path, digest: str, valid: Callable[[Arrays], bool]) -> Arrays:
        import struct
        import zipfile
        import zlib

        import numpy as np

        try:
            with file.open("rb") as raw, np.load(raw, allow_pickle=False) as archive:
                if str(archive[KEY]) != digest:
                    raise ValueError("it is of something else")
                found = {name: archive[name] for name in archive.files if name != KEY}
        except (*DAMAGED, zipfile.BadZipFile, zlib.error, struct.error):
            raise ValueError("it is damaged, or no file of mmselect") from None
        if not valid(found):
            raise ValueError("it holds something else")
        return found


def _write(file: Path, digest: str, arrays: Mapping[str, Array]) -> None:
    import numpy as np

    told: dict[str, Any] = {KEY: np.array(digest), **arrays}
    with replacing(file) as target:
        np.savez(target, **told)
