"""One model on different numbers of ranks: without dropout, equal weights up to rounding."""

import signal
from pathlib import Path

import pytest
import torch

from tests.slurm.cluster import Cluster
from tests.slurm.training import EVERY, RECIPE, Training

WITHOUT_DROPOUT = (*RECIPE, "network.dropout=0", "training.steps=150")
ONE_RANK = ("nodes=1", "tasks_per_node=1")
FOUR_RANKS = ("nodes=2", "tasks_per_node=2")


@pytest.fixture
def trainings(cluster: Cluster, digits: Path, tmp_path: Path) -> dict[str, Training]:
    """Three trainings of the same model, each in a separate folder."""
    folders = {name: tmp_path / name for name in ("here", "cluster", "changing")}
    for folder in folders.values():
        folder.mkdir()
    return {name: Training(cluster, folder, digits) for name, folder in folders.items()}


def test_the_weights_do_not_depend_on_the_ranks(trainings):
    """One training uses one rank without Slurm, one uses 2 nodes with 2 ranks each. The third
    training begins on 2 × 2 ranks, is requeued, then canceled, and ends on one rank."""
    here, cluster, changing = trainings.values()
    with here.launched(*ONE_RANK, "where=here", recipe=WITHOUT_DROPOUT) as process:
        here.finishes(process)
    with cluster.launched(*FOUR_RANKS, recipe=WITHOUT_DROPOUT) as launcher:
        assert "2 node(s) with 2 rank(s) each" in cluster.finishes(launcher)
    with changing.launched(*FOUR_RANKS, recipe=WITHOUT_DROPOUT) as launcher:
        changing.reaches(EVERY)
        changing.cluster.run("scontrol", "requeue", changing.job)
        changing.wait(lambda: len(changing.begun()) > 1, "next life")
        launcher.send_signal(signal.SIGINT)
        changing.finishes(launcher, code=128 + signal.SIGINT)
    with changing.launched(*ONE_RANK, recipe=WITHOUT_DROPOUT) as launcher:
        changing.finishes(launcher)
    first, requeued, *_, last = changing.begun()
    assert first == 0
    assert last >= requeued >= EVERY

    expected = here.weights()
    for training in (cluster, changing):
        found = training.weights()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=0, msg=name)
