"""Publish the results of a training once, manifest last, and again if a file is damaged."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from psld.models.manifest import FILES, MANIFEST
from psld.training.files import export_folder, note_replaced, publish
from psld.utils.files import write_json
from tests.commands import files_below


@pytest.fixture
def made(tmp_path) -> Path:
    """The run directory of a finished training."""
    run = tmp_path / "run"
    export_folder(run).mkdir(parents=True)
    (export_folder(run) / "weights.safetensors").write_bytes(os.urandom(100))
    write_json(export_folder(run) / "history.json", [{"step": 1}])
    write_json(export_folder(run) / "manifest.json", {"step": 1, "run": str(run)})
    return run


@pytest.fixture
def published(made, tmp_path) -> Path:
    publish(made, tmp_path / "model")
    return tmp_path / "model"


def same(made: Path, output: Path) -> bool:
    return files_below(export_folder(made)) == files_below(output)


def test_published_files_stay_unchanged(made, published):
    """Snakemake would rerun all jobs that depend on a changed file."""

    def times() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in published.iterdir()}

    before = times()
    publish(made, published)
    assert times() == before


@pytest.mark.parametrize("stays", [True, False])
def test_the_results_of_another_training_are_replaced(made, published, tmp_path, capsys, stays):
    other = tmp_path / "other"
    if stays:
        write_json(export_folder(other) / "manifest.json", {"step": 2})
    (published / "weights.safetensors").write_bytes(b"other")
    write_json(published / "manifest.json", {"step": 2, "run": str(other)})
    capsys.readouterr()
    note_replaced(made, published)
    where = f"stay in {other / 'model'}" if stays else "are lost"
    line = f"{published}: replaces the weights of another training, which {where}\n"
    assert capsys.readouterr().out == line


@pytest.mark.parametrize("copies", range(len(FILES)))
def test_an_interrupted_publication_leaves_no_manifest(made, tmp_path, monkeypatch, copies):
    """Files without a manifest are not mistaken for a model, and the next publication completes
    them."""
    output, left, copy = tmp_path / "model", [None] * copies, shutil.copyfile

    def copyfile(source, target):
        if not left:
            target.write_bytes(b"half")
            raise OSError(errno.EIO, "ended")
        left.pop()
        copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", copyfile)
        with pytest.raises(OSError, match="ended"):
            publish(made, output)
    assert sorted(path.name for path in output.iterdir()) == sorted(FILES[:copies])
    assert not (output / MANIFEST).exists()
    publish(made, output)
    assert same(made, output)


@pytest.mark.parametrize(
    ("name", "content"), [(FILES[0], b"?"), (FILES[1], None), (MANIFEST, b"{")]
)
def test_missing_or_damaged_files_are_published_again(made, published, name, content, capsys):
    """A file may be missing or truncated, or one byte may differ at equal size and time."""
    path, whole = published / name, (published / name).read_bytes()
    os.utime(export_folder(made) / name, (1e9, 1e9))
    path.unlink()
    if content:
        path.write_bytes(content + whole[1:] if content == b"?" else content)
        os.utime(path, (1e9, 1e9))
    note_replaced(made, published)
    assert capsys.readouterr().out == "", "no other training is replaced"
    publish(made, published)
    assert same(made, published)
