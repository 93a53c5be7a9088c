"""The worked example of a training inside a replay, with one strategy and one round."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from mmselect.demo import EMOJI
from mmselect.pool.checking import check
from mmselect.replay import replay

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_in_replay.py"


def test_two_encoders_are_trained_in_every_round(tmp_path: Path) -> None:
    command = f"{shlex.join([sys.executable, str(EXAMPLE)])} {{labeled}} {{pool}} {{out}}"
    train = f"{command} --seed {{seed}}"
    found = replay(EMOJI, ["smem"], rounds=1, budget=300, seeds=1, folder=tmp_path, train=train)
    first, last = found.curves("accuracy")["smem"][0]
    assert 0.3 < first < last
    assert found.settings["modalities"] == ["image", "text"]
    assert found.rows[1]["contribution.image"] > 0
    outs = sorted(tmp_path.glob("trainings/*/out.h5"))
    assert len(outs) == 2 and all(check([out]).problems == [] for out in outs)
    assert {log.read_text().strip() for log in tmp_path.glob("trainings/*/log.txt")} == {
        "trained on 300 samples",
        "trained on 600 samples",
    }
