"""The models, guides, samplers and seeds of a grid, each by its overrides."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from psld.config.settings import FREE, Settings
from psld.grid.names import Words


class SamplerFamily(Settings):
    """Samplers that differ only in their budget."""

    overrides: Words
    budget: str
    """The setting that is the budget: sampler.steps, sampler.tolerance, or one of a part's own."""
    spends: str | int | float | None = None
    """For a rehearsal: the budget to spend in place of the one in the sampler's name."""
    guide: str | None = None
    """Name of its guide, for guidance@sampler.guidance=classifier."""

    def budget_word(self, budget: str) -> str:
        """Return the word that sets the budget; no evaluations stay none in a rehearsal."""
        return f"{self.budget}={budget if budget == '0' else self.spends or budget}"


class Origin(Settings):
    """Where the weights of a model or guide come from."""

    checkpoint: str | None = None
    """An official checkpoint to import instead of training."""
    of: str | None = None
    """The grid that trains it, under the same name; its overrides are taken from there."""
    weights: str | None = None
    """The denoiser of this grid whose training it shares; the overrides are its process."""

    @property
    def made_by(self) -> Literal["train", "import"] | None:
        """The kind of job that makes it; None if its weights are those of another record."""
        if self.of or self.weights:
            return None
        return "import" if self.checkpoint else "train"


class TrainedEntry(Origin):
    """A model or guide of a grid; a plain list gives the overrides of one without a checkpoint."""

    overrides: Words = ()
    starts_from: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """The model of this grid from whose weights its training starts."""
    average_of: str | None = Field(default=None, exclude_if=lambda name: name is None)
    """The model of this grid in whose training it is made, with `average` as `training.average`."""
    average: Any = Field(default=None, exclude_if=lambda average: average is None)
    gallery: Annotated[str | None, FREE] = Field(default=None, exclude_if=lambda name: name is None)
    """The sampler of its images, if it is not that of the grid's `gallery`."""

    @model_validator(mode="before")
    @classmethod
    def _from_overrides(cls, content: Any) -> Any:
        return {"overrides": content} if isinstance(content, list | tuple) else content


class Seeds(Settings):
    """Seeds that multiply a grid's models and cells, named by `seeded`."""

    training: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """`training.seed` of each model that the grid trains; if there is none, its own."""
    sampling: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Seeds of the samples; the first is the grid's `seed`."""

    @field_validator("training", "sampling")
    @classmethod
    def _check_different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"each seed only once, not {', '.join(map(str, seeds))}")
        return seeds
