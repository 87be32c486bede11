"""The settings of the models, guides, samplers and seeds in a grid file."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from psld.config.settings import FREE, Settings
from psld.grid.names import Words


class SamplerFamily(Settings):
    """Samplers that differ only in their budget."""

    overrides: Words
    budget: str
    """The key of the budget: sampler.steps, sampler.tolerance, or a setting of a custom sampler."""
    spends: str | int | float | None = None
    """In a rehearsal, the budget that is used instead of the budget in the sampler's name."""
    guide: str | None = None
    """The name of the guide that guidance@sampler.guidance=classifier needs."""

    def budget_word(self, budget: str) -> str:
        """Return the override that sets the budget. A rehearsal does not change a budget of 0."""
        return f"{self.budget}={budget if budget == '0' else self.spends or budget}"


class Origin(Settings):
    """The source of the weights of a model or guide."""

    checkpoint: str | None = None
    """An official checkpoint to import instead of training."""
    of: str | None = None
    """The other grid that trains this model. The model has the same name there, and the overrides
    of that grid apply."""
    weights: str | None = None
    """The denoiser of this grid whose weights this model uses. The overrides of this model set only
    the process."""

    @property
    def made_by(self) -> Literal["train", "import"] | None:
        """The kind of job that creates the weights; None if another model provides the weights."""
        if self.of or self.weights:
            return None
        return "import" if self.checkpoint else "train"


class TrainedEntry(Origin):
    """A model or guide of a grid. In the grid file, a list of overrides may replace the mapping."""

    overrides: Words = ()
    starts_from: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """The model of this grid whose weights initialize the training."""
    average_of: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """The model of this grid whose training also computes this model as a second average of the
    weights. `average` holds the settings of this average."""
    average: Any = Field(default=None, exclude_if=lambda average: average is None)
    """The value of `training.average`, for a model with `average_of`."""
    gallery: Annotated[str | None, FREE] = Field(default=None, exclude_if=lambda name: name is None)
    """The sampler whose images are shown for this model; None means the `gallery` of the grid."""

    @model_validator(mode="before")
    @classmethod
    def _from_overrides(cls, content: Any) -> Any:
        return {"overrides": content} if isinstance(content, list | tuple) else content


class Seeds(Settings):
    """Seeds for repeated trainings and samplings of a grid. `seeded` defines the names of the
    repeated models and cells."""

    training: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Values of `training.seed` for models that the grid trains. If empty, each model keeps the
    seed in its own settings."""
    sampling: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Seeds of the samples. The first seed must be the `seed` of the grid."""

    @field_validator("training", "sampling")
    @classmethod
    def _check_different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds must be different, not {', '.join(map(str, seeds))}")
        return seeds
