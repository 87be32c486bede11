"""One model on different numbers of ranks: without dropout, equal weights up to rounding."""

import signal
from pathlib import Path

import pytest
import torch

from tests.slurm.cluster import Cluster
from tests.slurm.training import EVERY, RECIPE, Training

WITHOUT_DROPOUT = (*RECIPE, "network.dropout=0", "training.steps=150")
ONE_RANK = ("nodes=1", "tasks_per_node=1")


@pytest.fixture
def trainings(cluster: Cluster, digits: Path, tmp_path: Path) -> dict[str, Training]:
    """Three of the same model, each in a folder of its own."""
    folders = {name: tmp_path / name for name in ("here", "cluster", "changing")}
    for folder in folders.values():
        folder.mkdir()
    return {name: Training(cluster, folder, digits) for name, folder in folders.items()}


def test_the_weights_do_not_depend_on_the_ranks(trainings):
    """One rank without Slurm; 2 nodes with 2 ranks; 2 × 2 until it is cancelled, then one rank."""
    here, cluster, changing = trainings.values()
    with here.launched(*ONE_RANK, "where=here", recipe=WITHOUT_DROPOUT) as process:
        here.finishes(process)
    with cluster.launched(recipe=WITHOUT_DROPOUT) as launcher:
        cluster.finishes(launcher)
    with changing.launched(recipe=WITHOUT_DROPOUT) as launcher:
        changing.reaches(EVERY)
        launcher.send_signal(signal.SIGINT)
        changing.finishes(launcher, code=128 + signal.SIGINT)
    with changing.launched(*ONE_RANK, recipe=WITHOUT_DROPOUT) as launcher:
        changing.finishes(launcher)
    assert changing.begun()[0] == 0
    assert changing.begun()[-1] >= EVERY

    expected = here.weights()
    for training in (cluster, changing):
        found = training.weights()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0, msg=name)
