"""The place of a training: empty settings, number of ranks, and errors."""

import pytest

from psld.utils.errors import UserError
from tests.cluster.launching import launch_settings

OPTIONAL = (
    "ranks_per_node",
    "gpus_per_node",
    "gres",
    "memory_mb",
    "partition",
    "account",
    "qos",
    "constraint",
    "exclude",
    "additional",
)


@pytest.mark.parametrize("name", OPTIONAL)
def test_empty_is_not_given(name):
    """The rules of the workflow name every setting, given or not."""
    for empty in (f"{name}=", f'{name}=""', f"{name}=null"):
        assert getattr(launch_settings(empty), name) is None


@pytest.mark.parametrize(
    ("given", "ranks"),
    [
        ((), 1),
        (("ranks_per_node=3",), 3),
        (("gpus_per_node=4",), 4),
        (("gpus_per_node=4", "ranks_per_node=2"), 2),
        (("gres='gpu:4'",), 4),
        (("gres='gpu:a100:8'",), 8),
        (("gres='gpu'",), 1),
        (("gres='gpu:a100'",), 1),
        (("gres='shard:9,gpu:2'",), 2),
        (("gres='shard:9'",), 1),
        (("gres='gpu:a100:4,gpu:v100:2'",), 6),
        (("gres='gpu:4'", "ranks_per_node=2"), 2),
    ],
)
def test_ranks_of_a_node(given, ranks):
    assert launch_settings(*given).ranks_of_slurm_node == ranks


@pytest.mark.parametrize(
    ("additional", "options"),
    [
        ("", {}),
        ("exclusive", {"exclusive": True}),
        ("reservation=big exclusive", {"reservation": "big", "exclusive": True}),
        ('comment="two words" licenses=a=b', {"comment": "two words", "licenses": "a=b"}),
    ],
)
def test_additional_options(additional, options):
    assert launch_settings(f"additional='{additional}'").additional_options == options


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("runs=null", "runs"),
        ("where=there", "where"),
        ("nodes=0", "nodes"),
        ("nodes=", "nodes"),
        ("ranks_per_node=0", "ranks_per_node"),
        ("cpus_per_rank=0", "cpus_per_rank"),
        ("gpus_per_node=0", "gpus_per_node"),
        ("memory_mb=0", "memory_mb"),
        ("minutes=0", "minutes"),
        ("warning_seconds=0", "warning_seconds"),
        ("detach=perhaps", "detach"),
        ("additional=--exclusive", "without dashes"),
        ("additional='comment=\"open'", "No closing quotation"),
        ("+node=2", "unknown key node"),
    ],
)
def test_refused(override, complaint):
    with pytest.raises(UserError, match=complaint):
        launch_settings(override)


def test_the_warning_comes_in_a_life():
    with pytest.raises(UserError, match="warning_seconds: 120 s before its end"):
        launch_settings("minutes=2", "warning_seconds=120")


def test_a_command_is_needed():
    with pytest.raises(UserError, match="command"):
        launch_settings(command=())


@pytest.mark.parametrize(
    "argument",
    ["name=x", "training.steps=3", "x=[1,2]", "x={a: b}", "x='two words'", 'x="a,b"', "x=", "~x"],
)
def test_a_command_comes_through_as_it_is(argument):
    assert launch_settings(command=("train", argument)).command == ["train", argument]


@pytest.mark.parametrize(
    "word", ["output=models/${name}", r"name=a\,b", "name='a b'", "name=a\tb", "name=Γ", "x=100%25"]
)
def test_hydra_interprets_nothing_of_the_command(word):
    assert launch_settings(command=["train", word]).command == ["train", word]
