"""Noise in every format that is read: made by program, with encoders of libsndfile and FFmpeg."""

import io
from fractions import Fraction

import numpy as np
import pytest
import soundfile

RATE = 16000
# Formats of phones and browsers: name, encoder, rate.
OF_PHONES = [
    ("mp4", "aac", 44100),
    ("3gp", "aac", 16000),
    ("webm", "libopus", 48000),
    ("adts", "aac", 16000),
    ("amr", "libopencore_amrnb", 8000),
    ("asf", "wmav2", 16000),
]


def noise(seconds=2.0, rate=RATE, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def encoded(waveform, file_format="WAV", subtype=None, rate=RATE, **settings):
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=file_format, subtype=subtype, **settings)
    return file.getvalue()


def recorded(file_format, codec, rate, length=4.0):
    """Noise in a format that libsndfile does not know."""
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format=file_format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        if codec == "wmav2":
            # It refuses the bit rate that PyAV gives it.
            stream.bit_rate = 32000
        frame = av.AudioFrame.from_ndarray(noise(length, rate)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        size = stream.codec_context.frame_size
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=size)
        for part in resampler.resample(frame) + resampler.resample(None):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()
