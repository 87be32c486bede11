"""The mapping from official parameter names, and weights that do not fit."""

import pytest
import torch

from psld.networks.ncsnpp import NCSNpp, NCSNppGuide
from psld.paper.parameters import from_official
from psld.utils.errors import UserError
from tests.networks.networks import (
    OPTIONS,
    SIZE,
    small,
    small_guide,
)
from tests.paper.official_options import official, settings_from_spec, spec_of


def test_mapping_of_the_guide_is_a_bijection():
    guide = NCSNppGuide(small_guide(), SIZE, 2, 5)
    mapped = from_official(official(guide), guide)
    assert mapped.keys() == guide.state_dict().keys()


def test_settings_round_trip_through_official_options():
    for options in OPTIONS:
        assert settings_from_spec(spec_of(small(**options))) == small(**options)


def test_error_lists_weights_that_do_not_fit():
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


def test_class_embedding_is_not_in_official_networks():
    network = NCSNpp(small(), SIZE, 2, 2)
    with pytest.raises(UserError, match=r"not in official networks: class_embedding\.weight"):
        from_official(official(network), NCSNpp(small(), SIZE, 2, 2, num_classes=3))
