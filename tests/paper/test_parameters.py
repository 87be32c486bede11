"""The mapping from official names, on every combination of options."""

from typing import Any

import pytest
import torch

from psld.networks.ncsnpp import Encoder, NCSNpp, NCSNppGuide
from psld.networks.settings import NetworkSettings
from psld.paper.parameters import from_official, official_parameters
from psld.utils.errors import UserError
from tests.networks.networks import (
    EVERY_OPTION,
    OPTIONS,
    SIZE,
    images_and_times,
    small,
    small_guide,
    unsettled,
)
from tests.networks.plain_ncsnpp import plain_ncsnpp
from tests.paper.official_options import settings_from_spec


@EVERY_OPTION
def test_plain_network_from_official_names_agrees_and_the_mapping_is_a_bijection(options):
    settings = small(**options)
    network = unsettled(NCSNpp(settings, SIZE, 2, 2))
    x, t = images_and_times()
    with torch.no_grad():
        expected = plain_ncsnpp(spec_of(settings), official(network), x, t)
        torch.testing.assert_close(network(x, t), expected, rtol=1e-4, atol=1e-5)
    mapped = from_official(official(network), network)
    assert len({source.name for source in official_parameters(network).values()}) == len(mapped)
    ours = network.state_dict()
    assert mapped.keys() == ours.keys()
    for name, weight in mapped.items():
        torch.testing.assert_close(weight, ours[name], rtol=0, atol=0, msg=name)


def test_mapping_of_the_guide_is_a_bijection():
    guide = NCSNppGuide(small_guide(), SIZE, 2, 5)
    mapped = from_official(official(guide), guide)
    assert mapped.keys() == guide.state_dict().keys()


def test_settings_survive_the_official_spelling():
    for options in OPTIONS:
        assert settings_from_spec(spec_of(small(**options))) == small(**options)


def test_misfits_are_listed():
    network = NCSNpp(small(), SIZE, 2, 2)
    state = official(network)
    del state["all_modules.0.weight"]
    state["all_modules.99.weight"] = torch.zeros(1).expand(10**6, 10**6)  # 4 TB, if touched
    state["all_modules.2.weight"] = torch.zeros(8, 3, 3, 3)
    with pytest.raises(UserError) as error:
        from_official(state, network)
    message = str(error.value)
    assert "missing: all_modules.0.weight" in message
    assert "unexpected: all_modules.99.weight" in message
    assert "all_modules.2.weight is (8, 3, 3, 3), should be (8, 2, 3, 3)" in message
    assert "\n" not in message


def test_weights_of_a_larger_network_do_not_fit():
    larger = official(NCSNpp(small(blocks_per_level=2), SIZE, 2, 2))
    with pytest.raises(UserError, match=r"unexpected: .* and \d+ more"):
        from_official(larger, NCSNpp(small(), SIZE, 2, 2))


def test_official_networks_know_no_classes():
    network = NCSNpp(small(), SIZE, 2, 2)
    with pytest.raises(UserError, match=r"not in official networks: class_embedding\.weight"):
        from_official(official(network), NCSNpp(small(), SIZE, 2, 2, num_classes=3))


def official(network: Encoder) -> dict[str, torch.Tensor]:
    """The network's weights by their official names, in the official layout."""
    ours = network.state_dict()
    return {
        source.name: source.swapped(ours[name])
        for name, source in official_parameters(network).items()
        if name in ours
    }


def spec_of(settings: NetworkSettings) -> dict[str, Any]:
    return {
        "name": "ncsnpp",
        "in_ch": 2,
        "out_ch": 2,
        "nonlinearity": "swish",
        "nf": settings.base_channels,
        "ch_mult": list(settings.channel_multipliers),
        "num_res_blocks": settings.blocks_per_level,
        "attn_resolutions": list(settings.attention_resolutions),
        "dropout": settings.dropout,
        "resamp_with_conv": settings.resample_with_conv,
        "noise_cond": True,
        "fir": settings.resampling == "fir",
        "fir_kernel": list(settings.fir_kernel),
        "skip_rescale": settings.skip_rescale,
        "resblock_type": settings.block,
        "progressive": settings.progressive_output,
        "progressive_input": settings.progressive_input,
        "progressive_combine": settings.progressive_combine,
        "embedding_type": settings.embedding,
        "init_scale": settings.init_scale,
        "fourier_scale": settings.fourier_scale,
    }
