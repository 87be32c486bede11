"""Settings of networks: NCSN++, its guide, and custom networks."""

from typing import TYPE_CHECKING, Annotated, ClassVar

from psld.config.parts import Part
from psld.config.settings import Neutral
from psld.networks.options import EncoderOptions, Options
from psld.utils.numbers import Size

if TYPE_CHECKING:
    from torch import nn


class Network(Part):
    """A network whose input is the state of a process or, in a denoiser, a noisy image."""

    noun = "network"
    needs_kind = False  # `kind` is optional, because the configs of NCSN++ have no kind.

    kind: Annotated[str, Neutral("ncsnpp")] = "ncsnpp"

    in_bfloat16: ClassVar[bool] = False
    """With precision=bf16, cast weights and activations to bfloat16 instead of using autocast."""
    takes_logarithm: ClassVar[bool] = False
    """True if the network computes log t, so that t must be positive. If this depends on the
    settings, a subclass overrides the attribute with a property."""

    def check_image_size(self, size: Size) -> None:
        """Raise a ValueError that names the key if the network does not support this image size."""

    def build(
        self, in_channels: int, out_channels: int, image_size: Size, num_classes: int
    ) -> "nn.Module":
        """Build a module that is called with (z, t) or, with classes, with (z, t, label).

        z: N×in_channels×H×W. image_size is H if H = W, else (H, W).
        t: N numbers, the forward times; in a denoiser, ln σ / 4, or exp(ln σ / 4) if the network
            `takes_logarithm`.
        label: N integers from 0 to num_classes. num_classes, or no label, means "no class".

        The module returns N×out_channels×H×W. A guide returns the logits of the classes,
        N×out_channels, or logits per pixel, N×out_channels×H×W, which are averaged over the pixels.
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
    """Settings of the noise-conditional guide: the encoder of NCSN++ and a linear layer."""

    kind: Annotated[str, Neutral("ncsnpp-guide")] = "ncsnpp-guide"

    def build(self, in_channels, out_channels, image_size, num_classes):
        from psld.networks.ncsnpp import NCSNppGuide

        return NCSNppGuide(self, image_size, in_channels, out_channels)
