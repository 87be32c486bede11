"""The old and new switches for TF32, in any order of use, and the provenance of a result."""

import re
import subprocess
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.backends import cuda, cudnn

from psld.diffusion.integrators import integrate
from psld.metrics.classifier import deterministic
from psld.utils import device, environment
from psld.utils.device import HAS_NEW_SWITCHES, provenance, tf32_in_use, use_tf32


def old() -> None:
    cudnn.allow_tf32 = cuda.matmul.allow_tf32 = True


def new() -> None:
    cudnn.conv.fp32_precision = cuda.matmul.fp32_precision = "tf32"


def new_for_everything() -> None:
    torch.backends.fp32_precision = "tf32"


@pytest.mark.parametrize(
    ("ranks", "threads", "said"),
    [(1, 1, r"1 thread of \d+"), (1, 2, r"2 threads of \d+"), (4, 1, "4 ranks, 1 thread each")],
)
def test_the_name_of_a_cpu_includes_ranks_and_threads(monkeypatch, ranks, threads, said):
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert re.fullmatch(rf"CPU \(\w+, {said}\)", device.device_name(torch.device("cpu")))


ORDERS = [(old,), (old, new), (new, old), (new_for_everything,)]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    if HAS_NEW_SWITCHES:
        torch.backends.fp32_precision = "none"
    use_tf32(True, False)  # the defaults of torch


@pytest.mark.skipif(not HAS_NEW_SWITCHES, reason="torch < 2.9 has only the old switches")
@pytest.mark.parametrize("writes", ORDERS, ids=lambda writes: "-".join(w.__name__ for w in writes))
def test_all_bits_disables_tf32_and_restores_the_settings(writes: tuple[Callable[[], None]]):
    """Libraries that read one kind of switch must see the same state."""
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = cuda.matmul.fp32_precision = "none"
    for write in writes:
        write()
    assert tf32_in_use() == (True, True)
    seen = set()

    def velocity(t, y):
        seen.add((tf32_in_use(), cudnn.allow_tf32, cuda.matmul.allow_tf32))
        return -y

    integrate(velocity, 0.0, 1.0, torch.ones(1, dtype=torch.float64), 1e-2, "mine")
    assert seen == {((False, False), False, False)}
    assert tf32_in_use() == (True, True)


@pytest.mark.skipif(not HAS_NEW_SWITCHES, reason="torch < 2.9 has only the old switches")
def test_provenance_and_deterministic_work_with_the_new_tf32_switches():
    cudnn.conv.fp32_precision, cuda.matmul.fp32_precision = "ieee", "tf32"
    with pytest.raises(RuntimeError, match="TF32"):
        cudnn.allow_tf32  # noqa: B018
    with deterministic():
        precision = provenance()["precision"]
    assert (precision["tf32_convolutions"], precision["tf32_matmul"]) == (False, True)
    assert not cudnn.deterministic


def test_without_the_new_tf32_switches_the_old_switches_are_used(monkeypatch):
    monkeypatch.setattr("psld.utils.device.HAS_NEW_SWITCHES", False)
    use_tf32(convolutions=False, matmul=True)
    assert tf32_in_use() == (cudnn.allow_tf32, cuda.matmul.allow_tf32) == (False, True)


def test_the_revision_is_recorded_only_for_a_checkout(tmp_path, monkeypatch):
    """The revision of the repository that contains the environment is not recorded."""

    def git(*arguments: str) -> str:
        name = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    revision = git("rev-parse", "HEAD")[:12]
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path / "site-packages")
    assert provenance()["git_revision"] is None
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    assert provenance()["git_revision"] == revision
    (tmp_path / "file").write_text("changed")
    git("add", "file")
    assert provenance()["git_revision"] == f"{revision}+"
