"""Settings of wandb, the same for every command that tells it something."""

from typing import Literal

from psld.settings import Settings


class WandbSettings(Settings):
    """Where runs go. Offline unless asked; `disabled` switches wandb off."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "psld"
    entity: str | None = None
    """A user or a team; null: the default of whoever is logged in."""
