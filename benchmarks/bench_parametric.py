"""MMCSAL's optimisation against the naive NumPy form and, where torch is installed, autograd.

    python benchmarks/bench_parametric.py [--size 20000x1000] [--rate 1e-2] [--full]

One thread, CPU seconds, one run, everything from the same initial samples. The naive form computes
all products at every step; its steps all cost the same, so a few are timed (before and after the
fast run) and multiplied, unless --full asks for all of them. The loss of every variant is printed
next to the naive one's.
"""

from __future__ import annotations

import argparse
import resource
from itertools import pairwise
from statistics import median
from time import process_time

import numpy as np
from coldstart_data import clustered
from scipy.sparse import csr_array

from mmselect.core.features import as_modalities
from mmselect.core.joined import joined
from mmselect.core.parametric import parametric as subject
from mmselect.core.parametric.assignment import Assignment
from mmselect.engine import blas_threads

TAU, STEPS = 0.07, 300


def naive_steps(x, theta, offsets, rate, steps, k):
    """Yield the loss and the CPU seconds of each step: full products, full matrices."""
    n, m = len(x), len(offsets) - 1
    sharp = 1 / (m * TAU)
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for step in range(steps):
        began = process_time()
        owner, own = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.float32)
        for a in range(0, n, 4096):
            similar = x[a : a + 4096] @ theta.T
            owner[a : a + 4096] = similar.argmax(1)
            own[a : a + 4096] = similar[np.arange(len(similar)), owner[a : a + 4096]]
        between = theta @ theta.T * np.float32(sharp)
        np.fill_diagonal(between, -np.inf)
        top = between.max(1, keepdims=True)
        e = np.exp(between - top)
        total = e.sum(1, keepdims=True)
        p = e / total
        loss = -sharp * own.mean() + (top + np.log(total)).mean()
        sums = csr_array((np.ones(n, np.float32), (owner, np.arange(n))), (k, n)) @ x
        gradient = (sharp / k) * (p @ theta + p.T @ theta) - (sharp / n) * sums
        parts = theta.reshape(k, m, -1)
        every, row = parts.sum(0), parts.sum(1)
        pairs = k * (k - 1) * m * (m - 1) * TAU
        cross = (every.sum(0) ** 2).sum() - (every**2).sum() - (row**2).sum() + (parts**2).sum()
        loss -= cross / pairs
        pull = (every.sum(0) - every) - (row[:, None] - parts)
        gradient = gradient.astype(np.float32) - np.float32(2 / pairs) * pull.reshape(k, -1)
        for left, right in pairwise(offsets):
            point, part = theta[:, left:right], gradient[:, left:right]
            part -= (part * point).sum(1, keepdims=True) * point
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        now = 1e-6 + (rate - 1e-6) * (1 + np.cos(np.pi * step / STEPS)) / 2
        hat = np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8
        theta = (theta - now * (first / (1 - 0.9 ** (step + 1))) / hat).astype(np.float32)
        for left, right in pairwise(offsets):
            theta[:, left:right] /= np.linalg.norm(theta[:, left:right], axis=1, keepdims=True)
        yield float(loss), process_time() - began


def autograd_step(x, theta, offsets):
    """CPU seconds of one step with torch's autograd and Adam, or None without torch."""
    try:
        import torch
    except ImportError:
        print("torch is not installed: no autograd version")
        return None
    torch.set_num_threads(1)
    z, parameter = torch.from_numpy(x), torch.from_numpy(theta.copy()).requires_grad_()
    adam, m, k = torch.optim.Adam([parameter], lr=1e-2), len(offsets) - 1, len(theta)
    seconds = []
    for _ in range(2):
        began = process_time()
        parts = torch.nn.functional.normalize(parameter.reshape(k, m, -1), dim=2)
        unit = parts.reshape(k, -1)
        gap = (z @ unit.T / (m * TAU)).max(1).values.mean()
        between = (unit @ unit.T / (m * TAU)).masked_fill(
            torch.eye(k, dtype=torch.bool), -torch.inf
        )
        cross = sum(
            (parts[:, a] @ parts[:, b].T).fill_diagonal_(0).sum()
            for a in range(m)
            for b in range(m)
            if a != b
        ) / (k * (k - 1) * m * (m - 1) * TAU)
        loss = -gap + torch.logsumexp(between, 1).mean() - cross
        adam.zero_grad()
        loss.backward()
        adam.step()
        seconds.append(process_time() - began)
    return min(seconds)


def bench(n, k, rate, full):
    features = clustered(n)
    points = joined(as_modalities(features), unit=True)
    x, offsets = points[:], points.offsets
    initial = np.random.default_rng(0).choice(n, k, replace=False)
    print(f"\nn = {n:,}, k = {k:,}, Σd = {x.shape[1]:,}, Adam from {rate:g}, {STEPS} steps")
    timed = STEPS if full else 3
    naive = list(naive_steps(x, x[initial], offsets, rate, timed, k))
    products = [0]
    plain_update = Assignment.update

    def update(self, theta):
        found = plain_update(self, theta)
        products[0] = self.compared
        return found

    Assignment.update = update
    began = process_time()
    fast = subject.parametric(features, k, np.random.default_rng(0), rate=rate)
    adam_seconds = process_time() - began
    compared = products[0] / n
    began = process_time()
    soon = subject.parametric(features, k, np.random.default_rng(0), solver="lbfgs")
    lbfgs_seconds = process_time() - began
    again = naive if full else list(naive_steps(x, x[initial], offsets, rate, timed, k))
    step = median(seconds for _, seconds in naive + again)
    total = sum(s for _, s in naive) if full else step * STEPS
    off = max(abs(t.total - loss) for t, (loss, _) in zip(fast.history, naive, strict=False))
    how = "all steps" if full else f"{2 * timed} steps timed, extrapolated"
    print(f"naive NumPy   {total:9.1f} s  ({step:.2f} s a step; {how})")
    print(
        f"adam, fast    {adam_seconds:9.1f} s  {total / adam_seconds:6.1f}x  "
        f"loss {fast.history[-1].total:.4f}; in the steps compared at most {off:.1e} off; "
        f"samples compared with all parameters {compared:.1f} times; "
        f"{fast.changed:,} picks are not initial samples, {fast.ownerless:,} without owner"
    )
    print(
        f"lbfgs         {lbfgs_seconds:9.1f} s  {total / lbfgs_seconds:6.1f}x  "
        f"loss {soon.history[-1].total:.4f} after {len(soon.history) - 1} steps with all samples; "
        f"{soon.changed:,} picks are not initial samples"
    )
    goal = fast.history[-1].total
    reached = [i for i, terms in enumerate(soon.history) if terms.total <= goal + 0.003]
    print(f"lbfgs within 0.003 of adam's last loss: {f'step {reached[0]}' if reached else 'never'}")
    if (seconds := autograd_step(x, x[initial], offsets)) is not None:
        print(f"autograd      {seconds * STEPS:9.1f} s  ({seconds:.2f} s a step)")
        print(f"adam, fast, over autograd: {seconds * STEPS / adam_seconds:.1f}x")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory of this process {peak:,.0f} MB (features {x.nbytes / 2**20:,.0f} MB)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", action="append", help="n x k, for example 20000x1000")
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--full", action="store_true", help="time all naive steps")
    options = parser.parse_args()
    with blas_threads(1):
        for size in options.size or ["5000x250", "20000x1000"]:
            n, k = (int(part) for part in size.split("x"))
            bench(n, k, options.rate, options.full)


if __name__ == "__main__":
    main()
