"""Objectives, what a training minimizes of what its network sees, and the recipe of a training.

No torch at the top: each process of Snakemake reads them.
"""

from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from psld.config.parts import Part
from psld.config.settings import FREE, Neutral, Settings
from psld.data.settings import DatasetSettings
from psld.diffusion.settings import NoiseLaw, ProcessSettings
from psld.models.recipe import (
    Adam,
    Average,
    Constant,
    ExponentialAverage,
    Optimizer,
    Schedule,
    with_one_average,
)
from psld.utils.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from psld.data.store import ImageStore
    from psld.diffusion.loss import Batch, Noising
    from psld.diffusion.process import LinearProcess
    from psld.diffusion.samplers import SamplerSettings
    from psld.diffusion.score import Network


@dataclass(frozen=True)
class Facts:
    """What an objective may depend on besides its own settings; a batch has them as `facts`."""

    training: "TrainingSettings"
    dataset: DatasetSettings
    process: "LinearProcess"
    deviation: float = 1.0
    """s: that of the training images around their mean, if the objective `needs_deviation`."""
    init: str | None = None
    """The name of the model from which the training starts."""

    @property
    def law(self) -> "NoiseLaw":
        """The law of the noise levels of an objective that sees images."""
        return cast("NoiseLaw", self.training.noise_law)


OPTIONAL = frozenset({"noise_law", "time_eps", "weighting", "label_dropout"})
"""The settings of a training that not every objective uses."""

SHORT = {"epsilon": None, "guide": None, "denoiser": "denoiser", "image-guide": "denoiser"}
"""The identities of shipped kinds that have a short one, as before there were others."""


class Objective(Part):
    """What a training minimizes. By default its network predicts the noise of a process's states.

    This one needs no more:

        class Absolute(Objective):
            def loss(self, module, batch):
                z, t = batch.noisy()
                return (module(z, t) - batch.target).abs().mean()
    """

    noun = "objective"
    recorded_attributes = ("makes", "uses", "sees_images")

    kind: str = "epsilon"

    makes: ClassVar[Literal["model", "guide"]] = "model"
    uses: ClassVar[Set[str]] = OPTIONAL
    """Those of `OPTIONAL` that decide the weights; a custom objective refuses the others."""
    sees_images: ClassVar[bool] = False
    """True if the network sees images with noise, y = x₀ + σ n, and so serves every process."""
    needs_deviation: ClassVar[bool] = False
    """True if `facts` have the deviation of the training images, which takes a pass over them."""
    of_data: ClassVar[Set[str]] = frozenset()
    """Buffers of the module that the training images decide: they stay if a training starts from
    a model of other images."""

    def check_recipe(self, training: "LoopSettings") -> None:
        """Raise ValueError, with the key, for settings of the training that do not fit."""
        if training.noise_law and getattr(training, "weighting", "fid") == "nll":
            raise ValueError("weighting=nll is a mean over uniform times; set noise_law to null")

    def check_dataset(self, training: "LoopSettings", dataset: DatasetSettings) -> None:
        """Raise ValueError, with the key, for a dataset that does not fit."""
        dropout = getattr(training, "label_dropout", None)
        if dropout is not None and dataset.num_classes < 1:
            raise ValueError(
                f"training.label_dropout makes the model class-conditional, but dataset "
                f"{dataset.name} has no classes (dataset.num_classes is 0); set it to null"
            )

    def channels(self, dataset: DatasetSettings, process: "LinearProcess") -> tuple[int, int]:
        """Return the numbers of channels of what the network sees, and of what it gives."""
        blocks = (1, 1) if self.sees_images else (process.blocks, process.predicted_blocks)
        return blocks[0] * dataset.channels, blocks[1] * dataset.channels

    def wrap(self, network: "nn.Module", facts: Facts) -> "nn.Module":
        """Return the module that is trained and saved, around a network.

        One with more that is trained, for the loss, returns a tuple while it is in training.
        """
        return network

    def noising(self, facts: Facts) -> "Noising":
        """Return what the network sees of an image."""
        from psld.diffusion.loss import NoisyImages, NoisyStates

        if self.sees_images:
            return NoisyImages(facts.law)
        return NoisyStates(facts.process, facts.training.time_eps, facts.training.noise_law)

    def loss(self, module: "nn.Module", batch: "Batch") -> "Tensor":
        """Return the loss of a batch, a scalar, from the module, which may be compiled or parallel.

        `batch` (`psld.diffusion.loss.Batch`) has the images `x0`, N×C×H×W; `noisy()`, what the
        network sees, and its times; `target`, the noise in the predicted blocks; `labels`, if the
        model has classes; and `facts`.
        """
        raise NotImplementedError

    def eps(self, module: "Network", process: "LinearProcess") -> "Network":
        """Return ε(z, t), or ε(z, t, label), of a process, from the module that was trained."""
        return self._of_states(module, process, gives_image=True)

    def _of_states(
        self, module: "Network", process: "LinearProcess", gives_image: bool
    ) -> "Network":
        from psld.diffusion.denoiser import SeesImages

        return SeesImages(process, module, gives_image=gives_image) if self.sees_images else module

    def check(self, sampler: "SamplerSettings", process: "ProcessSettings") -> None:
        """Raise UserError if a sampler cannot sample such a model."""

    def check_cell(self, sampler: "SamplerSettings") -> None:
        """Raise UserError if it cannot learn from a cell, which it reads, by this sampler."""

    def preview(
        self, facts: Facts, module: "nn.Module", store: "ImageStore", picture: "Path"
    ) -> dict[str, float]:
        """Preview the averaged module: write a picture, and return further numbers to log."""
        from psld.models.previews import write_samples
        from psld.utils.device import device_of

        eps, seed = self.eps(module, facts.process), facts.training.seed
        write_samples(facts.process, eps, facts.dataset, seed, device_of(module), picture)
        return {}

    def measured(self, facts: Facts, module: "nn.Module", store: "ImageStore") -> dict[str, Any]:
        """Return fields of the manifest about the trained module; others are not kept."""
        return {}


class Epsilon(Objective):
    """The network predicts the noise ε of a process's states (paper, Eq. 10)."""

    def loss(self, module, batch):
        from psld.diffusion.loss import EpsilonLoss

        facts = batch.facts
        return EpsilonLoss(facts.process, facts.training.weighting, batch.noising)(module, batch)


class Denoiser(Objective):
    """The network predicts the image of an image with noise, D(y; σ), in EDM's preconditioning.

    The loss is λ(σ) ‖D(y; σ) − x₀‖², λ = (σ² + s²) / (σ s)², as a mean of elements (Karras et al.,
    2022, Table 1), with s = `facts.deviation`. This λ makes every level of images with mean 0 cost
    1 before the first step; of other images, up to 1 + |mean|²/s² per value at high levels.
    """

    kind: str = "denoiser"

    uses = frozenset({"noise_law", "label_dropout"})
    sees_images = True
    needs_deviation = True
    of_data = frozenset({"deviation"})

    def check_recipe(self, training):
        if getattr(training, "weighting", "fid") != "fid":
            raise ValueError("weighting is for objective=epsilon; a denoiser has EDM's")

    def wrap(self, network, facts):
        from psld.networks.forward import Denoiser as Preconditioned

        return Preconditioned(network, facts.deviation, facts.law.low, facts.law.high)

    def loss(self, module, batch):
        (y, sigma), variance = batch.noisy(), batch.facts.deviation**2
        weight = (sigma.square() + variance) / (sigma.square() * variance)
        error = module(y, sigma, *batch.label) - batch.x0
        return (weight[:, None, None, None] * error.square()).mean()


class Guide(Objective):
    """The network recognizes the class of a process's states, for guidance by it.

    The loss is the mean of −log p(class | z_t, t), or of −log p(class | y, σ), over images.
    """

    kind: str = "guide"

    makes = "guide"
    uses = frozenset({"noise_law", "time_eps"})

    def check_dataset(self, training, dataset):
        if dataset.num_classes < 2:
            raise ValueError(
                f"dataset {dataset.name} has no classes to tell apart "
                f"(dataset.num_classes is {dataset.num_classes})"
            )

    def channels(self, dataset, process):
        return super().channels(dataset, process)[0], dataset.num_classes

    def loss(self, module, batch):
        from torch.nn.functional import cross_entropy

        from psld.diffusion.denoiser import guide_input

        seen = guide_input(*batch.noisy()) if self.sees_images else batch.noisy()
        return cross_entropy(module(*seen).float(), cast(Any, batch.labels))

    def logits(self, module: "Network", process: "LinearProcess") -> "Network":
        """Return the logits of the classes, N×K, of states and times of a process."""
        return self._of_states(module, process, gives_image=False)

    def _accuracies(self, facts: Facts, module: "nn.Module", store: "ImageStore") -> list[float]:
        from psld.models.previews import accuracy_by_time
        from psld.utils.device import device_of

        training, logits = facts.training, self.logits(module, facts.process)
        options = training.time_eps, training.seed, device_of(module)
        return accuracy_by_time(facts.process, logits, store, *options)

    def preview(self, facts, module, store, picture):
        from psld.models.previews import as_logged

        return as_logged(self._accuracies(facts, module, store))

    def measured(self, facts, module, store):
        from psld.models.previews import split_of_accuracy

        accuracies = self._accuracies(facts, module, store)
        shown, split = ", ".join(f"{a:.2f}" for a in accuracies), split_of_accuracy(store)
        print(f"accuracy on the {split} split, from little to much noise: {shown}")
        return {"accuracy_by_time": accuracies}


class ImageGuide(Guide):
    """The network recognizes the class of an image with noise, and so guides every process."""

    kind: str = "image-guide"

    uses = frozenset({"noise_law"})
    sees_images = True


# -- the recipe that chooses an objective ----------------------------------------------------------


class LoopSettings(Settings):
    """The training recipe that models and guides share. The defaults are the paper's."""

    objective: Objective = Epsilon()
    """`epsilon`: a network of noisy states of one process. `denoiser`: a network of images with
    noise, y = x₀ + σ n, which serves every process: a model D(y; σ), or a guide of y."""
    noise_law: NoiseLaw | None = None
    """The law of the noise levels. Null: for `epsilon` the forward time is uniform, for a denoiser
    the law has its defaults. An `epsilon` network with a law hardly sees the noise of the prior:
    sample it with sampler=few."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(ge=1)
    """Images per step over all ranks."""
    micro_batch: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)] | None, FREE] = None
    """Images per forward pass on one rank; gradients are summed. `auto`: half as many, and so on,
    if a GPU runs out of memory before the first step. Null: the rank's whole part. The weights
    depend on it by rounding, and by dropout, which draws its masks for each pass."""
    noise_block: Annotated[int | None, Neutral(None)] = Field(None, ge=1)
    """Images of the global batch that share a stream of noise, (seed, step, block): a rank draws
    the noise of its own blocks alone. Null: one stream for the batch, which each rank draws from
    its beginning to its own last image. Either way, the noise is equal on any number of ranks."""
    learning_rate: float = Field(2e-4, gt=0)
    """The learning rate after the warm-up."""
    warmup_steps: int = Field(5000, ge=0)
    """Steps over which the learning rate grows linearly from 0."""
    schedule: Annotated[Schedule, Neutral(Constant())] = Constant()
    """The factor of the learning rate in each step: constant, cosine, inverse-sqrt."""
    optimizer: Annotated[Optimizer, Neutral(Adam())] = Adam()
    """The optimizer: adam, adamw."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float | None = Field(0.9999, ge=0, lt=1)
    """Decay of the weights' exponential moving average per step; 0 keeps the last weights. It is
    short for average={kind: ema, decay: …}."""
    average: Annotated[Average | None, Neutral(None)] = None
    """Another moving average of weights and buffers, in place of `ema_decay`."""
    time_eps: float = Field(1e-5, gt=0, lt=1)
    """Training times are on [time_eps, 1], uniform without a `noise_law`."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network's forward pass; weights and optimizer stay in fp32. On GPUs since
    Ampere, its products in fp32 use TF32 (ten bits)."""
    compile: Annotated[bool, FREE] = False
    """Compile the network with torch.compile."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights, the batches and dropout."""
    checkpoint_every: Annotated[int, FREE] = Field(5000, ge=1)
    """Steps between checkpoints; the last two are kept."""
    log_every: Annotated[int, FREE] = Field(100, ge=1)
    """Steps between entries of history.json, which also gets the steps of checkpoints and previews.
    In a log file, there is a line at each checkpoint, and every 30 seconds."""
    preview_every: Annotated[int | None, FREE] = Field(None, ge=1)
    """Steps between previews: a picture of a model's samples, a guide's accuracy by noise level."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        content = with_one_average(content)
        with suppress(AttributeError, ValueError):  # of no part
            given = content.get("objective") or "epsilon"
            kind = type(given) if isinstance(given, Objective) else Objective.class_for(given)
            if cast(type[Objective], kind).sees_images:
                content = content | {"noise_law": content.get("noise_law") or {}}
        return content

    @model_validator(mode="after")
    def _check_combination(self) -> "LoopSettings":
        if self.ema_decay is None and self.average is None:
            raise ValueError("ema_decay is null; give it, or average")
        self.objective.check_recipe(self)
        return self

    @property
    def averaging(self) -> Average:
        """The moving average of the weights."""
        return self.average or ExponentialAverage(decay=cast(float, self.ema_decay))


class TrainingSettings(LoopSettings):
    """The training recipe of a model."""

    weighting: Literal["fid", "nll"] = "fid"
    """The error of ε (paper, Eq. 10), or of the score, weighted by the diffusion G Gᵀ."""
    label_dropout: float | None = Field(None, gt=0, lt=1)
    """Makes the model class-conditional, for classifier-free guidance: with this probability an
    image has no class in training. Null: unconditional."""


def check_uses(training: LoopSettings) -> None:
    """Raise UserError if a setting is set that a custom objective does not use."""
    fields, objective = type(training).model_fields, training.objective
    for key in (
        sorted(fields.keys() & OPTIONAL.difference(objective.uses)) if objective.code else ()
    ):
        if getattr(training, key) not in (None, NoiseLaw.model_validate({}), fields[key].default):
            wrong = f"{objective.kind} does not use {key}, by its `uses`"
            raise UserError(f"training.objective: {wrong}; leave training.{key} out")


@dataclass(frozen=True)
class Loss:
    """The loss of one training: a function of the module and a batch."""

    objective: Objective
    facts: Facts
    noising: "Noising"

    def __call__(self, module: "nn.Module", batch: "Batch") -> "Tensor":
        batch = replace(batch, noising=self.noising, facts=self.facts)
        return self.objective.loss(module, batch)
