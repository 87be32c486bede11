r"""Objectives for every process: rectified flow and v-prediction.

    psld train training.objective=flows:RectifiedFlow name=flow
    psld sample model=by-hand/flow process=vp-sde sampler=few sampler.steps=4 shard_size=64 \
        output=samples/flow
    psld train training.objective=flows:VPrediction name=velocity
    psld sample model=by-hand/velocity process=psld sampler=multistep sampler.steps=10 \
        shard_size=64 output=samples/velocity

A state of any process depends on its image x₀ only through y = x₀ + σ n. So a denoiser D(y; σ) =
E[x₀ | y] can be used with every process, and a flow is a denoiser in other units. A flow leads from
the image to plain noise n by x_t = a x₀ + b n = a y with σ = b/a, and its network predicts the
velocity v = dx_t/dt = a' x₀ + b' n. Both flows here have a b' − a' b = 1, so x₀ = b' x_t − b v. A
network that predicts v thus gives D(y; σ) = b' x_t − b v, with ‖v_θ − v‖² = ‖D − x₀‖² / b².

- `sees_images = True` declares that the module is a denoiser, which is called with (y, σ).
- `wrap` returns this module. It contains a network that is called with (x_t, t). The networks of
  psld accept t in (0, 1]; t must be positive, because Fourier features take its logarithm.
- `noising` draws the noise levels σ. By default, ln σ is normal, with `training.noise_law`.
- `uses` names the settings of a training that this objective uses; other settings are errors.
"""

import math

from torch import nn

from psld.diffusion.loss import NoisyImages
from psld.parts import Objective


class Flow(Objective):
    """The loss ‖v_θ(x_t, t) − v‖², averaged over elements."""

    sees_images = True
    uses = frozenset({"noise_law", "label_dropout"})

    @staticmethod
    def path(sigma):
        """Return t, a, b and b' at the noise levels σ."""
        raise NotImplementedError

    def wrap(self, network, facts):
        return Velocity(network, self.path)

    def loss(self, module, batch):
        y, sigma = batch.noisy()
        b = self.path(sigma[:, None, None, None])[2]
        return ((module(y, sigma, *batch.label) - batch.x0) / b).square().mean()


class RectifiedFlow(Flow):
    """The network predicts v = n − x₀ on the straight line x_t = (1 − t) x₀ + t n, t = σ / (1 + σ).

    t is uniform, as in Liu, Gong and Liu (2023). If you delete `uses` and `noising`, logit t = ln σ
    is normal; training.noise_law={center: 0, width: 1} is then the choice of Esser et al. (2024).
    """

    uses = frozenset({"label_dropout"})

    @staticmethod
    def path(sigma):
        a = 1 / (1 + sigma)
        return sigma * a, a, sigma * a, 1

    def noising(self, facts):
        return UniformTimes(facts.law)


class VPrediction(Flow):
    """The network predicts v = α n − β x₀ on the circle x_t = α x₀ + β n (Salimans and Ho, 2022).

    α = cos(π t/2) = 1 / √(1 + σ²) and β = sin(π t/2) = σ α, as in the cosine schedule; v is the
    derivative with respect to the angle π t/2. The loss is (1 + SNR) ‖D − x₀‖², SNR = α²/β². It
    equals EDM's preconditioning and loss (`Denoiser`) for images with standard deviation s = 1.
    """

    @staticmethod
    def path(sigma):
        alpha = (1 + sigma**2).rsqrt()
        return sigma.atan() * (2 / math.pi), alpha, sigma * alpha, alpha


class UniformTimes(NoisyImages):
    """Images with noise at the levels σ = t / (1 − t) of uniform times t."""

    def levels(self, uniform):
        return (uniform / (1 - uniform)).clamp(self.law.low, self.law.high)


class Velocity(nn.Module):
    """The denoiser D(y; σ) = b' x_t − b v of a network v(x_t, t)."""

    def __init__(self, network, path):
        super().__init__()
        self.network, self.path = network, path

    def forward(self, y, sigma, *label):
        t, *_ = self.path(sigma)
        _, a, b, slope = self.path(sigma[:, None, None, None])
        x = a * y
        return slope * x - b * self.network(x, t, *label)
