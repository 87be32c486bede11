"""The settings of a launch as the command line gives them."""

from collections.abc import Sequence

from psld.cli import CONFIGS
from psld.cluster.settings import LaunchSettings
from psld.compose import Composer
from psld.launch import split_command
from psld.settings import parse


def launch_settings(*overrides: str, command: Sequence[str] = ("psld.train",)) -> LaunchSettings:
    """Raises UserError for what the command would refuse."""
    given = split_command([*overrides, "--", *command])
    return parse(LaunchSettings, Composer(CONFIGS).content("launch", given, "launch"), "launch")
