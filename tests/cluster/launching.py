"""The settings of a launch, as on the command line."""

from collections.abc import Sequence

from psld.cluster.settings import LaunchSettings
from psld.commands.command import Command


def launch_settings(*words: str, command: Sequence[str] = ("train",)) -> LaunchSettings:
    """Raises UserError for what the command would refuse."""
    launch = Command("launch", LaunchSettings, bare="command", has_config=False)
    return launch.settings([*words, "--", *command])
