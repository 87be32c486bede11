"""Two options of EDM2 for the training of a denoiser: uncertainty weighting, and post-hoc EMA.

    python -m benchmarks.denoiser_options FOLDER --grid digits-denoiser --model denoiser-psld-0.02
    python -m benchmarks.few_steps FOLDER --grid denoiser-options --trainings 3 --against \\
        --models plain uncertain plain-0.1 --sampler few --steps 4 10

FOLDER is where the grid ran. Each training repeats that of the model, once as it is and once with a
learned weight of each noise level (Karras et al., 2024, 2312.02696, Eq. 14 to 15; its rate has no
warm-up). It averages its weights in several ways along the way: with the model's own decay, and
with the power functions that post-hoc EMA chooses from (Eq. 123 to 127), by their relative length.
All go to FOLDER/models/denoiser-options, as `plain`, `plain-seed1`, `plain-0.05`, `uncertain` and
so on.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from psld.data.store import ImageStore
from psld.diffusion.loss import Batch, DenoiserLoss, NoisyImages
from psld.networks.forward import EMA, Denoiser, enough_threads
from psld.training.batches import Batches
from psld.training.loop import optimize
from psld.training.manifest import ModelManifest, read_manifest, write_manifest
from psld.training.mixture import deviation
from psld.training.model import build, build_process, save_weights
from psld.training.ranks import join_ranks
from psld.training.state import TrainingState
from psld.utils.errors import in_one_line
from psld.utils.randomness import Stream, stream_seed

FEATURES = 128
"""Random Fourier features of ln σ/4, from which a linear map learns the uncertainty."""


class UncertainLoss(nn.Module):
    """The loss λ(σ) ‖D(y; σ) − x₀‖² / e^u(σ) + u(σ), with u learned, as a mean of elements."""

    def __init__(self, noising: NoisyImages, deviation: float, learning_rate: float) -> None:
        super().__init__()
        self.noising, self.variance = noising, deviation**2
        stream = torch.Generator().manual_seed(0)
        self.frequencies = 2 * torch.pi * torch.randn(FEATURES, generator=stream)
        self.phases = 2 * torch.pi * torch.rand(FEATURES, generator=stream)
        self.uncertainty = nn.Parameter(torch.zeros(FEATURES))
        self.optimizer = torch.optim.Adam([self.uncertainty], lr=learning_rate)

    def forward(self, network: nn.Module, batch: Batch) -> Tensor:
        y, sigma = self.noising(batch)
        weight = (sigma.square() + self.variance) / (sigma.square() * self.variance)
        error = (network(y, sigma) - batch.x0).square().flatten(1).mean(dim=1)
        angles = sigma.log()[:, None] / 4 * self.frequencies + self.phases
        u = (2 / FEATURES) ** 0.5 * angles.cos() @ self.uncertainty
        return (weight * error / u.exp() + u).mean()

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()


class PowerEMA(EMA):
    """The average of all weights so far, those of step τ with a weight that grows as τ^γ."""

    def __init__(self, network: nn.Module, length: float) -> None:
        """`length`: the deviation of the average's profile over the training, which decides γ."""
        super().__init__(network, decay=0.0)
        self.length = length
        # Eq. 126: length² = (γ + 1) / ((γ + 2)² (γ + 3))
        roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])
        self.gamma = roots.real[np.abs(roots.imag) < 1e-9].max()

    def advance(self, network: nn.Module, step: int) -> None:
        """Take the weights after a step, counted from 1."""
        self.decay = (1 - 1 / step) ** (self.gamma + 1)
        self.update(network)


def trained(
    manifest: ModelManifest, store: ImageStore, seed: int, lengths: list[float], uncertain: bool
) -> Iterator[tuple[str, Denoiser]]:
    """Yield the averages of one training by name."""
    given = manifest.settings
    settings = given.training.model_copy(update={"seed": seed})
    flip = given.dataset.flip
    noising, spread = NoisyImages(settings.noise_law), deviation(store, flip)
    torch.manual_seed(stream_seed(seed, Stream.INITIAL_WEIGHTS))
    state = TrainingState(build(given, build_process(given), spread), settings)
    averages = [PowerEMA(state.network, length) for length in lengths]
    loss = DenoiserLoss(noising, spread)
    if uncertain:
        loss = UncertainLoss(noising, spread, settings.learning_rate)
    images = store.images("train")
    name = "uncertain" if uncertain else "plain"
    with join_ranks("cpu") as ranks, enough_threads(state.network, 1, images[0].size):
        batches = Batches(images, flip, noising, settings, ranks)
        for step in tqdm(range(settings.steps), desc=f"{name}-{seed}", disable=None):
            optimize(state, state.network, loss, batches.draw(step), settings)
            if uncertain:
                loss.step()
            for average in averages:
                average.advance(state.network, step + 1)
    end = f"-seed{seed}" if seed else ""
    yield name + end, state.average.network
    for average in averages:
        yield f"{name}-{average.length:g}{end}", average.network


@in_one_line()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the grid ran")
    parser.add_argument("--grid", default="digits-denoiser")
    parser.add_argument("--model", default="denoiser-psld-0.02")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    parser.add_argument(
        "--lengths", type=float, nargs="*", default=[0.02, 0.05, 0.1, 0.15, 0.2, 0.25]
    )
    given = parser.parse_args()
    manifest = read_manifest(given.folder / "models" / given.grid / given.model, ModelManifest)
    store = ImageStore.open(given.folder / "data" / f"{manifest.settings.dataset.name}.h5")
    for seed in given.seeds:
        for uncertain in (False, True):
            for name, network in trained(manifest, store, seed, given.lengths, uncertain):
                folder = given.folder / "models" / "denoiser-options" / name
                sha256 = save_weights(folder, network, {"variant": name})
                update = {"name": name, "weights_sha256": sha256}
                write_manifest(folder, manifest.model_copy(update=update))


if __name__ == "__main__":
    main()
