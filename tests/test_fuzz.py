"""Pools spoilt at random: every command ends well, or with one line. See the folder fuzzing.

MMSELECT_FUZZ_INPUTS sets how many are tried; ``python tests/fuzz.py`` tries them for hours.
"""

from __future__ import annotations

import os
import sys

import pytest
from fuzzing.fleet import fuzz

INPUTS = int(os.environ.get("MMSELECT_FUZZ_INPUTS", "300"))


@pytest.mark.usefixtures("unmeasured")  # limits of time and memory are for commands alone
@pytest.mark.skipif(sys.platform == "win32", reason="alarms and limits are those of POSIX")
def test_spoilt_pools() -> None:
    found = fuzz(seed=0, first=0, last=INPUTS, seconds=3600)
    assert not found.bad, found.text()
    assert found.inputs == INPUTS
    # the inputs are of every kind: whole enough to be used, and broken in structure and in numbers
    kinds = {"exit 0", "nothing wrong", "problems found", "FormatError", "SchemaError"}
    assert kinds <= found.kinds.keys(), found.text()
