"""The command that tries a custom part before anything is trained, sampled or measured."""

import time
from typing import Any

from psld.commands.main import entry_point
from psld.config.parts import noun_of
from psld.config.settings import Settings, parse


class CheckSettings(Settings, extra="allow"):
    """Settings of `psld check`; the other keys are settings of the part."""

    part: str
    """The part, MODULE:CLASS."""
    network: str | None = None
    """For an objective: the network that it trains, a config or MODULE:CLASS; null: the demo's."""


@entry_point("check", CheckSettings, positionals=("part",), has_config=False)
def check(settings: CheckSettings) -> None:
    """Check a custom part: build it, call it once on small random data, and print what it gives.

        psld check mynets:Mixer width=128
        psld check flows:VPrediction network=mynets:Mixer

    What is part of a training is tried in one step of a training on digits, forward and backward.
    It takes seconds, and writes nothing.
    """
    name, started = settings.part, time.perf_counter()
    noun = noun_of(name)
    content = {noun.KEY: name, **(settings.model_extra or {})}
    part: Any = parse(noun, content, f"psld check {name}")
    print(f"{name}: {noun.noun}; its code {part.code[:12]}: {', '.join(part.source_code.files)}")
    import torch

    from psld.commands.trials import TRIALS, trial_in_training

    torch.manual_seed(0)
    for line in TRIALS.get(noun.noun, trial_in_training)(part, settings.network):
        print(line)
    print(f"{time.perf_counter() - started:.1f} s")
