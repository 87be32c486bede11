"""Compare sampling and training steps with programs of other authors, on the same network.

    python -m benchmarks.peers

The network is the demo's network for 8×8 digits. The sampler of EDM (Karras et al., 2022) is
written in plain PyTorch below. The schedulers and the training step of diffusers are compared if
diffusers is installed: pip install diffusers.
"""

from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.settings import compose_model
from benchmarks.timing import compare
from psld.diffusion.loop import sample
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import EMSettings, MultistepSettings
from psld.diffusion.score import Network, NetworkScore
from psld.models.build import build, loss_of
from psld.training.batches import Batches
from psld.training.loop import optimize
from psld.training.ranks import Ranks
from psld.training.state import TrainingState

IMAGES, EVALUATIONS = 250, 9
"""Images per batch of samples, and network evaluations per image; an odd number for Heun."""
REPEATS = 15
TIMES = 1000
"""Discrete times of diffusers."""


def main() -> None:
    edm()
    if find_spec("diffusers"):
        schedulers()
        training_step()
    else:
        print("not compared with diffusers, which is not installed: pip install diffusers")


def ours(process: LinearProcess, kind: type, eps: Network, z: Tensor) -> None:
    """Sample with a kind of sampler. Multistep is deterministic, as the samplers of the peers."""
    settings = kind(striding="quadratic", steps=EVALUATIONS)
    if kind is MultistepSettings:
        settings = settings.model_copy(update={"eta": 0.0})
    score = NetworkScore(eps, IMAGES)
    sample(process, settings, score, process.prior(z), torch.randn_like, silent=True)


# -- EDM -------------------------------------------------------------------------------------------


def noise_levels(steps: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> Tensor:
    """Return the levels of EDM in descending order, evenly spaced in σ^(1/ρ), and 0."""
    ends = high ** (1 / rho), low ** (1 / rho)
    return torch.cat([torch.linspace(*ends, steps, dtype=torch.float64) ** rho, torch.zeros(1)])


@torch.no_grad()
def euler_or_heun(denoise: nn.Module, noise: Tensor, levels: Tensor, heun: bool) -> Tensor:
    """Solve dy/dσ = (y − D(y; σ)) / σ in float64, as the deterministic sampler of EDM."""
    y = noise.double() * levels[0]
    for level, following in pairwise(levels):
        slope = (y - denoise(y, level)) / level
        ahead = y + (following - level) * slope
        if heun and following > 0:  # Average the slopes at both ends of the step.
            slope = (slope + (ahead - denoise(ahead, following)) / following) / 2
            ahead = y + (following - level) * slope
        y = ahead
    return y


def edm() -> None:
    words = ["process=vp-sde", "training.objective=denoiser"]
    model = compose_model(words, "benchmarks.peers")
    process = model.process.build()
    denoise = build(model, process, 0.5).eval()
    eps = model.training.objective.eps(denoise, process)
    z = torch.randn(IMAGES, 1, 8, 8)
    for name, steps in (("Euler", EVALUATIONS), ("Heun", (EVALUATIONS + 1) // 2)):
        compare(
            f"multistep against EDM's {name} in plain PyTorch, {EVALUATIONS} evaluations",
            partial(ours, process, MultistepSettings, eps, z),
            partial(euler_or_heun, denoise, z, noise_levels(steps), heun=name == "Heun"),
            REPEATS,
        )


# -- diffusers -------------------------------------------------------------------------------------


def schedulers() -> None:
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    model = compose_model(["process=vp-sde"], "benchmarks.peers")
    process = model.process.build()
    network = build(model, process).eval()
    z = torch.randn(IMAGES, 1, 8, 8)

    @torch.no_grad()
    def theirs(scheduler: Any) -> None:
        scheduler.set_timesteps(EVALUATIONS)
        x = z
        for t in scheduler.timesteps:
            eps = network(x, ((t + 1) / TIMES).expand(len(x)))
            x = scheduler.step(eps, t, x).prev_sample

    pairs = {EMSettings: DDIMScheduler, MultistepSettings: DPMSolverMultistepScheduler}
    for kind, scheduler in pairs.items():
        sampler = kind.model_fields["integrator"].default
        compare(
            f"{sampler} against {scheduler.__name__} of diffusers, {EVALUATIONS} evaluations",
            partial(ours, process, kind, network, z),
            partial(theirs, scheduler(TIMES)),
            REPEATS,
        )


def training_step() -> None:
    """Compare a training step with the step of diffusers' examples.

    Both steps draw a batch, clip the gradient, and update the weights by Adam and their average.
    """
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    model = compose_model(["process=vp-sde"], "benchmarks.peers")
    training, process = model.training, model.process.build()
    network, loss = build(model, process), loss_of(model, process)
    images = np.random.default_rng(0).integers(0, 256, (1437, 1, 8, 8), dtype=np.uint8)
    state, ranks = TrainingState(network.train(), training), Ranks(0, 1, torch.device("cpu"))
    batches = Batches(images, False, loss.noising, training, ranks)

    def step() -> None:
        optimize(state, network, loss, batches.draw(state.step), training)

    plain, scheduler, tensors = deepcopy(network), DDPMScheduler(TIMES), torch.from_numpy(images)
    adam = torch.optim.Adam(plain.parameters(), lr=training.learning_rate, fused=True)
    average = EMAModel(plain.parameters(), decay=training.ema_decay, foreach=True)

    def theirs() -> None:
        x0 = tensors[torch.randint(len(tensors), (training.batch_size,))].float() / 127.5 - 1
        noise, t = torch.randn_like(x0), torch.randint(TIMES, (len(x0),))
        predicted = plain(scheduler.add_noise(x0, noise, t), (t + 1) / TIMES)
        nn.functional.mse_loss(predicted, noise).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), training.grad_clip)
        adam.step()
        adam.zero_grad()
        average.step(plain.parameters())

    name = f"a training step, {training.batch_size} images, against a step with diffusers"
    compare(name, step, theirs, REPEATS)
    batches.close()


if __name__ == "__main__":
    main()
