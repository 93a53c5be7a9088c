"""CPU seconds and memory of whole commands over one large pool of realistic data, one thread each.

    python benchmarks/bench_commands.py --samples 180000 --classes 309
    python benchmarks/bench_commands.py --commands coreset,kmeans --dtype float16 --memory 4GB

Every command runs in a process of its own, whose anonymous memory is sampled: pages of the file are
the page cache's. Picks are named by a digest, so that runs with other `--memory` can be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from bench_facility import fitted
from coldstart_data import realistic
from common import machine

COMMANDS = {
    "embed": "embed {pool} --strategy badge",
    "badge": "select {pool} -s badge -b {many}",
    "badge --nearest": "select {pool} -s badge -b {many} --nearest {near}",
    "coreset": "select {pool} -s coreset -b {many}",
    "coreset --nearest": "select {pool} -s coreset -b {many} --nearest {near}",
    "kmeans": "select {pool} -s kmeans -b {many}",
    "mmcsal": "select {pool} -s mmcsal -b {few}",
    "activeft": "select {pool} -s activeft -b {few}",
}

RUN = """
import sys, time
from common import own_memory
from mmselect.cli import run
with own_memory() as peak:
    code = run(sys.argv[1:])
print(time.process_time(), peak[0], file=sys.stderr)
sys.exit(code)
"""
"""Runs a command and tells its CPU seconds and the peak of its own memory."""


def make_pool(path: Path, n: int, classes: int, dtype: str) -> None:
    """Write two modalities of 512 numbers and the logits of a fitted linear head."""
    features = dict(zip(("image", "text"), realistic(n, classes=classes), strict=True))
    label = np.random.default_rng(0).integers(0, classes, n)  # as the features were drawn
    some = slice(0, min(n, 8000))
    heads = fitted(label[some], {name: z[some] for name, z in features.items()}, classes)
    with h5py.File(path, "w") as handle:
        handle.attrs.update(format="mmselect-pool", format_version="1.1")
        for name, z in features.items():
            handle[f"features/{name}"] = z.astype(dtype)
        logits = sum(z @ heads[name] for name, z in features.items())
        handle["multimodal_logits"] = np.asarray(logits, dtype)


def measure(name: str, command: str, folder: Path, memory: str) -> str:
    """Run a command once; what it took, in words."""
    target = folder / "out"
    asked = [*command.split(), "--threads", "1", "--memory", memory, "-q", "-o", str(target)]
    done = subprocess.run(
        [sys.executable, "-c", RUN, *asked],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent,
        check=True,
    )
    cpu, peak = map(float, done.stderr.split()[-2:])
    picks = "" if name == "embed" else hashlib.sha256(target.read_bytes()).hexdigest()[:12]
    target.unlink()
    return f"{name:<18} {cpu:7.1f} s of CPU  {peak / 1e6:7.0f} MB  {picks}"


def main() -> None:
    """Make the pool, run each command, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=180_000)
    parser.add_argument("--classes", type=int, default=309)
    parser.add_argument("--dtype", default="float32", choices=("float16", "float32"))
    parser.add_argument("--budgets", default="5000,1000", help="large, and of mmcsal and activeft")
    parser.add_argument("--memory", default="256MB")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    many, few = given.budgets.split(",")
    print(machine())
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        pool = folder / "pool.h5"
        make_pool(pool, given.samples, given.classes, given.dtype)
        for name in given.commands.split(","):
            words = {"pool": pool, "near": folder / "near.csv", "many": many, "few": few}
            print(measure(name, COMMANDS[name].format(**words), folder, given.memory), flush=True)


if __name__ == "__main__":
    main()
