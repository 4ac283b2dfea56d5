"""Shows the times and frequencies that made the class of a part of a recording."""

from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from modeling_lung_srad import LungSoundPipeline
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.plots import FREQUENCY_TICKS, log_mel_decibels
from modeling_lung_srad.recording import cut_cycle, fade_recording
from modeling_lung_srad.saliency import SaliencyMap, saliency_map
from space_demo.analysis import image_html
from space_demo.parts import Part, parse
from space_demo.recordings import load_upload

# Occlusion takes five times as long, too long to wait for.
METHOD = "gradient"
# From nothing to opaque; it stands out on grey, also for the colour-blind.
HEAT = LinearSegmentedColormap.from_list("heat", [(1.0, 0.45, 0.0, 0.0), (1.0, 0.45, 0.0, 0.9)])
HEAT_COLOR = "#c44e00"
BRIGHTEST_QUANTILE = 0.995


def explain(path: str | None, folder: Path, lung_sounds: LungSoundPipeline, chosen: str | None) -> str:
    """
    Explains the class of a part of an upload; returns HTML with a figure and a sentence on its peak.

    Args:
        path (`str`, *optional*): the upload.
        folder (`Path`): the private folder.
        lung_sounds ([`LungSoundPipeline`]): the model.
        chosen (`str`, *optional*): a value of [`~space_demo.parts.choices`].

    Raises:
        InputError: where there is nothing that can be explained.
    """
    part = parse(chosen)
    recording = load_upload(path, folder)
    # Times are shown, and come back, rounded to microseconds.
    if part.end > recording.duration + 1e-5:
        raise InputError(
            "part",
            f"ends at {part.end:g} s, the recording at {recording.duration:g} s",
            "classify this recording first",
        )
    faded = fade_recording(recording.waveform, recording.sampling_rate)
    clip = cut_cycle(faded, recording.sampling_rate, part.start, part.end)
    seconds = part.end - part.start
    if seconds > recording.duration - 1e-5:
        # A recording shorter than a window was repeated to it.
        seconds = max(seconds, lung_sounds.choose_window()[0])
    extractor = lung_sounds.window_extractor(seconds)
    saliency = saliency_map(lung_sounds.model, extractor, clip, recording.sampling_rate, part.label, METHOD)
    sentence = peak_sentence(saliency, part)
    image = image_html(plot_saliency(clip, recording.sampling_rate, saliency, part), f"Mel spectrogram. {sentence}")
    return f"""
<section class="lung-explanation">
  <h3>What made {part.start:.1f}–{part.end:.1f} s “{part.label}”</h3>
  <p>{sentence} Orange is where taking the sound away makes “{part.label}” less likely for the model.
  It does not show that the answer is right.</p>
  <figure>{image}</figure>
</section>"""


def peak_sentence(saliency: SaliencyMap, part: Part) -> str:
    """Place of the sound that matters most, in words."""
    if saliency.values.max() <= 0:
        return f"No sound in this window speaks for “{part.label}”."
    time, frequency = part.start + saliency.peak_time, round(saliency.peak_frequency, -1)
    return f"The sound at {time:.1f} s around {frequency:.0f} Hz speaks most for “{part.label}”."


def plot_saliency(clip: np.ndarray, sampling_rate: int, saliency: SaliencyMap, part: Part) -> Figure:
    """Draws a map over the spectrogram of its clip `(samples,)`, and below it the sum over frequencies."""
    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    cells, sums = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    decibels = log_mel_decibels(clip, sampling_rate)
    low, high = np.percentile(decibels, (5, 99.8))
    num_bins = saliency.values.shape[1]
    place = {"origin": "lower", "aspect": "auto", "extent": (part.start, part.end, -0.5, num_bins - 0.5)}
    cells.imshow(decibels.T, cmap="gray", vmin=low, vmax=max(high, low + 1), **place)
    supporting = np.maximum(saliency.values, 0)
    brightest = max(float(np.quantile(supporting, BRIGHTEST_QUANTILE)), 1e-12)
    cells.imshow(supporting.T, cmap=HEAT, vmin=0, vmax=brightest, **place)
    ticks = [frequency for frequency in FREQUENCY_TICKS if frequency <= saliency.frequencies[-1]]
    cells.set_yticks(np.interp(ticks, saliency.frequencies, np.arange(num_bins)), [str(tick) for tick in ticks])
    cells.set_ylabel("Frequency (Hz, mel scale)")
    sums.fill_between(part.start + saliency.times, supporting.sum(axis=1), color=HEAT_COLOR, linewidth=0)
    sums.set_ylim(bottom=0)
    sums.set_yticks([])
    sums.set_ylabel("Sum")
    sums.set_xlabel("Time (s)")
    sums.set_xlim(part.start, part.end)
    return figure
