"""Settings of trainings: model, name, folders, device and loggers. Imports no torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator

from psld.config.reads import Read
from psld.config.settings import FREE, Name, Settings, groups_of
from psld.models.recipe import Average, Logger
from psld.models.settings import GuideModelSettings, ModelSettings, TrainedSettings
from psld.utils.files import digest_of


class WandbSettings(Settings):
    """When and where a training is logged to wandb."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    """`online`: log during the training. `offline`: upload the training later with `make sync`.
    `disabled`: do not use wandb."""
    project: str = "psld"
    """Name of the project in wandb."""
    entity: str | None = None
    """User or team in wandb. Null: the default entity of the logged-in user."""


class RunSettings(TrainedSettings):
    """All settings of a training, including settings that do not determine the weights."""

    name: Name
    """The model's name in its grid: letters, digits, dots, dashes and underscores."""
    grid_name: Name
    """The name of the model's grid; runs in wandb are grouped by grid."""
    data: Annotated[str, FREE]
    """HDF5 file of the prepared dataset."""
    output: Annotated[str, FREE]
    """Folder that receives weights.safetensors and manifest.json."""
    runs: Annotated[str, FREE]
    """Folder of the run directories, which hold the checkpoints."""
    device: Annotated[str, FREE]
    """`auto`, or a torch device such as `cpu` or `cuda`."""
    wandb: Annotated[WandbSettings, FREE]
    averages: Annotated[dict[Name, Average], FREE] = Field(default_factory=dict)
    """Additional averages of the weights, by model name. Each average is exported to the run
    directory of the named model, so that a training of this model finds the finished weights."""
    logger: Annotated[tuple[Logger, ...], FREE] = ()
    """Custom loggers: MODULE:CLASS, or a list of {kind: MODULE:CLASS, …}."""

    @field_validator("logger", mode="before")
    @classmethod
    def _as_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | dict | Logger) else given

    def model(self) -> ModelSettings | GuideModelSettings:
        """Return the settings that determine the weights."""
        kind = ModelSettings if isinstance(self, ModelSettings) else GuideModelSettings
        return kind(**{key: getattr(self, key) for key in kind.model_fields})

    def origin(self, dataset_digest: str | None) -> dict[str, Any]:
        """Return everything that determines the weights, for the digest of the run directory."""
        origin = {"model": self.model().identity(), "dataset": dataset_digest}
        read = [each.content for each in groups_of(Read, self.model())]
        return origin | ({"reads": read} if read else {})

    def of_average(self, name: str) -> Self:
        """Return the settings of the model that is exported from an additional average."""
        training = dict(self.training) | {"average": self.averages[name]}
        training = type(self.training).model_validate(training)
        return self.model_copy(update={"name": name, "averages": {}, "training": training})

    def run_name(self, dataset_digest: str) -> str:
        """Return the name of the run directory.

        Equal trainings with equal names share a run directory, even in different grids.
        """
        return f"{self.name}-{digest_of(self.origin(dataset_digest))[:12]}"


class TrainSettings(ModelSettings, RunSettings):
    """Settings of `psld train`."""


class TrainGuideSettings(GuideModelSettings, RunSettings):
    """Settings of `psld train_guide`."""


Trained = TrainSettings | TrainGuideSettings


class ImportSettings(RunSettings):
    """Settings that both import commands share: settings of a training, and the imported file."""

    checkpoint: Annotated[str, FREE]
    """Path of a PyTorch Lightning checkpoint."""
    replace: Annotated[bool, FREE] = False
    """Replace weights in `output` that have another origin, such as trained weights."""


class ImportModelSettings(TrainSettings, ImportSettings):
    """Settings of `psld import_model`."""

    weights: Literal["ema", "online"] = "ema"
    """`ema`: the moving average, which the paper uses for sampling. `online`: the weights of the
    last step, without averaging."""


class ImportGuideSettings(TrainGuideSettings, ImportSettings):
    """Settings of `psld import_guide`."""
