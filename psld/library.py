"""The library: sample trained models, custom networks and denoisers from Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import torch
from pydantic import InstanceOf, SkipValidation
from torch import Tensor, nn

from psld.diffusion.denoiser import SeesImages, StraightDenoiser, check_levels, every_block
from psld.diffusion.gaussian import GaussianData
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import SamplerSettings, TimeGridSampler
from psld.diffusion.time_grid import level_range, time_of_noise_level
from psld.models.hub import fetched
from psld.models.objectives import Objective
from psld.models.settings import Start
from psld.models.start import SamplerStart, measure_start
from psld.networks.forward import check_network, forward_pass
from psld.sampling.model import (
    BATCH,
    CALL,
    AnyProcess,
    ImageSampler,
    KnownPixels,
    LoadedModel,
    load_model,
    with_start,
)
from psld.sampling.named import (
    by_class,
    library_call,
    named_process,
    named_sampler,
)
from psld.utils.batching import Batching
from psld.utils.device import choose_device, device_of
from psld.utils.errors import UserError, as_psld_errors
from psld.utils.numbers import PLAIN, BatchShape, Count, ImageShape, Label, Level, Seed, Whole
from psld.utils.randomness import ShardNoise
from psld.utils.tensors import array_of

__all__ = [
    "LoadedModel",
    "denoiser",
    "from_denoiser",
    "load",
    "sample",
]

ENDS = {"levels", "final_time"}
"""The sampler options that determine the smallest noise level."""
WHITE = 10.0
"""At this noise level and above, noisy images cannot be distinguished from white noise."""


@as_psld_errors()
def load(
    folder: str | Path,
    device: str = "auto",
    start: str | Path | None = None,
    trust: bool = False,
) -> LoadedModel:
    """Load a trained model.

        model = psld.load("models/demo/psld-0.02")

    Args:
        folder: a folder with weights.safetensors and manifest.json, written by psld train;
            GRID/MODEL for models/GRID/MODEL; or an address on the Hugging Face Hub,
            hf://USER/NAME@COMMIT. Without @COMMIT, the newest commit is loaded.
        device: `auto`, or a torch device such as `cpu` or `cuda`.
        start: the file of the initial distribution (psld start), for samplers such as few. None:
            the file of the model's dataset in starts/; if it is missing, a
            distribution is fitted to data/DATASET.h5.
        trust: if the code of a custom part is not among your own files, run the copy of the code in
            parts/, next to the weights. Read the copy first.

    Raises:
        UserError: a file is missing, damaged or not a file of a model, or the device does not
            exist.
        RunError: the Hub cannot be reached.
    """
    return load_model(fetched(folder), choose_device(device), start=start, trust=trust)


@dataclass(frozen=True)
class ForeignDenoiser:
    """An external denoiser D(y, σ), used as the network of every process; see `from_denoiser`.

    Images are N×C×H×W in [−1, 1]. The network accepts noise levels in [`sigma_min`, `sigma_max`].
    """

    network: nn.Module
    shape: tuple[int, int, int]
    sigma_min: float
    sigma_max: float
    images: Tensor | None

    def __repr__(self) -> str:
        size, levels = "×".join(map(str, self.shape)), f"{self.sigma_min:g} to {self.sigma_max:g}"
        kind = type(self.network).__name__
        return f"<{type(self).__name__} {kind}: every process, {size}, noise levels {levels}>"

    @cached_property
    def start(self) -> SamplerStart | None:
        """The initial distribution of samplers, fitted to the images; None without images."""
        if self.images is None:
            return None
        return measure_start(self.images.numpy(), device_of(self.network), Start())

    def _fitted(self, sampler: SamplerSettings, process: LinearProcess) -> SamplerSettings:
        """Return the sampler, limited to the noise levels that the network accepts.

        The sampler starts at `sigma_max` instead of the prior if images at this noise level cannot
        be distinguished from white noise.
        """
        low, high = level_range(process, sampler.final_time)
        fits: dict[str, object] = {}
        if not sampler.starts_from_data and WHITE <= self.sigma_max < high:
            fits |= {"start": "gaussian", "start_level": self.sigma_max}
        if low < self.sigma_min:
            level = torch.tensor([self.sigma_min], dtype=torch.float64)
            fits["final_time"] = float(time_of_noise_level(process, level, sampler.final_time))
        return sampler.model_copy(update=fits)

    def _sampler(
        self, process: LinearProcess, settings: SamplerSettings, batch_size: int
    ) -> ImageSampler:
        """Return an image sampler for a process.

        Without images, a sampler that starts at `sigma_max` starts from white noise.

        Raises UserError if the sampler needs noise levels that the network does not accept.
        """
        if settings.asks_for_classes:
            raise UserError(
                "sampler.guidance: the network accepts no class; bind a class to the network "
                "(functools.partial)"
            )
        process, device = every_block(process), device_of(self.network)
        start = None
        if isinstance(settings, TimeGridSampler) and settings.starts_from_data:
            start = self.start
            if start is None and settings.evaluations and settings.start_level == self.sigma_max:
                start = _white(self.shape)
        given = settings, process, start, device
        settings, gaussian = with_start(*given, highest=self.sigma_max)
        other = (
            "give images= and sample with few, or sigma_min=0 and sigma_max=inf if the network "
            "accepts any level"
        )
        levels = settings.noise_levels(process)
        check_levels(levels, self.sigma_min, self.sigma_max, "network", other)
        eps = SeesImages(process, forward_pass(self.network, settings.precision), gives_image=True)
        given = process, settings, eps, self.network, self.shape, Batching(batch_size)
        return ImageSampler(*given, gaussian=gaussian)

    @library_call("eps()")
    def eps(self, process: AnyProcess = "psld") -> SeesImages:
        """Return ε(z, t) of a process, for `log_likelihood`.

        The attribute `process` of the returned function holds the process.
        """
        built = named_process("eps()", process).build()
        return SeesImages(built, self.network, gives_image=True)

    @library_call(CALL)
    def sample(
        self,
        n: Count,
        *,
        process: AnyProcess = "psld",
        sampler: str | None = None,
        steps: Whole | None = None,
        seed: Seed | None = 0,
        inpainting: KnownPixels | None = None,
        batch_size: Count = BATCH,
        raw: bool = False,
        progress: bool = True,
        **options: object,
    ) -> Tensor:
        """Sample n images; see `LoadedModel.sample` for the arguments, the result and the errors.

        Labels and guides are not supported: bind a class to the network instead. `sampler=None`
        chooses "few" if training images were given, else "multistep", and limits the sampler to the
        noise levels that the network accepts.
        """
        built = named_process(CALL, process).build()
        few = self.images is not None and inpainting is None
        name = sampler or ("few" if few else "multistep")
        chosen = named_sampler(CALL, name, steps, options)
        if sampler is None and inpainting is None and ENDS.isdisjoint(options):
            chosen = self._fitted(chosen, built)
        sampled = self._sampler(built, chosen, batch_size)
        return sampled.images(n, seed, inpainting, raw, progress)


@library_call("from_denoiser()")
def from_denoiser(
    network: nn.Module,
    shape: ImageShape,
    sigma_min: Level,
    sigma_max: Level,
    images: SkipValidation[Tensor | None] = None,
) -> ForeignDenoiser:
    """Return an external denoiser as a model that can be sampled with every process.

        class Gray(torch.nn.Module):                 # your network
            def forward(self, y, sigma):
                return torch.zeros_like(y)

        gray = Gray().eval()
        model = psld.from_denoiser(gray, (3, 32, 32), sigma_min=0.002, sigma_max=80)
        images = model.sample(4)

    With training images, samplers can start from a mixture of Gaussians fitted to these images:

        seen = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8)   # psld.load_images(…)
        model = psld.from_denoiser(gray, (3, 32, 32), sigma_min=0.002, sigma_max=80, images=seen)
        images = model.sample(4, process="vp-sde", steps=4, start_level=3.0)

    Args:
        network: D(y, σ): noisy images, N×C×H×W, and noise levels, N, float32 → predicted images in
            [−1, 1]. Call `network.eval()` first: a network in training mode is rejected.
        shape: the shape of an image, C×H×W.
        sigma_min: the smallest noise level that the network accepts; 0: no lower limit. Samplers
            that need smaller levels are rejected.
        sigma_max: the largest noise level that the network accepts; inf: no upper limit. Sampling
            from the prior starts at noise levels of 150 to 700, depending on the process.
        images: the training images, uint8 N×C×H×W. With images, `sampler="few"` is the default. It
            starts from a mixture of Gaussians at a noise level of at most `sigma_max`. The mixture
            is fitted when it is first used.
    """
    check_network(network)
    channels, height, width = shape
    image = (channels, height, width)
    if images is not None:
        images = torch.from_numpy(array_of(images, "images"))
        if images.dtype != torch.uint8 or images.shape[1:] != image:
            wrong = f"{images.dtype} {tuple(images.shape)}"
            raise UserError(f"images: got {wrong}; expected uint8 {('N', *image)}")
    return ForeignDenoiser(network, image, sigma_min, sigma_max, images)


@library_call(CALL)
def sample(
    process: LinearProcess,
    network: nn.Module,
    shape: BatchShape,
    *,
    sampler: str = "multistep",
    steps: Whole | None = None,
    seed: Seed | None = 0,
    label: Annotated[Label | Sequence[Label] | None, PLAIN] = None,
    scale: SkipValidation[float | None] = None,
    inpainting: KnownPixels | None = None,
    batch_size: Count = BATCH,
    raw: bool = False,
    progress: bool = True,
    **options: object,
) -> Tensor:
    """Sample images from a custom network; for a trained model see `LoadedModel.sample`.

        model = psld.load("models/demo/psld-0.02")   # or your own process and network
        images = psld.sample(model.process, model.network, (16, 1, 8, 8), steps=10)

    Args:
        process: the process that the network was trained with.
        network: ε(z, t): states N×kC×H×W and forward times N → predicted noise. Call
            `network.eval()` first: a network in training mode is rejected.
        shape: the shape of the result, n×C×H×W.
        label: the number of a class, or a list of numbers, where image i gets the entry at i modulo
            the length of the list. With a label, the network is called as ε(z, t, label), where
            `label` holds N classes, or is None for no class.

    See `LoadedModel.sample` for the other arguments, the result and the errors.
    """
    check_network(network)
    n, channels, height, width = shape
    classes = [label] if isinstance(label, int) else label
    words, options = by_class(classes, False, scale, options)
    chosen = named_sampler(CALL, sampler, steps, options, words)
    called = forward_pass(network, chosen.precision)

    def eps(z: Tensor, t: Tensor, *label: Tensor | None) -> Tensor:
        return process.checked(called(z.clone(), t, *label), z)  # The network may modify z.

    image = (channels, height, width)
    chosen, _ = with_start(chosen, process, None, device_of(network))
    how = Batching(batch_size), classes or ()
    sampled = ImageSampler(process, chosen, eps, network, image, *how)
    return sampled.images(n, seed, inpainting, raw, progress)


def _white(shape: tuple[int, int, int]) -> SamplerStart:
    """Return the initial distribution for images with mean 0 and variance 1."""
    values, one = torch.Size(shape).numel(), torch.ones(1, dtype=torch.float32)
    moments = one.new_zeros(1, values), torch.eye(values, 1).to(one), one[None, None], one
    return SamplerStart(GaussianData.one(shape, *moments), one)


@library_call("denoiser()")
def denoiser(
    model: InstanceOf[LoadedModel], n: Count | None = None, seed: Seed = 0
) -> StraightDenoiser | nn.Module:
    """Return a trained model as the denoiser D(y; σ) = E[x₀ | y = x₀ + σ noise].

    Use it with samplers that are written for denoisers:

        D = psld.denoiser(psld.load("models/demo/psld-0.02"), n=16)
        y = D.sigma_max * torch.randn(16, 1, 8, 8)       # then any sampler of dy/dσ = (y − D)/σ

    The momentum is drawn once, from the seed, and then stays fixed: see psld.diffusion.denoiser.
    For a model that was trained as a denoiser, the network itself is returned, which needs no
    momentum, unless a custom objective overrides `eps`.

    Args:
        n: the number of images per call. Models without momentum (VP-SDE, denoisers) do not need n
            and accept any number of images.

    Raises:
        UserError: the model's ε does not determine the image at every time; the model is a student;
            or `n` is missing.
    """
    network, dataset = model.network, model.settings.dataset
    if model.settings.serves_every_process:
        if len({*model.levels}) == 1:
            raise UserError("the student accepts a single noise level; use its teacher instead")
        if type(model.settings.training.objective).eps is Objective.eps:
            return network
    if n is None and model.process.blocks > 1:
        raise UserError("n: the model needs momentum; give the number of images per call")
    n = n or 1
    channels, *size = dataset.shape
    shape = (n, (model.process.blocks - 1) * channels, *size)
    with ShardNoise(seed, 0, shape, model.device) as noise:
        frozen = noise()
    first = max(1e-3, model.settings.training.time_eps)
    return StraightDenoiser(model.process, model.eps(), frozen, final_time=first)
