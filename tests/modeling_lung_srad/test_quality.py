"""Quality flags on signals whose faults are known."""

import tracemalloc

import numpy as np
import pytest

from modeling_lung_srad.quality import RecordingAssessment, assess_recording

RATE = 8000


def breathing(seconds=6.0, rate=RATE, level=0.1, seed=0):
    """Noise that swells four times a second and falls by 6 dB an octave, as breath sounds do, at an RMS of `level`."""
    generator = np.random.default_rng(seed)
    samples = round(seconds * rate)
    spectrum = np.fft.rfft(generator.normal(size=samples))
    spectrum /= 1 + np.fft.rfftfreq(samples, 1 / rate) / 50
    noise = np.fft.irfft(spectrum, samples) * (1 + 0.5 * np.sin(2 * np.pi * 0.4 * np.arange(samples) / rate))
    return level * noise / noise.std()


def as_16_bit(waveform):
    return np.round(waveform.clip(-1, 1 - 2**-15) * 2**15) / 2**15


def low_pass(waveform, rate, frequency):
    spectrum = np.fft.rfft(waveform)
    spectrum[np.fft.rfftfreq(len(waveform), 1 / rate) > frequency] = 0
    return np.fft.irfft(spectrum, len(waveform))


def found(waveform, rate=RATE):
    return {flag.flag: flag for flag in assess_recording(waveform, rate)}


def count_clipped_slowly(waveform, limit):
    """Samples at either limit that have a neighbour there on at least one side, and are three or more in a row."""
    clipped = 0
    for sign in (1, -1):
        length = 0
        for sample in [*(sign * waveform), 0.0]:
            if sample >= limit:
                length += 1
            else:
                clipped += length if length >= 3 else 0
                length = 0
    return clipped


@pytest.mark.parametrize("rate", [4000, 8000, 44100])
@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_sound_recordings_have_no_flags(rate, gain):
    assert found(as_16_bit(gain * breathing(rate=rate)), rate) == {}


def test_share_of_clipped_samples_is_that_of_an_independent_count():
    clipped = as_16_bit(breathing(rate=44100, level=0.3).clip(-0.5, 0.5))

    flag = found(clipped, 44100)["clipping"]

    assert flag.value == pytest.approx(count_clipped_slowly(clipped, 0.5) / len(clipped), rel=0.05)
    assert "lower the gain" in flag.message


def test_clipping_is_found_on_one_side_and_below_full_scale():
    assert set(found(as_16_bit(np.minimum(breathing(rate=16000), 0.2)), 16000)) == {"clipping"}
    assert set(found(as_16_bit(0.3 * breathing(rate=16000, level=0.3).clip(-0.5, 0.5)), 16000)) == {"clipping"}


def test_clipped_spans_hold_the_loud_half_only():
    waveform = np.concatenate([breathing(seconds=10, level=0.05), breathing(seconds=10, level=0.5).clip(-0.6, 0.6)])

    spans = found(as_16_bit(waveform))["clipping"].spans

    assert min(start for start, _ in spans) >= 10 - 0.05
    assert max(end for _, end in spans) <= 20


def test_slow_waves_and_full_scale_peaks_are_not_clipping():
    time = np.arange(5 * 44100) / 44100
    for frequency in (5.0, 30.0, 300.0):
        sine = 0.9 * np.sin(2 * np.pi * frequency * time)
        assert "clipping" not in found(as_16_bit(sine), 44100)
        assert "clipping" not in found(as_16_bit(sine + breathing(seconds=5, rate=44100, level=0.002)), 44100)
    peaky = breathing()
    assert found(as_16_bit(peaky / np.abs(peaky).max())) == {}


def test_what_was_clipped_at_a_smaller_value_earlier_does_not_count():
    earlier, later = 0.2 * breathing(seconds=10).clip(-0.2, 0.2), breathing(seconds=10)

    assert found(as_16_bit(np.concatenate([earlier, later]))) == {}


def test_silent_stretches_are_located():
    waveform = breathing()
    waveform[2 * RATE : 3 * RATE] = 0
    waveform[4 * RATE : 4 * RATE + 800] = 0

    flag = found(as_16_bit(waveform))["silence"]

    assert [(round(start, 1), round(end, 1)) for start, end in flag.spans] == [(2.0, 3.0)]
    assert flag.value == pytest.approx(1 / 6, abs=0.02)


@pytest.mark.parametrize("constant", [0.0, 0.25])
def test_nothing_but_silence_is_said_once(constant):
    dither = np.random.default_rng(0).integers(0, 2, size=3 * RATE) / 2**15

    flags = assess_recording(constant + dither, RATE)

    assert [flag.flag for flag in flags] == ["silence"]
    assert flags[0].spans == ((0.0, 3.0),)
    assert flags[0].value == 1.0


def test_faint_sound_is_low_level_and_not_silence():
    flags = found(as_16_bit(breathing(level=1e-3)))

    assert set(flags) == {"low_level"}
    assert flags["low_level"].value == pytest.approx(-58, abs=3)
    assert set(found(breathing(level=1e-5))) == {"low_level"}
    assert "low_level" not in found(as_16_bit(breathing(level=3e-3)))


def test_low_level_is_that_of_the_sounding_parts():
    waveform = np.zeros(60 * RATE)
    waveform[: 6 * RATE] = breathing()

    assert set(found(waveform)) == {"silence"}


@pytest.mark.parametrize("frequency", [400, 800])
def test_end_of_the_spectrum_is_measured(frequency):
    flag = found(as_16_bit(low_pass(breathing(), RATE, frequency)))["narrow_bandwidth"]

    assert frequency <= flag.value <= frequency + 200
    assert "crackles and higher wheezes" in flag.message


def test_upsampled_sound_is_as_narrow_as_before():
    narrow = breathing(rate=1500)
    upsampled = as_16_bit(10 * np.fft.irfft(np.fft.rfft(narrow), 10 * len(narrow)))

    assert found(upsampled, 15000)["narrow_bandwidth"].value == pytest.approx(750, abs=125)


def test_low_sampling_rate_puts_crackles_in_doubt():
    flag = found(breathing(rate=2500), 2500)["narrow_bandwidth"]

    assert flag.value == 1250
    assert "crackles, which reach 2000 Hz" in flag.message
    assert "wheezes" not in flag.message


def test_less_than_a_breath_is_too_short():
    assert found(breathing(seconds=0.9))["too_short"].value == pytest.approx(0.9)
    assert "too_short" not in found(breathing(seconds=1.0))


@pytest.mark.parametrize("samples", [1, 3, 399, 401])
def test_fragments_are_assessed(samples):
    assert "too_short" in found(breathing()[:samples])


def test_nothing_at_all_is_assessed():
    assert set(found(np.zeros(0))) == {"too_short", "silence"}


def test_pieces_give_the_flags_of_the_whole():
    waveform = as_16_bit(breathing(seconds=25, level=0.3).clip(-0.5, 0.5))
    waveform[10 * RATE : 12 * RATE] = 0
    assessment = RecordingAssessment(RATE)
    for start in range(0, len(waveform), 4567):
        assessment.update(waveform[start : start + 4567])

    flags = assessment.flags()

    assert flags == assess_recording(waveform, RATE)
    assert {flag.flag for flag in flags} == {"silence", "clipping"}


def test_memory_is_some_bytes_for_each_frame():
    def peak(minutes):
        assessment = RecordingAssessment(4000)
        piece = breathing(seconds=10, rate=4000)
        tracemalloc.start()
        for _ in range(6 * minutes):
            assessment.update(piece)
        assessment.flags()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert peak(30) - peak(10) < 300 * 20 * 60 / 0.05


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="average its channels"):
        assess_recording(np.zeros((2, 100)), RATE)
    with pytest.raises(ValueError, match="NaN or infinite"):
        assess_recording(np.array([0.0, np.nan]), RATE)
    with pytest.raises(ValueError, match="not positive"):
        assess_recording(np.zeros(100), 0)
