import numpy as np
import pytest

from modeling_lung_srad.files.plots import save_figure
from modeling_lung_srad.spectral.figures import (
    VARIANTS,
    AttentionMap,
    plot_attention_maps,
    plot_depth,
    plot_regularization,
    plot_responses,
)
from modeling_lung_srad.spectral.layers import MixingLayer
from modeling_lung_srad.spectral.profile import FIGURES, LayerProfile


def build_profile(layer, recordings=2, seed=0):
    relative = np.random.default_rng(seed).uniform(0.1, 1, (recordings, 9))
    figures = {name: np.linspace(0.1, 0.3, recordings) for name in FIGURES}
    return LayerProfile(layer, (2, 8), np.arange(9) / 16, relative, relative, figures)


def build_profiles(recordings=2):
    blocks = [build_profile(MixingLayer(stage, block), recordings) for stage in (0, 1) for block in (0, 1)]
    layers = [build_profile(MixingLayer(None, layer), recordings) for layer in range(3)]
    return {"srad": blocks, "_ast $x$": layers}


def test_responses_have_a_curve_per_layer_mirrored_at_zero():
    profiles = build_profiles()
    figure = plot_responses(profiles)
    above, _, below, _ = figure.axes
    assert [axes.get_title() for axes in figure.axes[:2]] == list(profiles)
    assert [line.get_label() for line in above.lines] == [str(found.layer) for found in profiles["srad"]]
    frequency, magnitude = above.lines[0].get_data()
    np.testing.assert_allclose(frequency, np.arange(-8, 9) / 16)
    np.testing.assert_allclose(magnitude, magnitude[::-1])
    np.testing.assert_allclose(magnitude[8:], profiles["srad"][0].normalized.mean(0))
    decibels = below.lines[0].get_ydata()
    np.testing.assert_allclose(decibels[8:], (20 * np.log10(profiles["srad"][0].relative)).mean(0))


@pytest.mark.parametrize("recordings", [1, 2])
def test_depth_runs_from_first_to_last_layer(recordings):
    figure = plot_depth(build_profiles(recordings))
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) in (3, 4) and line.get_marker() == "o"]
    assert [line.get_xdata().tolist() for line in lines] == [np.linspace(0, 1, 4).tolist(), [0, 0.5, 1]]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["srad", r"ast \$x\$"]


def test_regularization_has_a_panel_per_stage_and_its_curves():
    with_convolution = build_profiles()["srad"]
    alone = [found for found in with_convolution if found.layer.stage == 1]
    figure = plot_regularization({"without": with_convolution, "scan_alone": alone, "with": with_convolution})
    assert [len(axes.lines) for axes in figure.axes] == [2, 3]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [label for label, _ in VARIANTS.values()]


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_maps_mark_the_position_and_are_written(tmp_path, suffix):
    signed, positive = np.linspace(-1, 1, 16).reshape(2, 8), np.linspace(0.1, 1, 16).reshape(4, 4)
    maps = [
        AttentionMap("a $x$ model", MixingLayer(2, 0), 1, 6, signed),
        AttentionMap("ast", MixingLayer(None, 3), 2, 3, positive),
    ]
    spectrogram, edges = np.zeros((20, 8)), (20.0, 8000.0)
    figure = plot_attention_maps(maps, spectrogram, seconds=8.0, frequencies=edges, title="100% $ noise")
    spectrogram, first, second = figure.axes[:3]
    for axes, expected in ((spectrogram, (6.5, 0.75)), (first, (6.5, 0.75)), (second, (7.0, 0.625))):
        assert tuple(np.ravel(axes.lines[0].get_data())) == expected
    assert first.images[0].get_clim() == (-1, 1)
    assert second.images[0].get_clim() == pytest.approx((0.1, 1))
    save_figure(figure, tmp_path / f"maps.{suffix}")
    assert (tmp_path / f"maps.{suffix}").stat().st_size > 1000
