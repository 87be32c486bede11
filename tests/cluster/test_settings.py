"""The settings of a launch: empty settings, the number of ranks, the options of sbatch, errors."""

import re
from pathlib import Path
from typing import Any

import pytest

from psld.cluster.settings import LaunchSettings
from psld.utils.errors import UserError
from tests.cluster.launching import launch_settings

SET = ("array", "error", "mem", "nodes", "ntasks", "output", "time")
"""Some of sbatch's options that a launch sets itself."""
RULES = Path(__file__).parents[2] / "workflow/rules/common.smk"


def test_the_workflow_sets_every_launch_setting():
    listed = re.search(r"^TRAINING_JOB = \{(.*?)^\}", RULES.read_text(), re.M | re.S)[1]
    names = re.findall(r'^    "(\w+)":', listed, re.MULTILINE)
    assert ["command", *names] == list(LaunchSettings.model_fields)


def test_empty_settings_are_unset():
    """The rules of the workflow pass every setting, also if it is not set."""
    names = list(LaunchSettings.model_fields)[1:]
    assert launch_settings(*(f"{name}=" for name in names)) == launch_settings()


@pytest.mark.parametrize(
    ("words", "ranks", "cores"),
    [
        ((), 1, 1),
        (("tasks_per_node=3",), 3, 1),
        (("gpus_per_node=4",), 4, 4),
        (("gres=gpu",), 1, 4),
        (("gres=gpu:a100",), 1, 4),
        (("gres=shard:9,gpu:2",), 2, 4),
        (("gres=gpu:a100:4,gpu:v100:2",), 6, 4),
        (("gres=gpu:4", "tasks_per_node=2", "cpus_per_task=3"), 2, 3),
        (("slurm_additional_parameters=gpus=2",), 1, 4),
        (("slurm_additional_parameters=qos=gpus",), 1, 1),
    ],
)
def test_ranks_per_node_and_cores_per_rank_follow_from_the_gpus(words, ranks, cores):
    """Each rank with a GPU has several cores, which draw the noise."""
    options = launch_settings(*words).options()
    assert (options["ntasks_per_node"], options["cpus_per_task"]) == (ranks, cores)
    assert f"--cpus-per-task={cores}" in options["srun_args"]


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("", {}),
        ("reservation=big exclusive", {"reservation": "big", "exclusive": True}),
        ('comment="two words" licenses=a=b', {"comment": "two words", "licenses": "a=b"}),
    ],
)
def test_additional_options_are_passed_to_sbatch(words: str, options: dict[str, Any]):
    settings = launch_settings(f"slurm_additional_parameters={words}")
    assert settings.options()["additional_parameters"] == {"requeue": True, **options}


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("nodes=0", "nodes"),
        ("slurm_additional_parameters=--exclusive", "without dashes"),
        (f"slurm_additional_parameters=qos=high {'=1 '.join(SET)}", "sets: " + ", ".join(SET)),
        (
            "slurm_additional_parameters=qos=a job_name=b",
            "remove options that psld launch sets: job-name",
        ),
        ('slurm_additional_parameters=comment="open', "slurm_additional_parameters: No closing"),
    ],
)
def test_wrong_settings_are_refused(word, complaint):
    with pytest.raises(UserError, match=complaint):
        launch_settings(word)


def test_the_warning_must_be_shorter_than_the_runtime():
    assert launch_settings("runtime=2", "warning_seconds=119").options()["signal_delay_s"] == 119
    assert launch_settings().options()["time"] == 60
    with pytest.raises(UserError, match="is not less than the runtime of 2 minutes"):
        launch_settings("runtime=2", "warning_seconds=120")


def test_a_command_is_required_and_kept_unchanged():
    with pytest.raises(UserError, match="command"):
        launch_settings(command=())
    words = ["train", "output=models/${name}", r"name=a\,b", "name='a b'", "x={a: b}", "--", "x="]
    assert launch_settings("nodes=2", command=words).command == words
