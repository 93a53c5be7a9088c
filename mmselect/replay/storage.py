"""Finished runs as files, one per strategy and seed, so that a replay goes on after a stop."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from mmselect.errors import InputError
from mmselect.files import make_folder, reason, replacing
from mmselect.replay.rounds import Run


class Storage(NamedTuple):
    """Where finished runs are kept.

    Attributes
    ----------
    folder : path or None
        None: nowhere.
    key : str
        Digest of everything that a stored run must agree with.
    """

    folder: Path | None
    key: str

    def file(self, strategy: str, seed: int) -> Path:
        """Name the file of one run."""
        name = re.sub(r"[^A-Za-z0-9_.=-]+", "_", strategy)
        return (self.folder or Path()) / f"{name}-{seed}-{self.key}.json"

    def save(self, run: Run) -> None:
        """Write a run, whole or not at all."""
        if self.folder is None:
            return
        make_folder(self.folder)
        with replacing(self.file(run.strategy, run.seed)) as file:
            file.write(json.dumps({"key": self.key, **asdict(run)}).encode())

    def load(self, strategy: str, seed: int) -> Run | None:
        """Find a finished run.

        Raises
        ------
        InputError
            If something else stands in its place: that is no reason to play it again unasked.
        """
        file = self.file(strategy, seed)
        if self.folder is None or not file.exists():
            return None
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            same_key = content.pop("key") == self.key
            run = Run(**content)
            if not same_key or (run.strategy, run.seed) != (strategy, seed) or not run.rounds:
                raise ValueError
            return run
        except OSError as error:
            raise InputError(f"cannot be read: {reason(error)}", file=str(file)) from None
        except (ValueError, TypeError, KeyError, AttributeError):
            message = "expected a finished run, found something else; remove it to play it again"
            raise InputError(message, file=str(file)) from None


def digest(parts: dict[str, Any]) -> str:
    """Digest of what a stored run must agree with."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
