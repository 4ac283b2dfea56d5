import itertools

import numpy as np
import pytest

from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.timeline import (
    UNFAMILIAR,
    add_context,
    check_cycles,
    check_window,
    mean_probabilities,
    sliding_windows,
    sound_probability,
    summarize,
    why_no_answer,
)
from tests.modeling_lung_srad.segments import segment


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
    with pytest.raises(InputError, match="is not possible; give"):
        check_window(window, hop, longest=8.0)


def test_sensible_windows_are_accepted():
    check_window(8.0, 4.0, longest=8.0)
    check_window(1.0, 1.0, longest=8.0)


def test_cycles_are_returned_as_pairs_of_floats():
    assert check_cycles([(0, 1), np.array([1.5, 2.0])], 2.0, "a.wav") == [(0.0, 1.0), (1.5, 2.0)]


@pytest.mark.parametrize(
    ("cycle", "said"),
    [
        ((1.0, 0.5), "does not lie in the recording of 2.000 s"),
        ((-0.1, 0.5), "does not lie"),
        ((1.0, 2.1), "does not lie"),
        ((float("nan"), 1.0), "does not lie"),
        ((1.0, 1.02), "too short; at least 25 ms are needed"),
        ((1.0,), "not a pair of times"),
        ("ab", "not a pair of times"),
        (3, "not a pair of times"),
    ],
)
def test_cycles_that_do_not_fit_are_named_with_the_remedy(cycle, said):
    with pytest.raises(InputError, match=f"a.wav: .*{said}") as raised:
        check_cycles([(0.0, 1.0), cycle], 2.0, "a.wav")
    assert any(remedy in str(raised.value) for remedy in ("; correct", "; at least", "; give"))


def slow_mean(segments, time):
    rows = [
        [item["probabilities"][name] for name in CLASS_NAMES]
        for item in segments
        if item["start"] <= time < item["end"]
    ]
    return np.mean(rows, axis=0) if rows else np.zeros(4)


def random_timeline(generator, count, abstained=0.3):
    starts = generator.uniform(0, 20, count)
    rows = generator.dirichlet([0.5] * 4, count)
    lengths = generator.uniform(0.1, 8, count)
    return [
        segment(start, start + length, row, abstained=bool(generator.uniform() < abstained))
        for start, length, row in zip(starts, lengths, rows, strict=True)
    ]


def test_shares_are_those_found_by_asking_at_many_times():
    generator = np.random.default_rng(0)
    times = (np.arange(28 * 500) + 0.5) / 500
    for count in (1, 3, 9):
        timeline = random_timeline(generator, count)
        answered = [item for item in timeline if not item["abstained"]]
        covered = np.array([any(item["start"] <= time < item["end"] for item in timeline) for time in times])
        by_time = np.array([slow_mean(answered, time) for time in times])
        summary = summarize(timeline)
        crackle, wheeze = by_time[:, [1, 3]].sum(axis=1) >= 0.5, by_time[:, [2, 3]].sum(axis=1) >= 0.5
        assert summary["crackle_share"] == pytest.approx(crackle.sum() / covered.sum(), abs=5e-3)
        assert summary["wheeze_share"] == pytest.approx(wheeze.sum() / covered.sum(), abs=5e-3)
        unanswered = covered & ~by_time.any(axis=1)
        assert summary["abstained_share"] == pytest.approx(unanswered.sum() / covered.sum(), abs=5e-3)


@pytest.mark.parametrize(
    ("rows", "label"),
    [
        ([(0.9, 0.1, 0, 0)], "normal"),
        ([(0.4, 0.6, 0, 0), (0.9, 0.1, 0, 0)], "crackle"),
        ([(0.4, 0, 0.6, 0)], "wheeze"),
        ([(0.1, 0.3, 0.3, 0.3)], "both"),
        ([(0.4, 0.6, 0, 0), (0.4, 0, 0.6, 0)], "both"),
    ],
)
def test_a_recording_has_the_class_of_what_is_present_anywhere(rows, label):
    assert summarize([segment(2 * index, 2 * index + 2, row) for index, row in enumerate(rows)])["label"] == label


def test_nothing_answered_has_no_class_and_no_shares():
    summary = summarize([segment(0, 8, (0.1, 0.9, 0, 0), abstained=True)])
    assert summary == {
        "label": None,
        "crackle_share": 0.0,
        "wheeze_share": 0.0,
        "abstained_share": 1.0,
        "strongest": [],
    }
    assert summarize([]) == summary | {"abstained_share": 0.0}


def test_the_strongest_segments_are_those_with_the_most_probable_sounds():
    rows = [(0.4, 0.6, 0, 0), (0.1, 0.2, 0.1, 0.6), (1, 0, 0, 0), (0.45, 0.05, 0.5, 0)]
    timeline = [segment(index, index + 1, row) for index, row in enumerate(rows)]
    timeline.append(segment(5, 6, (0, 1, 0, 0), abstained=True))
    strongest = summarize(timeline)["strongest"]
    found = [(item["label"], item["start"], round(item["probability"], 6)) for item in strongest]
    assert found == [("crackle", 1, 0.8), ("wheeze", 1, 0.7), ("crackle", 0, 0.6)]
    assert [item["label"] for item in summarize(timeline[2:4])["strongest"]] == ["wheeze"]


def test_a_sound_is_there_alone_or_with_the_other():
    assert sound_probability(segment(0, 1, (0.1, 0.2, 0.3, 0.4)), "crackle") == pytest.approx(0.6)
    assert sound_probability(segment(0, 1, (0.1, 0.2, 0.3, 0.4)), "wheeze") == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ([(False, ())], None),
        ([(True, ("silence",)), (False, ())], None),
        (
            [(False, (UNFAMILIAR,)), (True, (UNFAMILIAR,))],
            "it is unlike the lung sounds that the model was trained on",
        ),
        ([(True, ("silence",)), (True, ("silence", "low_level"))], "there is no sound to judge"),
        ([(True, (UNFAMILIAR,)), (True, ())], "each part is unlike the lung sounds of training, or the model"),
        ([(True, ("silence",)), (True, ())], "the model is not sure enough of any part"),
    ],
)
def test_the_reason_for_no_answer_is_what_all_segments_share(segments, reason):
    timeline = [segment(0, 8, (1, 0, 0, 0), abstained=abstained, flags=flags) for abstained, flags in segments]
    found = why_no_answer(timeline)
    assert found is None if reason is None else found.startswith(reason)


def test_no_segments_have_no_steps():
    times, probabilities = mean_probabilities([])
    assert len(times) == 0
    assert probabilities.shape == (0, 4)


def test_context_is_the_mean_of_the_other_windows_nearby():
    generator = np.random.default_rng(0)
    starts = generator.uniform(0, 100, 40)
    spans = [(start, start + length) for start, length in zip(starts, generator.uniform(0.5, 6, 40), strict=True)]
    odds = generator.normal(0, 2, size=(40, 2))
    expected = odds.copy()
    middles = [(start + end) / 2 for start, end in spans]
    for index in range(40):
        others = [other for other in range(40) if other != index and abs(middles[other] - middles[index]) <= 15]
        if others:
            expected[index] += 0.5 * odds[others].clip(-2, 2).mean(axis=0)
    np.testing.assert_allclose(add_context(odds, spans, 0.5), expected, atol=1e-12)
    np.testing.assert_array_equal(add_context(odds[:1], spans[:1], 0.5), odds[:1])
    assert add_context(odds[:0], [], 0.5).shape == (0, 2)
