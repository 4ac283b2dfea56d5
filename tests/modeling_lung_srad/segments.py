"""Results of the pipeline made by hand."""

from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.timeline import summarize


def segment(start, end, row, abstained=False, flags=(), reference=None):
    """A [`Segment`] with the probabilities `row`."""
    probabilities = dict(zip(CLASS_NAMES, map(float, row), strict=True))
    label = max(probabilities, key=probabilities.get)
    made = {
        "start": start,
        "end": end,
        "label": label,
        "confidence": probabilities[label],
        "abstained": abstained,
        "probabilities": probabilities,
        "flags": list(flags),
    }
    return made if reference is None else made | {"reference": reference}


def recording_result(file, duration, *timeline, quality=(), cycles_given=True):
    """A [`RecordingResult`] with these segments."""
    return {
        "file": file,
        "duration": duration,
        "sampling_rate": 16000,
        "calibrated": False,
        "cycles_given": cycles_given,
        "summary": summarize(timeline),
        "quality": list(quality),
        "timeline": list(timeline),
    }
