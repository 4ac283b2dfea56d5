"""The page in the browser answers as the Python pipeline: features, quality, timeline and words."""

import io

import numpy as np
import pytest
import soundfile
import torch

from dataset_scripts.simulated import simulate_recording
from modeling_lung_srad import LungSradFeatureExtractor, load_pipeline
from modeling_lung_srad.audio import resample
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.recording import Recording
from space_demo.static.settings import page_settings

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
# Largest differences of probabilities, for the same samples and for two decoders.
# The page has float16 weights.
SAME_SAMPLES, OTHER_DECODER = 2e-3, 0.02


@pytest.fixture(scope="module")
def lung_sounds():
    return load_pipeline()


def simulated(seconds, rate, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, size=8 + seconds // 2).tolist()
    return simulate_recording(labels, rate, generator)[0][: round(seconds * rate)].astype(np.float32)


def noise(seconds, rate):
    return np.random.default_rng(0).normal(scale=0.05, size=round(seconds * rate)).astype(np.float32)


def encoded(waveform, rate, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate, **{"format": "WAV", "subtype": "PCM_16"} | options)
    return buffer.getvalue()


def stereo(waveform, other):
    return np.stack([waveform, other * waveform], axis=1)


def with_silence(waveform, rate):
    return np.concatenate([waveform[: 3 * rate], np.zeros(5 * rate, dtype=np.float32), waveform[3 * rate :]])


WAVS = {
    "4 kHz.wav": lambda: encoded(simulated(15, 4000), 4000),
    "8 kHz, three windows.wav": lambda: encoded(simulated(9, 8000, 1), 8000),
    "44.1 kHz.wav": lambda: encoded(simulated(6, 44100, 2), 44100),
    "stereo, 24 bit.wav": lambda: encoded(stereo(simulated(5, 48000, 3), 0.5), 48000, subtype="PCM_24"),
    "dead channel, float.wav": lambda: encoded(stereo(simulated(5, 8000, 4), 0.0), 8000, subtype="FLOAT"),
    "channels cancel, 32 bit.wav": lambda: encoded(stereo(simulated(5, 8000, 5), -1.0), 8000, subtype="PCM_32"),
    "8 bit.wav": lambda: encoded(simulated(5, 8000, 6), 8000, subtype="PCM_U8"),
    "odd rate, double, extensible.wav": lambda: encoded(
        simulated(5, 11025, 7), 11025, subtype="DOUBLE", format="WAVEX"
    ),
    "clipped.wav": lambda: encoded((9 * simulated(6, 8000, 8)).clip(-0.7, 0.7), 8000),
    "partly silent.wav": lambda: encoded(with_silence(simulated(8, 4000, 9), 4000), 4000),
    "faint.wav": lambda: encoded(1e-3 * simulated(5, 16000, 10), 16000),
    "short.wav": lambda: encoded(simulated(1, 8000, 11)[:4000], 8000),
    "low rate.wav": lambda: encoded(noise(4, 2000), 2000),
    "narrow.wav": lambda: encoded(resample(noise(4, 1600), 1600, 8000), 8000),
    "cut off.wav": lambda: encoded(simulated(8, 8000, 14), 8000)[:-9001],
    "length unknown.wav": lambda: encoded(simulated(5, 8000, 15), 8000).replace(
        (80000).to_bytes(4, "little"), b"\xff\xff\xff\xff"
    ),
    "two parts by the header.wav": lambda: encoded(simulated(5, 8000, 16), 8000).replace(
        (80000).to_bytes(4, "little"), (50000).to_bytes(4, "little")
    ),
}
OTHERS = {
    "lossless.flac": lambda: encoded(simulated(6, 4000, 20), 4000, format="FLAC"),
    "music.ogg": lambda: encoded(simulated(6, 8000, 21), 8000, format="OGG", subtype="VORBIS"),
    "speech.opus": lambda: encoded(simulated(6, 48000, 22), 48000, format="OGG", subtype="OPUS"),
    "music.mp3": lambda: encoded(simulated(6, 44100, 23), 44100, format="MP3", subtype="MPEG_LAYER_III"),
}


@pytest.fixture(scope="module")
def answered(visitor):
    """Content and answer of each recording, by its name."""
    contents = {name: make() for name, make in (WAVS | OTHERS).items()}
    visitor.choose(
        *({"name": name, "mimeType": "audio/wav", "buffer": data} for name, data in contents.items()),
    )
    results = visitor.results()
    return {name: (content, results[name]) for name, content in contents.items()}


@pytest.mark.parametrize("name", WAVS)
def test_answer_for_a_wav_file_is_that_of_python(answered, lung_sounds, name):
    content, found = answered[name]
    expected = lung_sounds(content)
    assert {**without_numbers(found), "file": None} == without_numbers(expected)
    assert largest_difference(found, expected) < SAME_SAMPLES
    assert found["duration"] == pytest.approx(expected["duration"], abs=1e-6)
    for mine, other in zip(found["quality"], expected["quality"], strict=True):
        assert mine["value"] == pytest.approx(other["value"], rel=1e-4)
        assert np.array(mine["spans"]) == pytest.approx(np.array(other["spans"]), abs=1e-6)


def test_the_recordings_have_every_flag(answered):
    flags = {flag["flag"] for name in WAVS for flag in answered[name][1]["quality"]}
    assert flags >= {
        "too_short", "silence", "clipping", "low_level", "narrow_bandwidth", "unfamiliar", "wrong_length",
        "one_channel",
    }  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_answer_for_a_file_that_the_browser_decodes_is_close_to_that_of_python(answered, lung_sounds, name):
    content, found = answered[name]
    expected = lung_sounds(content)
    assert found["sampling_rate"] == expected["sampling_rate"]
    assert largest_difference(found, expected) < OTHER_DECODER
    assert [flag["flag"] for flag in found["quality"]] == [flag["flag"] for flag in expected["quality"]]


def without_numbers(result):
    """The parts that must be the same to the letter."""
    timeline = [
        {name: segment[name] for name in ("start", "end", "label", "abstained", "flags")}
        for segment in result["timeline"]
    ]
    return {
        **{name: result[name] for name in ("file", "sampling_rate", "calibrated", "cycles_given")},
        "label": result["summary"]["label"],
        "strongest": [segment["label"] for segment in result["summary"]["strongest"]],
        "quality": [(flag["flag"], flag["message"]) for flag in result["quality"]],
        "timeline": [
            {name: round(value, 6) if isinstance(value, float) else value for name, value in segment.items()}
            for segment in timeline
        ],
    }


def largest_difference(found, expected):
    pairs = zip(found["timeline"], expected["timeline"], strict=True)
    return max(
        abs(mine["probabilities"][name] - other["probabilities"][name])
        for mine, other in pairs
        for name in CLASS_NAMES
    )


EXTRACTORS = {
    "the authors' settings": {},
    "zeros and constants": {"padding_mode": "zero", "normalization": "dataset", "fft_length": 600},
    "resized down": {"num_frames": 250, "normalization": "band", "floor_decibels": 30.0, "cycle_seconds": 5.0},
    "repeats that fit no hop": {"fade_seconds": 0.0, "max_frequency": 3000.0, "num_mel_bins": 40},
}
FEATURES = """async ({ settings, constants, waveform }) => {
    const { FeatureExtractor } = await import("./features.js");
    const extractor = new FeatureExtractor(settings, constants);
    return [...extractor.inputValues(extractor.logMel(waveform))];
}"""


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("seconds", [1.2345, 8.5])
def test_features_follow_the_settings_of_any_checkpoint(visitor, lung_sounds, name, seconds):
    extractor = LungSradFeatureExtractor(**EXTRACTORS[name])
    waveform = noise(seconds, 16000)
    expected = extractor(waveform, sampling_rate=16000)["input_values"][0]
    argument = {
        "settings": extractor.to_dict(),
        "constants": page_settings(lung_sounds)["constants"]["features"],
    }
    found = np.array(visitor.run_module(FEATURES, argument, waveform)).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=2e-3)


POSTPROCESS = """async ({ settings, logits, waveform }) => {
    const { LungSoundPipeline } = await import("./pipeline.js");
    let next = 0;
    const network = async (_, batch) => Float32Array.from(logits.slice(next, next += batch).flat());
    const pipeline = new LungSoundPipeline(settings, network);
    const source = { waveform, samplingRate: 16000, flags: [] };
    return pipeline.classify(pipeline.load(source, "a.wav"), () => {});
}"""
CONFIGS = {
    "embedded": {},
    "nothing calibrated": {
        "temperature": None, "context_weight": None, "crackle_threshold": None, "wheeze_threshold": None,
    },
    "classes in another order": {
        "context_weight": 1.0, "id2label": {0: "both", 1: "wheeze", 2: "normal", 3: "crackle"},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_timeline_follows_the_settings_of_any_checkpoint(visitor, name):
    lung_sounds = load_pipeline()
    for setting, value in CONFIGS[name].items():
        setattr(lung_sounds.model.config, setting, value)
    lung_sounds = type(lung_sounds)(model=lung_sounds.model, feature_extractor=lung_sounds.feature_extractor)
    if name != "embedded":
        lung_sounds.familiarity = None
    # Longer than the context, to either side.
    waveform = noise(35, 16000)
    prepared = lung_sounds.preprocess(Recording(waveform, 16000, waveform, 16000, "a.wav"))
    logits = torch.from_numpy(np.random.default_rng(1).normal(scale=2, size=(len(prepared["spans"]), 4)).astype("f"))
    # The same noise is as familiar in every window.
    distances = np.full(len(logits), np.inf)
    expected = lung_sounds.postprocess(prepared | {"logits": logits, "distances": distances})
    argument = {"settings": page_settings(lung_sounds), "logits": logits.tolist()}
    found = visitor.run_module(POSTPROCESS, argument, waveform)
    assert without_numbers(found) == without_numbers(expected)
    assert largest_difference(found, expected) < 1e-6
    for share in ("crackle_share", "wheeze_share", "abstained_share"):
        assert found["summary"][share] == pytest.approx(expected["summary"][share], abs=1e-9)


WRONG_WAVS = {
    "one sample.wav": lambda: encoded(np.full(1, 0.1), 8000),
    "nan.wav": lambda: encoded(np.full(8000, np.nan), 8000, subtype="FLOAT"),
    "silent.wav": lambda: encoded(np.zeros(8000), 8000),
    "slow.wav": lambda: encoded(noise(2, 1000), 1000),
    "three channels.wav": lambda: encoded(np.zeros((8000, 3)), 8000),
    "loud.wav": lambda: encoded(np.full(8000, 1e12), 8000, subtype="FLOAT"),
    "truncated.wav": lambda: encoded(simulated(8, 8000), 8000)[:40000],
    "empty.wav": lambda: b"",
}


def test_wav_file_that_cannot_be_used_is_refused_in_the_words_of_python(visitor, lung_sounds):
    contents = {name: make() for name, make in WRONG_WAVS.items()}
    files = [{"name": name, "mimeType": "audio/wav", "buffer": content} for name, content in contents.items()]
    statuses = visitor.choose(*files)
    for (name, content), status in zip(contents.items(), statuses, strict=True):
        with pytest.raises(InputError) as raised:
            lung_sounds(content)
        assert status == f"No answer: {raised.value.problem}", name
