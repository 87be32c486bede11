"""The settings of a launch, as on the command line."""

from collections.abc import Sequence

from psld.cluster.settings import LaunchSettings
from psld.commands.launch import launch


def launch_settings(*words: str, command: Sequence[str] = ("train",)) -> LaunchSettings:
    """Raises UserError for settings that the command refuses."""
    return launch.command.settings([*words, "--", *command])
