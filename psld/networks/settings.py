"""Networks as parts: NCSN++ and its guide."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from psld.config.parts import Part
from psld.config.settings import Neutral
from psld.networks.options import EncoderOptions, Options

if TYPE_CHECKING:
    from torch import nn


class Network(Part):
    """A network of noisy images: of a process's states, or of images with noise (a denoiser)."""

    noun = "network"
    needs_kind = False  # Configs of NCSN++ say none.

    kind: Annotated[str, Neutral("ncsnpp")] = "ncsnpp"

    in_bfloat16: ClassVar[bool] = False
    """With precision=bf16: the weights are cast, too, and norms sum in float32; else autocast."""
    takes_logarithm: ClassVar[bool] = False
    """True if the network takes the logarithm of its t, and so no t ≤ 0."""

    def check_image_size(self, size: int) -> None:
        """Raise ValueError, with the key, if the network takes no images of this size."""

    def build(
        self, in_channels: int, out_channels: int, image_size: int, num_classes: int
    ) -> "nn.Module":
        """Build the network, a module called with (z, t) or, with classes, (z, t, label).

        z is N×in_channels×H×W with H = W = image_size. t has N numbers: the forward time; of a
        denoiser ln σ / 4, or its exponential if the network `takes_logarithm`. label has N numbers
        from 0 to num_classes, which means no class, as does a call without it.

        It returns N×out_channels×H×W; as a guide N×out_channels, the logits of the classes, or
        such a map, whose mean over the pixels is taken.
        """
        raise NotImplementedError


class EncoderSettings(EncoderOptions, Network):
    """Settings that NCSN++ and its guide share."""


class NetworkSettings(Options, EncoderSettings):
    """Settings of NCSN++."""

    def build(self, in_channels, out_channels, image_size, num_classes):
        from psld.networks.ncsnpp import NCSNpp

        return NCSNpp(self, image_size, in_channels, out_channels, num_classes)


class GuideSettings(EncoderSettings):
    """Settings of the noise-conditional guide: an NCSN++ without its way up."""

    kind: Annotated[str, Neutral("ncsnpp-guide")] = "ncsnpp-guide"

    def build(self, in_channels, out_channels, image_size, num_classes):
        from psld.networks.ncsnpp import NCSNppGuide

        return NCSNppGuide(self, image_size, in_channels, out_channels)
