"""The ways into the project that take files from outside: audio, annotations, splits and configurations."""

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import yaml

from dataset_scripts.cycles import read_annotations
from dataset_scripts.icbhi_splits import read_split_file
from dataset_scripts.sprsound import EVENT_CLASSES, read_events
from modeling_lung_srad.audio import MIN_SECONDS, audio_duration, decode_source
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.quality import assess_recording
from tests.fuzz import arrays, checkpoints
from tests.fuzz.mutation import mutate_bytes, mutate_json, mutate_text
from tests.fuzz.session import Target
from tests.modeling_lung_srad.sounds import OF_PHONES, encoded, noise, recorded
from training.configuration import CONFIGS, expand_seeds, read_configuration

SECONDS = 0.25
UNCOMPRESSED = (
    *((kind, "PCM_16", 4000) for kind in ("WAV", "RF64", "AIFF", "AU", "CAF", "W64")),
    *(("WAV", depth, 4000) for depth in ("PCM_U8", "FLOAT", "IMA_ADPCM", "ULAW")),
    ("WAVEX", "PCM_24", 4000),
)
ICBHI = b"0.036\t0.579\t0\t0\n0.579\t2.45\t1\t0\n2.45\t3.893\t0\t1\n3.893\t5.793\t1\t1\n"
AUDACITY = b"0.5\t1.5\tcrackle\n\\\t100.0\t900.0\n1.5\t3.0\twheeze\n3.0\t4.0\tcough\n"
RAVEN = (
    b"Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tLabel\n"
    b"1\tWaveform 1\t1\t0.5\t1.5\t0.0\t1000.0\tcrackle\n1\tSpectrogram 1\t1\t0.5\t1.5\t0.0\t1000.0\tcrackle\n"
    b"2\tSpectrogram 1\t1\t2.0\t3.0\t0.0\t1000.0\tnormal\n"
)
SPRSOUND = {
    "record_annotation": "DAS",
    "event_annotation": [
        {"start": "120", "end": "1850", "type": "Normal"},
        {"start": 1900, "end": 3100.5, "type": "Fine Crackle"},
    ],
}
SPLIT = b"101_1b1_Al_sc_Meditron\ttest\n102_1b1_Ar_sc_Meditron.wav train\n226_1b1_Pl_sc_LittC2SE\ttrain\n"
WORDS = (
    *("0", "1", "0.5", "-1", "1e3", "nan", "inf", "1e400", "", " ", "\\", "crackle", "both", "Begin Time (s)"),
    *("End Time (s)", "Label", "train", "test", "TRAIN", "101_1b1_Al_sc_Meditron", "a" * 500, "1" * 5000),
    *("\0", "1_0", "\u0661"),
)  # fmt: skip


def audio(*kinds: tuple[str, str | None, int]) -> Callable[[Path], Target]:
    """Decoding of formats of libsndfile (name, subtype, rate), and the quality flags of what comes out."""
    return lambda folder: _decoding(folder, [encoded(noise(SECONDS, kind[2]), *kind) for kind in kinds])


def audio_of_phones(folder: Path) -> Target:
    """The same for the formats that FFmpeg decodes."""
    kinds = (*OF_PHONES, ("mp4", "alac", 8000))
    return _decoding(folder, [recorded(*kind, length=SECONDS) for kind in kinds])


def _decoding(folder: Path, contents: list[bytes]) -> Target:

    def run(data: bytes) -> None:
        with contextlib.suppress(InputError):
            assert 0 <= audio_duration(_written(folder / "a", data)) < np.inf
        source = decode_source(data)
        assert source.waveform.ndim == 1
        assert source.waveform.dtype == np.float32
        assert np.isfinite(source.waveform).all()
        assert len(source.waveform) >= MIN_SECONDS * source.sampling_rate
        assess_recording(source.waveform, source.sampling_rate)

    return Target(contents, mutate_bytes, run)


def annotations(folder: Path) -> Target:
    """ICBHI text, label tracks of Audacity, selection tables of Raven."""

    def run(data: bytes) -> None:
        for duration in (None, 5.0):
            for cycle in read_annotations(_written(folder / "a.txt", data), duration):
                assert 0 <= cycle.start < cycle.end <= (duration or np.inf)
                assert cycle.label in (None, 0, 1, 2, 3)

    return Target([ICBHI, AUDACITY, RAVEN], _text, run)


def split_file(folder: Path) -> Target:
    """The file of a split."""

    def run(data: bytes) -> None:
        assert set(read_split_file(_written(folder / "split.txt", data)).values()) <= {"train", "test"}

    return Target([SPLIT], _text, run)


def sprsound(folder: Path) -> Target:
    """Annotations of SPRSound."""

    def run(data: bytes) -> None:
        for cycle, kind in read_events(_written(folder / "a.json", data), 5.0):
            assert 0 <= cycle.start < cycle.end <= 5.0
            assert kind in EVENT_CLASSES

    return Target([json.dumps(SPRSOUND).encode()], mutate_json, run)


def configuration(folder: Path) -> Target:
    """Configurations of the trainer, in YAML and in JSON, which is YAML too."""
    names = ("smoke.yaml", "lung_srad_tiny.yaml", "two_databases.yaml", "teacher.yaml")
    texts = [(CONFIGS / name).read_text(encoding="utf-8") for name in ("base.yaml", *names)]
    (folder / "base.yaml").write_text(texts[0], encoding="utf-8")
    documents = [json.dumps(yaml.safe_load(text)).encode() for text in texts]
    keys = [*yaml.safe_load(texts[0]), *read_configuration(folder / "base.yaml")[1].to_dict()]

    def mutate(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
        if data.startswith(b"{"):
            return mutate_json(data, corpus, random, keys)
        return mutate_text(
            data, corpus, (*WORDS, "  ", "- ", "&a", "*a", "<<: *a", "!!python/object:os.system x"), random
        )

    def run(data: bytes) -> None:
        read_configuration(_written(folder / "run.yaml", data))

    return Target([*documents, *(text.encode() for text in texts)], mutate, run)


def overrides(folder: Path) -> Target:
    """Overrides on the command line, one a line."""
    base = CONFIGS / "smoke.yaml"
    seeds = [b"seed=1..3\nmodel.size=small", b"data.icbhi=/data\nlearning_rate=1e-3", b"model.config={dims: [8, 16]}"]
    words = (*WORDS, "seed", "=", "=null", "..", ".", "objective.mode=dual", "teacher.weight=0.1", "[1, 2", "{a: b}")

    def mutate(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
        return mutate_text(data.replace(b"=", b"\t=\t"), corpus, words, random).replace(b"\t", b"")

    def run(data: bytes) -> None:
        lines = data.decode("utf-8", errors="replace").split("\n")
        for run_overrides in expand_seeds(base, lines)[:2]:
            read_configuration(base, run_overrides)

    return Target(seeds, mutate, run)


def _text(data: bytes, corpus: Sequence[bytes], random: Random) -> bytes:
    return mutate_text(data, corpus, WORDS, random)


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def page(folder: Path) -> Target:
    """The page, in this process."""
    # Gradio is slow to import.
    from tests.fuzz.page import page

    return page(folder)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "audio_uncompressed": audio(*UNCOMPRESSED),
    "audio_flac": audio(("FLAC", None, 4000), ("FLAC", "PCM_24", 4000)),
    "audio_ogg": audio(("OGG", "VORBIS", 8000), ("OGG", "OPUS", 8000)),
    "audio_mp3": audio(("MP3", None, 16000), ("MP3", None, 44100)),
    "audio_of_phones": audio_of_phones,
    "annotations": annotations,
    "sprsound": sprsound,
    "split_file": split_file,
    "configuration": configuration,
    "overrides": overrides,
    "config": checkpoints.config,
    "preprocessor_config": checkpoints.preprocessor,
    "weights": checkpoints.weights,
    "familiarity": checkpoints.familiarity,
    "convert_safetensors": checkpoints.converted,
    "convert_pth": checkpoints.converted_pickle,
    "feature_extractor": arrays.extractor,
    "recording": arrays.recording,
    "page": page,
}
