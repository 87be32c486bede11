"""Run a training on all its ranks: as one Slurm job, or on this machine if there is no Slurm.

    psld launch nodes=2 gpus_per_node=4 -- train model=paper/cifar10-psld-0.02
    psld launch tasks_per_node=2 -- train model=demo/psld-0.02   # without Slurm

On a cluster, it submits the job and waits until the model is written. If it is killed and started
again, it returns to the job. Ctrl-C cancels the job, unless `detach=true`. It imports no torch,
because fifty launchers may wait on a login node for days.
"""

import signal
import sys
from pathlib import Path
from typing import NoReturn

from psld.cluster import slurm
from psld.cluster.launcher import Launcher, run_here, say
from psld.cluster.settings import LaunchSettings
from psld.config.compose import compose_content
from psld.config.messages import explained
from psld.config.settings import parse
from psld.data.description import expand_data
from psld.grid.loading import expand_guide, expand_model
from psld.training.settings import RunSettings, TrainGuideSettings, TrainSettings
from psld.utils.errors import UserError

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> None:
    """Launch the command after `--`; print errors in one line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    words = sys.argv[1:]
    before = words[: words.index("--")] if "--" in words else words
    try:
        if not {"--help", "-h"}.isdisjoint(before):
            print(help_text())
            return
        launch(read_settings(words))
    except Exception as error:
        known = explained(error)
        if known is None:
            raise
        exit_code, line = known
        print(f"error: {line}", file=sys.stderr)
        sys.exit(exit_code)


def help_text() -> str:
    """Return the text of `psld launch --help`."""
    from psld.commands.help import descriptions

    texts = descriptions(LaunchSettings)
    lines = ["usage: psld launch KEY=VALUE … -- train|train_guide KEY=VALUE …", "", __doc__.strip()]
    lines += ["", "Settings and their values; an empty value is not set:", ""]
    for key, field in LaunchSettings.model_fields.items():
        lines += [f"  {key}: {'???' if field.is_required() else field.default or ''}".rstrip()]
        lines += [f"      {texts[key]}"] if key in texts else []
    return "\n".join(lines)


def read_settings(words: list[str]) -> LaunchSettings:
    """Read `KEY=VALUE … -- COMMAND …`; an empty value is not set. Raises UserError."""
    split = words.index("--") if "--" in words else len(words)
    values: dict[str, str | list[str]] = {}
    for word in words[:split]:
        key, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"launch: {word!r} is not KEY=VALUE; the training comes after --")
        values[key] = value
    given = {key: value for key, value in values.items() if value}
    return parse(LaunchSettings, {**given, "command": words[split + 1 :]}, "launch")


def launch(settings: LaunchSettings) -> None:
    """Run or submit the training and return when its model is written."""
    # Check the training before submitting: report a mistake now, not when the job starts.
    training = settings_of_training(settings.command)
    digest = Path(training.data).with_suffix(".digest")
    if not (digest.exists() and Path(training.data).exists()):
        raise UserError(
            f"{training.data}: no such file with its .digest; make it with psld prepare"
        )
    run = Path(training.runs) / training.run_name(digest.read_text().strip())
    output = Path(training.output)
    if settings.where == "here" or (settings.where == "auto" and not slurm.available()):
        run_here(settings)
    if not slurm.available():
        raise UserError(
            "launch: where=slurm, but there is no sbatch here, or no cluster that it can reach; "
            "use where=here"
        )
    launcher = Launcher(settings, run, output)
    for number in STOPS:
        # Keep ignoring a signal that Snakemake ignores under nohup (SIGHUP) or a shell's `&`
        # (SIGINT).
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: leave(launcher, settings.detach, number))
    launcher.train()


def settings_of_training(words: list[str]) -> RunSettings:
    """Return the settings of a command's training. Raises the UserErrors of the command."""
    command, *given = words
    kinds = {
        "train": (TrainSettings, expand_model),
        "train_guide": (TrainGuideSettings, expand_guide),
    }
    if command not in kinds:
        raise UserError(f"launch: after -- comes train or train_guide, not {command}")
    kind, expand = kinds[command]
    return parse(kind, compose_content(command, expand_data(expand(given)), command), command)


def leave(launcher: Launcher, detach: bool, number: int) -> NoReturn:
    """Exit on a signal: cancel the job, or print that it goes on and how to return to it."""
    for repeated in STOPS:
        signal.signal(repeated, signal.SIG_IGN)  # The first one is enough.
    name = signal.Signals(number).name
    # Keep the job if the terminal closes: it may take days.
    if detach or number == signal.SIGHUP:
        say(f"{name}: the job goes on; run the same command again to come back to it")
        sys.exit(128 + number)
    if not launcher.in_charge:
        say(f"{name}: the job of the other launcher goes on")
        sys.exit(128 + number)
    try:
        launcher.cancel()
        say(f"{name}: canceled the job; run the same command again to go on")
    except slurm.Unreachable as error:
        say(f"{name}: {error}; the job goes on: scancel --name={launcher.name} ends it")
    sys.exit(128 + number)
