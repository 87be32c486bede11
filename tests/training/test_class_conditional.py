"""Class-conditional models: labels in batches, their dropout, and unconditional models."""

import json

import numpy as np
import pytest
import torch

from psld.config.settings import parse
from psld.diffusion.loss import EpsilonLoss, NoisyStates
from psld.networks.ncsnpp import NCSNpp
from psld.training.batches import Batches, Labels
from psld.training.model import load_model
from psld.training.ranks import Ranks
from psld.training.settings import ModelSettings
from psld.utils.errors import UserError
from tests.commands import TINY, call, refused, succeeded
from tests.diffusion.processes import phase_space
from tests.training.small import ONE_RANK, batches_of, recipe, tiny_network

PROCESS = phase_space(0.02)
CPU = torch.device("cpu")
CLASSES = 10


def numbered() -> tuple[np.ndarray, np.ndarray]:
    """Fifty images whose every pixel is the image's number, and labels that follow from it."""
    numbers = np.arange(50)
    images = np.broadcast_to(numbers[:, None, None, None], (50, 1, 8, 8)).astype(np.uint8)
    return images, numbers * 7 % CLASSES


def labelled(dropout: float = 0.0, ranks: Ranks = ONE_RANK, **changes) -> Batches:
    images, labels = numbered()
    own = Labels(labels, CLASSES, dropout)
    return Batches(images, True, NoisyStates(PROCESS), recipe(**changes), ranks, own)


def numbers_of(batch) -> torch.Tensor:
    """Which images a batch holds."""
    return ((batch.x0[:, 0, 0, 0] + 1) * 127.5).round().long()


def test_every_image_comes_with_its_label():
    batch = labelled(batch_size=300).draw(3)
    assert torch.equal(batch.labels, numbers_of(batch) * 7 % CLASSES)
    assert batch.labels.dtype == torch.int64


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_a_part_of_the_labels_is_dropped_and_the_others_are_right(dropout):
    batch = labelled(dropout, batch_size=20_000).draw(0)
    dropped = batch.labels == CLASSES
    assert dropped.double().mean() == pytest.approx(dropout, abs=0.015)
    assert torch.equal(batch.labels[~dropped], (numbers_of(batch) * 7 % CLASSES)[~dropped])


def test_what_is_dropped_comes_from_seed_and_step():
    first, again = labelled(0.5), labelled(0.5)
    first.draw(0)
    assert torch.equal(first.draw(7).labels, again.draw(7).labels)
    drops = {
        tuple((labelled(0.5, batch_size=60, seed=seed).draw(step).labels == CLASSES).tolist())
        for seed, step in ((0, 7), (0, 8), (1, 7))
    }
    assert len(drops) == 3


def test_ranks_and_micro_batches_share_the_labels():
    whole = labelled(0.3).draw(5)
    parts = [labelled(0.3, Ranks(rank, 3, CPU)).draw(5) for rank in range(3)]
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    assert torch.equal(torch.cat([part.labels for part in whole.split(4)]), whole.labels)


def test_labels_change_nothing_else_in_a_batch():
    images, _ = numbered()
    plain = batches_of(PROCESS, recipe(), flip=True, images=images).draw(4)
    conditional = labelled(0.5).draw(4)
    assert plain.labels is None
    for name in ("x0", "t", "eps"):
        assert torch.equal(getattr(conditional, name), getattr(plain, name)), name


def test_the_network_is_told_the_labels_of_its_batch():
    seen = []

    def network(z, t, label):
        seen.append(label)
        return torch.zeros_like(z)

    batch = labelled(0.3).draw(0)
    EpsilonLoss(PROCESS)(network, batch)
    assert torch.equal(seen[0], batch.labels)


def settings_with(**training) -> ModelSettings:
    dataset = {"name": "x", "channels": 1, "image_size": 8, "num_classes": 10, "flip": False}
    content = {
        "dataset": dataset | {"filter": None, "source": {"kind": "digits"}},
        "process": {"kind": "vp-sde"},
        "network": {"base_channels": 8, "channel_multipliers": [1], "blocks_per_level": 1},
        "training": {"steps": 1, "batch_size": 1} | training,
    }
    return parse(ModelSettings, content, "test")


def test_label_dropout_makes_a_model_class_conditional():
    assert settings_with().num_classes == 0
    assert settings_with(label_dropout=0.1).num_classes == 10


@pytest.mark.parametrize("dropout", [0, 1, -0.1])
def test_some_labels_are_dropped_but_not_all(dropout):
    with pytest.raises(UserError, match=r"training\.label_dropout"):
        settings_with(label_dropout=dropout)


def test_an_unconditional_network_is_as_it_was():
    """No parameter more, and the others are drawn alike up to where the embedding comes."""
    plain = tiny_network(PROCESS)
    torch.manual_seed(0)
    conditional = NCSNpp(plain.settings, 8, 2, 2, num_classes=CLASSES).state_dict()
    plain = plain.state_dict()
    assert conditional.keys() - plain.keys() == {"class_embedding.weight"}
    assert not plain.keys() - conditional.keys()
    for name in ("stem.weight", "time.linear1.weight"):
        assert torch.equal(plain[name], conditional[name])


def test_training_conditional_models(digits, tmp_path):
    """The weights hold an embedding that was trained, and the manifest builds the same network."""
    settings = (*TINY, "training.label_dropout=0.2", "training.steps=8", "output=model")
    succeeded(call(tmp_path, "train", *settings, f"data={digits}"))
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["settings"]["training"]["label_dropout"] == 0.2
    network = load_model(tmp_path / "model", CPU).network
    assert network.num_classes == 10
    z, t = torch.randn(2, 2, 8, 8), torch.tensor([0.3, 0.3])
    with torch.no_grad():
        told = network(z, t, torch.tensor([1, 2]))
        untold = network(z, t)
    assert not torch.equal(told, untold)
    assert torch.equal(network(z, t, torch.tensor([10, 10])), untold), "the last class is none"


def test_a_dataset_without_classes_has_nothing_to_tell(tmp_path):
    given = (*TINY, "dataset.num_classes=0", "training.label_dropout=0.1")
    refused(call(tmp_path, "train", *given), 2, "training.label_dropout", "digits has no classes")
