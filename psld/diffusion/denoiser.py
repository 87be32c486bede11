"""Any process as a variance-exploding denoiser, the interface of many published samplers."""

import torch
from torch import Tensor

from psld.diffusion.data_prediction import check_prediction, prediction_coefficients
from psld.diffusion.process import LinearProcess, mix
from psld.diffusion.roots import WhiteningRoot
from psld.diffusion.score import Network
from psld.diffusion.time_grid import time_of_noise_level
from psld.utils.errors import UserError


class StraightDenoiser:
    """The denoiser D(y; σ) = E[x₀ | y] for y = x₀ + σ n, from an ε-network of any process.

    In straight coordinates z = R̃_t [√ρ y, u] with σ = ρ(t)^(−½), only the first coordinate depends
    on the image. The other k − 1, u ~ N(0, I), are independent of it. They are drawn once and kept.
    The sampler then runs on y alone, on the variance-exploding ODE dy/dσ = (y − D)/σ.

        >>> denoise = StraightDenoiser(process, network, torch.randn(n, (k - 1) * c, h, w))
        >>> y = denoise.sigma_max * torch.randn(n, c, h, w)
        >>> for sigma, after in pairwise(sigmas):          # Euler, from sigma_max down
        ...     y = y + (after - sigma) * (y - denoise(y, sigma)) / sigma

    σ is clipped to [`sigma_min`, `sigma_max`]. The call computes the coefficients of σ on the CPU,
    so a σ on a GPU is copied to the CPU first. The network receives float32, and the result has
    the type of y. A network with parameters that require gradients builds an autograd graph; call
    under torch.no_grad() then.

    `round_sigma` and `class_labels` are for samplers in the manner of EDM.
    """

    def __init__(
        self,
        process: LinearProcess,
        network: Network,
        frozen: Tensor,
        final_time: float = 1e-3,
    ) -> None:
        """Raise UserError if the network of `process` cannot predict x₀ at every time.

        Args:
            frozen: u, N×(k−1)C×H×W standard normal; N×0×H×W for k = 1.
            final_time: the earliest time at which the network is evaluated.
        """
        check_prediction(process, final_time)
        self.process = process
        self.network = network
        self.frozen = frozen
        self.final_time = final_time
        self.root = WhiteningRoot(process, "straight", final_time)
        ends = torch.tensor([final_time, process.T], dtype=torch.float64)
        self.sigma_min, self.sigma_max = process.noise_level(ends).tolist()

    def round_sigma(self, sigma: float | Tensor) -> Tensor:
        """Return σ as it is: the network takes any."""
        return torch.as_tensor(sigma)

    def __call__(self, y: Tensor, sigma: float | Tensor, class_labels: None = None) -> Tensor:
        """Predict the images, N×C×H×W; `sigma` is one number or N."""
        if class_labels is not None:
            raise UserError(
                "denoiser: class_labels must be None; give it a network with the class bound"
            )
        n, auxiliary, *size = self.frozen.shape
        expected = (n, auxiliary // (self.process.blocks - 1) if auxiliary else y.shape[1], *size)
        if y.shape != expected:
            raise UserError(f"denoiser: y is {tuple(y.shape)}, but this one is for {expected}")
        levels, image = torch.as_tensor(sigma).double().cpu().unique(return_inverse=True)
        image = image.expand(len(y))
        t = time_of_noise_level(self.process, levels, self.final_time)
        scale = self.process.precision(t).sqrt()[image].to(y).view(-1, 1, 1, 1)
        z = mix(self.root(t)[image], torch.cat([scale * y, self.frozen.to(y)], dim=1))
        rows = prediction_coefficients(self.process, t)
        eps = self.network(z.float(), t[image].to(y.device, torch.float32))
        return mix(rows.state[image], z) + mix(rows.eps[image], self.process.checked(eps, z))
