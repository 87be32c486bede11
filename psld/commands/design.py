"""Judge a process before training: what it does to images, and how well samplers follow it.

    psld design process=psld process.gamma=0.02
    psld design process=recipe process.D='[[0,0],[0,0.25]]' process.Q='[[0,-0.5],[0.5,0]]' \\
        process.S=[1,0.25] process.initial_variance=[0,0.01]
    psld design process=psld search.gamma=[0,0.02,0.25] search.mass_inverse=[2,4,8]

Prints what it draws: OUTPUT.png and OUTPUT.svg. The samplers run on a mixture of Gaussians, whose
score is exact. So their distances show the errors of the steps, not those of a network.
"""

from itertools import product
from typing import Annotated, Any

from pydantic import Field, model_validator

from psld.commands.entry import entry_point
from psld.config.settings import Settings, parse
from psld.diffusion.settings import ProcessSettings
from psld.grid.resolution import compose_sampler


class MixtureSettings(Settings):
    """The data of the comparison: a one-dimensional mixture of Gaussians."""

    weights: tuple[float, ...] = Field(min_length=1)
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    @model_validator(mode="after")
    def _parts_are_whole(self) -> "MixtureSettings":
        if not len(self.weights) == len(self.means) == len(self.deviations):
            raise ValueError("weights, means and deviations need one number for each part")
        if min(*self.weights, *self.deviations) <= 0:
            raise ValueError("weights and deviations must be positive")
        return self


class DesignSettings(Settings):
    """Settings of `psld design`."""

    process: ProcessSettings
    search: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]]
    """Values to try of settings of the process, in all combinations: search.gamma=[0,0.02]."""
    samplers: tuple[str, ...] = Field(min_length=1)
    """Names of configs/sampler. One that cannot sample the process is reported."""
    evaluations: tuple[Annotated[int, Field(ge=2)], ...] = Field(min_length=1)
    """Network evaluations at which samplers are compared; adaptive samplers run once."""
    data: MixtureSettings
    count: int = Field(ge=2)
    """Number of samples."""
    seed: int = Field(ge=0)
    """Seed of the samplers' noise."""
    name: str
    """Name of the process, in the title of the figure."""
    output: str = Field(pattern=r"[^/]$")
    """Path of the figure without extension."""

    def candidates(self) -> dict[str, Settings]:
        """Return the settings of each process to judge, by the values that it tries."""
        found = {}
        for values in product(*self.search.values()):
            chosen = dict(zip(self.search, values, strict=True))
            content = self.process.model_dump() | chosen
            label = ", ".join(f"{key} = {value}" for key, value in chosen.items())
            found[label] = parse(type(self.process), content, where="search")
        return found


@entry_point("design", DesignSettings)
def main(settings: DesignSettings) -> None:
    # torch and matplotlib take seconds to import, so the settings are checked first.
    from psld.diffusion.design import Mixture, try_samplers
    from psld.diffusion.instances import build_process
    from psld.report.design import description, draw_design, ranking
    from psld.report.style import save

    samplers = {
        name: compose_sampler([f"sampler={name}"], "samplers") for name in settings.samplers
    }
    candidates = {name: build_process(own) for name, own in settings.candidates().items()}
    data = Mixture(**settings.data.model_dump())
    given = {"count": settings.count, "seed": settings.seed}
    trials = {
        name: try_samplers(process, samplers, settings.evaluations, data, **given)
        for name, process in candidates.items()
    }
    best = min(trials, key=lambda name: trials[name].mean_distance)
    if settings.search:
        print(ranking(trials))
    title = ", ".join(filter(None, [settings.name, best]))
    print(description(title, candidates[best], trials[best]))
    save(draw_design(title, candidates[best], trials[best]), settings.output)
