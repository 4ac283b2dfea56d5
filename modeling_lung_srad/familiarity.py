"""How far a sound is from those that a model was trained on: Mahalanobis distance of statistics of its spectrogram.

The statistics are mean and standard deviation over time in bands of the log-mel spectrogram, whose level and spread
are normalised by clip, whatever the network is given: no forward pass is needed. On validation patients against
speech, music, noise and other foreign sounds they told more apart than pooled features of the network, the largest
probability or the energy of its logits; `python -m benchmarks.familiarity` prints the comparison.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from transformers.utils import cached_file

from .errors import InputError, one_line
from .quality import QualityFlag

FAMILIARITY_FILE, CONFIG_FILE = "familiarity.safetensors", "config.json"
FORMAT = "2"
BINS_PER_BAND = 4
# Share of the identity in the correlation matrix: 64 statistics of some hundred recordings leave directions that
# hardly vary there, and do in the next recording.
SHRINKAGE = 0.3
# One in a hundred cycles of patients that the statistics were not fitted on lies beyond the threshold.
FAMILIAR_SHARE = 0.99
NUM_FOLDS = 5
SMALLEST_DEVIATION = 1e-6
# Least spread of a spectrogram that is compared; digital silence has none.
SMALLEST_SPREAD = 1e-3
# A recording is flagged from this share of unfamiliar windows on.
UNFAMILIAR_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Familiarity:
    """
    The distribution of the training cycles, as far as distances from it need it.

    Args:
        mean (`np.ndarray` of shape `(statistics,)`): of the training cycles.
        whitening (`np.ndarray` of shape `(statistics, statistics)`): what a difference from the mean is multiplied by
            to have the distance as its length.
        threshold (`float`): distance beyond which a sound is unfamiliar.
        cycles (`int`): number of training cycles.
    """

    mean: np.ndarray
    whitening: np.ndarray
    threshold: float
    cycles: int

    def distance(self, log_mel: torch.Tensor) -> np.ndarray:
        """
        Distances from the training cycles.

        Args:
            log_mel (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`): from `LungSradFeatureExtractor.log_mel`.

        Returns:
            `np.ndarray` of shape `(batch,)`.

        Raises:
            InputError: where the statistics are for another number of mel bins.
        """
        statistics = log_mel_statistics(log_mel)
        if statistics.shape[1] != len(self.mean):
            raise InputError(
                FAMILIARITY_FILE,
                f"is of {len(self.mean)} statistics, and {log_mel.shape[-1]} mel bins have {statistics.shape[1]}",
                "fit it again for this checkpoint, or remove it",
            )
        return np.linalg.norm((statistics - self.mean) @ self.whitening, axis=1)

    def flag(self, distances: np.ndarray, spans: Sequence[tuple[float, float]]) -> QualityFlag | None:
        """
        The quality flag of a recording.

        Args:
            distances (`np.ndarray` of shape `(windows,)`): of its windows or cycles.
            spans (sequence of `tuple[float, float]`): their start and end in seconds.

        Returns:
            `QualityFlag` or `None`: `unfamiliar`, with the share of windows beyond the threshold as its value and
            these windows as its spans, where they are more than a quarter of the windows.
        """
        beyond = np.asarray(distances) > self.threshold
        if not len(beyond) or beyond.mean() <= UNFAMILIAR_SHARE:
            return None
        message = (
            f"{beyond.sum()} of {len(beyond)} windows are unlike the lung sounds that the model was trained on, so "
            "the answer may mean nothing; check that the sensor lay on the chest, or use another model."
        )
        unfamiliar = tuple((float(start), float(end)) for start, end in np.asarray(spans, dtype=float)[beyond])
        return QualityFlag("unfamiliar", message, float(beyond.mean()), unfamiliar)

    @property
    def digest(self) -> str:
        """SHA-256 of the values as they are saved: `config.familiarity_digest` of the weights that they belong to."""
        return hashlib.sha256(b"".join(tensor.tobytes() for tensor in self._tensors().values())).hexdigest()

    def save(self, folder: str | os.PathLike) -> Path:
        """Writes `familiarity.safetensors` into the folder of a checkpoint, and its digest into the `config.json` that
        is there; returns its path."""
        path, config_path = Path(folder) / FAMILIARITY_FILE, Path(folder) / CONFIG_FILE
        about = {
            "format": FORMAT,
            "statistics": f"mean and standard deviation over time of bands of {BINS_PER_BAND} mel bins, by clip",
            "shrinkage": str(SHRINKAGE),
            "familiar_share": str(FAMILIAR_SHARE),
        }
        # The library's own `save_file` lets nobody but the owner read the file.
        # One entry of metadata: several are written in another order each time.
        path.write_bytes(save(self._tensors(), metadata={"about": json.dumps(about)}))
        if config_path.exists():
            config = json.loads(config_path.read_text(encoding="utf-8")) | {"familiarity_digest": self.digest}
            partial = config_path.with_name(f"{CONFIG_FILE}.partial")
            partial.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            partial.replace(config_path)
        return path

    def _tensors(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.mean.astype(np.float32),
            "whitening": np.ascontiguousarray(self.whitening, dtype=np.float32),
            "threshold": np.array([self.threshold], dtype=np.float32),
            "cycles": np.array([self.cycles], dtype=np.int64),
        }


def log_mel_statistics(log_mel: torch.Tensor) -> np.ndarray:
    """
    Mean and standard deviation over time of every band of four neighbouring mel bins, after normalisation by clip.

    Args:
        log_mel (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`): log-mel spectrograms of any level and scale.
            Mel bins at the top that fill no band are left out.

    Returns:
        `np.ndarray` of shape `(batch, 2 * (num_mel_bins // 4))`, float64: 64 statistics of 128 mel bins.

    Raises:
        ValueError: where there are fewer than two frames or four mel bins.

    Example:

    ```python
    >>> log_mel_statistics(torch.zeros(2, 1024, 128)).shape
    (2, 64)

    ```"""
    if log_mel.ndim != 3 or log_mel.shape[1] < 2 or log_mel.shape[2] < BINS_PER_BAND:
        raise ValueError(
            f"log_mel: has the shape {tuple(log_mel.shape)}; pass (batch, frames, num_mel_bins) with at least 2 "
            f"frames and {BINS_PER_BAND} mel bins"
        )
    log_mel = log_mel.double()
    spread = log_mel.std(dim=(1, 2), keepdim=True).clamp_min(SMALLEST_SPREAD)
    log_mel = (log_mel - log_mel.mean(dim=(1, 2), keepdim=True)) / spread
    kept = log_mel.shape[2] // BINS_PER_BAND * BINS_PER_BAND
    bands = log_mel[..., :kept].unflatten(-1, (-1, BINS_PER_BAND)).mean(dim=-1)
    return torch.cat([bands.mean(dim=1), bands.std(dim=1)], dim=-1).cpu().numpy()


def fit_familiarity(statistics: np.ndarray, patients: Sequence[str]) -> Familiarity:
    """
    Fits the distribution of training cycles, and the threshold to cycles of patients that were left out in turn.

    Args:
        statistics (`np.ndarray` of shape `(cycles, statistics)`): of the training cycles, by [`log_mel_statistics`].
        patients (sequence of `str`): whose they are.

    Returns:
        `Familiarity`: deterministic, whatever the order of the cycles.

    Raises:
        InputError: where there are fewer than two patients, or a value is not finite.
    """
    names = np.asarray(patients)
    if len(names) != len(statistics) or len(set(patients)) < 2:
        raise InputError(
            "patients",
            f"{len(names)} names of {len(set(patients))} patient(s) for {len(statistics)} cycles",
            "pass the patient of each cycle, and at least two of them",
        )
    if not np.isfinite(statistics).all():
        raise InputError("statistics", "has NaN or infinite values", "look for broken recordings")
    folds = sorted(set(patients))
    left_out = np.empty(len(statistics))
    for index in range(min(NUM_FOLDS, len(folds))):
        inside = np.isin(names, folds[index::NUM_FOLDS])
        mean, whitening = _mean_and_whitening(statistics[~inside])
        left_out[inside] = np.linalg.norm((statistics[inside] - mean) @ whitening, axis=1)
    mean, whitening = _mean_and_whitening(statistics)
    return Familiarity(mean, whitening, float(np.quantile(left_out, FAMILIAR_SHARE)), len(statistics))


def load_familiarity(checkpoint: str | os.PathLike, **kwargs: str | bool | None) -> Familiarity | None:
    """
    Loads what a checkpoint carries; checkpoints need not have it.

    Args:
        checkpoint (`str` or `os.PathLike`): a folder, or the id of a model on the Hub.
        kwargs (*optional*): `revision`, `token`, `cache_dir`, `local_files_only` and the like for the Hub.

    Returns:
        `Familiarity`, or `None` if the checkpoint, the file or the network is missing.

    Raises:
        InputError: where the file is damaged or something else. It is never unpickled.
    """
    path = _familiarity_file(checkpoint, **kwargs)
    if path is None:
        return None
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(path, f"cannot be read ({one_line(error)})", "download it again, or remove it") from error
    mean, whitening = tensors.get("mean"), tensors.get("whitening")
    threshold, cycles = tensors.get("threshold"), tensors.get("cycles")
    if mean is None or whitening is None or threshold is None or cycles is None:
        raise InputError(path, "lacks mean, whitening, threshold or cycles", "fit it again, or remove it")
    fits = mean.ndim == 1 and whitening.shape == (len(mean), len(mean)) and threshold.shape == cycles.shape == (1,)
    if not fits or not all(np.isfinite(tensor).all() for tensor in tensors.values()) or threshold[0] <= 0:
        raise InputError(path, "its values do not fit each other", "fit it again, or remove it")
    return Familiarity(mean.astype(np.float64), whitening.astype(np.float64), float(threshold[0]), int(cycles[0]))


def _mean_and_whitening(statistics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and a root of the inverse of the covariance whose correlations are shrunk."""
    deviation = np.maximum(statistics.std(axis=0), SMALLEST_DEVIATION)
    standardised = (statistics - statistics.mean(axis=0)) / deviation
    correlation = standardised.T @ standardised / len(statistics)
    shrunk = (1 - SHRINKAGE) * correlation + SHRINKAGE * np.eye(len(correlation))
    return statistics.mean(axis=0), np.linalg.cholesky(np.linalg.inv(shrunk)) / deviation[:, None]


def _familiarity_file(checkpoint: str | os.PathLike, **kwargs: str | bool | None) -> str | None:
    if not os.fspath(checkpoint):
        return None
    try:
        return cached_file(
            os.fspath(checkpoint),
            FAMILIARITY_FILE,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **kwargs,
        )
    except OSError:
        # No such model. The weights, which come first, tell the user so.
        return None


__all__ = ["FAMILIARITY_FILE", "Familiarity", "fit_familiarity", "load_familiarity"]
