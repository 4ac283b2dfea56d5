import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.feature_extraction_lung_srad import kaldi_fbank
from modeling_lung_srad.files.plots import (
    CLASS_COLORS,
    log_mel_decibels,
    plot_paths,
    plot_recording,
    save_figure,
)
from modeling_lung_srad.timeline import mean_probabilities
from tests.modeling_lung_srad.segments import recording_result, segment

RATE = 16000


def _tone(seconds, frequency=1000.0):
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def _recording(*segments, duration=4.0, file="folder/101_1b1_Al.wav", quality=()):
    return recording_result(file, duration, *segments, quality=quality)


CYCLES = (
    segment(0.5, 2.0, (0.7, 0.1, 0.1, 0.1), reference="normal"),
    segment(2.5, 4.0, (0.1, 0.1, 0.2, 0.6), reference="wheeze"),
)


def test_a_figure_has_spectrogram_classes_probabilities_and_colour_bar_with_units():
    figure = plot_recording(_tone(4), _recording(*CYCLES))
    spectrogram, classes, probabilities, colour_bar = figure.axes
    assert spectrogram.get_title() == "101_1b1_Al.wav"
    assert spectrogram.get_ylabel() == "Frequency (Hz, mel scale)"
    assert colour_bar.get_ylabel() == "Mel energy (dB)"
    assert [label.get_text() for label in classes.get_yticklabels()] == ["predicted", "annotated"]
    assert probabilities.get_ylabel() == "Probability"
    assert probabilities.get_xlabel() == "Time (s)"
    assert probabilities.get_xlim() == (0, 4)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(CLASS_NAMES)


def test_without_annotations_there_is_no_row_for_them():
    figure = plot_recording(_tone(4), _recording(segment(0, 4, (0.7, 0.1, 0.1, 0.1))))
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["predicted"]


def test_a_tone_is_drawn_at_its_frequency():
    figure = plot_recording(_tone(4, 1000.0), _recording(*CYCLES))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    image = axes.get_images()[0]
    left, right, bottom, top = image.get_extent()
    pixels = image.get_array()
    loudest = bottom + (pixels.mean(axis=1).argmax() + 0.5) / pixels.shape[0] * (top - bottom)
    ticks = dict(zip((label.get_text() for label in axes.get_yticklabels()), axes.get_yticks(), strict=True))
    assert loudest == pytest.approx(ticks["1000"], abs=25)
    assert left >= 0
    assert right == pytest.approx(4.0, abs=0.02)


def test_drawn_probabilities_are_those_of_the_cycles_and_leave_gaps_empty():
    figure = plot_recording(_tone(4), _recording(*CYCLES))
    normal = figure.axes[2].collections[0].get_paths()[0]
    assert normal.contains_point((1.0, 0.69))
    assert not normal.contains_point((1.0, 0.71))
    assert not normal.contains_point((2.2, 0.01))
    assert not normal.contains_point((3.0, 0.11))


def test_overlapping_windows_are_averaged_by_the_time_they_share():
    generator = np.random.default_rng(0)
    spans = [(0.0, 8.0), (4.0, 12.0), (8.0, 16.0), (9.5, 17.5), (20.0, 21.0)]
    cycles = [segment(start, end, generator.dirichlet(np.ones(4))) for start, end in spans]
    times, means = mean_probabilities(cycles)
    for moment in np.arange(0.05, 22, 0.1):
        covering = [
            list(cycle["probabilities"].values()) for cycle in cycles if cycle["start"] <= moment < cycle["end"]
        ]
        step = int(np.searchsorted(times, moment, side="right")) - 1
        drawn = means[step] if 0 <= step < len(means) else np.zeros(4)
        np.testing.assert_allclose(drawn, np.mean(covering, axis=0) if covering else np.zeros(4))


def test_a_long_recording_has_the_same_spectrogram_in_pieces():
    waveform = np.random.default_rng(0).standard_normal(130 * RATE + 77).astype(np.float32)
    whole = kaldi_fbank(torch.from_numpy(waveform)[None], RATE, 128)[0].numpy()
    pieces = log_mel_decibels(waveform, RATE, max_columns=10**6)
    np.testing.assert_allclose(pieces, 10 * np.log10(np.exp(whole)), atol=1e-3)


def test_columns_of_a_very_long_recording_hold_the_loudest_of_their_frames():
    waveform = np.random.default_rng(0).standard_normal(150 * RATE).astype(np.float32)
    every = log_mel_decibels(waveform, RATE, max_columns=10**6)
    few = log_mel_decibels(waveform, RATE, max_columns=1000)
    assert 900 < len(few) <= 1000
    per_column = -(-len(every) // 1000)
    expected = [every[first : first + per_column].max(axis=0) for first in range(0, len(every), per_column)]
    np.testing.assert_allclose(few, expected, atol=1e-3)


def test_quality_flags_get_a_row_each_where_they_have_times():
    quality = [
        {"flag": "low_level", "message": "Faint.", "value": -60.0, "spans": []},
        {"flag": "clipping", "message": "Cut off.", "value": 0.1, "spans": [[0.5, 0.75], [3.0, 3.5]]},
    ]
    figure = plot_recording(_tone(4), _recording(*CYCLES, quality=quality))
    rows = figure.axes[1]
    assert [label.get_text() for label in rows.get_yticklabels()] == ["predicted", "annotated", "clipping"]
    drawn = [path.get_extents() for bars in rows.collections for path in bars.get_paths()]
    in_row = sorted((round(box.x0, 3), round(box.x1, 3)) for box in drawn if box.y0 > 1.5)
    assert in_row == [(0.5, 0.75), (3.0, 3.5)]


def test_what_was_abstained_from_is_hatched_and_gives_way_to_answers():
    unsure = segment(0, 4, (0.4, 0.3, 0.2, 0.1), abstained=True)
    figure = plot_recording(_tone(4), _recording(unsure, segment(2, 3, (0, 1, 0, 0))))
    bars = figure.axes[1].collections
    assert [bool(bar.get_hatch()) for bar in bars] == [True, False]
    box = bars[1].get_paths()[0].get_extents()
    assert (box.x0, box.x1) == (2, 3)
    assert figure.legends[0].get_texts()[-1].get_text() == "unsure"


def test_digital_silence_and_the_shortest_recording_are_drawn(tmp_path):
    silent = np.concatenate([np.zeros(2 * RATE, dtype=np.float32), _tone(2)])
    save_figure(plot_recording(silent, _recording(*CYCLES)), tmp_path / "silent.png")
    shortest = _recording(segment(0, 0.025, (0.7, 0.1, 0.1, 0.1)), duration=0.025)
    save_figure(plot_recording(_tone(0.025), shortest), tmp_path / "shortest.png")
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("silent.png", "shortest.png"))


def test_a_file_name_with_the_signs_of_a_formula_is_drawn_as_it_is(tmp_path):
    recording = _recording(*CYCLES, file="$\\frac{a$ 左肺.wav")
    figure = plot_recording(_tone(4), recording)
    save_figure(figure, tmp_path / "plot.svg")
    assert figure.axes[0].get_title() == "$\\frac{a$ 左肺.wav"


def test_a_long_file_name_fits_the_figure():
    figure = plot_recording(_tone(4), _recording(*CYCLES, file="a" * 200 + ".wav"))
    assert len(figure.axes[0].get_title()) < 100


def test_classes_differ_in_lightness_so_that_no_colour_is_needed():
    lightness = [np.dot(to_rgb(CLASS_COLORS[name]), (0.2126, 0.7152, 0.0722)) for name in CLASS_NAMES]
    assert all(before - after > 0.12 for before, after in itertools.pairwise(lightness))


def test_plot_paths_of_one_and_of_several_recordings(tmp_path):
    several = [Path("x/a.wav"), Path("b.flac"), Path("y/a.wav")]
    assert plot_paths(tmp_path / "plot.svg", several[:1]) == [tmp_path / "plot.svg"]
    names = [path.name for path in plot_paths(tmp_path / "plot.png", several)]
    assert names == ["plot_a.png", "plot_b.png", "plot_a_2.png"]
    assert plot_paths(tmp_path / "plots", several) == [
        tmp_path / "plots" / f"{name}.png" for name in ("a", "b", "a_2")
    ]
    assert (tmp_path / "plots").is_dir()
    with pytest.raises(InputError, match=r"\.png, \.svg, \.pdf"):
        plot_paths(tmp_path / "plot.bmp", several)
