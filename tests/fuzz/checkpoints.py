"""Checkpoints as targets: settings, weights and familiarity of a folder, and weights to convert."""

import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import safetensors.torch
import torch

from modeling_lung_srad import LungSoundPipeline, LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import load_checkpoint
from modeling_lung_srad.conversion import convert_checkpoint
from modeling_lung_srad.conversion.source import OWN_SETTINGS
from modeling_lung_srad.familiarity import FAMILIARITY_FILE, fit_familiarity, load_familiarity
from tests.conftest import tiny_config
from tests.fuzz.mutation import mutate_bytes, mutate_json
from tests.fuzz.session import Target
from tests.modeling_lung_srad.sounds import noise

MEL_BINS = 16
# Keys that transformers follows, beside those of this model.
CONFIG_KEYS = (
    *sorted(OWN_SETTINGS),
    *(
        "dtype",
        "torch_dtype",
        "quantization_config",
        "auto_map",
        "architectures",
        "num_labels",
        "id2label",
        "label2id",
    ),
    *(
        "problem_type",
        "transformers_weights",
        "tie_word_embeddings",
        "attn_implementation",
        "return_dict",
        "model_type",
    ),
    *("output_hidden_states", "chunk_size_feed_forward", "use_kernels", "transformers_version", "_name_or_path"),
)
PREPROCESSOR_KEYS = ("feature_extractor_type", "processor_class", "auto_map", "feature_size", "return_attention_mask")
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int8, torch.bool, torch.complex64)


def config(folder: Path) -> Target:
    """`config.json` of a checkpoint, which then answers."""
    return _settings(folder, "config.json", CONFIG_KEYS)


def preprocessor(folder: Path) -> Target:
    """`preprocessor_config.json` of a checkpoint, which then answers."""
    return _settings(folder, "preprocessor_config.json", PREPROCESSOR_KEYS)


def weights(folder: Path) -> Target:
    """`model.safetensors` of a checkpoint, which then answers."""
    _write_checkpoint(folder)
    file = folder / "model.safetensors"

    def run(data: bytes) -> None:
        file.write_bytes(data)
        _answer(folder)

    return Target([file.read_bytes()], _mutate_safetensors, run)


def familiarity(folder: Path) -> Target:
    """`familiarity.safetensors`."""
    statistics = np.random.default_rng(0).standard_normal((40, 2 * MEL_BINS // 4))
    file = fit_familiarity(statistics, [str(index % 8) for index in range(40)]).save(folder)
    (folder / "config.json").write_text("{}")
    log_mel = torch.randn(2, 10, MEL_BINS, generator=torch.Generator().manual_seed(0))

    def run(data: bytes) -> None:
        (folder / FAMILIARITY_FILE).write_bytes(data)
        loaded = load_familiarity(folder)
        assert loaded is not None
        assert np.isfinite(loaded.distance(log_mel)).all()

    return Target([file.read_bytes()], _mutate_safetensors, run)


def converted(folder: Path) -> Target:
    """A `.safetensors` file to convert."""
    file = folder / "source.safetensors"

    def run(data: bytes) -> None:
        file.write_bytes(data)
        _check_logits(convert_checkpoint(file, scan_backend="torch"))

    return Target([safetensors.torch.save(_original_weights())], _mutate_safetensors, run)


def converted_pickle(folder: Path) -> Target:
    """A `.pth` file to convert: a state dict whose names, shapes and types are changed, or the bytes of the file."""
    file = folder / "source.pth"

    def run(data: bytes) -> None:
        file.write_bytes(data)
        _check_logits(convert_checkpoint(file, scan_backend="torch"))

    def mutate(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
        if random.random() < 0.3:
            return mutate_bytes(data, corpus, random)
        return _pickled(_change_weights(dict(_original_weights()), random))

    return Target([_pickled(_original_weights()), _pickled({"model": _original_weights()})], mutate, run)


def _settings(folder: Path, name: str, keys: Sequence[str]) -> Target:
    _write_checkpoint(folder)
    file = folder / name

    def run(data: bytes) -> None:
        file.write_bytes(data)
        _answer(folder)

    def mutate(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
        return mutate_json(data, corpus, random, keys)

    return Target([file.read_bytes()], mutate, run)


def _answer(folder: Path) -> None:
    """Loads a checkpoint and classifies one second with it."""
    model, feature_extractor = load_checkpoint(folder)
    result = LungSoundPipeline(model=model, feature_extractor=feature_extractor)(
        {"raw": noise(1.0), "sampling_rate": 16000}
    )
    for segment in result["timeline"]:
        assert abs(sum(segment["probabilities"].values()) - 1) < 1e-3


def _write_checkpoint(folder: Path) -> None:
    torch.manual_seed(0)
    LungSradForAudioClassification(_config()).save_pretrained(folder)
    LungSradFeatureExtractor(num_mel_bins=MEL_BINS, cycle_seconds=0.5, num_frames=48).save_pretrained(folder)


def _config():
    return tiny_config(
        dims=(4, 6), depths=(1, 1), gaussian_stage=1, gaussian_blocks=(0,), num_mel_bins=MEL_BINS, scan_backend="torch"
    )


@functools.cache
def _original_weights() -> dict[str, torch.Tensor]:
    """Weights by the names of the original networks."""
    torch.manual_seed(0)
    state = LungSradForAudioClassification(_config()).state_dict()
    return {name.removeprefix("lung_srad."): tensor for name, tensor in state.items()}


def _check_logits(model: LungSradForAudioClassification) -> None:
    logits = model(torch.zeros(1, 32, model.config.num_mel_bins)).logits
    assert logits.shape == (1, model.config.num_labels)


def _pickled(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _mutate_safetensors(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    """Changes the JSON header, the numbers behind it, or any bytes."""
    length = int.from_bytes(data[:8], "little")
    kind = random.random()
    if kind < 0.3 or not 0 < length <= len(data) - 8:
        return mutate_bytes(data, corpus, random)
    header, body = data[8 : 8 + length], data[8 + length :]
    if kind < 0.8:
        header = mutate_json(
            header, [header], random, ("__metadata__", "dtype", "shape", "data_offsets", "head.weight")
        )
    else:
        body = mutate_bytes(body, [body], random)
    return len(header).to_bytes(8, "little") + header + body


def _change_weights(state: dict[str, object], random: Random) -> object:
    for _ in range(random.randint(1, 4)):
        if not isinstance(state, dict) or not state:
            return state
        name = random.choice(list(state))
        tensor = state[name]
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            continue
        changes: tuple[Callable[[], object], ...] = (
            lambda tensor=tensor: tensor.to(random.choice(DTYPES)),
            lambda tensor=tensor: tensor.reshape(-1),
            lambda tensor=tensor: tensor[None],
            lambda tensor=tensor: torch.zeros([random.choice((0, 1, 2, 4, 7)) for _ in range(random.randint(0, 5))]),
            lambda tensor=tensor: tensor * float("nan"),
            lambda tensor=tensor: tensor.to_sparse(),
            lambda tensor=tensor: tensor.to("meta"),
            lambda tensor=tensor: random.choice((None, 1, "a", [], {}, [tensor])),
            lambda tensor=tensor: torch.zeros(1, dtype=torch.float64).expand(10**6, 10**6),
        )  # fmt: skip
        if (kind := random.random()) < 0.15:
            del state[name]
        elif kind < 0.4:
            state[_rename(name, random)] = state.pop(name)
        else:
            state[name] = random.choice(changes)() if tensor.numel() < 10**6 else None
    return random.choice((state, {"model": state}, {"state_dict": {"model": state}}, [state], {1: state}))


def _rename(name: str, random: Random) -> str:
    parts = name.split(".")
    place = random.randrange(len(parts))
    parts[place] = random.choice(("0", "3", "9", "10000", "module", "v", "", "blocks", "layers", "A_logs", "-1"))
    return ".".join(parts)
