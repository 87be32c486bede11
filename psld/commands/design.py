"""Judge a process before training: its matrices, its kernel and its noise levels.

    psld design process=psld process.gamma=0.02
    psld design process=recipe process.D='[[0,0],[0,0.25]]' process.Q='[[0,-0.5],[0.5,0]]' \\
        process.S=[1,0.25] process.initial_variance=[0,0.01]

Prints what it draws: OUTPUT.png and OUTPUT.svg.
"""

from pydantic import Field

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.diffusion.settings import ProcessSettings


class DesignSettings(Settings):
    """Settings of `psld design`."""

    process: ProcessSettings
    name: str
    """Name of the process, in the title of the figure."""
    output: str = Field(pattern=r"[^/]$")
    """Path of the figure without extension."""


@entry_point("design", DesignSettings)
def main(settings: DesignSettings) -> None:
    # torch and matplotlib take seconds to import, so the settings are checked first.
    from psld.report.design import description, draw_design
    from psld.report.style import save

    process = settings.process.build()
    print(description(settings.name, process))
    save(draw_design(settings.name, process), settings.output)
