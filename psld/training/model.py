"""A trained model or guide: its network, and the weights of that network on disk."""

import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import torch
from torch import nn

from psld.config.parts import check_known, with_code_of
from psld.data.store import ImageStore
from psld.diffusion.denoiser import every_block
from psld.diffusion.process import LinearProcess
from psld.diffusion.score import Network
from psld.diffusion.settings import ProcessSettings, PSLDSettings
from psld.networks import forward
from psld.networks.forward import enough_threads
from psld.training.manifest import WEIGHTS, GuideManifest, M, ModelManifest, read_manifest
from psld.training.objectives import Facts, Loss
from psld.training.settings import GuideModelSettings, ModelSettings, RunSettings, TrainedSettings
from psld.training.start import SamplerStart, find_start
from psld.utils.code import COPIES
from psld.utils.device import device_of, provenance
from psld.utils.errors import UserError
from psld.utils.tensors import load_tensors, save_tensors

TIMED, MOST_TIMED = 0.5, 64
"""Seconds, and the most images, of a measurement of speed."""


def build_process(settings: TrainedSettings) -> LinearProcess:
    """Build the process; that of a denoiser has ε in all of its blocks."""
    process = settings.process.build()
    return every_block(process) if settings.serves_every_process else process


def facts_of(settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0) -> Facts:
    """Return what the objective of a training may depend on.

    `deviation`: s of a new denoiser; weights on disk have their own.
    """
    init = getattr(settings, "init", None)
    facts = cast(Any, settings.training), settings.dataset, process, deviation
    return Facts(*facts, init and init.model.name)


def build(
    settings: ModelSettings | GuideModelSettings, process: LinearProcess, deviation: float = 1.0
) -> nn.Module:
    """Build the module that is trained: a network with the channels that its objective says."""
    objective, facts = settings.training.objective, facts_of(settings, process, deviation)
    network = forward.build(
        settings.network,
        *objective.channels(settings.dataset, process),
        settings.dataset.image_size,
        settings.num_classes,
        gives_logits=settings.makes == "guide",
    )
    module: Any = objective.wrap(network, facts)
    module.in_shape, module.in_bfloat16 = network.in_shape, network.in_bfloat16
    return module


def loss_of(settings: TrainedSettings, process: LinearProcess, deviation: float = 1.0) -> Loss:
    """Return the loss of a training; `deviation` as in `facts_of`."""
    objective, facts = settings.training.objective, facts_of(settings, process, deviation)
    return Loss(objective, facts, objective.noising(facts))


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, ready to sample."""

    settings: ModelSettings
    """Those of the training; `process` may be another one if the network serves every process."""
    process: LinearProcess
    network: nn.Module
    """ε(z, t), or ε(z, t, label); a denoiser is D(y, σ), or D(y, σ, label)."""
    weights_sha256: str
    folder: Path
    class_names: tuple[str, ...] = ()
    dataset_digest: str | None = None
    """Of the training images; None for an imported model whose dataset was not prepared."""
    start_file: str | None = None
    """The file of its start; None finds it by the dataset."""

    def __repr__(self) -> str:
        data, own = self.settings.dataset, self.settings.process
        friction = f" Γ = {own.gamma:g}" if isinstance(own, PSLDSettings) else ""
        every = self.settings.serves_every_process
        process = "every process" if every else f"{own.kind}{friction}"
        size = f"{data.channels}×{data.image_size}×{data.image_size}"
        count = sum(parameter.numel() for parameter in self.network.parameters())
        facts = f"{process} on {data.name}, {size}, {count:,} parameters, {device_of(self.network)}"
        return f"<{type(self).__name__} {self.folder}: {facts}>"

    def eps(self, network: nn.Module | None = None) -> Network:
        """Return ε(z, t) of the model's process; `network` is its network as it is called."""
        return self.settings.training.objective.eps(network or self.network, self.process)

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and the highest noise level of a network of images; a student has one."""
        law = self.settings.law
        ends = ("sigma_min", law.low), ("sigma_max", law.high)
        low, high = (float(getattr(self.network, name, level)) for name, level in ends)
        return low, high

    @cached_property
    def start(self) -> SamplerStart:
        """The start of samplers; see `start_for`."""
        return self.start_for(classes=False)

    def start_for(self, classes: bool) -> SamplerStart:
        """Return the law of the training images, if `classes` of each class, too.

        Raises UserError if it is missing, damaged, or of other images.
        """
        return find_start(self, classes, self.start_file, self.folder, device_of(self.network))


@dataclass(frozen=True)
class TrainedGuide:
    """A trained guide, ready to steer a sampler."""

    settings: GuideModelSettings
    network: nn.Module
    weights_sha256: str

    def logits(self, process: LinearProcess) -> Network:
        """Return the logits of states and times of a process."""
        return cast(Any, self.settings.training.objective).logits(self.network, process)


def load_model(
    folder: str | Path,
    device: torch.device,
    process: ProcessSettings | None = None,
    start: str | Path | None = None,
    trust: bool = False,
) -> TrainedModel:
    """Read a model, as a network of another process than its training's if one is given.

    Its parameters are frozen; `network.requires_grad_(True)` trains it on. `start` is the file of
    its start; None finds it by the dataset of the training. `trust` imports the folder's own copy
    of the code of its parts if that code is not here.

    Raises UserError if a file is missing, damaged or foreign, if the code of a part is not here, or
    if the network is of one process.
    """
    manifest = _with_its_code(read_manifest(folder, ModelManifest), folder, trust)
    settings = manifest.settings.with_process(process)
    built = build_process(settings)
    network = build(settings, built).to(device)
    _load_weights(network, Path(folder), manifest)
    facts = manifest.weights_sha256, Path(folder), manifest.class_names, manifest.dataset_digest
    return TrainedModel(settings, built, network, *facts, start and str(start))


def load_guide(folder: str | Path, device: torch.device, trust: bool = False) -> TrainedGuide:
    """Read a guide, as `load_model` reads a model."""
    manifest = _with_its_code(read_manifest(folder, GuideManifest), folder, trust)
    network = build(manifest.settings, build_process(manifest.settings)).to(device)
    _load_weights(network, Path(folder), manifest)
    return TrainedGuide(manifest.settings, network, manifest.weights_sha256)


def _with_its_code(manifest: M, folder: str | Path, trust: bool) -> M:
    """Return a manifest whose parts can be built. Raises UserError if their code is not here."""
    settings = with_code_of(folder, manifest.settings) if trust else manifest.settings
    try:  # Not of the optimizer: it is not needed any more.
        check_known(settings.network, settings.training.objective)
    except UserError as error:
        text = f"{folder}: {error}"
        if not trust and (Path(folder) / COPIES).exists():
            text += f". trust=true runs the copy in {Path(folder, COPIES)}: read it before"
        raise UserError(text) from None
    return manifest.model_copy(update={"settings": settings})


@torch.no_grad()
def forward_flops(network: nn.Module) -> int:
    """Return the FLOPs of one image through a network; a multiply-add counts as two."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton

    device, shape = device_of(network), cast(tuple[int, ...], network.in_shape)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, *shape, device=device), torch.ones(1, device=device))
    return counter.get_total_flops()


def seconds_per_image(settings: ModelSettings | GuideModelSettings) -> float:
    """Measure the seconds of a core, without waiting, for an image in a training step."""
    network = build(settings, build_process(settings))

    def seconds(count: int) -> float:
        images, levels = torch.zeros(count, *cast(Any, network.in_shape)), torch.ones(count)
        started = time.process_time()
        network(images, levels).sum().backward()
        return time.process_time() - started

    with enough_threads(network, images=1, pixels=1):  # one
        count = 1
        # The first of each number of images also prepares the kernels.
        while (least := min(seconds(count), seconds(count))) < TIMED and count < MOST_TIMED:
            count *= 4
    return least / count


def _load_weights(
    network: nn.Module, folder: Path, manifest: ModelManifest | GuideManifest
) -> None:
    """Load weights into a network that will not be trained."""
    how = f"(psld {manifest.settings.command}), or import it"
    path, remedy = folder / WEIGHTS, f"train the {manifest.kind} {how}"
    stored = load_tensors(path, "weights", remedy, manifest.weights_sha256)
    settings = manifest.settings.identity()
    if stored.origin.get("model", settings) != settings:  # an import does not state it
        raise UserError(f"{path}: trained with other settings than its manifest says; {remedy}")
    try:
        network.load_state_dict(stored.tensors())
    except RuntimeError as error:
        start = shorten(str(error), 200, placeholder=" …")  # it lists every name
        raise UserError(f"{path}: does not fit the network of its manifest ({start})") from None
    network.eval().requires_grad_(False)


def save_weights(folder: str | Path, network: nn.Module, origin: dict[str, Any]) -> str:
    """Write weights.safetensors with all that decided the weights, and return its digest."""
    return save_tensors(Path(folder) / WEIGHTS, "weights", network.state_dict(), origin)


def describe(
    settings: RunSettings,
    network: nn.Module,
    store: ImageStore | None,
    step: int | None,
    **more: Any,
) -> ModelManifest | GuideManifest:
    """Return the manifest of a network's weights, trained on a dataset that may not be prepared."""
    kind = ModelManifest if settings.makes == "model" else GuideManifest
    return kind(
        name=settings.name,
        grid=settings.grid_name,
        settings=cast(Any, settings.model()),
        dataset_digest=store and store.digest,
        class_names=store.class_names if store else (),
        step=step,
        images_seen=step and step * settings.training.batch_size,
        parameters=sum(p.numel() for p in network.parameters()),
        **more,
        **provenance(),
    )
