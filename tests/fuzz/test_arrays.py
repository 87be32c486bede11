"""Files of arrays: datasets, shards, checkpoints, safetensors. Damage never goes unnoticed.

A second kind of input has the right digest: whoever wrote it can also write a digest. It may be
refused or read, but is never a traceback, a hang, or something that is run.
"""

import contextlib
import hashlib
import json
import struct
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from safetensors.torch import save
from torch import nn

from psld.data.store import ImageStore, write_store
from psld.networks.official import read_checkpoint
from psld.sampling.shards import Shard, ShardOrigin
from psld.training.settings import LoopSettings
from psld.training.state import Checkpoints, TrainingState
from psld.utils.tensors import load_tensors
from tests.fuzz.inputs import answer, changed, damaged

RANDOM = np.random.default_rng(0)
SHARD = Shard(
    images=RANDOM.integers(0, 256, (4, 1, 4, 4), dtype=np.uint8),
    origin=ShardOrigin("a" * 64, "b" * 64, seed=0, index=0, size=4),
    nfe=10,
    seconds=1.5,
    device="CPU",
    labels=np.arange(4),
    masks=RANDOM.integers(0, 2, (4, 4, 4), dtype=np.uint8),
)
IMAGES = RANDOM.integers(0, 256, (8, 1, 4, 4), dtype=np.uint8)
TENSORS = {"values": torch.arange(6.0).reshape(2, 3), "labels": torch.arange(2)}
LOOP = LoopSettings.model_construct(ema_decay=0.9, learning_rate=1e-3)


def test_shards(place):
    path = place / "00000.h5"
    SHARD.save(path)
    whole = path.read_bytes()

    @given(damaged(whole))
    def check(content):
        path.write_bytes(content)
        found = answer("shard", lambda: Shard.load(path), str(path))
        assert found or content != whole
        assert found is None or found.content_digest() == SHARD.content_digest()

    check()


def test_datasets(place):
    path = place / "x.h5"
    splits = {"train": 5, "test": 3}
    digest = write_store(path, (1, 4, 4), splits, np.arange(8) % 2, 2, [IMAGES])

    whole = path.read_bytes()

    @given(damaged(whole))
    def check(content):
        path.write_bytes(content)
        found = answer("dataset", read, str(path))
        assert found is not None or content != whole
        assert found is None or np.array_equal(found, IMAGES)

    def read():
        store = ImageStore.open(path)
        assert (store.digest, store.splits, store.num_classes) == (digest, splits, 2)
        return store.images("all")

    check()


def test_safetensors(place):
    path, content = place / "x.safetensors", save(TENSORS)
    sha256 = hashlib.sha256(content).hexdigest()

    @given(damaged(content))
    def check(content):
        path.write_bytes(content)
        found = answer("safetensors", lambda: load_tensors(path, sha256, "again"), str(path))
        assert found is None or all(torch.equal(found[n], t) for n, t in TENSORS.items())
        sha = hashlib.sha256(content).hexdigest()
        answer("safetensors", lambda: load_tensors(path, sha, "again"), str(path))

    check()


def test_headers_of_safetensors(place):
    """Lengths, types and offsets that do not fit, with the right digest."""
    path, content = place / "x.safetensors", save(TENSORS)
    (size,) = struct.unpack("<Q", content[:8])

    @given(changed(json.loads(content[8 : 8 + size])))
    def check(header):
        text = header.encode()
        whole = struct.pack("<Q", len(text)) + text + content[8 + size :]
        path.write_bytes(whole)
        sha = hashlib.sha256(whole).hexdigest()
        answer("safetensors", lambda: load_tensors(path, sha, "again"), str(path))

    check()


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    state = TrainingState(nn.Linear(2, 2), LOOP)
    state.network(torch.ones(1, 2)).sum().backward()
    state.optimizer.step()
    state.step, state.seconds, state.history = 7, 1.5, [{"step": 7, "loss": 0.5}]
    return state


def test_checkpoints(place, state):
    checkpoints = Checkpoints(place, None)
    checkpoints.save(state)
    path, right = checkpoints.path(7), state.network.weight.detach().clone()

    def read():
        checkpoints.restore(state, torch.device("cpu"), 7)
        return state

    whole = path.read_bytes()

    @given(damaged(whole))
    def check(content):
        path.write_bytes(content)
        found = answer("checkpoint", read, str(path))
        assert found or content != whole
        assert found is None or torch.equal(found.network.weight, right)

    check()


def test_values_of_checkpoints(place, state):
    """Whole archives of another content, as another program writes them."""
    checkpoints = Checkpoints(place / "values", None)
    checkpoints.save(state)
    path, whole = checkpoints.path(7), state.state_dict()
    plain = {**whole, "network": 1, "ema": 2, "optimizer": 3}

    @given(changed(plain))
    def check(text):
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = text
        if isinstance(content, dict):
            parts = {key: whole[key] for key in ("network", "ema", "optimizer")}
            numbers = {1: "network", 2: "ema", 3: "optimizer"}
            content = {
                key: parts[numbers[value]]
                if isinstance(value, int) and not isinstance(value, bool) and value in numbers
                else value
                for key, value in content.items()
            }
        with contextlib.suppress(RecursionError):  # too deep for the writer: half a file
            torch.save(content, path)
        answer("checkpoint", lambda: checkpoints.restore(state, torch.device("cpu"), 7), str(path))

    check()


def test_official_checkpoints(place):
    path = place / "official.ckpt"
    weights = {"score_fn.all_modules.0.weight": torch.ones(2)}
    torch.save({"state_dict": weights, "global_step": 5}, path)

    whole = path.read_bytes()

    @given(damaged(whole))
    def check(content):
        path.write_bytes(content)
        found = answer("official checkpoint", lambda: read_checkpoint(path), str(path))
        assert found or content != whole

    check()


def test_origins_with_a_right_digest(place):
    path, origin = place / "1.h5", asdict(SHARD.origin)

    @given(changed(origin))
    def check(text):
        SHARD.save(path)
        whole = path.read_bytes()[:-32]
        old = json.dumps(origin).encode()
        new = text.encode()[: len(old)].ljust(len(old))
        assert old in whole
        whole = whole.replace(old, new)
        path.write_bytes(whole + hashlib.sha256(whole).digest())
        answer("shard", lambda: Shard.load(path), str(path))

    check()
