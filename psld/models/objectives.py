"""The training recipe and its objective, which defines the loss and the inputs of the network.

Torch is imported only inside functions, because each process of Snakemake imports this module.
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
    """Facts about a training that its objective may use. `Objective.loss` reads `batch.facts`."""

    training: "TrainingSettings"
    dataset: DatasetSettings
    process: "LinearProcess"
    deviation: float = 1.0
    """s: the standard deviation of the training images around their mean; 1 unless the objective
    sets `needs_deviation`."""
    init: str | None = None
    """The name of the pretrained model that initializes the training; None for random weights."""

    @property
    def law(self) -> "NoiseLaw":
        """The distribution of the noise levels, for an objective with `sees_images`."""
        return cast("NoiseLaw", self.training.noise_law)


OPTIONAL = frozenset({"noise_law", "time_eps", "weighting", "label_dropout"})
"""Training settings that an objective may leave unused."""

SHORT = {"epsilon": None, "guide": None, "denoiser": "denoiser", "image-guide": "denoiser"}
"""Short identities of the shipped objectives, which keep old digests valid."""


class Objective(Part):
    """The objective of a training: the inputs of the network and the loss.

    By default, the network predicts the noise in the states of a process. A custom objective needs
    only a loss:

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
    """The settings in `OPTIONAL` that affect the weights. For custom objectives, it is an error to
    set any other setting in `OPTIONAL`."""
    sees_images: ClassVar[bool] = False
    """True if the network sees noisy images, y = x₀ + σ n, and therefore serves every process."""
    needs_deviation: ClassVar[bool] = False
    """True if the objective needs `facts.deviation`. Computing the deviation takes a pass over
    the training images."""
    of_data: ClassVar[Set[str]] = frozenset()
    """The names of buffers that are computed from the training images. These buffers are not loaded
    from the pretrained model that initializes a training."""

    def check_recipe(self, training: "LoopSettings") -> None:
        """Raise ValueError, naming the key, if a training setting does not fit the objective."""
        if training.noise_law and getattr(training, "weighting", "fid") == "nll":
            raise ValueError("weighting: nll needs uniform times; set noise_law to null")

    def check_dataset(self, training: "LoopSettings", dataset: DatasetSettings) -> None:
        """Raise ValueError, naming the key, if the dataset does not fit the objective."""
        dropout = getattr(training, "label_dropout", None)
        if dropout is not None and dataset.num_classes < 1:
            raise ValueError(
                f"training.label_dropout: a class-conditional model needs classes, but dataset "
                f"{dataset.name} has none (dataset.num_classes is 0); set it to null"
            )

    def channels(self, dataset: DatasetSettings, process: "LinearProcess") -> tuple[int, int]:
        """Return the numbers of input and output channels of the network."""
        blocks = (1, 1) if self.sees_images else (process.blocks, process.predicted_blocks)
        return blocks[0] * dataset.channels, blocks[1] * dataset.channels

    def wrap(self, network: "nn.Module", facts: Facts) -> "nn.Module":
        """Return the module that is trained and saved. The module contains the network.

        In training mode, a module may return a tuple with additional outputs for the loss.
        """
        return network

    def noising(self, facts: Facts) -> "Noising":
        """Return the function that makes the inputs of the network by adding noise to images."""
        from psld.diffusion.loss import NoisyImages, NoisyStates

        if self.sees_images:
            return NoisyImages(facts.law)
        return NoisyStates(facts.process, facts.training.time_eps, facts.training.noise_law)

    def loss(self, module: "nn.Module", batch: "Batch") -> "Tensor":
        """Return the loss of a batch, a scalar.

        Args:
            module: the module that `wrap` returned; it may be compiled or parallel.
            batch: a `psld.diffusion.loss.Batch`. `batch.x0`: the images, N×C×H×W. `batch.noisy()`:
                returns noisy states with their times, or noisy images with their noise levels.
                `batch.target`: the noise in the predicted blocks. `batch.labels`: the classes, if
                the model has classes. `batch.facts`: see `Facts`.
        """
        raise NotImplementedError

    def eps(self, module: "Network", process: "LinearProcess") -> "Network":
        """Return the function ε(z, t) or ε(z, t, label) of the trained module for a process."""
        return self._of_states(module, process, gives_image=True)

    def _of_states(
        self, module: "Network", process: "LinearProcess", gives_image: bool
    ) -> "Network":
        from psld.diffusion.denoiser import SeesImages

        return SeesImages(process, module, gives_image=gives_image) if self.sees_images else module

    def check(self, sampler: "SamplerSettings", process: "ProcessSettings") -> None:
        """Raise UserError if the sampler cannot sample from a model with this objective."""

    def check_cell(self, sampler: "SamplerSettings") -> None:
        """Raise UserError if the objective cannot train on samples from `sampler`."""

    def preview(
        self, facts: Facts, module: "nn.Module", store: "ImageStore", picture: "Path"
    ) -> dict[str, float]:
        """Preview the averaged module: write a picture, and return numbers to log."""
        from psld.models.previews import write_samples
        from psld.utils.device import device_of

        eps, seed = self.eps(module, facts.process), facts.training.seed
        given = facts.dataset, seed, device_of(module), picture, store
        write_samples(facts.process, eps, *given)
        return {}

    def measured(self, facts: Facts, module: "nn.Module", store: "ImageStore") -> dict[str, Any]:
        """Measure the trained module, and return the measurements as fields of the manifest.

        Keys that are not fields of the manifest are ignored.
        """
        return {}


class Epsilon(Objective):
    """The network predicts the noise ε in the states of a process (paper, Eq. 10)."""

    def loss(self, module, batch):
        from psld.diffusion.loss import EpsilonLoss

        facts = batch.facts
        return EpsilonLoss(facts.process, facts.training.weighting, batch.noising)(module, batch)


class Denoiser(Objective):
    """The module predicts the clean image from a noisy image, D(y; σ), with EDM's preconditioning.

    The loss is λ(σ) ‖D(y; σ) − x₀‖², λ = (σ² + s²) / (σ s)², averaged over the elements (Karras et
    al., 2022, Table 1), with s = `facts.deviation`. Before the first step, the loss is 1 at every
    noise level if the images have mean 0. For other images, this initial loss grows with the noise
    level, to at most 1 + |mean|²/s² per value.
    """

    kind: str = "denoiser"

    uses = frozenset({"noise_law", "label_dropout"})
    sees_images = True
    needs_deviation = True
    of_data = frozenset({"deviation"})

    def check_recipe(self, training):
        if getattr(training, "weighting", "fid") != "fid":
            raise ValueError("weighting: only objective=epsilon uses it; leave weighting out")

    def wrap(self, network, facts):
        from psld.networks.forward import Denoiser as Preconditioned

        return Preconditioned(network, facts.deviation, facts.law.low, facts.law.high)

    def loss(self, module, batch):
        (y, sigma), variance = batch.noisy(), batch.facts.deviation**2
        weight = (sigma.square() + variance) / (sigma.square() * variance)
        error = module(y, sigma, *batch.label) - batch.x0
        return (weight[:, None, None, None] * error.square()).mean()


class Guide(Objective):
    """The network classifies noisy states of a process, for classifier guidance.

    The loss is −log p(class | z_t, t), or −log p(class | y, σ), averaged over the images.
    """

    kind: str = "guide"

    makes = "guide"
    uses = frozenset({"noise_law", "time_eps"})

    def check_dataset(self, training, dataset):
        if dataset.num_classes < 2:
            raise ValueError(
                f"dataset.num_classes: a guide needs at least 2 classes, but dataset "
                f"{dataset.name} has {dataset.num_classes}"
            )

    def channels(self, dataset, process):
        return super().channels(dataset, process)[0], dataset.num_classes

    def loss(self, module, batch):
        from torch.nn.functional import cross_entropy

        from psld.diffusion.denoiser import guide_input

        seen = guide_input(*batch.noisy()) if self.sees_images else batch.noisy()
        return cross_entropy(module(*seen).float(), cast(Any, batch.labels))

    def logits(self, module: "Network", process: "LinearProcess") -> "Network":
        """Return the function that computes the logits, N×K, from states and times of a process."""
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
        print(f"accuracy on the {split} split, from low to high noise: {shown}")
        return {"accuracy_by_time": accuracies}


class ImageGuide(Guide):
    """The network classifies noisy images and can therefore guide every process."""

    kind: str = "image-guide"

    uses = frozenset({"noise_law"})
    sees_images = True


# -- the training recipe, which includes the objective ---------------------------------------------


class LoopSettings(Settings):
    """The training recipe that models and guides share. The defaults are from the paper."""

    objective: Objective = Epsilon()
    """`epsilon`: the network sees noisy states of one process. `denoiser`: the network sees noisy
    images, y = x₀ + σ n, and serves every process."""
    noise_law: NoiseLaw | None = None
    """The distribution of the noise levels. Null: uniform times for `epsilon`, the default
    distribution for `denoiser`. With a `noise_law`, an `epsilon` network rarely sees noise levels
    as high as the noise level of the prior, so use sampler=few with such a network."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(ge=1)
    """Images per step over all ranks."""
    micro_batch: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)] | None, FREE] = None
    """Images per forward pass on one rank; gradients are accumulated. `auto`: before the first
    step, the number is halved until no GPU runs out of memory. Null: all images of the rank's part
    of the batch. The micro-batch affects the weights only through rounding and through dropout,
    whose masks are drawn in each pass."""
    noise_block: Annotated[int | None, Neutral(None)] = Field(None, ge=1)
    """Images per block of the global batch. Each block has its own noise stream, (seed, step,
    block), so that a rank draws only the noise of its own blocks. Null: one noise stream per batch;
    each rank draws the noise of all images up to its own last image. In both cases, the noise does
    not depend on the number of ranks."""
    learning_rate: float = Field(2e-4, gt=0)
    """The learning rate after the warm-up."""
    warmup_steps: int = Field(5000, ge=0)
    """Steps over which the learning rate grows linearly from 0."""
    schedule: Annotated[Schedule, Neutral(Constant())] = Constant()
    """The schedule of the learning rate: constant, cosine, inverse-sqrt."""
    optimizer: Annotated[Optimizer, Neutral(Adam())] = Adam()
    """The optimizer: adam, adamw."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient; gradients with a larger norm are scaled down."""
    ema_decay: float | None = Field(0.9999, ge=0, lt=1)
    """Decay per step of the exponential moving average of the weights; with a decay of 0, the
    average equals the last weights. The same as average={kind: ema, decay: …}."""
    average: Annotated[Average | None, Neutral(None)] = None
    """A custom moving average of weights and buffers that replaces `ema_decay`."""
    time_eps: float = Field(1e-5, gt=0, lt=1)
    """Smallest training time. Training times are in [time_eps, 1]; without a `noise_law`, they are
    uniform."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the network's forward pass; weights and optimizer stay in fp32. On GPUs since
    Ampere, matrix products in fp32 use TF32 (10 bits of mantissa)."""
    compile: Annotated[bool | Literal["reduce-overhead"], FREE] = False
    """Compile the network with torch.compile. `reduce-overhead`: also record the kernels as CUDA
    graphs, for networks whose kernels take less time than the kernel launches. This mode has not
    been run on a GPU yet."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights, the batches and dropout."""
    checkpoint_every: Annotated[int, FREE] = Field(5000, ge=1)
    """Steps between checkpoints; the last two checkpoints are kept."""
    log_every: Annotated[int, FREE] = Field(100, ge=1)
    """Steps between entries of history.json. The smallest value is `steps` / 20,000, so that the
    file stays readable. Steps with a checkpoint or a preview also get an entry. A log file gets a
    line at each checkpoint and every 30 seconds."""
    preview_every: Annotated[int | None, FREE] = Field(None, ge=1)
    """Steps between previews. A preview is a picture of samples for a model, and the accuracy at
    each range of noise levels for a guide. Null: no previews."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        content = with_one_average(content)
        with suppress(AttributeError, ValueError):  # Validation reports an invalid objective.
            given = content.get("objective") or "epsilon"
            kind = type(given) if isinstance(given, Objective) else Objective.class_for(given)
            if cast(type[Objective], kind).sees_images:
                content = content | {"noise_law": content.get("noise_law") or {}}
        return content

    @model_validator(mode="after")
    def _check_combination(self) -> "LoopSettings":
        if self.ema_decay is None and self.average is None:
            raise ValueError("ema_decay: null without an average; set ema_decay or average")
        self.objective.check_recipe(self)
        return self

    @property
    def averaging(self) -> Average:
        """The moving average of the weights."""
        return self.average or ExponentialAverage(decay=cast(float, self.ema_decay))


class TrainingSettings(LoopSettings):
    """The training recipe of a model."""

    weighting: Literal["fid", "nll"] = "fid"
    """`fid`: the error of ε (paper, Eq. 10). `nll`: the error of the score, weighted by the
    diffusion G Gᵀ."""
    label_dropout: float | None = Field(None, gt=0, lt=1)
    """The probability of dropping the class of a training image. Any value makes the
    model class-conditional, as classifier-free guidance requires. Null: an unconditional model."""


def check_uses(training: LoopSettings) -> None:
    """Raise UserError if the training sets an optional setting that a custom objective ignores."""
    fields, objective = type(training).model_fields, training.objective
    for key in (
        sorted(fields.keys() & OPTIONAL.difference(objective.uses)) if objective.code else ()
    ):
        if getattr(training, key) not in (None, NoiseLaw.model_validate({}), fields[key].default):
            wrong = f"`uses` of {objective.kind} does not list {key}"
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
