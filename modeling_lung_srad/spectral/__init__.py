"""Effective attention of layers, and the frequencies over position that they keep."""

from .attention import (
    DEFINITIONS,
    SpectralSummary,
    check_matrix_size,
    directional_attention,
    effective_attention,
    min_max_normalize,
    normalize_response,
    response_magnitudes,
    spectral_response,
    summarize_response,
)

__all__ = [
    "DEFINITIONS",
    "SpectralSummary",
    "check_matrix_size",
    "directional_attention",
    "effective_attention",
    "min_max_normalize",
    "normalize_response",
    "response_magnitudes",
    "spectral_response",
    "summarize_response",
]
