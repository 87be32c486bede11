"""Settings of trainings: dataset, process, network and recipe of a model or guide.

Imports no torch.
"""

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
"""FLOPs of a training step divided by the FLOPs of its forward pass. The backward pass needs twice
the FLOPs of the forward pass."""


class TrainedSettings(Settings):
    """Everything that determines the weights of a network."""

    makes: ClassVar[Literal["model", "guide"]] = "model"
    """The kind of network that is trained. The objective must have the same value of `makes`."""
    num_classes: ClassVar[int] = 0
    """The number of classes that the network accepts as input; 0 for an unconditional network."""

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
            raise ValueError(f"training.objective: trains a {objective.makes}; use psld {other}")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings that, together with the dataset's digest, determine the weights.

        The source of the dataset is omitted, because the digest covers the images. The process is
        omitted if the network serves every process. Settings that the objective does not use are
        omitted. The identities in `SHORT` do not apply to custom subclasses of shipped objectives.
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
        """The psld command that runs the training."""
        return "train" if self.makes == "model" else "train_guide"

    @property
    def serves_every_process(self) -> bool:
        """True if the network sees noisy images; `process` is then only the default process."""
        return self.training.objective.sees_images

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and the highest noise level that the network accepts."""
        law = cast(NoiseLaw, self.training.noise_law)
        return (law.low, law.high) if self.serves_every_process else (0.0, inf)


class Init(Settings):
    """The pretrained model that initializes a training."""

    model: ModelRead
    """GRID/MODEL, the folder of a model, or hf://OWNER/NAME@COMMIT. The identity includes the
    digest of the weights."""
    take: Literal["all", "fitting"] = "all"
    """`fitting`: copy the weights with equal names and shapes, and print the names of the other
    weights. `all`: raise an error if any name or shape differs."""


class ModelSettings(TrainedSettings):
    """A model: a network that predicts the noise of a process."""

    training: TrainingSettings
    init: Annotated[Init | None, Neutral(None)] = None
    """The pretrained model that initializes the weights: init.model=GRID/MODEL, a folder, or
    hf://OWNER/NAME@COMMIT. With init.take=fitting, weights whose names or shapes differ stay
    random. Null: all weights are random."""

    def sampled_as(self, process: ProcessSettings | None = None) -> ProcessSettings | None:
        """Return the process with which a denoiser is sampled; None for other models.

        `process`: the requested process; None: the process of the training.
        """
        return (process or self.process) if self.serves_every_process else None

    def with_process(self, process: ProcessSettings | None) -> "ModelSettings":
        """Return the settings with the given process; None returns the settings unchanged.

        Raises UserError if the network serves only the process of its training.
        """
        if process is None or process == self.process:
            return self
        if not self.serves_every_process:
            raise UserError(
                "process: the network serves only the process of its training; leave out process, "
                "or train a denoiser (training.objective=denoiser), which serves every process"
            )
        return self.model_copy(update={"process": process})

    def check_time(self, key: str, time: float) -> None:
        """Raise UserError if a time is below `training.time_eps`, the smallest training time."""
        first = self.training.time_eps
        if time < first and not self.serves_every_process:
            raise UserError(
                f"{key}: {time:g} is below the smallest time of the training "
                f"(training.time_eps); use {first:g} or more"
            )

    @property
    def num_classes(self):
        return 0 if self.training.label_dropout is None else self.dataset.num_classes


class GuideModelSettings(TrainedSettings):
    """A noise-conditional guide: a classifier of noisy states or noisy images."""

    makes = "guide"
    init: ClassVar[None] = None

    @model_validator(mode="before")
    @classmethod
    def _with_parts_of_guides(cls, content: Any) -> Any:
        """Replace the defaults of models by the defaults of guides.

        A network without a kind becomes `ncsnpp-guide`. The objective of a model becomes the
        objective of a guide with the same inputs.
        """
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
"""Maps the objective of a model to the objective of a guide with the same inputs."""


class Start(Settings):
    """Settings of the fit of an initial distribution to training images (`psld.models.start`)."""

    components: tuple[Annotated[int, Field(ge=2)], ...] = (2, 4, 8, 16, 32)
    """Candidates for the number K of Gaussians; K = 1 is always a candidate, too."""
    directions: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 20, 40), min_length=1)
    """Candidates for the number q of leading directions in which the mixture is fitted."""
    shares: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 0.3)
    """Two ratios that determine σ₀, the noise level at which samplers start: σ₀ divided by the
    largest standard deviation of a single Gaussian, and σ₀ divided by the largest standard
    deviation of a mixture's components."""


STARTS = "starts"
"""The folder with the files of initial distributions."""


def start_file(dataset: DatasetSettings, classes: bool) -> str:
    """Return the path of an initial distribution, starts/DATASET[-flip][-classes].safetensors.

    Raises UserError if DATASET ends with -flip or -classes, because the path would be ambiguous.
    """
    if dataset.name.endswith(("-flip", "-classes")):
        wrong = "ends with -flip or -classes, as names of starts do; rename the dataset"
        raise UserError(f"dataset.name={dataset.name}: {wrong}")
    flip, kinds = "-flip" * dataset.flip, "-classes" * classes
    return f"{STARTS}/{dataset.name}{flip}{kinds}.safetensors"


class StartSettings(Settings):
    """Settings of `psld start`."""

    dataset: DatasetSettings
    data: Annotated[str, FREE]
    """The prepared dataset, HDF5."""
    start: Start = Start()
    classes: bool = False
    """Also fit a distribution to each class, for guidance to classes. This setting has no effect if
    a class has fewer than ten distinct images."""
    output: Annotated[str | None, FREE] = Field(default=None, pattern=r"\.safetensors$")
    """Output file; null: starts/DATASET[-flip][-classes].safetensors."""
    device: Annotated[str, FREE] = "auto"
    """`auto`, or a torch device such as `cpu` or `cuda`."""

    @property
    def path(self) -> str:
        return self.output or start_file(self.dataset, self.classes)
