"""Files that the real libraries write; the rest of them are tried by the same script."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import mmselect

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import try_pack as real


@pytest.mark.parametrize("library", real.LIBRARIES)
def test_every_value_is_as_the_library_wrote_it(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    for said, arguments, wanted in real.LIBRARIES[library]():
        made = mmselect.pack("pool.h5", **arguments)
        assert real.compare(wanted, real.contents("pool.h5")) == "same values", said
        assert made.samples == real.N
