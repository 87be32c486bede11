"""The settings of a launch, as on the command line."""

from collections.abc import Sequence

from psld.cluster.settings import LaunchSettings
from psld.commands.launch import split_command
from psld.config.compose import compose_content
from psld.config.settings import parse


def launch_settings(*overrides: str, command: Sequence[str] = ("train",)) -> LaunchSettings:
    """Raises UserError for what the command would refuse."""
    given = split_command([*overrides, "--", *command])
    return parse(LaunchSettings, compose_content("launch", given, "launch"), "launch")
