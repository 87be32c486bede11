"""The command `psld launch`, which launches trainings.

The module does not import torch, because dozens of launchers may wait on a login node for days.
"""

import signal
import sys
from pathlib import Path
from typing import NoReturn, cast

from psld.cluster import slurm
from psld.cluster.launcher import Launcher, run_here, say
from psld.cluster.settings import LaunchSettings
from psld.commands.command import Command
from psld.commands.main import entry_point, settings_of
from psld.config.parts import Part
from psld.config.settings import in_hydra, keyed_groups, value_in
from psld.training.init import with_sources
from psld.training.settings import Trained, TrainGuideSettings, TrainSettings
from psld.utils.errors import UserError
from psld.utils.files import digest_of

TRAININGS = {
    "train": Command("train", TrainSettings, record="model", changeable=True),
    "train_guide": Command("train_guide", TrainGuideSettings, record="guide", changeable=True),
}
"""The commands that can be launched."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@entry_point("launch", LaunchSettings, after_dashes="command", has_config=False)
def launch(settings: LaunchSettings) -> None:
    """Run a training on several ranks: as one Slurm job, or on this machine without Slurm.

        psld launch nodes=2 gpus_per_node=4 -- train model=paper/cifar10-psld-0.02
        psld launch tasks_per_node=2 -- train model=demo/psld-0.02   # without Slurm

    On a cluster, the command submits the job and waits until the model is written. After a kill,
    the same command resumes waiting for the job. Ctrl-C cancels the job, unless `detach=true`.
    """
    # Validate the command now, so that an error is reported before the job is submitted.
    command, *words = settings.command
    if command not in TRAININGS:
        raise UserError(f"launch: {command} cannot be launched; put train or train_guide after --")
    training = with_sources(cast(Trained, settings_of(TRAININGS[command], words)))
    command_and_parts = [command, *words, *custom_parts(training, words)]
    settings = settings.model_copy(update={"command": command_and_parts})
    digest = Path(training.data).with_suffix(".digest")
    if not (digest.exists() and Path(training.data).exists()):
        raise UserError(
            f"{training.data}: no such file, or no .digest file next to it; run psld prepare"
        )
    if settings.where == "here" or (settings.where == "auto" and not slurm.available()):
        run_here(settings, training.training.batch_size)
    if not slurm.available():
        raise UserError(
            "launch: where=slurm, but sbatch is not installed or cannot reach a cluster; "
            "use where=here"
        )
    run = Path(training.runs) / training.run_name(digest.read_text().strip())
    launcher = Launcher(settings, run, Path(training.output))
    for number in STOPS:
        # Keep ignoring signals that this process ignores from its start: SIGHUP under nohup, and
        # SIGINT for a background process of a shell.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: leave(launcher, settings.detach, number))
    launcher.finish()


def custom_parts(training: Trained, words: list[str]) -> list[str]:
    """Return words that bind a job to the current code of its custom parts.

    The words contain the digest of the code or of the record. The job then either runs the current
    code, also after each requeue, or fails.
    """
    settings = {
        key: getattr(training, key) for key in ("network", "process", "training", "averages")
    }
    parts = [*keyed_groups(Part, settings)]
    if not any(part.code for _, part in parts) or value_in(words, "record"):
        return []
    command = TRAININGS[training.command]
    if (name := command.record_in(words)) and not command.is_changed(name, words):
        return [f"record={digest_of(training.model().identity())}"]
    return [f"{key}={in_hydra(part.model_dump(mode='json'))}" for key, part in parts if part.code]


def leave(launcher: Launcher, detach: bool, number: int) -> NoReturn:
    """Exit on a signal: cancel the job, or print that it continues and how to wait for it again."""
    for repeated in STOPS:
        signal.signal(repeated, signal.SIG_IGN)  # Ignore repeated signals.
    name = signal.Signals(number).name
    # Do not cancel the job if the terminal is closed, because the job may take days.
    if detach or number == signal.SIGHUP:
        say(f"{name}: the job continues; run the same command again to wait for it")
    elif not launcher.in_charge:
        say(f"{name}: the job of the other launcher continues")
    else:
        try:
            launcher.cancel()
            say(f"{name}: canceled the job; run the same command again to resume")
        except slurm.Unreachable as error:
            say(f"{name}: {error}; the job continues; scancel --name={launcher.name} cancels it")
    sys.exit(128 + number)
