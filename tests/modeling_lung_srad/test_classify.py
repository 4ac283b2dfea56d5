import itertools

import numpy as np
import pytest
import torch

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.classify import (
    CLASS_NAMES,
    ClassifiedCycle,
    ClassifiedRecording,
    WindowError,
    check_window,
    classify_clips,
    sliding_windows,
)
from tests.conftest import tiny_config


@pytest.mark.parametrize(
    ("duration", "window", "hop", "expected"),
    [
        (20.0, 8.0, 4.0, [(0, 8), (4, 12), (8, 16), (12, 20)]),
        (9.0, 8.0, 4.0, [(0, 8), (1, 9)]),
        (8.0, 8.0, 4.0, [(0, 8)]),
        (3.2, 8.0, 4.0, [(0, 3.2)]),
        (5.0, 2.0, 2.0, [(0, 2), (2, 4), (3, 5)]),
        (0.7, 0.1, 0.1, [(0.1 * index, 0.1 * index + 0.1) for index in range(7)]),
    ],
)
def test_windows_cover_the_recording_to_its_end(duration, window, hop, expected):
    np.testing.assert_allclose(sliding_windows(duration, window, hop), expected, atol=1e-9)


def test_windows_leave_no_gap_and_do_not_leave_the_recording():
    generator = np.random.default_rng(0)
    for _ in range(200):
        window = generator.uniform(0.05, 8)
        hop, duration = generator.uniform(0.1, 1) * window, generator.uniform(0.03, 40)
        windows = sliding_windows(duration, window, hop)
        assert windows[0][0] == 0
        assert windows[-1][1] == pytest.approx(duration, abs=1e-4)
        assert all(0 <= start < end <= duration + 1e-9 for start, end in windows)
        assert all(after[0] <= before[1] for before, after in itertools.pairwise(windows))


@pytest.mark.parametrize(("window", "hop"), [(0.0, 1.0), (-1.0, 1.0), (8.1, 1.0), (2.0, 0.0), (2.0, 2.1), (2.0, -1.0)])
def test_window_and_hop_are_checked(window, hop):
    with pytest.raises(WindowError, match="is not possible; give"):
        check_window(window, hop, longest=8.0)


def test_sensible_windows_are_accepted():
    check_window(8.0, 4.0, longest=8.0)
    check_window(1.0, 1.0, longest=8.0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config()).eval()
    torch.nn.init.normal_(model.head.weight, std=1.0)
    return model


@pytest.fixture(scope="module")
def clips():
    generator = np.random.default_rng(0)
    return [generator.standard_normal(length).astype(np.float32) for length in (400, 16000, 200000, 5000, 31000)]


def test_probabilities_are_the_softmax_of_one_clip_at_a_time(model, clips):
    feature_extractor = LungSradFeatureExtractor()
    probabilities = classify_clips(model, feature_extractor, clips, batch_size=2)
    assert probabilities.shape == (5, 4)
    for clip, row in zip(clips, probabilities, strict=True):
        input_values = feature_extractor(clip, sampling_rate=16000, return_tensors="pt")["input_values"]
        with torch.no_grad():
            logits = model(input_values).logits[0].double()
        np.testing.assert_allclose(row, (logits.exp() / logits.exp().sum()).numpy(), atol=1e-5)


def test_columns_follow_the_class_names_whatever_the_order_of_the_labels(model, clips):
    feature_extractor = LungSradFeatureExtractor()
    straight = classify_clips(model, feature_extractor, clips[:2])
    shuffled = LungSradForAudioClassification(
        tiny_config(id2label={0: "wheeze", 1: "both", 2: "normal", 3: "crackle"})
    ).eval()
    shuffled.load_state_dict(model.state_dict())
    columns = [["wheeze", "both", "normal", "crackle"].index(name) for name in CLASS_NAMES]
    np.testing.assert_array_equal(classify_clips(shuffled, feature_extractor, clips[:2]), straight[:, columns])


def test_no_clips_give_no_rows(model):
    assert classify_clips(model, LungSradFeatureExtractor(), []).shape == (0, 4)


def test_a_recording_counts_its_labels_in_the_order_of_the_classes():
    rows = [(0.1, 0.2, 0.3, 0.4), (0.7, 0.1, 0.1, 0.1), (0.1, 0.2, 0.1, 0.6)]
    recording = ClassifiedRecording("a.wav", 3.0, tuple(ClassifiedCycle(0, 1, row) for row in rows))
    assert [cycle.label for cycle in recording.cycles] == ["both", "normal", "both"]
    assert list(recording.label_counts.items()) == [("normal", 1), ("both", 2)]
