"""The origin of a result."""

import subprocess

from psld.utils import device


def test_the_revision_is_that_of_a_checkout_alone(tmp_path, monkeypatch):
    """Not that of the repository in whose environment the package is installed."""

    def git(*arguments: str) -> str:
        name = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        command = ["git", "-C", str(tmp_path), *name, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    revision = git("rev-parse", "HEAD")[:12]
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(device, "CHECKOUT", tmp_path / "site-packages")
    assert device.provenance()["git_revision"] is None
    monkeypatch.setattr(device, "CHECKOUT", tmp_path)
    assert device.provenance()["git_revision"] == revision
    (tmp_path / "file").write_text("changed")
    git("add", "file")
    assert device.provenance()["git_revision"] == f"{revision}+"
