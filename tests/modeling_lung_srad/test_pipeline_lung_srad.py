"""Whole recordings through the pipeline, against the steps of the method one after the other."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import pipeline

from modeling_lung_srad import LungSoundPipeline, LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.audio import resample
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.familiarity import FAMILIARITY_FILE, fit_familiarity, log_mel_statistics
from modeling_lung_srad.pipeline_lung_srad import TASK, choose_class
from modeling_lung_srad.recording import fade_recording
from modeling_lung_srad.timeline import add_context, sliding_windows, summarize
from tests.conftest import tiny_config

RATE = 16000


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config()).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)
    return model


@pytest.fixture(scope="module")
def feature_extractor():
    return LungSradFeatureExtractor(num_frames=64)


@pytest.fixture(scope="module")
def lung_sounds(model, feature_extractor):
    return LungSoundPipeline(model=model, feature_extractor=feature_extractor)


def noise(seconds, rate=RATE, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def reference_probabilities(model, feature_extractor, waveform, start, end, temperature=1.0):
    """Fade, cut, features and softmax, in double precision where that is easy."""
    faded = waveform.astype(np.float64)
    faded[:1000] *= np.arange(1000) / 999
    faded[-1000:] *= np.arange(1000)[::-1] / 999
    clip = faded[int(start * RATE) : int(end * RATE)].astype(np.float32)
    with torch.no_grad():
        logits = model(feature_extractor(clip, sampling_rate=RATE, return_tensors="pt")["input_values"]).logits[0]
    weights = np.exp(logits.double().numpy() / temperature)
    return weights / weights.sum()


def rows(result):
    return [[segment["probabilities"][name] for name in CLASS_NAMES] for segment in result["timeline"]]


def test_windows_get_the_probabilities_of_the_published_steps(lung_sounds, model, feature_extractor):
    waveform = noise(13)
    result = lung_sounds(waveform)
    spans = [(segment["start"], segment["end"]) for segment in result["timeline"]]
    assert spans == [(0, 8), (4, 12), (5, 13)]
    for (start, end), row in zip(spans, rows(result), strict=True):
        expected = reference_probabilities(model, feature_extractor, waveform, start, end)
        np.testing.assert_allclose(row, expected, atol=2e-5)
    for segment, row in zip(result["timeline"], rows(result), strict=True):
        assert segment["label"] == CLASS_NAMES[int(np.argmax(row))]
        assert segment["confidence"] == max(row)
    assert result["summary"] == summarize(result["timeline"])
    assert (result["duration"], result["sampling_rate"], result["file"], result["calibrated"]) == (
        13,
        RATE,
        None,
        False,
    )
    assert json.loads(json.dumps(result)) == result


def test_given_cycles_are_classified_in_their_order(lung_sounds, model, feature_extractor):
    waveform = noise(6)
    cycles = [(3.0, 5.5), (0.5, 1.0), (0.0, 6.0)]
    result = lung_sounds(waveform, cycles=cycles)
    assert [(segment["start"], segment["end"]) for segment in result["timeline"]] == cycles
    assert result["cycles_given"]
    for (start, end), row in zip(cycles, rows(result), strict=True):
        expected = reference_probabilities(model, feature_extractor, waveform, start, end)
        np.testing.assert_allclose(row, expected, atol=2e-5)
    assert lung_sounds(waveform, cycles=[])["timeline"] == []


@pytest.mark.parametrize("rate", [4000, 10000, 44100])
def test_other_rates_are_resampled_and_reported(lung_sounds, model, feature_extractor, rate):
    waveform = noise(3, rate)
    result = lung_sounds({"raw": waveform, "sampling_rate": rate})
    assert result["sampling_rate"] == rate
    expected = reference_probabilities(model, feature_extractor, resample(waveform, rate, RATE), 0, 3)
    np.testing.assert_allclose(rows(result)[0], expected, atol=2e-5)


def test_lists_give_lists_and_iterators_are_taken_one_at_a_time(lung_sounds, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(2), RATE, subtype="FLOAT")
    sources = [tmp_path / "a.wav", (tmp_path / "a.wav").read_bytes(), noise(2)]
    results = lung_sounds(sources)
    assert [rows(result) for result in results] == [rows(results[0])] * 3
    assert results[0]["file"] == str(tmp_path / "a.wav")
    taken = []
    answers = lung_sounds(source for source in sources if not taken.append(source))
    next(answers)
    assert len(taken) == 1


def test_the_batch_size_changes_nothing_and_progress_is_told(lung_sounds):
    told = []
    one = lung_sounds(noise(6), window=1, batch_size=1)
    many = lung_sounds(noise(6), window=1, batch_size=4, on_progress=lambda *numbers: told.append(numbers))
    np.testing.assert_allclose(rows(one), rows(many), atol=1e-5)
    assert told == [(4, 11), (8, 11), (11, 11)]


def test_settings_of_the_pipeline_hold_until_a_call_gives_others(model, feature_extractor):
    lung_sounds = LungSoundPipeline(model=model, feature_extractor=feature_extractor, window=2, min_confidence=1.0)
    result = lung_sounds(noise(5))
    assert [segment["start"] for segment in result["timeline"]] == [0, 1, 2, 3]
    assert all(segment["abstained"] for segment in result["timeline"])
    result = lung_sounds(noise(5), window=4, hop=1, min_confidence=0)
    assert [segment["start"] for segment in result["timeline"]] == [0, 1]
    assert not any(segment["abstained"] for segment in result["timeline"])


def test_a_temperature_in_the_configuration_calibrates(model, feature_extractor):
    waveform = noise(3)
    calibrated = LungSradForAudioClassification(tiny_config(temperature=2.5)).eval()
    calibrated.load_state_dict(model.state_dict())
    result = LungSoundPipeline(model=calibrated, feature_extractor=feature_extractor)(waveform)
    expected = reference_probabilities(model, feature_extractor, waveform, 0, 3, temperature=2.5)
    np.testing.assert_allclose(rows(result)[0], expected, atol=2e-5)
    assert result["calibrated"]


def test_columns_follow_the_class_names_whatever_the_order_of_the_labels(model, feature_extractor, lung_sounds):
    shuffled = LungSradForAudioClassification(
        tiny_config(id2label={0: "wheeze", 1: "both", 2: "normal", 3: "crackle"})
    ).eval()
    shuffled.load_state_dict(model.state_dict())
    found = LungSoundPipeline(model=shuffled, feature_extractor=feature_extractor)(noise(2))["timeline"][0]
    straight = rows(lung_sounds(noise(2)))[0]
    names = ["wheeze", "both", "normal", "crackle"]
    assert list(found["probabilities"]) == list(CLASS_NAMES)
    np.testing.assert_allclose([found["probabilities"][name] for name in names], straight, atol=1e-6)


def test_labels_in_any_order_of_the_configuration_keep_their_columns(model, feature_extractor, lung_sounds):
    reordered = LungSradForAudioClassification(
        tiny_config(id2label={3: "both", 1: "crackle", 2: "wheeze", 0: "normal"})
    ).eval()
    reordered.load_state_dict(model.state_dict())
    found = LungSoundPipeline(model=reordered, feature_extractor=feature_extractor)(noise(2))
    assert rows(found) == rows(lung_sounds(noise(2)))


def test_numbers_of_numpy_and_cycles_of_a_generator_are_taken(lung_sounds):
    result = lung_sounds(noise(6), window=np.float32(4), hop=np.int64(2), num_workers=2)
    assert json.loads(json.dumps(result)) == result
    several = lung_sounds([noise(6), noise(6, seed=1)], cycles=((start, start + 1) for start in range(3)))
    assert [len(result["timeline"]) for result in several] == [3, 3]


def test_a_model_that_gives_no_numbers_is_named(model, feature_extractor):
    broken = LungSradForAudioClassification(tiny_config()).eval()
    torch.nn.init.constant_(broken.head.bias, float("nan"))
    with pytest.raises(InputError, match="NaN or infinite logits; "):
        LungSoundPipeline(model=broken, feature_extractor=feature_extractor)(noise(2))


def test_quality_flags_touch_the_windows_that_they_are_about(lung_sounds):
    waveform = noise(20)
    waveform[: 9 * RATE] = 0
    waveform[15 * RATE : 18 * RATE] = np.clip(20 * waveform[15 * RATE : 18 * RATE], -0.9, 0.9)
    result = lung_sounds(waveform, min_confidence=0)
    flags = {flag["flag"]: flag for flag in result["quality"]}
    assert flags["silence"]["spans"][0] == pytest.approx([0, 9], abs=0.1)
    assert all(flag["message"].endswith(".") for flag in flags.values())
    by_start = {segment["start"]: segment for segment in result["timeline"]}
    assert by_start[0]["flags"] == ["silence"]
    assert by_start[0]["abstained"]
    assert not by_start[4]["abstained"]
    assert "clipping" in by_start[12]["flags"]
    assert "clipping" not in by_start[4]["flags"]


@pytest.fixture(scope="module")
def familiarity(feature_extractor):
    noises = [fade_recording(noise(16, seed=seed), RATE) for seed in range(20)]
    windows = [noise[start * RATE : (start + 8) * RATE] for noise in noises for start in (0, 4, 8)]
    statistics = log_mel_statistics(feature_extractor.log_mel(windows))
    return fit_familiarity(statistics, [str(index // 3) for index in range(60)])


def test_sounds_unlike_those_of_training_are_flagged(model, feature_extractor, familiarity, tmp_path):
    generator = np.random.default_rng(0)
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    familiarity.save(tmp_path)
    lung_sounds = LungSoundPipeline.from_checkpoint(tmp_path)
    assert "unfamiliar" not in {flag["flag"] for flag in lung_sounds(noise(16, seed=99))["quality"]}
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16 * RATE) / RATE) + 1e-3 * generator.standard_normal(16 * RATE)
    result = lung_sounds(tone)
    (flag,) = (flag for flag in result["quality"] if flag["flag"] == "unfamiliar")
    assert flag["value"] == 1
    assert flag["spans"] == [[0, 8], [4, 12], [8, 16]]
    assert all("unfamiliar" in segment["flags"] for segment in result["timeline"])
    lung_sounds.save_pretrained(tmp_path / "again")
    assert LungSoundPipeline.from_checkpoint(tmp_path / "again")(tone) == result


@pytest.mark.parametrize("beside", ["of other weights", "of weights that state none", "nothing"])
def test_familiarity_that_the_weights_do_not_state_is_ignored_with_a_warning(
    model, feature_extractor, familiarity, tmp_path, monkeypatch, beside
):
    said = []
    monkeypatch.setattr("modeling_lung_srad.pipeline_lung_srad.logger.warning_once", said.append)
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    LungSoundPipeline.from_checkpoint(tmp_path)
    assert said == []
    settings = (tmp_path / "config.json").read_text()
    familiarity.save(tmp_path)
    if beside == "of other weights":
        stated = (tmp_path / "config.json").read_text()
        replace(familiarity, threshold=2 * familiarity.threshold).save(tmp_path)
        (tmp_path / "config.json").write_text(stated)
    elif beside == "of weights that state none":
        (tmp_path / "config.json").write_text(settings)
    else:
        (tmp_path / FAMILIARITY_FILE).unlink()
    assert LungSoundPipeline.from_checkpoint(tmp_path).familiarity is None
    (message,) = said
    assert message.startswith(f"{tmp_path}: has not the familiarity.safetensors that its config.familiarity_digest")


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"window": 9}, InputError, "window: 9 s is not possible; give"),
        ({"window": 2, "hop": 3}, InputError, "hop: 3 s is not possible; give"),
        ({"cycles": [(1, 9)]}, InputError, "does not lie in the recording"),
        ({"min_confidence": 1.5}, InputError, "min_confidence: 1.5 is not a probability; give 0 to 1"),
        ({"batch_size": 0}, InputError, "batch_size: 0 is not a number of windows; give 1 or more"),
        ({"windows": 2}, InputError, "windows: unknown setting; known are window, hop"),
        ({"window": "8"}, InputError, "window: '8' is not a number; give one"),
        ({"min_confidence": "a"}, InputError, "min_confidence: 'a' is not a number"),
        ({"batch_size": 2.5}, InputError, "batch_size: 2.5 is not a number of windows; give 1 or more"),
        ({"cycles": 5}, InputError, "cycles: 5 is not a list of cycles; give"),
    ],
)
def test_settings_out_of_range_are_named_with_the_remedy(lung_sounds, settings, error, said):
    with pytest.raises(error, match=said):
        lung_sounds(noise(2), **settings)


def test_bad_recordings_are_named(lung_sounds, tmp_path):
    (tmp_path / "a.wav").write_text("patient 101")
    for source in (tmp_path / "a.wav", np.zeros(RATE), b"no audio"):
        with pytest.raises(InputError, match="; "):
            lung_sounds(source)


def test_a_model_for_other_classes_is_refused(feature_extractor):
    model = LungSradForAudioClassification(tiny_config(num_labels=2))
    with pytest.raises(InputError, match="model: has 2 labels"):
        LungSoundPipeline(model=model, feature_extractor=feature_extractor)


def test_a_saved_pipeline_brings_its_code(lung_sounds, tmp_path):
    lung_sounds.save_pretrained(tmp_path)
    assert (tmp_path / "pipeline_lung_srad.py").exists()
    by_task = pipeline(TASK, model=str(tmp_path), trust_remote_code=True)
    assert type(by_task).__name__ == "LungSoundPipeline"
    assert rows(by_task(noise(2))) == rows(lung_sounds(noise(2)))
    inferred = pipeline(model=str(tmp_path), trust_remote_code=True, window=1.0, batch_size=2)
    assert len(inferred(noise(2))["timeline"]) == 3
    shutil.rmtree(tmp_path / "again", ignore_errors=True)
    inferred.save_pretrained(tmp_path / "again")
    again = pipeline(model=str(tmp_path / "again"), trust_remote_code=True)
    assert rows(again(noise(2))) == rows(lung_sounds(noise(2)))


def test_a_checkpoint_is_loaded_in_one_call(model, feature_extractor, lung_sounds, tmp_path):
    model.save_pretrained(tmp_path)
    feature_extractor.save_pretrained(tmp_path)
    loaded = LungSoundPipeline.from_checkpoint(tmp_path, window=1.0)
    assert rows(loaded(noise(2))) == rows(lung_sounds(noise(2), window=1.0))
    with pytest.raises(InputError, match="no such folder"):
        LungSoundPipeline.from_checkpoint(tmp_path / "missing")


def test_the_pipeline_leaves_training_off_and_gradients_out(model, feature_extractor):
    model.train()
    try:
        lung_sounds = LungSoundPipeline(model=model, feature_extractor=feature_extractor)
        assert not model.training
        lung_sounds(noise(1))
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        model.eval()


@pytest.mark.parametrize("step", ["assess_recording", "fade_recording"])
def test_a_recording_that_does_not_fit_into_memory_is_an_error(monkeypatch, lung_sounds, step):
    def exhaust_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(f"modeling_lung_srad.pipeline_lung_srad.{step}", exhaust_memory)
    with pytest.raises(InputError, match=r"^audio: does not fit into memory; cut it into shorter files$"):
        lung_sounds(noise(1.0))


def test_the_class_is_the_most_probable_one_or_that_of_the_thresholds():
    assert choose_class([0.4, 0.3, 0.2, 0.1], (None, None)) == 0
    assert choose_class([0.4, 0.3, 0.2, 0.1], (0.5, 0.5)) == 0
    assert choose_class([0.4, 0.3, 0.2, 0.1], (0.4, 0.5)) == 1
    assert choose_class([0.4, 0.3, 0.2, 0.1], (0.5, 0.3)) == 2
    assert choose_class([0.4, 0.3, 0.2, 0.1], (0.4, 0.3)) == 3


def test_thresholds_and_window_of_the_configuration_are_followed(model, feature_extractor):
    settings = {"crackle_threshold": 1e-6, "wheeze_threshold": 1 - 1e-6, "window_seconds": 2.0}
    config = model.config.__class__(**(model.config.to_dict() | settings))
    strict = LungSradForAudioClassification(config).eval()
    strict.load_state_dict(model.state_dict())
    lung_sounds = LungSoundPipeline(model=strict, feature_extractor=feature_extractor)
    timeline = lung_sounds(noise(5))["timeline"]
    assert [(segment["start"], segment["end"]) for segment in timeline] == [(0, 2), (1, 3), (2, 4), (3, 5)]
    for segment in timeline:
        assert segment["label"] == "crackle"
        assert segment["confidence"] == segment["probabilities"]["crackle"]


@pytest.mark.parametrize(("window", "heard", "frames"), [(None, 3.0, 192), (0.5, 1.0, 64), (8.0, 8.0, 512)])
def test_a_model_that_states_its_window_hears_windows_as_long_as_they_are(model, window, heard, frames):
    """And at least 1 s; cycles are repeated all the same."""
    config = model.config.__class__(**(model.config.to_dict() | {"window_seconds": 3.0}))
    own_window = LungSradForAudioClassification(config).eval()
    own_window.load_state_dict(model.state_dict())
    usual = LungSradFeatureExtractor(num_frames=512, frame_seconds=0.01)
    lung_sounds = LungSoundPipeline(model=own_window, feature_extractor=usual)
    waveform = noise(8.5)
    short = LungSradFeatureExtractor(num_frames=frames, frame_seconds=0.01, cycle_seconds=heard)
    (first, *_) = rows(lung_sounds(waveform, window=window))
    end = window or 3.0
    np.testing.assert_allclose(first, reference_probabilities(model, short, waveform, 0, end), atol=2e-5)
    (cycle,) = rows(lung_sounds(waveform, cycles=[(0.0, end)]))
    np.testing.assert_allclose(cycle, reference_probabilities(model, usual, waveform, 0, end), atol=2e-5)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_an_extractor_for_no_length_is_refused(seconds):
    with pytest.raises(InputError, match="cycle_seconds"):
        LungSradFeatureExtractor().with_cycle_seconds(seconds)


def test_familiarity_is_of_the_revision_of_the_weights(model, feature_extractor, monkeypatch):
    asked = []

    def load(checkpoint, revision):
        asked.append((checkpoint, revision))

    monkeypatch.setattr("modeling_lung_srad.pipeline_lung_srad.load_familiarity", load)
    monkeypatch.setattr(model.config, "_commit_hash", "0123abc", raising=False)
    monkeypatch.setattr(model.config, "name_or_path", "user/name", raising=False)
    LungSoundPipeline(model=model, feature_extractor=feature_extractor)
    assert asked == [("user/name", "0123abc")]


def test_windows_around_one_count_with_their_weight(feature_extractor):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(head="sounds")).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)
    lung_sounds = LungSoundPipeline(model=model, feature_extractor=feature_extractor)
    waveform = noise(30, seed=5)

    def odds():
        found = [segment["probabilities"] for segment in lung_sounds(waveform, window=4.0, hop=4.0)["timeline"]]
        return np.log([[one[name] / one["normal"] for name in ("crackle", "wheeze")] for one in found])

    alone = odds()
    model.config.context_weight = 0.5
    spans = sliding_windows(30.0, 4.0, 4.0)
    np.testing.assert_allclose(odds(), add_context(alone, spans, 0.5), atol=1e-3)


@pytest.mark.parametrize("settings", [{"context_weight": 0.5}, {"context_weight": 2.0, "head": "sounds"}])
def test_a_context_that_fits_no_head_is_refused(settings):
    with pytest.raises(StrictDataclassError, match="context_weight: must be None, or 0 to 1 with head 'sounds'"):
        tiny_config(**settings)
