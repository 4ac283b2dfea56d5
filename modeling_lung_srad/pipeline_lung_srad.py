"""Classifies whole recordings: any length and rate in, a timeline with a summary and quality flags out.

Its code goes with trained and published checkpoints, so that in a process without this package
`transformers.pipeline(model=..., trust_remote_code=True)` has it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import logging

from .audio import memory_checked
from .configuration_lung_srad import CLASS_NAMES, LungSradConfig, class_columns
from .errors import InputError
from .familiarity import FAMILIARITY_FILE, Familiarity, load_familiarity
from .modeling_lung_srad import compose_classes
from .quality import QualityFlag, assess_recording
from .recording import Recording, cut_cycle, fade_recording, load_recording
from .timeline import (
    RecordingResult,
    Segment,
    add_context,
    check_cycles,
    check_window,
    sliding_windows,
    summarize,
)

logger = logging.get_logger(__name__)

TASK = "lung-sound-classification"
DEFAULT_WINDOW_SECONDS = 8.0
SHORTEST_INPUT_SECONDS = 1.0
# Below, no class is more likely than all others together.
DEFAULT_MIN_CONFIDENCE = 0.5
DEFAULT_BATCH_SIZE = 16
# Abstain from windows at least this silent.
SILENT_SHARE = 0.9
NUMBERS = ("window", "hop", "min_confidence")


class RecordingEmbeddings(NamedTuple):
    """
    Args:
        file (`str`, *optional*): as the caller wrote it.
        start, end (`np.ndarray` of shape `(windows,)`): in seconds.
        embeddings (`np.ndarray` of shape `(windows, hidden_size)`): float32, the features before the classifier.
    """

    file: str | None
    start: np.ndarray
    end: np.ndarray
    embeddings: np.ndarray


class LungSoundPipeline(Pipeline):
    r"""
    Pipeline for whole recordings of lung sounds.

    A recording is mixed down, resampled and faded; windows, or given cycles, are cut out of it and classified. With a
    `config.context_weight`, the windows around one count in its answer ([`add_context`]). With a `config.temperature`,
    the probabilities are calibrated by it.

    Args:
        model ([`LungSradForAudioClassification`]): with the labels normal, crackle, wheeze and both, in any order.
        feature_extractor ([`LungSradFeatureExtractor`]): the one saved with it.
        window (`float`, *optional*):
            seconds of a window; by default `config.window_seconds`, or 8, or what the model hears at once if less.
        hop (`float`, *optional*): seconds between windows; by default half a window.
        min_confidence (`float`, *optional*, defaults to 0.5):
            probability of the most probable class below which the pipeline abstains. 0: never.
        batch_size (`int`, *optional*, defaults to 16): windows per forward pass.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_lung_srad import load_pipeline

    >>> lung_sounds = load_pipeline()
    >>> waveform = 0.1 * np.random.default_rng(0).standard_normal(4000 * 4)
    >>> result = lung_sounds({"raw": waveform, "sampling_rate": 4000})
    >>> [(segment["start"], segment["end"]) for segment in result["timeline"]]
    [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0)]
    >>> sorted(result["summary"])
    ['abstained_share', 'crackle_share', 'label', 'strongest', 'wheeze_share']

    ```"""

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]
    _load_feature_extractor = True  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    model: Any
    feature_extractor: Any
    # `load_pipeline`, set by `checkpoint_loading.py`, which stays behind when this file travels with a checkpoint.
    from_checkpoint: ClassVar[Callable[..., "LungSoundPipeline"]]

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("task", TASK)
        super().__init__(*args, **kwargs)
        self.model.eval()
        self._columns = class_columns(self.model.config.id2label or {}, "model")
        self.familiarity = _familiarity_of(self.model.config)

    @property
    def _thresholds(self) -> tuple[float | None, float | None]:
        return self.model.config.crackle_threshold, self.model.config.wheeze_threshold

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        r"""
        Args:
            inputs (`str`, `os.PathLike`, `bytes`, `np.ndarray`, `torch.Tensor`, `dict`, a list or iterator of them):
                A recording: an audio file (wav, flac, ogg, mp3); its content; a mono waveform at the rate of the
                feature extractor; or `{"raw": waveform, "sampling_rate": rate}`.
            window, hop, min_confidence, batch_size: as of the class.
            cycles (iterable of `tuple[float, float]`, *optional*):
                start and end of cycles, in seconds, to classify instead of windows.
            on_progress (`Callable[[int, int], None]`, *optional*):
                called with the number of windows done and the number of all windows of the recording.

        Returns:
            [`RecordingResult`], a list of them for a list, an iterator over them for an iterator.

        Raises:
            InputError: a recording that cannot be used;
                a window, hop or cycle that does not fit;
                another setting that is out of range.
        """
        if kwargs.get("cycles") is not None:
            kwargs["cycles"] = _listed(kwargs["cycles"])
        is_sequence = isinstance(inputs, list | tuple | Dataset)
        if not is_sequence and not isinstance(inputs, Iterator):
            return self._classify(inputs, **kwargs)
        results = (self._classify(recording, **kwargs) for recording in inputs)
        return list(results) if is_sequence else results

    def embed(
        self,
        inputs: Any,
        window: float | None = None,
        hop: float | None = None,
        cycles: Iterable[tuple[float, float]] | None = None,
        batch_size: int | None = None,
    ) -> RecordingEmbeddings:
        """
        Pooled features of the windows of a recording, for retrieval, clustering or a classifier of your own.

        Args:
            inputs: a recording, as of [`~LungSoundPipeline.__call__`].
            window, hop, cycles, batch_size: as there.

        Returns:
            [`RecordingEmbeddings`]

        Raises:
            InputError: as there.
        """
        spans_given = None if cycles is None else _listed(cycles)
        prepared = self.preprocess(inputs, _number("window", window), _number("hop", hop), spans_given)
        with self.device_placement(), torch.inference_mode():
            pooled = [
                outputs.pooler_output.float().cpu()
                for _, _, outputs in self._run_windows(prepared, batch_size or self._batch_size or DEFAULT_BATCH_SIZE)
            ]
        start, end = np.array(prepared["spans"], dtype=np.float64).reshape(-1, 2).T
        nothing = torch.zeros(0, self.model.config.hidden_size)
        return RecordingEmbeddings(prepared["recording"].file, start, end, torch.cat([nothing, *pooled]).numpy())

    def choose_window(self, window: float | None = None, hop: float | None = None) -> tuple[float, float]:
        """
        Window and hop in seconds, with the defaults of the class for what is not given.

        Raises:
            InputError: where they do not fit the feature extractor.
        """
        longest = self.feature_extractor.cycle_seconds
        if window is None:
            window = min(self.model.config.window_seconds or DEFAULT_WINDOW_SECONDS, longest)
        hop = window / 2 if hop is None else hop
        check_window(window, hop, longest)
        return window, hop

    def window_extractor(self, window: float) -> Any:
        """
        The feature extractor for windows of `window` seconds.

        A model that states `window_seconds` hears a window as long as it is, and at least 1 s; others hear it repeated
        to `cycle_seconds`, as they do cycles.
        """
        if self.model.config.window_seconds is None:
            return self.feature_extractor
        seconds = min(max(window, SHORTEST_INPUT_SECONDS), self.feature_extractor.cycle_seconds)
        return self.feature_extractor.with_cycle_seconds(seconds)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """
        Saves all that the pipeline needs: model, feature extractor, code, and what it knows of the training cycles.

        Args:
            save_directory (`str` or `os.PathLike`): folder to make or to add to.
            kwargs: as of `transformers.Pipeline.save_pretrained`.
        """
        if not hasattr(self, "_registered_impl"):  # Loaded with the code of a checkpoint; that code is saved again.
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            custom_object_save(self, save_directory)
        super().save_pretrained(save_directory, **kwargs)
        if self.familiarity is not None:
            self.familiarity.save(save_directory)

    def _classify(self, recording: Any, **kwargs: Any) -> RecordingResult:
        batch_size = kwargs.pop("batch_size", self._batch_size)
        # Stock pipelines take it; recordings are read one at a time here, and their windows make the batches.
        kwargs.pop("num_workers", None)
        preprocess, forward, postprocess = self._sanitize_parameters(**kwargs)
        forward["windows_at_once"] = DEFAULT_BATCH_SIZE if batch_size is None else batch_size
        return self.run_single(
            recording,
            self._preprocess_params | preprocess,
            self._forward_params | forward,
            self._postprocess_params | postprocess,
        )

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = {
            "window": "preprocess",
            "hop": "preprocess",
            "cycles": "preprocess",
            "on_progress": "forward",
            "min_confidence": "postprocess",
        }
        parameters: dict[str, dict[str, Any]] = {"preprocess": {}, "forward": {}, "postprocess": {}}
        for name, value in kwargs.items():
            if name not in known:
                names = ", ".join((*known, "batch_size"))
                raise InputError(name, "unknown setting", f"known are {names}")
            if name in NUMBERS:
                value = _number(name, value)
            parameters[known[name]][name] = value
        return parameters["preprocess"], parameters["forward"], parameters["postprocess"]

    def preprocess(  # type: ignore[override]
        self,
        inputs: Any,
        window: float | None = None,
        hop: float | None = None,
        cycles: Iterable[tuple[float, float]] | None = None,
    ) -> dict[str, Any]:
        """Loads a recording, judges its quality and finds where windows begin and end."""
        window, hop = self.choose_window(window, hop)
        recording = load_recording(inputs, self.feature_extractor.sampling_rate)
        extractor = self.feature_extractor
        if cycles is None:
            spans = sliding_windows(recording.duration, window, hop)
            extractor = self.window_extractor(window)
        else:
            spans = check_cycles(cycles, recording.duration, recording.file or "cycles")
        with memory_checked(recording.file or "audio"):
            quality = [*recording.flags, *assess_recording(recording.source_waveform, recording.source_rate)]
        return {
            "recording": recording,
            "spans": spans,
            "quality": quality,
            "cycles_given": cycles is not None,
            "extractor": extractor,
        }

    def _forward(  # type: ignore[override]
        self,
        input_tensors: dict[str, Any],
        windows_at_once: int = DEFAULT_BATCH_SIZE,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        logits, distances = [torch.zeros(0, self.model.config.num_labels)], [np.zeros(0)]
        for done, log_mel, outputs in self._run_windows(input_tensors, windows_at_once):
            logits.append(outputs.logits.float().cpu())
            if self.familiarity is not None:
                distances.append(self.familiarity.distance(log_mel))
            if on_progress is not None:
                on_progress(done, len(input_tensors["spans"]))
        return input_tensors | {"logits": torch.cat(logits), "distances": np.concatenate(distances)}

    def _run_windows(
        self, input_tensors: dict[str, Any], windows_at_once: int
    ) -> Iterator[tuple[int, torch.Tensor, Any]]:
        """Runs the model on batches of windows: windows done so far, log-mel spectrograms and output of each batch."""
        if not isinstance(windows_at_once, int) or windows_at_once < 1:
            raise InputError("batch_size", f"{windows_at_once!r} is not a number of windows", "give 1 or more")
        recording, spans, extractor = (input_tensors[name] for name in ("recording", "spans", "extractor"))
        rate = recording.sampling_rate
        with memory_checked(recording.file or "audio"):
            faded = fade_recording(recording.waveform, rate)
        for first in range(0, len(spans), windows_at_once):
            batch = spans[first : first + windows_at_once]
            clips = [cut_cycle(faded, rate, start, end) for start, end in batch]
            log_mel = extractor.log_mel(clips)
            input_values = extractor.resize(extractor.normalize(log_mel))
            yield first + len(batch), log_mel, self.model(input_values.to(self.device))

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Any], min_confidence: float | None = None
    ) -> RecordingResult:
        """Makes the timeline, its summary and the quality flags."""
        if min_confidence is None:
            min_confidence = DEFAULT_MIN_CONFIDENCE
        if not 0 <= min_confidence <= 1:
            raise InputError("min_confidence", f"{min_confidence:g} is not a probability", "give 0 to 1")
        recording: Recording = model_outputs["recording"]
        temperature = self.model.config.temperature
        logits = model_outputs["logits"][:, self._columns]
        if not torch.isfinite(logits).all():
            raise InputError("model", "gives NaN or infinite logits", "load it in float32, or train it again")
        spans, quality = model_outputs["spans"], list(model_outputs["quality"])
        if self.model.config.context_weight:
            odds = (logits[:, 1:3] - logits[:, :1]).double().numpy()
            logits = compose_classes(torch.from_numpy(add_context(odds, spans, self.model.config.context_weight)))
        logits = logits / (temperature or 1.0)
        if self.familiarity is not None:
            unfamiliar = self.familiarity.flag(model_outputs["distances"], spans)
            quality += [] if unfamiliar is None else [unfamiliar]
        timeline = [
            _segment(span, row, quality, min_confidence, self._thresholds)
            for span, row in zip(spans, torch.softmax(logits, dim=-1).tolist(), strict=True)
        ]
        return {
            "file": recording.file,
            "duration": recording.duration,
            "sampling_rate": recording.source_rate,
            "calibrated": temperature is not None,
            "cycles_given": model_outputs["cycles_given"],
            "summary": summarize(timeline),
            "quality": [
                {
                    "flag": flag.flag,
                    "message": flag.message,
                    "value": flag.value,
                    "spans": [[float(start), float(end)] for start, end in flag.spans],
                }
                for flag in quality
            ],
            "timeline": timeline,
        }


def _familiarity_of(config: LungSradConfig) -> Familiarity | None:
    """Familiarity saved with the weights, found by their name; None if missing or of another revision."""
    found = load_familiarity(config.name_or_path or "", revision=getattr(config, "_commit_hash", None))
    if (None if found is None else found.digest) == config.familiarity_digest:
        return found
    logger.warning_once(
        f"{config.name_or_path or 'model'}: has not the {FAMILIARITY_FILE} that its config.familiarity_digest states, "
        "so that sounds unlike those of training are not flagged; load the checkpoint from a folder that holds it all"
    )
    return None


def _listed(cycles: Any) -> list[Any]:
    if not isinstance(cycles, Iterable) or isinstance(cycles, str):
        raise InputError("cycles", f"{cycles!r} is not a list of cycles", "give (start, end) of each, in s")
    return list(cycles)


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InputError(name, f"{value!r} is not a number", "give one, or leave it out")
    return float(value)


def choose_class(probabilities: Sequence[float], thresholds: tuple[float | None, float | None]) -> int:
    """
    The class to name: the most probable one, or that of the sounds whose probability reaches their threshold.

    Args:
        probabilities (sequence of 4 `float`): of the classes in the order of `CLASS_NAMES`.
        thresholds (`tuple[float | None, float | None]`): of crackle and of wheeze; the most probable class without.

    Returns:
        `int`: index into `CLASS_NAMES`.
    """
    crackle, wheeze = thresholds
    if crackle is None or wheeze is None:
        return int(np.argmax(probabilities))
    _, only_crackle, only_wheeze, both = probabilities
    return int(only_crackle + both >= crackle) + 2 * int(only_wheeze + both >= wheeze)


def _segment(
    span: tuple[float, float],
    probabilities: list[float],
    quality: Sequence[QualityFlag],
    min_confidence: float,
    thresholds: tuple[float | None, float | None],
) -> Segment:
    start, end = span
    best = choose_class(probabilities, thresholds)
    overlaps = {flag.flag: _overlap(flag, start, end) for flag in quality}
    silent_share = overlaps.get("silence", 0.0) / (end - start)
    return {
        "start": start,
        "end": end,
        "label": CLASS_NAMES[best],
        "confidence": probabilities[best],
        "abstained": probabilities[best] < min_confidence or silent_share >= SILENT_SHARE,
        "probabilities": dict(zip(CLASS_NAMES, probabilities, strict=True)),
        "flags": [flag.flag for flag in quality if not flag.spans or overlaps[flag.flag] > 0],
    }


def _overlap(flag: QualityFlag, start: float, end: float) -> float:
    """Seconds that a flag shares with a segment."""
    return sum(max(0.0, min(end, last) - max(start, first)) for first, last in flag.spans)
