"""Evaluation mode for a while."""

import contextlib

from torch import nn

from modeling_lung_srad.saliency.evaluation_mode import evaluation_mode


def test_every_module_gets_its_mode_back_also_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[0].eval()
    with contextlib.suppress(KeyError), evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [module.training for module in model.modules()] == [True, False, True]
