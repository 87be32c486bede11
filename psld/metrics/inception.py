"""torch-fidelity's Inception-v3 as an extractor, its weights read without unpickling code."""

import io
from pathlib import Path

import torch
from torch import Tensor
from torch.hub import load_state_dict_from_url
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)

from psld.metrics.extractor import digest_of_weights
from psld.utils.errors import UserError

FILE_NAME = URL_INCEPTION_V3.rsplit("/", 1)[-1]


class InceptionExtractor:
    """The 2048 pooled features of FID, exactly as torch-fidelity computes them.

    Grey images are repeated to three channels, which is what torch-fidelity does with grey files.
    """

    dimension = 2048

    def __init__(self, weights: str | Path | None, device: torch.device | str = "cpu") -> None:
        """Load torch-fidelity's weights from the file `weights`, or from its own download if None.

        Raises UserError when there are none to be had or the file does not hold them.
        """
        state = _state_dict(weights)
        try:
            network = _build(state)
        except RuntimeError:  # names or shapes differ
            raise _unusable(weights, "the weights of another network") from None
        self.device = torch.device(device)
        self._network = network.to(self.device)
        self.digest = digest_of_weights("torch-fidelity inception-v3-compat 2048", state)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 N×3×H×W (or N×1×H×W) → float32 N×2048."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                "Inception takes uint8 images N×3×H×W or N×1×H×W, "
                f"not {images.dtype} {tuple(images.shape)}"
            )
        (features,) = self._network(images.to(self.device).expand(-1, 3, -1, -1))
        return features


def _state_dict(weights: str | Path | None) -> dict[str, Tensor]:
    """The weights, by a reader that builds tensors and runs no code."""
    try:
        if weights is None:
            state = load_state_dict_from_url(
                URL_INCEPTION_V3, map_location="cpu", check_hash=True, weights_only=True
            )
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes happen to trigger
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _unusable(weights, reason) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _unusable(weights, "not a state dict")
    return state


def _unusable(weights: str | Path | None, reason: str) -> UserError:
    """The error that says which file to get and where to put it."""
    place = Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME
    return UserError(
        f"metric.extractor.weights: no Inception weights from {weights or URL_INCEPTION_V3} "
        f"({reason}); get {URL_INCEPTION_V3} and put it at {place} with weights null, "
        "or anywhere and set weights to its path"
    )


def _build(state: dict[str, Tensor]) -> FeatureExtractorInceptionV3:
    """The network with these weights.

    Its constructor insists on reading a file and would unpickle anything; it is given a file in
    memory that holds the tensors already read.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=buffer
    )
