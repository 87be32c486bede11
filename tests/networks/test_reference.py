"""Compare outputs with the official networks, for every file of reference vectors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from psld.networks.ncsnpp import Encoder, NCSNpp, NCSNppGuide
from psld.paper.parameters import from_official
from tests.paper.official_options import settings_from_spec
from tests.reference import load, reference_files

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("path", reference_files("net_*.npz"), ids=lambda path: path.stem)
def test_reference_network(path: Path):
    vector = load(path)
    network = official_network(vector, is_guide=path.stem.startswith("net_classifier"))
    weights = {
        name.removeprefix("w/"): torch.from_numpy(array)
        for name, array in vector.items()
        if name.startswith("w/")
    }
    network.load_state_dict(from_official(weights, network))
    np.testing.assert_allclose(output(network, vector), vector["y"], **TOLERANCE)


def official_network(vector: dict[str, np.ndarray], is_guide: bool) -> Encoder:
    spec = json.loads(str(vector["spec"]))
    settings, size = settings_from_spec(spec), int(vector["size"])
    if is_guide:
        return NCSNppGuide(settings, size, spec["in_ch"], spec["n_cls"]).eval()
    return NCSNpp(settings, size, spec["in_ch"], spec["out_ch"]).eval()


def output(network: Encoder, vector: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(vector["x"]), torch.from_numpy(vector["t"])).numpy()
