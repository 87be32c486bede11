"""NCSN++ and its guide: outputs, gradients, initial weights, classes, refusals."""

import pytest
import torch
from torch import nn

from psld.networks.ncsnpp import NCSNpp, NCSNppGuide, TimeEmbedding, group_norm
from psld.paper.parameters import from_official, official_parameters
from psld.utils.errors import UserError
from tests.networks.networks import (
    EVERY_OPTION,
    SIZE,
    images_and_times,
    small,
    small_guide,
    unsettled,
)
from tests.networks.plain_ncsnpp import plain_ncsnpp
from tests.paper.official_options import official, spec_of


@EVERY_OPTION
def test_outputs_equal_the_plain_network_and_every_parameter_has_a_gradient(options):
    """Each weight has one official name, and the conversion back returns it unchanged."""
    settings = small(**options)
    network = unsettled(NCSNpp(settings, SIZE, 2, 2))
    x, t = images_and_times()
    expected = plain_ncsnpp(spec_of(settings), official(network), x, t)
    found = network(x, t)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    mapped = from_official(official(network), network)
    assert len({source.name for source in official_parameters(network).values()}) == len(mapped)
    torch.testing.assert_close(mapped, dict(network.state_dict()), rtol=0, atol=0)
    found.square().mean().backward()
    # A parameter without a gradient would also stop distributed training.
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_new_network_predicts_almost_nothing():
    x, t = images_and_times()
    assert NCSNpp(small(init_scale=0), SIZE, 2, 2)(x, t).abs().max() < 1e-3
    assert NCSNpp(small(init_scale=1), SIZE, 2, 2)(x, t).abs().max() > 1e-1


INITIAL = [
    {"block": "biggan"},
    {"block": "ddpm", "init_scale": 0.5},
    {"block": "ddpm", "resampling": "fir", "progressive_output": "output_skip"},
    {"block": "biggan", "resampling": "fir", "progressive_input": "residual", "init_scale": 0.01},
]


@pytest.mark.parametrize("options", INITIAL, ids=str)
def test_initial_weights_have_the_official_distribution(options):
    """U(−a, a) with a² = 3 · scale / mean(fan in, fan out), and biases of 0."""
    settings = small(base_channels=32, **options)
    network = NCSNpp(settings, SIZE, 2, 2)
    for name, layer in network.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        place = name.rpartition(".")[2]
        in_network = ("query", "key", "value", *(["shortcut"] if settings.block == "ddpm" else []))
        scale = 0.1 if place in in_network else 1.0
        if place in ("conv2", "out") or name.endswith("output.conv"):
            scale = settings.init_scale or 1e-10
        pixels = layer.weight[0, 0].numel()
        fans = (layer.weight.shape[0] + layer.weight.shape[1]) * pixels
        a = (3 * scale / (fans / 2)) ** 0.5
        weights = layer.weight.detach() / a
        assert 0.97 < float(weights.abs().max()) < 1.0001, name
        assert float(weights.std()) == pytest.approx(3**-0.5, rel=0.15), name
        assert layer.bias is None or not layer.bias.any(), name


def test_dropout_only_in_training():
    network = unsettled(NCSNpp(small(dropout=0.3), SIZE, 2, 2))
    x, t = images_and_times(batch=8)
    kept = []
    network.middle.block1.conv2.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    torch.testing.assert_close(network(x, t), network(x, t), rtol=0, atol=0)
    network.train()
    assert not torch.equal(network(x, t), network(x, t))
    assert [float((h == 0).double().mean()) for h in kept] == pytest.approx(
        [0, 0, 0.3, 0.3], abs=0.06
    )


def test_the_norm_of_a_small_signal():
    """The ε of the norm is 1e-6, so a signal with variance 1e-6 is normalized to variance 1/2."""
    x = 1e-3 * torch.randn(2, 8, 16, 16)
    groups = x.view(2, 2, -1).double()
    variance, mean = torch.var_mean(groups, dim=2, correction=0, keepdim=True)
    expected = ((groups - mean) / (variance + 1e-6).sqrt()).view_as(x).float()
    torch.testing.assert_close(group_norm(8)(x), expected, rtol=1e-4, atol=1e-5)


def test_fourier_features_have_the_scale_of_the_settings():
    settings = small(base_channels=400, embedding="fourier", fourier_scale=3.0)
    assert float(TimeEmbedding(settings).embedding.frequencies.std()) == pytest.approx(3, rel=0.2)


def test_classes():
    """ "No class" is an additional last class."""
    network = unsettled(NCSNpp(small(), SIZE, 2, 2, num_classes=3))
    x, t = images_and_times()
    assert network.class_embedding.weight.shape == (4, 32)
    first, second = network(x, t, torch.tensor([0, 1])), network(x, t, torch.tensor([0, 2]))
    torch.testing.assert_close(first[0], second[0])
    assert not torch.allclose(first[1], second[1], atol=1e-3)
    torch.testing.assert_close(network(x, t), network(x, t, torch.tensor([3, 3])))


def test_label_without_classes():
    network = NCSNpp(small(), SIZE, 2, 2)
    x, t = images_and_times()
    with pytest.raises(UserError, match="num_classes is 0"):
        network(x, t, torch.tensor([0, 1]))


def test_images_of_another_shape():
    network = NCSNpp(small(), SIZE, 2, 2)
    with pytest.raises(UserError, match=r"\(2, 8, 8\), not \(3, 8, 8\)"):
        network(torch.zeros(1, 3, SIZE, SIZE), torch.ones(1))


def test_channels_that_cannot_be_normalized():
    with pytest.raises(UserError, match=r"base_channels .* 140 channels, .* 32 groups"):
        NCSNpp(small(base_channels=28, channel_multipliers=(1, 4)), SIZE, 2, 2)


# --- the guide ------------------------------------------------------------------------------------


def test_logits_train_every_parameter():
    guide = unsettled(NCSNppGuide(small_guide(block="ddpm"), SIZE, 2, 5)).train()
    x, t = images_and_times(batch=3)
    logits = guide(x, t)
    assert logits.shape == (3, 5)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 4])).backward()
    assert [name for name, p in guide.named_parameters() if p.grad is None] == []
