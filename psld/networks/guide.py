"""The noise-conditional classifier p(y | x, t) that guides sampling."""

from torch import Tensor, nn
from torch.nn.functional import silu

from psld.networks.encoder import Encoder
from psld.networks.settings import GuideSettings


class NCSNppGuide(Encoder):
    """Class logits of a noisy image: B×in×H×W → B×num_classes.

    The levels and the middle of NCSN++, then one linear layer without bias over all features of
    all pixels.

        logits = NCSNppGuide(settings, 32, in_channels=6, num_classes=10)(x, t)
    """

    def __init__(
        self, settings: GuideSettings, image_size: int, in_channels: int, num_classes: int
    ):
        super().__init__(settings, image_size, in_channels)
        features = self.skip_channels[-1] * self.sizes[-1] ** 2
        self.head = nn.Linear(features, num_classes, bias=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: B×in×H×W; t: forward times in (0, 1], shape (B,)."""
        h, _ = self.encode(x, silu(self.time(t)))
        return self.head(h.flatten(1))
