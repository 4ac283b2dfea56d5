"""Saliency: the times and frequencies on which the class of a window rests."""

from .maps import ANY_CRACKLE, ANY_WHEEZE, METHODS, SaliencyMap, frame_times, mel_frequencies, saliency_map

__all__ = [
    "ANY_CRACKLE",
    "ANY_WHEEZE",
    "METHODS",
    "SaliencyMap",
    "frame_times",
    "mel_frequencies",
    "saliency_map",
]
