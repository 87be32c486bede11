"""The command that tests a custom part before training, sampling or evaluation."""

import time
from typing import Any

from psld.commands.main import entry_point
from psld.config.parts import noun_of
from psld.config.settings import Settings, parse


class CheckSettings(Settings, extra="allow"):
    """Settings of `psld check`. All keys that are not defined here are settings of the part."""

    part: str
    """The custom part, MODULE:CLASS."""
    network: str | None = None
    """Network to train with a custom objective: a config name or MODULE:CLASS. Null means the
    network of the demo."""


@entry_point("check", CheckSettings, positionals=("part",), has_config=False)
def check(settings: CheckSettings) -> None:
    """Check a custom part: build it, call it once on small random data, and print the results.

        psld check mynets:Mixer width=128
        psld check flows:VPrediction network=mynets:Mixer

    A part that a training uses is tested in one training step on digits, forward and backward. The
    check takes seconds and writes no files.
    """
    name, started = settings.part, time.perf_counter()
    noun = noun_of(name)
    content = {noun.KEY: name, **(settings.model_extra or {})}
    part: Any = parse(noun, content, f"psld check {name}")
    files = ", ".join(part.source_code.files)
    print(f"{name}: {noun.noun}; files: {files} (digest of the code: {part.code[:12]})")
    import torch

    from psld.commands.trials import TRIALS, trial_in_training

    torch.manual_seed(0)
    for line in TRIALS.get(noun.noun, trial_in_training)(part, settings.network):
        print(line)
    print(f"{time.perf_counter() - started:.1f} s")
