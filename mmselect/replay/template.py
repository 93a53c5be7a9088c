"""A command of the user's, with places for what each training gets."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping

from mmselect.errors import UsageError, suggestion

PLACES = ("labeled", "pool", "out", "seed", "round", "previous", "dir", "slot")
NEEDED = ("labeled", "out")

_PLACE = re.compile(r"\$\{[^}]*\}|\{\{|\}\}|\{([A-Za-z_]+)\}")
"""A variable of the shell, which stays; a doubled brace, which stands for one; a place."""


def check_command(command: str) -> None:
    """Refuse a command that says nothing of what is labeled, or has places that there are not.

    Raises
    ------
    UsageError
        Also where a place stands between quotes, since what comes there is quoted already.

    Examples
    --------
    >>> check_command("python train.py {labeled} {out} --seed {sead}")
    Traceback (most recent call last):
    mmselect.errors.UsageError: train: expected one of {labeled}, {pool}, {out}, {seed}, {round},
    {previous}, {dir}, {slot}, found {sead}; did you mean 'seed'? ({{sead}} stands for {sead})
    """
    used = places_in(command)
    for name in used:
        if name not in PLACES:
            expected = f"expected one of {', '.join(f'{{{place}}}' for place in PLACES)}"
            near = f"{suggestion(name, PLACES)} ({{{{{name}}}}} stands for {{{name}}})"
            raise UsageError(f"train: {expected}, found {{{name}}}{near}")
    if missing := [name for name in NEEDED if name not in used]:
        wanted = " and ".join(f"{{{name}}}" for name in missing)
        raise UsageError(f"train: expected a command with {wanted}, found {command!r:.200}")
    if quoted := _quoted(command):
        said = f"found {{{quoted}}} in quotes; mmselect quotes what comes there"
        raise UsageError(f"train: expected places without quotes around them, {said}")


def places_in(command: str) -> list[str]:
    """Name the places of a command, each once.

    Examples
    --------
    >>> places_in("HOME=${HOME} python a.py {labeled} {out} {out}.log | awk '{{print}}'")
    ['labeled', 'out']
    """
    return list(dict.fromkeys(found[1] for found in _PLACE.finditer(command) if found[1]))


def fill(command: str, values: Mapping[str, object]) -> str:
    """Put values in their places, each quoted for the shell that will read it.

    Examples
    --------
    >>> fill("train {labeled} -o {out} --seed={seed}; echo {{x}}", {
    ...     "labeled": "my files/a.csv", "out": "b.h5", "seed": 3})
    "train 'my files/a.csv' -o b.h5 --seed=3; echo {x}"
    """

    def put(found: re.Match[str]) -> str:
        if found[1]:
            return quote(str(values[found[1]]))
        return {"{{": "{", "}}": "}"}.get(found[0], found[0])

    return _PLACE.sub(put, command)


def quote(value: str) -> str:
    """Quote a value for the shell of this system: ``sh``, or on Windows ``cmd``."""
    return subprocess.list2cmdline([value]) if os.name == "nt" else shlex.quote(value)


def _quoted(command: str) -> str | None:
    """Name the first place that stands between quotes."""
    inside, i = "", 0
    while i < len(command):
        found = _PLACE.match(command, i)
        if found and found[1] and inside:
            return found[1]
        character = command[i]
        if character == "\\" and inside != "'":
            i += 1
        elif inside and character == inside:
            inside = ""
        elif not inside and character in "'\"":
            inside = character
        i += len(found[0]) if found else 1
    return None
