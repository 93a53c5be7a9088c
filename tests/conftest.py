"""Pools that the tests share, and a way to run the command line in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes: their threads would wait in line
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if hasattr(os, "sched_getaffinity"):  # the default; tests of threads ask for a number of them
        os.sched_getaffinity = lambda pid: {0}

import numpy as np
import pytest
from hypothesis import settings

import mmselect
from mmselect.cli import run
from mmselect.strategies import registry

settings.register_profile("mmselect", deadline=None)  # a busy machine is no failure
settings.load_profile("mmselect")

LISTENING = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
)
"""First lines of a program that hears Ctrl-C and SIGHUP even where the tests run under nohup."""


WITHOUT_EXTRAS = [
    name for name, record in registry.BUILT_IN.items() if name != "column:NAME" and not record.extra
]
"""Strategies that run everywhere; the others have tests of their own in ``torch_helper``."""

INSTALLED = [
    name for name, record in registry.BUILT_IN.items() if name != "column:NAME" and record.installed
]
"""Strategies that run here."""


class Result(NamedTuple):
    code: int
    out: str
    err: str


def arrays(n: int = 60, c: int = 5, seed: int = 0) -> dict[str, Any]:
    """Everything that `write_pool` takes, for a small pool with two modalities."""
    rng = np.random.default_rng(seed)

    def logits() -> np.ndarray:
        return (3 * rng.standard_normal((n, c))).astype(np.float32)

    d = {"image": 4, "text": 4}
    return {
        "ids": [f"s{i:03d}" for i in range(n)],
        "features": {m: rng.standard_normal((n, k)).astype(np.float32) for m, k in d.items()},
        "unimodal_logits": {"image": logits(), "text": logits()},
        "multimodal_logits": logits(),
        "classifier_weight": {m: rng.standard_normal((c, k)) for m, k in d.items()},
        "classifier_bias": np.zeros(c),
        "dropout_logits": rng.standard_normal((n, 3, c)).astype(np.float32),
        "labels": rng.integers(0, c, n),
        "labeled": np.arange(n) % 6 == 0,
        "class_names": [f"class {i}" for i in range(c)],
        "metadata": {"loss": rng.random(n), "caption": [f"a caption, no. {i}" for i in range(n)]},
    }


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    path = tmp_path / "pool.h5"
    mmselect.write_pool(path, **arrays())
    return path


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run([os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments])
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that a test starts run as they do elsewhere: without coverage."""
    for name in [name for name in os.environ if name.startswith("COV")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def few_penalties() -> Iterator[None]:
    """Let replays choose among three penalties in two folds: fits take most of their time."""
    from mmselect.replay import heads, plan

    with pytest.MonkeyPatch.context() as patch:
        for module in (heads, plan):
            patch.setattr(module, "C_GRID", (0.01, 0.1, 1.0))  # weak ones take the most steps
        patch.setattr(heads, "FOLDS", 2)
        yield
