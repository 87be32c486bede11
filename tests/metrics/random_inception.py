"""torch-fidelity's Inception with random weights, if the real ones are unavailable."""

import io
from pathlib import Path

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


class BlankInception(FeatureExtractorInceptionV3):
    """torch-fidelity's Inception as its constructors of layers leave it."""

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("blank", ["2048"], feature_extractor_weights_path=nothing)

    def load_state_dict(self, *_: object) -> None:
        """Keep the layers as they are."""


def write_random_inception(path: Path) -> Path:
    """Seeded random weights, scaled so that the features stay of order one."""
    random = torch.Generator().manual_seed(0)
    state = BlankInception().state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight"):
            gain = (2 / value[0].numel()) ** 0.5
            state[name] = gain * torch.randn(value.shape, generator=random)
        elif name == "fc.weight":
            state[name] = 0.5 * torch.randn(value.shape, generator=random)
    torch.save(state, path)
    return path
