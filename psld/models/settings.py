"""Settings of trainings: dataset, process, network and recipe of a model or guide. No torch."""

from math import inf
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from psld.config.reads import ModelRead
from psld.config.settings import FREE, Neutral, Settings
from psld.data.settings import DatasetSettings
from psld.diffusion.settings import NoiseLaw, ProcessSettings
from psld.models.objectives import OPTIONAL, SHORT, LoopSettings, TrainingSettings
from psld.networks.settings import Network
from psld.utils.errors import UserError

TRAIN_FACTOR = 3
"""FLOPs of a training step over those of its forward pass; the backward pass takes two thirds."""


class TrainedSettings(Settings):
    """Everything that decides the weights of a network."""

    makes: ClassVar[Literal["model", "guide"]] = "model"
    """Its objective has to make the same."""
    num_classes: ClassVar[int] = 0
    """The number of classes that the network takes as input; 0 if it takes none."""

    dataset: DatasetSettings
    process: ProcessSettings
    network: Network
    training: LoopSettings

    @model_validator(mode="after")
    def _check_parts(self) -> "TrainedSettings":
        objective = self.training.objective
        self.network.check_image_size(self.dataset.image_size)
        objective.check_dataset(self.training, self.dataset)
        if objective.makes != self.makes:
            other = "train" if self.makes == "guide" else "train_guide"
            raise ValueError(f"training.objective: makes a {objective.makes}; use psld {other}")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that, with the dataset's digest, decide the weights.

        The source of a dataset decides its file, and not more. A network that serves every process
        is trained without the process, and an objective without the settings that it does not use.
        Custom classes below shipped objectives have no short form.
        """
        content, objective = super().identity(), self.training.objective
        del content["dataset"]["source"]
        if objective.sees_images:
            del content["process"]
        unused = OPTIONAL.difference(objective.uses)
        decides = objective.identity()
        decides = decides if objective.code else SHORT.get(objective.kind, decides)
        training = content["training"] | {"objective": decides}
        content["training"] = {
            key: each for key, each in training.items() if each is not None and key not in unused
        }
        return content

    @property
    def command(self) -> str:
        """The command of psld that trains it."""
        return "train" if self.makes == "model" else "train_guide"

    @property
    def serves_every_process(self) -> bool:
        """True if the network sees images with noise, and `process` is only the default."""
        return self.training.objective.sees_images

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and the highest noise level that the network takes."""
        law = cast(NoiseLaw, self.training.noise_law)
        return (law.low, law.high) if self.serves_every_process else (0.0, inf)


class Init(Settings):
    """The model from whose weights a training starts."""

    model: ModelRead
    """GRID/MODEL, its folder, or hf://OWNER/NAME@COMMIT; its weights are in the identity."""
    take: Literal["all", "fitting"] = "all"
    """`fitting`: take the weights that have the same names and shapes here, and print the others.
    `all`: refuse a model with others."""


class ModelSettings(TrainedSettings):
    """A model: a network that predicts a process's noise."""

    training: TrainingSettings
    init: Annotated[Init | None, Neutral(None)] = None
    """The model from whose weights the training starts: init.model=GRID/MODEL, a folder, or
    hf://OWNER/NAME@COMMIT. With init.take=fitting the others may have other shapes. Null: none."""

    def sampled_as(self, process: ProcessSettings | None = None) -> ProcessSettings | None:
        """Return the process that a denoiser is sampled as, by default its own; None for others."""
        return (process or self.process) if self.serves_every_process else None

    def with_process(self, process: ProcessSettings | None) -> "ModelSettings":
        """Return the settings as a model of another process; None changes nothing.

        Raises UserError if the network is of one process alone.
        """
        if process is None or process == self.process:
            return self
        if not self.serves_every_process:
            raise UserError(
                "process: the model's network is of the process that it was trained for; leave out "
                "process, or train a denoiser (training.objective=denoiser), which serves all"
            )
        return self.model_copy(update={"process": process})

    def check_time(self, key: str, time: float) -> None:
        """Raise UserError if a time is before the first one that the network was trained for."""
        first = self.training.time_eps
        if time < first and not self.serves_every_process:
            raise UserError(
                f"{key}: {time:g} is before the first time that the network was trained for "
                f"(training.time_eps); use {first:g} or more"
            )

    @property
    def num_classes(self):
        return 0 if self.training.label_dropout is None else self.dataset.num_classes


class GuideModelSettings(TrainedSettings):
    """A noise-conditional guide: it recognizes the class of an image with a process's noise."""

    makes = "guide"
    init: ClassVar[None] = None

    @model_validator(mode="before")
    @classmethod
    def _with_parts_of_guides(cls, content: Any) -> Any:
        """Take a network without a kind as the shipped guide's, and a model's objectives as those
        of a guide that sees the same."""
        if not isinstance(content, dict):
            return content
        content = dict(content)
        if isinstance(network := content.get("network"), dict):
            content["network"] = {"kind": "ncsnpp-guide"} | network
        if isinstance(training := content.get("training"), dict):
            kind = training.get("objective", "epsilon")
            kind = kind.get("kind") if isinstance(kind, dict) and len(kind) == 1 else kind
            if isinstance(kind, str) and kind in GUIDES:
                content["training"] = training | {"objective": GUIDES[kind]}
        return content


GUIDES = {"epsilon": "guide", "denoiser": "image-guide"}
"""The objectives of guides that see what these objectives of models see."""


class Start(Settings):
    """How the start of samplers is fitted to training images (`psld.models.start`)."""

    components: tuple[Annotated[int, Field(ge=2)], ...] = (2, 4, 8, 16, 32)
    """The numbers K of Gaussians of which the best is taken, besides one."""
    directions: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 20, 40), min_length=1)
    """The numbers q of leading directions of which the best is taken: in these it is a mixture."""
    shares: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 0.3)
    """σ₀ as a share of the largest deviation: of one Gaussian, and of a mixture's components."""


STARTS = "starts"
"""The folder of starts."""


def start_file(dataset: DatasetSettings, classes: bool) -> str:
    """Return the path of a dataset's start, starts/DATASET[-flip][-classes].safetensors.

    Raises UserError if DATASET ends like that, because the path would be that of another start.
    """
    if dataset.name.endswith(("-flip", "-classes")):
        end = "a start needs a name without -flip or -classes at its end"
        raise UserError(f"dataset.name={dataset.name}: {end}")
    flip, kinds = "-flip" * dataset.flip, "-classes" * classes
    return f"{STARTS}/{dataset.name}{flip}{kinds}.safetensors"


class StartSettings(Settings):
    """Settings of `psld start`."""

    dataset: DatasetSettings
    data: Annotated[str, FREE]
    """The prepared dataset, HDF5."""
    start: Start = Start()
    classes: bool = False
    """Measure each class, too, for samplers that ask for one, if each has ten different images."""
    output: Annotated[str | None, FREE] = Field(default=None, pattern=r"\.safetensors$")
    """The file to make; null: starts/DATASET.safetensors, with -flip and -classes in its name."""
    device: Annotated[str, FREE] = "auto"
    """`auto`, or a torch device such as `cpu` or `cuda`."""

    @property
    def path(self) -> str:
        return self.output or start_file(self.dataset, self.classes)
