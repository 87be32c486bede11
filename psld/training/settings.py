"""Settings of a model and of a guide: dataset, process, network and training recipe; checked
without torch."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from psld.config.settings import Settings
from psld.data.settings import DatasetSettings
from psld.diffusion.settings import ProcessSettings
from psld.networks.settings import EncoderSettings, GuideSettings, NetworkSettings
from psld.utils.files import digest_of


class LoopSettings(Settings):
    """What the training loop is told, whatever it trains. The paper's choice is the default."""

    steps: int = Field(ge=1)
    """Optimiser steps."""
    batch_size: int = Field(ge=1)
    """Images per step over all ranks."""
    micro_batch: int | None = Field(None, ge=1)
    """Images per forward pass on one rank; gradients accumulate. Null: the rank's whole part. The
    weights depend on it by rounding alone, and by dropout, whose masks are drawn for each pass."""
    learning_rate: float = Field(2e-4, gt=0)
    """Adam's learning rate after the warm-up."""
    warmup_steps: int = Field(5000, ge=0)
    """Steps over which the learning rate grows linearly from 0."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    """Decay of the weights' moving average per step; 0 keeps the last weights."""
    time_eps: float = Field(1e-5, gt=0, lt=1)
    """Training times are uniform on [time_eps, 1]."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network's forward pass; weights and optimiser stay in fp32. On GPUs from
    Ampere on, fp32 has TF32's ten bits in convolutions, as torch's default is."""
    compile: bool = False
    """Compile the network with torch.compile."""
    seed: int = Field(0, ge=0)
    """Seed of the initial weights, the batches and dropout."""
    checkpoint_every: int = Field(5000, ge=1)
    """Steps between checkpoints; the last two are kept."""
    milestone_every: int | None = Field(None, ge=1)
    """Steps between checkpoints that are kept for good."""
    log_every: int = Field(100, ge=1)
    """Steps between logged values."""
    preview_every: int | None = Field(None, ge=1)
    """Steps between logged previews: a model's samples, a guide's accuracy by noise level."""

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "LoopSettings":
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}"
            )
        if self.milestone_every and self.milestone_every % self.checkpoint_every:
            raise ValueError("milestone_every must be a multiple of checkpoint_every")
        return self


class TrainingSettings(LoopSettings):
    """The training recipe of a model."""

    weighting: Literal["fid", "nll"] = "fid"
    """Plain ε-error (paper, Eq. 10), or the score's error weighted by the diffusion G Gᵀ."""
    label_dropout: float | None = Field(None, gt=0, lt=1)
    """Makes the model class-conditional, for classifier-free guidance: the network is told the
    class of an image, but with this probability that it has none. Null: unconditional."""


class TrainedSettings(Settings):
    """What is trained once: everything that decides the weights of a network."""

    dataset: DatasetSettings
    process: ProcessSettings
    network: EncoderSettings
    training: LoopSettings

    @model_validator(mode="after")
    def _image_fits_network(self) -> "TrainedSettings":
        halvings = len(self.network.channel_multipliers) - 1
        if self.dataset.image_size % 2**halvings:
            raise ValueError(
                f"dataset.image_size {self.dataset.image_size} cannot be halved {halvings} times, "
                f"as the {halvings + 1} levels of network.channel_multipliers need"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that, with the dataset's digest, decide the weights: neither where images
        come from, nor how often to log, save or preview, nor what changes speed and memory alone
        (`compile`, `micro_batch`). What is switched off (null) is left out, so that an option that
        comes later changes no identity.
        """
        content = self.model_dump(mode="json", exclude_none=True)
        del content["dataset"]["source"]
        reports = ("checkpoint_every", "milestone_every", "log_every", "preview_every")
        for key in (*reports, "compile", "micro_batch"):
            content["training"].pop(key, None)
        return content


class ModelSettings(TrainedSettings):
    """A model: the network that predicts a process's noise."""

    network: NetworkSettings
    training: TrainingSettings

    @model_validator(mode="after")
    def _has_classes_to_drop(self) -> "ModelSettings":
        if self.training.label_dropout is not None and self.dataset.num_classes < 1:
            raise ValueError(
                f"training.label_dropout makes the model class-conditional, but dataset "
                f"{self.dataset.name} has no classes (dataset.num_classes is 0); set it to null"
            )
        return self

    @property
    def num_classes(self) -> int:
        """The classes that the network is told; 0 for an unconditional model."""
        return 0 if self.training.label_dropout is None else self.dataset.num_classes


class GuideModelSettings(TrainedSettings):
    """A noise-conditional guide: it recognises the class of an image that a process noised."""

    network: GuideSettings

    @model_validator(mode="after")
    def _has_classes(self) -> "GuideModelSettings":
        if self.dataset.num_classes < 2:
            raise ValueError(
                f"dataset {self.dataset.name} has no classes to tell apart "
                f"(dataset.num_classes is {self.dataset.num_classes})"
            )
        return self


class WandbSettings(Settings):
    """Where runs of wandb go. Offline unless asked for; `disabled` switches wandb off."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    """`make sync` uploads what was written offline."""
    project: str = "psld"
    """Name of the project in wandb."""
    entity: str | None = None
    """A user or a team; null: the default of whoever is logged in."""


class RunSettings(TrainedSettings):
    """What the commands that train have besides: names, places, device, log."""

    name: str
    """The model's name in its grid."""
    grid_name: str
    """The grid that the model belongs to; groups runs in wandb."""
    data: str
    """The prepared dataset, HDF5."""
    output: str
    """Folder that receives weights.safetensors and manifest.json."""
    runs: str
    """Folder of run directories; this training keeps its checkpoints in one of them."""
    device: str
    """`auto`, or a torch device such as `cpu` or `cuda`."""
    wandb: WandbSettings

    trains: ClassVar[type[TrainedSettings]]
    """The part of the settings that decides the weights."""

    def model(self) -> TrainedSettings:
        """The part that decides the weights."""
        return self.trains(**{key: getattr(self, key) for key in self.trains.model_fields})

    def run_name(self, dataset_digest: str) -> str:
        """The run directory's name: what decides the weights, so equal trainings share a run."""
        digest = digest_of({"model": self.model().identity(), "dataset": dataset_digest})
        return f"{self.name}-{digest[:12]}"


class TrainSettings(ModelSettings, RunSettings):
    """Settings of `psld train`."""

    trains = ModelSettings


class TrainGuideSettings(GuideModelSettings, RunSettings):
    """Settings of `psld train_guide`."""

    trains = GuideModelSettings
