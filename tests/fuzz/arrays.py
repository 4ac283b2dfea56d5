"""Arrays, tensors, lists and other things in place of a waveform."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.recording import load_recording
from tests.fuzz.session import Target

RATE = 16000
LENGTHS = (0, 1, 2, 3, 399, 400, 401, 1000, 9000)
FILLINGS = (0.0, 1.0, 1e-45, 1e30, -1e300, np.nan, np.inf, -np.inf)
NUMPY_TYPES = (*"?bBhHiIlLqQefdgFDG", "O", "S4", "U4", "M8[s]", "m8[s]", ">f4", ">i2", [("a", "f4")])
TORCH_TYPES = tuple(sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str))
OTHERS: tuple[Any, ...] = (
    None, True, 0, 1.5, "a.wav", "\0", b"", b"RIFF", {}, {"raw": None}, {0: [0.0]}, set(), (), [], [[]], [None], ["a"],
    [[0.0], [0.0, 1.0]], [1, "a"], [[[0.0]]], [{}], object(), len, range(1000), range(0), [True] * 500, [0] * 500,
    [10**400] * 500, [1 + 2j] * 500, [np.zeros(500), np.zeros(700)], [np.zeros(500), None], [torch.zeros(500), "a"],
    np.ma.masked_array(np.ones(500), mask=True), np.matrix(np.ones(500)), memoryview(b"abc"), bytearray(2000),
)  # fmt: skip
RATES: tuple[Any, ...] = (RATE,) * 12 + (None, 16000.0, "16000", 0, -1, float("nan"), True, np.int64(RATE), [RATE])


def extractor(folder: Path) -> Target:
    """The feature extractor, with three kinds of settings."""
    settings: tuple[dict[str, Any], ...] = (
        {},
        {"normalization": "dataset", "padding_mode": "zero", "num_frames": 200},
        {"normalization": "band", "floor_decibels": 40.0, "fft_length": 2048, "frame_seconds": 0.032},
    )
    extractors = [LungSradFeatureExtractor(cycle_seconds=0.5, num_mel_bins=16, **some) for some in settings]

    def run(data: bytes) -> None:
        random = Random(data)
        feature_extractor = random.choice(extractors)
        features = feature_extractor(
            _anything(random), random.choice(RATES), return_tensors=random.choice((None, "np", "pt"))
        )
        values = torch.as_tensor(features["input_values"]).detach().numpy()
        assert values.dtype == np.float32
        assert values.shape[1:] == (feature_extractor.num_frames, 16)
        assert np.isfinite(values).all()

    return Target([b"0"], _draw, run)


def recording(folder: Path) -> Target:
    """Whatever a program passes as a recording."""

    def run(data: bytes) -> None:
        random = Random(data)
        source = _anything(random)
        if random.random() < 0.5:
            source = {random.choice(("raw", "array", "bytes", "path", "file", "x")): source}
            source |= {"sampling_rate": random.choice(RATES)} if random.random() < 0.9 else {}
        loaded = load_recording(source)
        assert loaded.waveform.dtype == np.float32
        assert loaded.waveform.ndim == 1
        assert np.isfinite(loaded.waveform).all()

    return Target([b"0"], _draw, run)


def _draw(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    """Inputs are seeds from which a value is built."""
    return random.randbytes(8)


def _anything(random: Random) -> Any:
    kind = random.random()
    if kind < 0.15:
        return random.choice(OTHERS)
    array = _tensor(random) if kind < 0.5 else _array(random)
    if kind > 0.9 and array.ndim:
        return list(array)
    if kind > 0.85:
        return array.tolist()
    if kind > 0.8:
        return [array, _array(random), _tensor(random)][: random.randint(1, 3)]
    return array


def _shape(random: Random) -> tuple[int, ...]:
    shape = [random.choice(LENGTHS) for _ in range(random.choice((0, 1, 1, 1, 2, 2, 3)))]
    # At most one long axis: memory is not the question here.
    return tuple(min(length, 3) for length in shape[:-1]) + tuple(shape[-1:])


def _array(random: Random) -> np.ndarray:
    generator = np.random.default_rng(random.getrandbits(32))
    array = generator.standard_normal(_shape(random))
    if random.random() < 0.3 and array.size:
        array.flat[random.randrange(array.size)] = random.choice(FILLINGS)
    if random.random() < 0.1:
        array[...] = random.choice(FILLINGS)
    kind = random.random()
    if kind < 0.3 and array.ndim:
        return array[..., ::-1] if kind < 0.1 else array[..., ::2] if kind < 0.2 else array.T
    if kind < 0.6:
        with np.errstate(all="ignore"):
            return np.asarray(np.nan_to_num(array).astype(random.choice(NUMPY_TYPES)))
    return array.astype(np.float32) if np.abs(array).max(initial=0.0) < 1e30 else array


def _tensor(random: Random) -> torch.Tensor:
    tensor = torch.from_numpy(np.random.default_rng(random.getrandbits(32)).standard_normal(_shape(random)))
    if random.random() < 0.3:
        tensor = torch.where(tensor > 2, random.choice(FILLINGS), tensor)
    kind = random.random()
    if kind < 0.4:
        try:
            return tensor.to(random.choice(TORCH_TYPES))
        except (RuntimeError, TypeError):
            return tensor
    if kind < 0.45:
        return tensor.to_sparse()
    if kind < 0.5:
        return tensor.to("meta")
    if kind < 0.55:
        return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)
    return tensor.float().requires_grad_() if kind < 0.7 else tensor
