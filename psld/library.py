"""The library: the work of the commands, as functions on tensors."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from psld.data.picture import save_images
from psld.data.pixels import to_uint8
from psld.diffusion.denoiser import StraightDenoiser
from psld.diffusion.score import Batching
from psld.grid.composing import compose_sampler
from psld.metrics.extractor import Extractor, batches_of, gather
from psld.metrics.extractor_folder import open_extractor
from psld.metrics.frechet import frechet_distance
from psld.networks.forward import forward_pass
from psld.sampling.fit import check_fit
from psld.sampling.noise import ShardNoise
from psld.sampling.sample import sample_images
from psld.training.model import Model, load_guide, load_model
from psld.utils.device import choose_device

__all__ = ["LoadedModel", "denoiser", "distance", "load", "load_extractor", "save_images"]

BATCH = 250
"""The default number of images per network evaluation."""


def load(folder: str | Path, device: str = "auto") -> "LoadedModel":
    """Load a trained model.

    Args:
        folder: written by psld train; holds weights.safetensors and manifest.json.
        device: `auto`, or a torch device such as `cpu` or `cuda`.

    Raises:
        UserError: a file is missing, damaged or not a model's, or the device does not exist.
    """
    return LoadedModel(**vars(load_model(folder, choose_device(device))))


class LoadedModel(Model):
    """A trained model on its device, ready to sample.

    `settings` are dataset, process, network and training recipe; `process` is the forward process;
    `network` is ε(z, t): states N×kC×H×W and forward times N → predicted noise.
    """

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def sample(
        self,
        n: int,
        *,
        sampler: str = "em",
        steps: int | None = None,
        seed: int = 0,
        label: int | str | None = None,
        guide: str | Path | None = None,
        scale: float | None = None,
        batch_size: int = BATCH,
        raw: bool = False,
        **options: object,
    ) -> Tensor:
        """Sample n images.

            images = model.sample(16, sampler="sscs", steps=40, striding="quadratic")
            threes = model.sample(16, label=3, guide="guides/demo/psld-0.02")

        Args:
            sampler: name of a config in configs/sampler, shipped or your own.
            steps: network evaluations per image; None uses the sampler's default.
            seed: equal seeds give equal images, on any device.
            label: a class, or `cycle` for class i mod the number of classes; needs a guide or a
                class-conditional model.
            guide: folder of a guide.
            scale: strength of the guidance; None uses the default.
            batch_size: images per network evaluation; changes only speed and memory.
            raw: return float32 in [−1, 1], not clipped, instead of bytes.
            options: other settings of the sampler, such as striding or tolerance.

        Returns:
            uint8 n×C×H×W on the CPU; float32 if raw.

        Raises:
            UserError: the sampler or a setting is unknown, or the guidance does not fit the model.
        """
        overrides = [f"sampler={sampler}"]
        if guide is not None or label is not None:
            kind = "classifier-free" if guide is None else "classifier"
            overrides.append(f"guidance@sampler.guidance={kind}")
            options = {"guidance.label": label, "guidance.scale": scale, **options}
        options = {"steps": steps, **options}
        overrides += [f"sampler.{key}={v}" for key, v in options.items() if v is not None]
        chosen = compose_sampler(overrides, "sample()")
        loaded = None if guide is None else load_guide(guide, self.device)
        check_fit(chosen, self.settings, loaded and loaded.settings)
        model = replace(self, network=forward_pass(self.network, chosen.precision))
        images, *_ = sample_images(model, loaded, chosen, range(n), (seed, 0), Batching(batch_size))
        return images.cpu() if raw else to_uint8(images).cpu()


def denoiser(model: Model, n: int, seed: int = 0) -> StraightDenoiser:
    """Return a trained model as the denoiser D(y; σ) = E[x₀ | y = x₀ + σ noise].

    Use it with samplers that are written for denoisers:

        D = psld.denoiser(model, n=16)
        y = D.sigma_max * torch.randn(16, 1, 8, 8)       # then any sampler of dy/dσ = (y − D)/σ

    The momentum is drawn once, from the seed, and kept: see psld.diffusion.denoiser.

    Args:
        n: images per call.

    Raises:
        UserError: the model's ε does not determine the image at every time.
    """
    network, dataset = model.network, model.settings.dataset
    device = next(network.parameters()).device
    size = dataset.image_size
    shape = (n, (model.process.blocks - 1) * dataset.channels, size, size)
    with ShardNoise(seed, 0, shape, device) as noise:
        frozen = noise()
    return StraightDenoiser(model.process, network, frozen)


def load_extractor(folder: str | Path, device: str = "auto") -> Extractor:
    """Load a feature extractor that psld train_extractor trained."""
    return open_extractor(folder, choose_device(device))


def distance(images: Tensor, reference: Tensor, extractor: Extractor) -> float:
    """Return the Fréchet distance between two sets of images in an extractor's features.

    Args:
        images: uint8 N×C×H×W.
        reference: uint8 M×C×H×W.
        extractor: from `load_extractor`, or any object with the attributes of
            psld.metrics.extractor.Extractor.
    """
    first, second = (
        gather(extractor, batches_of(each.numpy(), BATCH), "features", len(each)).total
        for each in (images, reference)
    )
    return frechet_distance(first, second)
