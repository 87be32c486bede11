"""Settings of a model: dataset, process, network and training recipe; checked without torch."""

from typing import Any, Literal

from pydantic import Field, model_validator

from psld.datasets.settings import DatasetSettings
from psld.files import digest_of
from psld.networks.settings import NetworkSettings
from psld.processes.settings import ProcessSettings
from psld.settings import Settings


class TrainingSettings(Settings):
    """The training recipe. The paper's is the default."""

    steps: int = Field(ge=1)
    """Optimiser steps."""
    batch_size: int = Field(ge=1)
    """Images per step over all ranks."""
    micro_batch: int | None = Field(None, ge=1)
    """Images per forward pass on one rank; gradients accumulate. Null: the rank's whole part."""
    learning_rate: float = Field(2e-4, gt=0)
    """Adam's learning rate after the warm-up."""
    warmup_steps: int = Field(5000, ge=0)
    """Steps over which the learning rate grows linearly from 0."""
    grad_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    """Decay of the weights' moving average per step."""
    weighting: Literal["fid", "nll"] = "fid"
    """Plain ε-error (paper, Eq. 10), or the score's error weighted by the diffusion G Gᵀ."""
    time_eps: float = Field(1e-5, gt=0, lt=1)
    """Training times are uniform on [time_eps, 1]."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the network's forward pass; weights and optimiser stay in fp32."""
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
    """Steps between logged sample grids."""

    @model_validator(mode="after")
    def _micro_batch_fits(self) -> "TrainingSettings":
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide batch_size {self.batch_size}"
            )
        if self.milestone_every and self.milestone_every % self.checkpoint_every:
            raise ValueError("milestone_every must be a multiple of checkpoint_every")
        return self


class ModelSettings(Settings):
    """What is trained once: everything that decides a model's weights."""

    dataset: DatasetSettings
    process: ProcessSettings
    network: NetworkSettings
    training: TrainingSettings

    @model_validator(mode="after")
    def _image_fits_network(self) -> "ModelSettings":
        halvings = len(self.network.channel_multipliers) - 1
        if self.dataset.image_size % 2**halvings:
            raise ValueError(
                f"dataset.image_size {self.dataset.image_size} cannot be halved {halvings} times, "
                f"as the {halvings + 1} levels of network.channel_multipliers need"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that, with the dataset's digest, decide the weights: neither where images
        come from nor how often to log, save or preview."""
        content = self.model_dump(mode="json")
        del content["dataset"]["source"]
        for key in ("checkpoint_every", "milestone_every", "log_every", "preview_every", "compile"):
            del content["training"][key]
        return content


class WandbSettings(Settings):
    """Where training logs go. Offline unless asked; `disabled` switches wandb off."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "psld"
    entity: str | None = None


class TrainSettings(ModelSettings):
    """Settings of `python -m psld.train`."""

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

    def model(self) -> ModelSettings:
        return ModelSettings(**{key: getattr(self, key) for key in ModelSettings.model_fields})

    def run_name(self, dataset_digest: str) -> str:
        """The run directory's name: what decides the weights, so equal trainings share a run."""
        digest = digest_of({"model": self.model().identity(), "dataset": dataset_digest})
        return f"{self.name}-{digest[:12]}"
