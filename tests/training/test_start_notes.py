"""Notes at the start of a run."""

import logging

import pytest
import torch

from modeling_lung_srad import LungSradConfig, LungSradForAudioClassification
from training import start_notes
from training.start_notes import say_start


@pytest.fixture
def said(caplog, monkeypatch):
    def say(checkpoint, slow_from=0):
        monkeypatch.setattr(start_notes, "SLOW_FROM_PARAMETERS", slow_from)
        caplog.set_level(logging.WARNING)
        torch.manual_seed(0)
        model = LungSradForAudioClassification(LungSradConfig.tiny())
        state = torch.random.get_rng_state()
        say_start(model, checkpoint, frames=64, epochs=50, cycles=4142)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert all(parameter.grad is None for parameter in model.parameters())
        return caplog.text

    return say


def test_random_weights_are_said(said):
    text = said(None, slow_from=10**9)
    assert "starts from random weights" in text
    assert "model.checkpoint=DASS_medium_v2.pth" in text
    assert "CPU" not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_time_of_an_epoch_on_a_cpu_is_said(said):
    text = said("DASS_medium_v2.pth")
    assert "random weights" not in text
    assert "an epoch of 4142 cycles" in text
    assert "for 50 epochs" in text
