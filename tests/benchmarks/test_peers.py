"""The peers compute what they stand for; the sequential scan agrees with ours."""

import pytest
import torch

from benchmarks.peers import CLIP_FRAMES, build_ast_base, replaced_scan, sequential_scan_2d, skip_scan_2d
from modeling_lung_srad import LungSradForAudioClassification, modeling_lung_srad
from tests.conftest import tiny_config


@pytest.mark.parametrize("state_size", [1, 2])
def test_the_sequential_scan_gives_the_same_logits_and_gradients(state_size):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(ssm_state_size=state_size))
    input_values, labels = torch.randn(2, 64, 128), torch.tensor([0, 3])

    def logits_and_gradients():
        model.zero_grad()
        outputs = model(input_values, labels=labels)
        outputs.loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        return outputs.logits.detach(), gradients

    logits, gradients = logits_and_gradients()
    with replaced_scan(sequential_scan_2d):
        sequential_logits, sequential_gradients = logits_and_gradients()
    torch.testing.assert_close(sequential_logits, logits, atol=1e-5, rtol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(sequential_gradients[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_without_the_scan_the_map_goes_through():
    hidden_states = torch.randn(1, 2, 3, 4, dtype=torch.bfloat16)
    result = skip_scan_2d(hidden_states, backend="auto")
    assert result.dtype == torch.float32
    assert torch.equal(result, hidden_states.float())


def test_the_scan_is_put_back_after_an_error():
    original = modeling_lung_srad.selective_scan_2d
    with pytest.raises(ZeroDivisionError), replaced_scan(lambda: 1 / 0):
        modeling_lung_srad.selective_scan_2d()
    assert modeling_lung_srad.selective_scan_2d is original


def test_ast_base_has_its_published_size_and_takes_a_clip():
    with torch.device("meta"):
        model = build_ast_base()
    assert 86e6 < sum(parameter.numel() for parameter in model.parameters()) < 87e6
    assert model.config.max_length == CLIP_FRAMES
