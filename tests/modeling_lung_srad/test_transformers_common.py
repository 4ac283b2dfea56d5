"""The tests that transformers runs on each of its own models, run on these.

They are in its source distribution only; `make transformers-tests` unpacks those of the installed version.
"""

import importlib
import re
import sys
import types
import unittest
import unittest.mock
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto import modeling_auto

from modeling_lung_srad import (
    LungSradConfig,
    LungSradFeatureExtractor,
    LungSradForAudioClassification,
    LungSradModel,
)

from ..conftest import tiny_config

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "outputs" / f"transformers-{transformers.__version__}" / "tests"
if not SOURCES.exists():
    pytest.skip(f"needs {SOURCES}; run make transformers-tests", allow_module_level=True)


def stub(name, **members):
    """Stands in for a module of the tests that the source distribution lacks."""
    sys.modules[f"transformers_tests.{name}"] = module = types.ModuleType(name)
    vars(module).update(members)


# `tests` is the name of this suite as well, so the package gets another one.
package = types.ModuleType("transformers_tests")
package.__path__ = [str(SOURCES)]
sys.modules["transformers_tests"] = package
stub("exporters", __path__=[])
stub("exporters.test_export", ExportTesterMixin=object)
stub("generation", __path__=[])
stub("generation.test_utils", GenerationTesterMixin=type("Generation", (), {}))
stub("utils", __path__=[])
stub("utils.test_configuration_utils", config_common_kwargs={})
ModelTesterMixin = importlib.import_module("transformers_tests.test_modeling_common").ModelTesterMixin
ConfigTester = importlib.import_module("transformers_tests.test_configuration_common").ConfigTester
feature_tests = importlib.import_module("transformers_tests.test_feature_extraction_common")

# Tests of parts that these models lack. Those that need an accelerator or two stay, and skip where none is.
NOT_APPLICABLE = {
    "attention|attn|sdpa|sliding_window|batched_and_grouped": "a state space network has no attention",
    "rope|cache_name": "nor positions or a cache of keys",
    "inputs_embeds|resize_(tokens|position|embeddings)": "the input is a spectrogram, not tokens",
    "embeddings$": "the same; the embedding is a convolution, checked below",
    "input_require_grads_with": "the same; it looks for one weight of an embedding",
    "causal_lm|encoder_decoder|multimodal|subconfig|get_.*_features": "classifies one kind of input",
    "router": "no experts",
    "keep_in_fp32": "no module is kept in float32 by name",
    "mapping|mapped_keys": "weights are not renamed at loading",
    "tp_plan": "no tensor parallelism",
    "kernels": "no kernels from the Hub",
    "torch_compile_for_training": "needs a C++ compiler",
}


class ModelTester:
    """A model of two stages and random input for it."""

    is_training = True
    batch_size = 2
    num_hidden_layers = 2
    seq_length, hidden_size = 8, 12  # mel and time of the patch grid, where other models have tokens and channels

    def get_config(self):
        return tiny_config(dims=(8, 16), depths=(1, 1), gaussian_stage=1, gaussian_blocks=(0,), num_mel_bins=32)

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"input_values": torch.randn(self.batch_size, 48, 32)}


class TestModel(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (LungSradModel, LungSradForAudioClassification)
    has_attentions = False  # a state space network
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = ModelTester()
        # The tests look up by class name which models take labels.
        for task, model_class in (
            (modeling_auto.MODEL_MAPPING_NAMES, LungSradModel),
            (modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES, LungSradForAudioClassification),
        ):
            named = unittest.mock.patch.dict(task, lung_srad=model_class.__name__)
            named.start()
            self.addCleanup(named.stop)

    def test_patch_embedding_is_the_input_embedding(self):
        for model_class in self.all_model_classes:
            assert isinstance(model_class(tiny_config()).get_input_embeddings().projection[0], torch.nn.Conv2d)


for name in dir(ModelTesterMixin):
    if name.startswith("test_") and any(re.search(pattern, name) for pattern in NOT_APPLICABLE):
        setattr(TestModel, name, None)


class TestConfig(unittest.TestCase):
    def test_config(self):
        properties = ["hidden_size", "num_hidden_layers"]
        ConfigTester(self, LungSradConfig, has_text_modality=False, common_properties=properties).run_common_tests()


class TestFeatureExtractor(feature_tests.FeatureExtractionSavingTestMixin, unittest.TestCase):
    feature_extraction_class = LungSradFeatureExtractor
    feat_extract_dict = {"cycle_seconds": 5.0, "num_frames": 512, "padding_mode": "zero"}
