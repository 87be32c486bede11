"""A network as a denoiser of images, D(y; σ) ≈ E[x₀ | y = x₀ + σ n], for every process."""

import torch
from torch import Tensor, nn

from psld.networks.ncsnpp import NCSNpp


class Denoiser(nn.Module):
    """A network F in EDM's preconditioning (Karras et al., 2022, Table 1 and Eq. 7):

        D(y; σ) = c_skip y + c_out F(c_in y; c_noise),      c_noise = ln σ / 4,

        c_skip = s² / (σ² + s²),   c_out = σ s / √(σ² + s²),   c_in = 1 / √(σ² + s²),

    with s the deviation of the training images around their mean. F's input and target then have
    about unit variance at every σ.

    `sigma_min`, `sigma_max` (the levels of the training) and `round_sigma` are for samplers in the
    manner of EDM.
    """

    deviation: Tensor

    def __init__(
        self, network: NCSNpp, deviation: float, sigma_min: float, sigma_max: float
    ) -> None:
        super().__init__()
        self.network, self.sigma_min, self.sigma_max = network, sigma_min, sigma_max
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))
        self.in_shape, self.num_classes = network.in_shape, network.num_classes
        # The network's Fourier features are of the logarithm of their argument.
        self.of_logarithm = network.settings.embedding == "fourier"

    def round_sigma(self, sigma: float | Tensor) -> Tensor:
        """Return σ as it is: the network takes any."""
        return torch.as_tensor(sigma)

    def forward(self, y: Tensor, sigma: float | Tensor, label: Tensor | None = None) -> Tensor:
        """Predict the images, N×C×H×W, from y of that shape and their noise levels, one or N.

        `label` is as in `NCSNpp`.
        """
        sigma = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y))
        c_noise = sigma.log() / 4
        total = sigma.square() + self.deviation.square()
        sigma, total = sigma[:, None, None, None], total[:, None, None, None]
        time = c_noise.exp() if self.of_logarithm else c_noise
        label = () if label is None else (label,)
        # Samplers in the manner of EDM keep y in float64.
        out = self.network((y * total.rsqrt()).to(self.deviation), time.to(self.deviation), *label)
        out = out.to(y.dtype)
        return self.deviation.square() / total * y + sigma * self.deviation * total.rsqrt() * out
