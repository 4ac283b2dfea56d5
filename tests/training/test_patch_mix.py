import pytest
import torch
from torch import nn

from modeling_lung_srad import LungSradForAudioClassification
from tests.conftest import tiny_config
from training.patch_mix import AXES, draw_patch_mix, mixed_patches

BATCH, CHANNELS, MEL, TIME = 5, 3, 8, 12


@pytest.fixture
def patches():
    """Every patch of every sample has another value, the same in all channels."""
    values = torch.arange(BATCH * MEL * TIME, dtype=torch.float32).view(BATCH, 1, MEL, TIME)
    return values.expand(BATCH, CHANNELS, MEL, TIME).contiguous()


def mix_slowly(patches, patch_mix, axis):
    """Mixes patch by patch, from which rows or columns the mask names; an independent check of the fast way."""
    mixed = patches.clone()
    chosen = patch_mix.mask.flatten().nonzero().flatten().tolist()
    for sample in range(BATCH):
        other = int(patch_mix.index[sample])
        for mel in range(MEL):
            for time in range(TIME):
                place = {"time": time, "mel": mel, "2d": mel * TIME + time}[axis]
                if place in chosen:
                    for channel in range(CHANNELS):
                        mixed[sample, channel, mel, time] = patches[other, channel, mel, time]
    return mixed, len(chosen)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("seed", range(4))
def test_grid_is_mixed_as_a_slow_loop_does(patches, axis, seed):
    torch.manual_seed(seed)
    patch_mix = draw_patch_mix(patches, axis)
    expected, chosen = mix_slowly(patches, patch_mix, axis)
    assert torch.equal(patch_mix.mix(patches), expected)
    assert patch_mix.lam == pytest.approx(1 - chosen / {"time": TIME, "mel": MEL, "2d": MEL * TIME}[axis])
    assert sorted(patch_mix.index.tolist()) == list(range(BATCH))


@pytest.mark.parametrize("axis", AXES)
def test_lam_is_the_true_share_of_a_sample_that_is_kept(patches, axis):
    for seed in range(20):
        torch.manual_seed(seed)
        patch_mix = draw_patch_mix(patches, axis)
        kept = (patch_mix.mix(patches) == patches).float().mean(dim=(1, 2, 3))
        moved = patch_mix.index != torch.arange(BATCH)
        assert kept[moved].tolist() == pytest.approx([patch_mix.lam] * int(moved.sum()))


def test_number_of_columns_is_that_of_the_first_draw(patches):
    for seed in range(20):
        torch.manual_seed(seed)
        drawn = float(torch.distributions.Beta(1.0, 1.0).sample())
        torch.manual_seed(seed)
        patch_mix = draw_patch_mix(patches, "time")
        assert int(patch_mix.mask.sum()) == int(TIME * (1 - drawn))


def test_uniform_draws_cover_all_shares(patches):
    torch.manual_seed(0)
    lam = torch.tensor([draw_patch_mix(patches, "2d").lam for _ in range(2000)])
    # Rounding down to whole patches adds half a patch to the mean of 1/2.
    assert float(lam.mean()) == pytest.approx(0.5 + 0.5 / (MEL * TIME), abs=0.02)
    assert float(lam.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_patches_in_a_row_are_mixed_one_by_one_only():
    tokens = torch.arange(4.0 * 10).view(4, 10, 1).expand(4, 10, 6)
    torch.manual_seed(1)
    patch_mix = draw_patch_mix(tokens, "2d")
    mixed = patch_mix.mix(tokens)
    for sample in range(4):
        for token in range(10):
            source = int(patch_mix.index[sample]) if bool(patch_mix.mask[0, token, 0]) else sample
            assert torch.equal(mixed[sample, token], tokens[source, token])
    with pytest.raises(ValueError, match="'time' needs patches in a grid"):
        draw_patch_mix(tokens, "time")
    with pytest.raises(ValueError, match="axis: 'frequency' is not one of time, mel, 2d"):
        draw_patch_mix(tokens, "frequency")


def test_views_of_one_pass_are_what_separate_passes_give():
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config()).eval()
    input_values = torch.randn(3, 64, 128)
    embeddings = model.get_input_embeddings()
    with torch.no_grad():
        with mixed_patches(embeddings, ("time", "mel")) as draws:
            together = model.base_model(input_values.repeat(3, 1, 1)).pooler_output
        assert not embeddings._forward_hooks
        assert not embeddings._forward_pre_hooks
        clean = embeddings(input_values)
        views = [clean, *(draw.mix(clean) for draw in draws)]
        model.base_model.patch_embeddings = Given()
        separate = torch.cat([model.base_model(view).pooler_output for view in views])
    assert len(together) == 9
    assert torch.allclose(together, separate, atol=1e-5)
    assert not torch.allclose(separate[:3], separate[3:6], atol=1e-3)


class Given(nn.Module):
    """Takes patches for what they are."""

    def forward(self, patches):
        return patches


def test_without_axes_nothing_changes_and_nothing_is_left_behind():
    model = LungSradForAudioClassification(tiny_config()).eval()
    input_values = torch.randn(2, 64, 128)
    with torch.no_grad():
        expected = model.base_model(input_values).pooler_output
        with mixed_patches(model.get_input_embeddings(), ()) as draws:
            assert torch.equal(model.base_model(input_values).pooler_output, expected)
        assert draws == []
        with pytest.raises(RuntimeError), mixed_patches(model.get_input_embeddings(), ("mel",)):
            raise RuntimeError
        assert torch.equal(model.base_model(input_values).pooler_output, expected)
