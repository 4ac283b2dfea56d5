"""Lung-SRAD for Hugging Face transformers: respiratory sounds to normal, crackle, wheeze or both.

Importing this package registers the classes, so that `AutoModelForAudioClassification.from_pretrained` and the other
auto classes load a checkpoint without `trust_remote_code`, and so that saving a model copies its code beside it.

The files beside this one are the code that travels with a checkpoint, except `checkpoint_loading.py`. transformers
copies the files that these import relatively, and finds siblings only, so they form no sub-packages. The rooms stay
behind: `conversion`, `export`, `files`, `saliency`, `spectral` and `checkpoints`.
"""

import os

# Waiting threads of torch sleep instead of spinning: on a machine with other work, everything takes a fraction of the
# time. It has no effect where torch was imported before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .checkpoint_loading import load_pipeline
from .configuration_lung_srad import LungSradConfig
from .feature_extraction_lung_srad import LungSradFeatureExtractor
from .modeling_lung_srad import LungSradForAudioClassification, LungSradModel
from .pipeline_lung_srad import TASK, LungSoundPipeline
from .selective_scan import selective_scan

AutoConfig.register("lung_srad", LungSradConfig)
AutoModel.register(LungSradConfig, LungSradModel)
AutoModelForAudioClassification.register(LungSradConfig, LungSradForAudioClassification)
AutoFeatureExtractor.register(LungSradConfig, LungSradFeatureExtractor)

LungSradConfig.register_for_auto_class()
LungSradModel.register_for_auto_class("AutoModel")
LungSradForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
LungSradFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
PIPELINE_REGISTRY.register_pipeline(TASK, LungSoundPipeline, pt_model=AutoModelForAudioClassification, type="audio")

__all__ = [
    "LungSoundPipeline",
    "LungSradConfig",
    "LungSradFeatureExtractor",
    "LungSradForAudioClassification",
    "LungSradModel",
    "load_pipeline",
    "selective_scan",
]
