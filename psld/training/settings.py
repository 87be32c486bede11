"""Settings of trainings: what is trained, and its names, places, device and log. No torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator

from psld.config.reads import Read
from psld.config.settings import FREE, Name, Settings, groups_of
from psld.models.recipe import Average, Logger
from psld.models.settings import GuideModelSettings, ModelSettings, TrainedSettings
from psld.utils.files import digest_of


class WandbSettings(Settings):
    """When and where a training goes to wandb; `disabled`: never."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    """Online: log while training. Offline: `make sync` uploads the training later."""
    project: str = "psld"
    """Name of the project in wandb."""
    entity: str | None = None
    """A user or a team; null: the default of the login."""


class RunSettings(TrainedSettings):
    """The settings that decide the weights, and names, places, device and log of a training."""

    name: Name
    """The model's name in its grid: letters, digits, dots, dashes and underscores."""
    grid_name: Name
    """The grid that the model belongs to; groups runs in wandb."""
    data: Annotated[str, FREE]
    """The prepared dataset, HDF5."""
    output: Annotated[str, FREE]
    """Folder that receives weights.safetensors and manifest.json."""
    runs: Annotated[str, FREE]
    """Folder of run directories; the checkpoints are in one of them."""
    device: Annotated[str, FREE]
    """`auto`, or a torch device such as `cpu` or `cuda`."""
    wandb: Annotated[WandbSettings, FREE]
    averages: Annotated[dict[Name, Average], FREE] = Field(default_factory=dict)
    """Further averages, by the names of the models that they become. Each of these gets a run
    directory, as from a training of its own, which then has nothing left to do."""
    logger: Annotated[tuple[Logger, ...], FREE] = ()
    """Custom loggers, MODULE:CLASS or a list of {kind: MODULE:CLASS, …}."""

    @field_validator("logger", mode="before")
    @classmethod
    def _as_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | dict | Logger) else given

    def model(self) -> ModelSettings | GuideModelSettings:
        """The part of the settings that decides the weights."""
        kind = ModelSettings if isinstance(self, ModelSettings) else GuideModelSettings
        return kind(**{key: getattr(self, key) for key in kind.model_fields})

    def origin(self, dataset_digest: str | None) -> dict[str, Any]:
        """Return all that decides the weights."""
        origin = {"model": self.model().identity(), "dataset": dataset_digest}
        read = [each.content for each in groups_of(Read, self.model())]
        return origin | ({"reads": read} if read else {})

    def of_average(self, name: str) -> Self:
        """Return the settings of the model that has one of the further averages."""
        training = dict(self.training) | {"average": self.averages[name]}
        training = type(self.training).model_validate(training)
        return self.model_copy(update={"name": name, "averages": {}, "training": training})

    def run_name(self, dataset_digest: str) -> str:
        """The run directory's name: equal trainings of one name share it, also of two grids."""
        return f"{self.name}-{digest_of(self.origin(dataset_digest))[:12]}"


class TrainSettings(ModelSettings, RunSettings):
    """Settings of `psld train`."""


class TrainGuideSettings(GuideModelSettings, RunSettings):
    """Settings of `psld train_guide`."""


Trained = TrainSettings | TrainGuideSettings


class ImportSettings(RunSettings):
    """Settings of both kinds of import: every setting of a training, and the file."""

    checkpoint: Annotated[str, FREE]
    """Path of the file that PyTorch Lightning wrote."""
    replace: Annotated[bool, FREE] = False
    """Replace weights of another origin in `output`, such as trained ones."""


class ImportModelSettings(TrainSettings, ImportSettings):
    """Settings of `psld import_model`."""

    weights: Literal["ema", "online"] = "ema"
    """The moving average, used in the paper's samples, or the network as trained."""


class ImportGuideSettings(TrainGuideSettings, ImportSettings):
    """Settings of `psld import_guide`."""
