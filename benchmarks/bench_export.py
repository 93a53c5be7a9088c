"""How much ``export_pool`` adds to a bare forward loop over the same loader.

    python benchmarks/bench_export.py                     # CPU, one thread: CPU seconds
    python benchmarks/bench_export.py --device cuda       # wall time
    python benchmarks/bench_export.py --device cuda --rows 65536 --batch 256 --amp bfloat16

The model: patches of an image and tokens of a text, each through a small transformer, heads for
both, a linear head on both features. What is written: two features, two heads' logits, the fused
logits, labels, ids. The bare loop is the same model in eval mode without gradients over the same
loader; it keeps nothing. Medians of interleaved runs, after one run of each that is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import machine
from torch import nn

from mmselect.torch import export_pool


class Tower(nn.Module):
    """A linear embedding, transformer layers, the mean over the sequence."""

    def __init__(self, size: int, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, 8, 4 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.embed = nn.Linear(size, width)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, sequence: Any) -> Any:
        """Features (n, width) of sequences (n, length, size)."""
        return self.layers(self.embed(sequence)).mean(1)


class TwoTower(nn.Module):
    """Image and text, a head for each, and a linear head on both."""

    def __init__(self, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.image_encoder, self.text_encoder = Tower(768, width, layers), Tower(64, width, layers)
        self.image_head, self.text_head = nn.Linear(width, classes), nn.Linear(width, classes)
        self.fusion = nn.Linear(2 * width, classes)

    def forward(self, image: Any, text: Any) -> Any:
        """Fused logits."""
        image, text = self.image_encoder(image), self.text_encoder(text)
        self.image_head(image), self.text_head(text)
        return self.fusion(torch.cat([image, text], dim=1))


class Samples(torch.utils.data.Dataset[dict[str, Any]]):
    """Random patches and tokens: a few samples, again and again, so that loading is cheap."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.image, self.text = torch.randn(64, 49, 768), torch.randn(64, 20, 64)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> dict[str, Any]:
        here = {"image": self.image[row % 64], "text": self.text[row % 64]}
        return here | {"label": row % 7, "id": f"sample {row}"}


def bare(model: nn.Module, loader: Any, device: torch.device, amp: str | None) -> None:
    """Run the model over the loader and keep nothing."""
    kind = getattr(torch, amp) if amp else torch.bfloat16
    with torch.no_grad(), torch.autocast(device.type, kind, enabled=amp is not None):
        for batch in loader:
            image, text = (batch[k].to(device, non_blocking=True) for k in ("image", "text"))
            model(image, text)
    if device.type == "cuda":
        torch.cuda.synchronize()


def interleaved(
    runs: int, clock: Callable[[], float], functions: dict[str, Callable[[], Any]]
) -> dict[str, list[float]]:
    """Seconds of each run of each function, run in turn; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(runs + 1):
        for name, function in functions.items():
            started = clock()
            function()
            if round_:
                times[name].append(clock() - started)
    return times


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--classes", type=int, default=3129)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--amp", choices=["bfloat16", "float16"])
    parser.add_argument("--dtype", choices=["float16", "float32"])
    parser.add_argument("--folder", type=Path, help="where the pool goes; a temporary folder")
    options = parser.parse_args()
    torch.manual_seed(0)
    device, cuda = torch.device(options.device), options.device == "cuda"
    if not cuda:
        torch.set_num_threads(1)
    model = TwoTower(options.width, options.layers, options.classes).to(device).eval()
    loader = torch.utils.data.DataLoader(
        Samples(options.rows), options.batch, num_workers=options.workers, pin_memory=cuda
    )
    where = torch.cuda.get_device_name() if cuda else machine()
    print(f"{where}, PyTorch {torch.__version__}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "pool.h5"

        def export(**more: Any) -> None:
            export_pool(
                model,
                loader,
                path,
                features={"image": "image_encoder", "text": "text_encoder"},
                ids="id",
                labels="label",
                amp=options.amp,
                dtype=options.dtype,
                progress=False,
                **more,
            )

        heads = {"image": "image_head", "text": "text_head"}
        everything = {"unimodal_logits": heads, "classifier": "fusion"}
        functions: dict[str, Callable[[], Any]] = {
            "bare loop": lambda: bare(model, loader, device, options.amp),
            "features + logits": export,
            "and both heads": lambda: export(**everything),
            "and coalitions": lambda: export(**everything, coalitions=True),
        }
        clock = time.perf_counter if cuda else time.process_time
        times = interleaved(options.runs, clock, functions)
        size = path.stat().st_size
    base = statistics.median(times["bare loop"])
    print(f"n = {options.rows:,}, c = {options.classes:,}, the last pool {size / 1e6:.0f} MB")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        ratios = [s / b for s, b in zip(seconds, times["bare loop"], strict=True)]
        print(
            f"{name:<18} {middle:7.2f} s, {options.rows / middle:7.0f} rows/s, ratio "
            f"{middle / base:.3f} (single rounds {min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
