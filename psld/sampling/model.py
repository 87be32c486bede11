"""Load models and guides, and sample images from them."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple, cast

import torch
from pydantic import SkipValidation
from torch import Tensor, nn

from psld.config.parts import imported
from psld.data.units import BYTES, Units
from psld.diffusion.denoiser import Observed, check_levels
from psld.diffusion.gaussian import GaussianStart
from psld.diffusion.integrators import Inpainting, ProbabilityFlow
from psld.diffusion.loop import path
from psld.diffusion.matrices import mix
from psld.diffusion.process import LinearProcess
from psld.diffusion.samplers import SamplerSettings, TimeGridSampler
from psld.diffusion.score import Network, Score
from psld.diffusion.settings import ProcessSettings
from psld.diffusion.time_grid import level_range
from psld.models.build import build, build_process, kept_generators, with_network
from psld.models.manifest import WEIGHTS, GuideManifest, M, ModelManifest, read_manifest
from psld.models.settings import GuideModelSettings, ModelSettings
from psld.models.start import SamplerStart, find_start
from psld.networks.forward import check_network, enough_threads, forward_pass
from psld.sampling.named import (
    NamedProcess,
    by_class,
    drawn_seed,
    library_call,
    named_process,
    named_sampler,
)
from psld.sampling.settings import check_fit
from psld.utils.batching import Batching
from psld.utils.device import device_of, float32_by_default
from psld.utils.errors import RunError, UserError
from psld.utils.numbers import Count, ForwardTime, Seed, Tolerance, Whole
from psld.utils.randomness import ShardNoise, Stream, stream_seed
from psld.utils.tensors import load_tensors


class Step(NamedTuple):
    """What a sampler has after a step, or before its first step."""

    time: float
    """The forward time."""
    state: Tensor
    """The states, n×kC×H×W, of which the first C channels are the images."""
    image: Tensor | None
    """The predicted images x̂₀, n×C×H×W in about [−1, 1], of the last network evaluation of the
    step; None before the first step."""


@dataclass(frozen=True)
class Begin:
    """Where sampling begins, if not at a random draw from the initial distribution."""

    noise: Tensor | None = None
    """The standard normal numbers of this draw, n×kC×H×W."""
    state: Tensor | None = None
    """The states, n×kC×H×W."""


KnownPixels = tuple[Tensor, Tensor]
"""Images, and a mask that is 1 at known pixels."""

AnyProcess = SkipValidation[NamedProcess | LinearProcess]

CALL = "sample()"
CPU = torch.device("cpu")
BATCH = 250
"""The default number of images per network evaluation."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model on its device, ready to sample.

        model = psld.load("models/demo/psld-0.02", device="cpu")
        model.device, model.process, model.network, model.settings.training

    `eps()` returns ε(z, t) of the process, also if the network is a denoiser.
    """

    settings: ModelSettings
    """The settings of the training. For a denoiser, `settings.process` may differ from the process
    of the training."""
    process: LinearProcess
    network: nn.Module
    """ε(z, t) or ε(z, t, label): states N×kC×H×W and forward times N → predicted noise. For a
    denoiser: D(y, σ) or D(y, σ, label)."""
    weights_sha256: str
    folder: Path
    class_names: tuple[str, ...] = ()
    dataset_digest: str | None = None
    """Digest of the training images; None for an imported model whose dataset was not prepared."""
    start_file: str | None = None
    """The file of the initial distribution; None: the file of the model's dataset."""
    units: Units = BYTES
    """How the network sees the values of the dataset."""

    def __repr__(self) -> str:
        data, every = self.settings.dataset, self.settings.serves_every_process
        process = "every process" if every else self.settings.process.title
        size = "×".join(map(str, data.shape))
        count = sum(parameter.numel() for parameter in self.network.parameters())
        facts = f"{process} on {data.name}, {size}, {count:,} parameters, {self.device}"
        return f"<{type(self).__name__} {self.folder}: {facts}>"

    @property
    def device(self) -> torch.device:
        return device_of(self.network)

    def eps(self, network: nn.Module | None = None) -> Network:
        """Return ε(z, t) of the model's process.

        `network`: a replacement for the model's network, such as its compiled form.
        """
        objective = self.settings.training.objective
        return objective.eps(network or self.network, self.process)

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and highest noise levels that the network accepts. A student accepts one."""
        low, high = self.settings.levels
        network = self.network if self.settings.serves_every_process else None
        return float(getattr(network, "sigma_min", low)), float(getattr(network, "sigma_max", high))

    @cached_property
    def start(self) -> SamplerStart:
        """The initial distribution: a mixture of Gaussians fitted to the training images.

        `sampler="few"` starts at the noise level σ₀ = `start.level()`. At this level,
        `start.data.draw(noise, σ₀)` draws noisy images.
        """
        return self.start_for(classes=False)

    def start_for(self, classes: bool) -> SamplerStart:
        """Return the initial distribution; with `classes`, also a distribution for each class.

        Raises UserError if its file is missing, damaged, or fitted to other images.
        """
        given = self.settings.dataset, self.dataset_digest, classes
        return find_start(*given, self.start_file, self.folder, self.device)

    @torch.inference_mode(False)  # In inference mode, a guide would have no gradients.
    @torch.no_grad()
    @library_call(CALL)
    def sample(
        self,
        n: Count | None = None,
        *,
        sampler: str = "multistep",
        steps: Whole | None = None,
        seed: Seed | None = 0,
        label: SkipValidation[int | str | Sequence[int | str] | None] = None,
        guide: str | Path | None = None,
        scale: SkipValidation[float | None] = None,
        trust: bool = False,
        process: AnyProcess | None = None,
        inpainting: KnownPixels | None = None,
        noise: SkipValidation[Tensor | None] = None,
        state: SkipValidation[Tensor | None] = None,
        time: ForwardTime | None = None,
        batch_size: Count = BATCH,
        raw: bool = False,
        progress: bool = True,
        on_step: SkipValidation[Callable[[Step], object] | None] = None,
        **options: Any,
    ) -> Tensor:
        """Sample n images.

            images = model.sample(16, sampler="sscs", steps=40, striding="quadratic")
            threes = model.sample(16, label=3, guide="guides/demo/psld-0.02")
            images = denoiser.sample(16, process={"psld": {"gamma": 0.25}}, sampler="few", steps=4)

        Args:
            sampler: the name of a config in configs/sampler, shipped or custom.
            steps: score evaluations per image; None: the default of the sampler. Each score
                evaluation evaluates the network once, or twice with classifier-free guidance. With
                sampler="few", steps=0 draws from the initial distribution without the network.
            seed: equal seeds give equal images, up to rounding, on any device. None draws a random
                seed and prints it. Image i does not depend on n and, for i below shard_size,
                equals image i of psld sample. The exception is rk45, in which all images share the
                steps.
            label: the number or name of a class; a list of classes, where image i gets the entry at
                i modulo the length; or `cycle` for all classes in turn. A label needs a guide, a
                class-conditional model, or sampler="few" with steps=0.
            guide: the folder of a guide.
            scale: the strength of the guidance by label or guide; None: the default strength.
            trust: as in `load`, for the code of the guide.
            process: the process with which a denoiser is sampled: a LinearProcess, the name of a
                config in configs/process, or {name: settings}. None: the process of the training.
            inpainting: the known pixels: images, float n×C×H×W in [−1, 1] (tensors: in the units
                of the data), and a mask, n×1×H×W, 1 at known pixels and 0 elsewhere. Not supported
                by rk45 and by samplers that start from the initial distribution.
            noise: the standard normal numbers from which the sampler draws its first states,
                n×kC×H×W, instead of the numbers of the seed. All other random numbers still come
                from the seed.
            state: states n×kC×H×W of the process at the forward time `time`, from `path`, `encode`
                or `noised`. The sampler starts there, with `steps` evaluations. Samplers that start
                from the training images are refused.
            time: the forward time of `state`, at most 1.
            batch_size: images per network evaluation; affects only speed and memory.
            raw: return float32 images as the network sees them: pictures in about [−1, 1], not
                clipped; tensors standardized.
            progress: show a progress bar (in notebooks, a widget; in logs, a line every 30 s).
            on_step: a function that is called with a `Step` before the first step and after each
                step, as `path` yields them.
            options: other settings of the sampler, such as striding or tolerance. Values are
                numbers, booleans, lists or None; a string is parsed as on the command line. A
                custom guidance is guidance="mine:Pull" or guidance={"kind": "mine:Pull",
                "strength": 2}.

        Returns:
            Images n×C×H×W on the CPU: uint8, or float32 if `raw`. A model of tensors returns
            float32 in the units of the data.

        Raises:
            UserError: the sampler or a setting is unknown, or the guidance does not fit the model.
            RunError: an image has NaN or infinite values.
        """
        chosen: Any = {"sampler": sampler, "steps": steps, "process": process}
        chosen |= {"label": label, "guide": guide, "scale": scale, "trust": trust}
        sampled = self._sampler(state, time, batch_size=batch_size, **chosen, **options)
        n, begin = sampled.begin(n, noise, state)
        return sampled.images(n, seed, inpainting, raw, progress, begin, on_step)

    @library_call("path()")
    def path(
        self,
        n: Count | None = None,
        *,
        seed: Seed | None = 0,
        inpainting: KnownPixels | None = None,
        noise: SkipValidation[Tensor | None] = None,
        state: SkipValidation[Tensor | None] = None,
        time: ForwardTime | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Iterator[Step]:
        """Yield the time, the states and the predicted images before and after each step.

            for t, z, image in model.path(16, sampler="em", steps=40, seed=0):
                ...

        The last `state[:, :C]` are the images of `sample` with the same arguments and `raw=True`.
        `sample` describes all arguments; the number of network evaluations is the same.
        """
        sampled = self._sampler(state, time, **options)
        n, begin = sampled.begin(n, noise, state)
        return sampled.path(n, seed, inpainting, progress, begin)

    @torch.inference_mode(False)
    @torch.no_grad()
    @library_call("encode()")
    def encode(
        self,
        images: SkipValidation[Tensor],
        *,
        seed: Seed = 0,
        tolerance: Tolerance = 1e-5,
        **options: Any,
    ) -> Tensor:
        """Return states at T = 1 that the probability-flow ODE transports to the images.

            z = model.encode(images)
            again = model.sample(state=z, time=1.0, sampler="rk45", denoise=False)

        The ODE is solved upward from the final time of the sampler rk45, 0.001 by default. Momenta
        are drawn from their initial distribution.

        Args:
            images: n×C×H×W, uint8, or floats in [−1, 1]. Tensors: in the units of the data.
            seed: the seed of the momenta.
            tolerance: relative and absolute error tolerance.
            options: `label`, `guide`, `scale`, `trust`, `process`, `batch_size` and `final_time`,
                as in `sample`.

        Returns:
            States n×kC×H×W, float32, on the device of the model.
        """
        sampled = self._sampler(None, None, sampler="rk45", tolerance=tolerance, **options)
        return sampled.encode(self._seen(images), seed)

    @torch.no_grad()
    @library_call("noised()")
    def noised(
        self,
        images: SkipValidation[Tensor],
        time: ForwardTime,
        *,
        seed: Seed = 0,
        process: AnyProcess | None = None,
    ) -> Tensor:
        """Draw states at a forward time from the kernel of the process, given images.

            z = model.noised(images, 0.4)
            changed = model.sample(state=z, time=0.4, steps=20)      # SDEdit

        Args:
            images: n×C×H×W, uint8, or floats in [−1, 1]. Tensors: in the units of the data.
            process: as in `sample`.

        Returns:
            States n×kC×H×W, float32, on the device of the model.
        """
        x0, kernel = self._seen(images), self._with_process(process).process
        shape = (len(x0), kernel.blocks * x0.shape[1], *x0.shape[2:])
        with ShardNoise(seed, 0, shape, self.device) as noise:
            eps = noise()
        return mix(kernel.image_mean(time)[:, :, None], x0) + mix(kernel.image_factor(time), eps)

    def _seen(self, images: Tensor) -> Tensor:
        """Return images as the network sees them, float32, on the device of the model."""
        shape = self.settings.dataset.shape
        if images.shape[1:] != shape:
            raise UserError(f"images: got {tuple(images.shape)}; expected {('n', *shape)}")
        if self.units == BYTES and images.is_floating_point():
            return images.to(self.device, torch.float32)
        return self.units.seen(images.to(self.device))

    def _with_process(self, process: AnyProcess | None) -> "LoadedModel":
        if process is None:
            return self
        settings = self.settings.with_process(named_process(CALL, process))
        return replace(self, settings=settings, process=build_process(settings))

    def _sampler(
        self,
        state: Tensor | None,
        time: float | None,
        *,
        sampler: str = "multistep",
        steps: int | None = None,
        label: int | str | Sequence[int | str] | None = None,
        guide: str | Path | None = None,
        scale: float | None = None,
        trust: bool = False,
        process: AnyProcess | None = None,
        batch_size: int = BATCH,
        **options: object,
    ) -> "ImageSampler":
        """Return the image sampler for arguments of `sample`."""
        if (state is None) != (time is None):
            raise UserError("state: give both state and time, or neither")
        words, options = by_class(label, guide is not None, scale, options)
        chosen = named_sampler(CALL, sampler, steps, options, words)
        loaded = None if guide is None else load_guide(guide, self.device, trust)
        model = self._with_process(process)
        if time is not None:
            if chosen.starts_from_data:
                raise UserError(
                    f"state: sampler={sampler} chooses where it starts; use another sampler, such "
                    "as multistep"
                )
            if time <= chosen.final_time:
                raise UserError(
                    f"time: {time:g} is not above the time at which the sampler stops "
                    f"(final_time = {chosen.final_time:g})"
                )
            model = replace(model, process=model.process.until(time))
        return cell_sampler(model, loaded, chosen, batch_size)


@dataclass(frozen=True)
class LoadedGuide:
    """A trained guide on its device, ready to steer a sampler."""

    settings: GuideModelSettings
    network: nn.Module
    weights_sha256: str

    def logits(self, process: LinearProcess) -> Network:
        """Return the function that computes logits from states and times of a process."""
        return cast(Any, self.settings.training.objective).logits(self.network, process)


def load_model(
    folder: str | Path,
    device: torch.device,
    process: ProcessSettings | None = None,
    start: str | Path | None = None,
    trust: bool = False,
) -> LoadedModel:
    """Load a model with frozen parameters; `network.requires_grad_(True)` unfreezes them.

    Args:
        process: the process with which a denoiser is sampled; None: the process of the training.
        start: the file of the initial distribution; None: the file of the training's dataset.
        trust: run the copy of custom parts' code in the folder.

    Raises UserError if a file is missing, damaged or not a file of a model; if the code of a custom
    part is not among the user's files (`psld.utils.code.may_run`) and not trusted; or if `process`
    is given for a network that serves only the process of its training.
    """
    manifest, network = _loaded(folder, ModelManifest, device, trust)
    settings = manifest.settings.with_process(imported(process))
    facts = manifest.weights_sha256, Path(folder), manifest.class_names, manifest.dataset_digest
    given = settings, build_process(settings), network, *facts
    return LoadedModel(*given, start and str(start), manifest.units)


def load_guide(folder: str | Path, device: torch.device, trust: bool = False) -> LoadedGuide:
    """Load a guide; see `load_model`."""
    manifest, network = _loaded(folder, GuideManifest, device, trust)
    return LoadedGuide(manifest.settings, network, manifest.weights_sha256)


def _loaded(
    folder: str | Path, kind: type[M], device: torch.device, trust: bool
) -> tuple[M, nn.Module]:
    """Return the manifest and the network with its weights, frozen and in eval mode."""
    manifest = read_manifest(folder, kind)
    settings: Any = with_network(manifest.settings, folder, trust=trust)
    path = Path(folder) / WEIGHTS
    remedy = f"train the {settings.makes} (psld {settings.command}), or import it"
    stored = load_tensors(path, "weights", remedy, manifest.weights_sha256)
    if stored.origin.get("model", settings.identity()) != settings.identity():
        raise UserError(f"{path}: its settings differ from those in the manifest; {remedy}")
    with (
        kept_generators(CPU),
        float32_by_default(),
    ):  # Loading a model must not change the user's random numbers.
        network = build(settings, build_process(settings), manifest.deviation).to(device)
    try:
        network.load_state_dict(stored.tensors())
    except RuntimeError as error:
        start = shorten(str(error), 200, placeholder=" …")  # The message lists every name.
        raise UserError(f"{path}: does not fit the network of its manifest ({start})") from None
    network = network.eval().requires_grad_(False)
    return manifest.model_copy(update={"settings": settings}), network


@dataclass(frozen=True)
class ImageSampler:
    """Everything that determines sampled images except their noise."""

    process: LinearProcess
    settings: SamplerSettings
    """The settings of the sampler, in which the start level has a value."""
    eps: Callable[..., Tensor]
    """ε(z, t) of the process."""
    network: nn.Module
    """The network that `eps` evaluates."""
    shape: tuple[int, int, int]
    """C×H×W of an image."""
    batching: Batching
    classes: Sequence[int] = ()
    """The classes that the images get in turn; empty without guidance to classes."""
    logits: Network | None = None
    """The logits of the guide, for states of the process."""
    gaussian: GaussianStart | None = None
    """The initial distribution; None for the prior."""
    start_sha256: str | None = None
    """Digest of the file of the initial distribution."""
    units: Units = BYTES
    """How the network sees the values of the dataset."""

    @property
    def device(self) -> torch.device:
        return device_of(self.network)

    def sample(
        self,
        indices: range,
        key: tuple[int, int],
        inpainting: Inpainting | None = None,
        silent: bool = False,
    ) -> tuple[Tensor, Tensor | None, int]:
        """Sample the images with these indices in a cell.

        At each step, the noise of all images is drawn at once. An image therefore does not depend
        on the batch size, on the worker or, up to rounding, on the device.

        Args:
            key: the seed and the shard index, which determine the noise.
            silent: do not show progress.

        Returns:
            The images, N×C×H×W in about [−1, 1]; the class of each image, None without guidance to
            classes; and the number of network evaluations per image.

        Raises:
            RunError: an image has NaN or infinite values.
        """
        labels, channels = self._labels(indices), self.shape[0]
        given = len(indices), key, labels, inpainting, silent, Begin()
        [(_, state, score)] = deque(self._run(*given), maxlen=1)
        return state[:, :channels], labels, score.evaluations

    def _labels(self, indices: range) -> Tensor | None:
        """Return the class of each image; None without guidance to classes."""
        if not self.classes:
            return None
        turns = [self.classes[i % len(self.classes)] for i in indices]
        return torch.tensor(turns, device=self.device)

    @contextmanager
    def _drawing(
        self, count: int, key: tuple[int, int], labels: Tensor | None
    ) -> Iterator[tuple[ShardNoise, Score]]:
        """In this context, the noise of a shard and the score can be used."""
        guidance, (channels, height, width) = self.settings.guidance, self.shape
        threads = enough_threads(self.network, min(count, self.batching.size), height * width)
        states = (count, self.process.blocks * channels, height, width)
        own = bool(self.settings.code or guidance.code)
        devices = [self.device] if self.device.type == "cuda" else []
        drawn = torch.random.fork_rng(devices, enabled=own)
        with threads, drawn, ShardNoise(*key, states, self.device) as noise:
            if own:  # Custom code may draw from torch's generator.
                torch.manual_seed(stream_seed(key[0], Stream.SAMPLER, key[1]))
            given = self.process, self.eps, self.batching, labels, self.logits
            yield noise, guidance.build(*given)

    def _run(
        self,
        count: int,
        key: tuple[int, int],
        labels: Tensor | None,
        inpainting: Inpainting | None,
        silent: bool,
        begin: Begin,
        observed: bool = False,
    ) -> Iterator[tuple[float, Tensor, Any]]:
        """Yield the time, the states and the score, initially and after each step.

        `observed`: the score is an `Observed`.

        Raises RunError if a final state has NaN or infinite values.
        """
        without = self.settings.evaluations == 0
        with self._drawing(count, key, labels) as (noise, score):
            if observed:
                score = Observed(self.process, score)
            drawn = noise()  # Draw even if the noise is given, so that later draws do not change.
            if begin.noise is not None:
                drawn = begin.noise
            if begin.state is not None:
                z = begin.state
            elif self.gaussian is None:
                z = self.process.prior(drawn)
            else:
                draw = self.gaussian.images if without else self.gaussian
                z = draw(drawn, labels, noise.uniform())
            if without:
                yield 0.0, z, score
            else:
                given = self.process, self.settings, score, z, noise, inpainting, silent
                for time, z in path(*given):
                    yield time, z, score
        if not torch.isfinite(z).all():
            raise RunError(f"shard {key[1]}: the sampler produced NaN or infinite values")
        self.settings.check_evaluations(score.evaluations)

    def begin(self, n: int | None, noise: Tensor | None, state: Tensor | None) -> tuple[int, Begin]:
        """Return the number of images, and where sampling begins, for a caller of the library.

        Raises UserError for wrong shapes.
        """
        given = {"noise": noise, "state": state}
        given = {name: each for name, each in given.items() if each is not None}
        if len(given) == 2:
            raise UserError("noise: the sampler starts at state; leave out noise or state")
        channels, *size = self.shape
        for name, each in given.items():
            shape = (n or len(each), self.process.blocks * channels, *size)
            if tuple(each.shape) != shape or not each.is_floating_point():
                wrong = f"{each.dtype} {tuple(each.shape)}"
                raise UserError(f"{name}: got {wrong}; expected floats {shape}")
            given[name] = each.to(self.device, torch.float32)
            n = len(each)
        if n is None:
            raise UserError("n: the number of images is missing")
        return n, Begin(**given)

    @torch.no_grad()
    def path(
        self,
        n: int,
        seed: int | None,
        known: KnownPixels | None,
        shown: bool,
        begin: Begin,
        observed: bool = True,
    ) -> Iterator[Step]:
        """Yield the steps of a sampler, with the predicted images if `observed`; see `images`."""
        check_network(self.network)
        given = n, (drawn_seed(seed), 0), self._labels(range(n)), self._inpainting(n, known)
        for time, state, score in self._run(*given, not shown, begin, observed):
            yield Step(time, state, score.image() if observed else None)

    def encode(self, images: Tensor, seed: int) -> Tensor:
        """Return states at T, N×kC×H×W, that the probability-flow ODE transports to the images.

        `images`: N×C×H×W in [−1, 1], on the device.
        """
        check_network(self.network)
        n = len(images)
        integrator = self.settings.build(self.process, self.device)
        with self._drawing(n, (seed, 0), self._labels(range(n))) as (noise, score):
            z = mix(self.process.initial_covariance.sqrt(), noise())
            z[:, : self.shape[0]] = images
            return cast(ProbabilityFlow, integrator).encode(z, score)

    def images(
        self,
        n: int,
        seed: int | None,
        known: KnownPixels | None,
        raw: bool,
        shown: bool,
        begin: Begin = Begin(),
        on_step: Callable[[Step], object] | None = None,
    ) -> Tensor:
        """Sample the first n images for a caller of the library.

        Args:
            known: the known pixels of inpainting; None without inpainting.
            shown: show progress.
            on_step: called with each step.

        Return images on the CPU, in the units of the dataset unless `raw`. Raises UserError for
        wrong arguments.
        """
        last: Step | None = None
        for last in self.path(n, seed, known, shown, begin, observed=on_step is not None):
            if on_step:
                on_step(last)
        x = cast(Step, last).state[:, : self.shape[0]]
        return (x if raw else self.units.stored(x)).cpu()

    def _inpainting(self, n: int, known: KnownPixels | None) -> Inpainting | None:
        if known is None:
            return None
        images, mask = (each.to(self.device) for each in known)
        shape, one = (n, *self.shape), (n, 1, *self.shape[1:])
        if images.shape != shape or mask.shape != one:
            wrong = f"images of {tuple(images.shape)} and a mask of {tuple(mask.shape)}"
            raise UserError(f"inpainting: got {wrong}; expected {shape} and {one}")
        if not images.is_floating_point():
            right = "floats in [−1, 1]: x / 127.5 - 1"
            raise UserError(f"inpainting: the images are integers; give {right}")
        if self.gaussian:
            raise UserError("inpainting: it needs start=prior, such as sampler=multistep")
        if self.units != BYTES:
            images = self.units.seen(images)
        elif not (images.abs() <= 1).all():
            raise UserError("inpainting: the images must be in [−1, 1]; for bytes, x / 127.5 - 1")
        return Inpainting(self.process, images.float(), mask)


def with_start(
    sampler: SamplerSettings,
    process: LinearProcess,
    start: SamplerStart | None,
    device: torch.device,
    *,
    lowest: float = 0.0,
    highest: float = math.inf,
    classes: Sequence[int] = (),
) -> tuple[SamplerSettings, GaussianStart | None]:
    """Return two values: the sampler with its start level set, and its initial distribution.

    The initial distribution is None for a sampler that starts from the prior. If the settings of
    the sampler have no start level, the start level is σ₀ of the initial distribution for these
    classes, clamped to [`lowest`, `highest`].

    Raises UserError if the sampler needs an initial distribution and `start` is None.
    """
    if not isinstance(sampler, TimeGridSampler) or not sampler.starts_from_data:
        return sampler, None
    if start is None:
        raise UserError(
            "sampler.start: the initial distribution needs training images, from psld.load(FOLDER) "
            "or psld.from_denoiser(…, images=…); use start=prior, such as sampler=multistep"
        )
    level = sampler.levels[0] if sampler.levels else sampler.start_level
    mixture = sampler.start == "mixture"
    if level is None:
        _, last = level_range(process, sampler.final_time)
        level = max(lowest, min(start.level(mixture, classes), highest, last))
    if not sampler.levels:
        sampler = sampler.model_copy(update={"start_level": level})
    data = start.data if mixture else start.data.as_one()
    return sampler, GaussianStart(process, data.to(device), level, sampler.final_time)


def cell_sampler(
    model: LoadedModel,
    guide: LoadedGuide | None,
    sampler: SamplerSettings,
    batch_size: int,
    *,
    compile: bool = False,
) -> ImageSampler:
    """Return the image sampler of a cell, with the initial distribution from its file.

    `compile`: compile the network with torch.compile.

    Raises UserError if the sampler or the guide does not fit the model; if the model's dataset has
    no initial distribution; or if the denoiser or the guide was not trained for the noise levels of
    the sampler.
    """
    process = model.process
    classes = check_fit(sampler, model.settings, guide and guide.settings, model.class_names)
    start = model.start_for(sampler.asks_for_classes) if sampler.starts_from_data else None
    if start and classes and sampler.evaluations == 0 and not start.data.has_classes:
        raise UserError(
            "sampler.guidance: steps=0 cannot draw classes, because a class has fewer than ten "
            "distinct training images and so the initial distribution has no classes; use steps=1 "
            "or more"
        )
    low, high = model.levels
    given = process, start, model.device
    sampler, gaussian = with_start(sampler, *given, lowest=low, highest=high, classes=classes)
    asked, student = sampler.noise_levels(process), ("student", "leave out sampler.start_level")
    check_levels(asked, low, high, *(student if low == high else ()))
    if guide:
        check_levels(asked, *guide.settings.levels, "guide")
    called = forward_pass(model.network, sampler.precision, compile=compile)
    return ImageSampler(
        process=process,
        settings=sampler,
        eps=model.eps(called),
        network=called,
        shape=model.settings.dataset.shape,
        classes=classes,
        logits=guide and guide.logits(process),
        batching=Batching(batch_size),
        gaussian=gaussian,
        start_sha256=start and start.sha256,
        units=model.units,
    )
