"""Code of other people never runs, whichever file names the code, whatever its digest is, and
wherever its module is."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from psld.data.pictures import pictures_of
from psld.data.units import BYTES
from psld.evaluation.folders import load_reference, load_trained
from psld.models.manifest import read_manifest
from psld.sampling.model import load_guide, load_model
from psld.sampling.pairs import cell_of
from psld.sampling.shards import Shard
from psld.utils.code import find_code
from psld.utils.errors import UserError
from psld.utils.files import digest_of
from tests.commands import TINY, call, fresh_modules, refused, succeeded

EVIL = """
from pathlib import Path

from psld.parts import (
    Autoencoder, Beta, Extractor, Network, Optimizer, Process, Source, TimeGridSampler
)

Path("RAN").touch()


class Net(Network):
    def build(self, *given):
        raise RuntimeError("built")


class SDE(Process):
    def build(self):
        raise RuntimeError("built")


class Rate(Beta):
    def build(self):
        raise RuntimeError("built")


class Features(Extractor):
    def build_trained(self, *given):
        raise RuntimeError("built")


class Decoder(Autoencoder):
    def build(self, *given):
        raise RuntimeError("built")


class Sampler(TimeGridSampler):
    pass


class Adam(Optimizer):
    pass


class Images(Source):
    pass
"""
PLACES = {
    "in the record's folder": ("models/theirs", "models/theirs/evil.py", False),
    "below it": ("models/theirs", "models/theirs/code/evil.py", False),
    "above it": ("models/theirs", "models/evil.py", False),
    "in a sibling folder": ("models/theirs", "models/code/evil.py", False),
    "in a sibling folder of a download": ("theirs/model", "theirs/code/evil.py", False),
    "in another package": ("models/theirs", "nets/evil.py", True),
    "in the working folder": ("models/theirs", "evil.py", True),
    "in the working folder, which is the record's": (".", "evil.py", False),
}
"""The folder of the record, the file of the module, and whether the module may run if it is in a
regular package and the digest is right."""
CPU = torch.device("cpu")


def seal(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    del content["record_sha256"]
    change(content)
    path.write_text(json.dumps({"record_sha256": digest_of(content), **content}))


def of_model(record: Path, made: dict[str, Path], part: dict) -> Callable[[], object]:
    shutil.copytree(made["model"], record, dirs_exist_ok=True)
    changed = {**part, "kind": f"{part['kind']}:Net"}
    seal(record / "manifest.json", lambda content: content["settings"].update(network=changed))
    return lambda: load_model(record, CPU)


def of_process(record: Path, made: dict[str, Path], part: dict) -> Callable[[], object]:
    shutil.copytree(made["model"], record, dirs_exist_ok=True)
    changed = {**part, "kind": f"{part['kind']}:SDE"}
    seal(record / "manifest.json", lambda content: content["settings"].update(process=changed))
    return lambda: load_model(record, CPU)


def of_schedule(record: Path, made: dict[str, Path], part: dict) -> Callable[[], object]:
    shutil.copytree(made["model"], record, dirs_exist_ok=True)
    changed = {"kind": "vp-sde", "beta": {**part, "kind": f"{part['kind']}:Rate"}}
    seal(record / "manifest.json", lambda content: content["settings"].update(process=changed))
    return lambda: load_model(record, CPU)


def of_guide(record: Path, made: dict[str, Path], part: dict) -> Callable[[], object]:
    shutil.copytree(made["guide"], record, dirs_exist_ok=True)
    changed = {**part, "kind": f"{part['kind']}:Net"}
    seal(record / "manifest.json", lambda content: content["settings"].update(network=changed))
    return lambda: load_guide(record, CPU)


def of_extractor(record: Path, made: dict[str, Path], part: dict) -> Callable[[], object]:
    shutil.copytree(made["features"], record, dirs_exist_ok=True)
    changed = {**part, "kind": f"{part['kind']}:Features"}
    seal(record / "manifest.json", lambda content: content.update(extractor=changed))
    return lambda: load_trained(record)


def of_shards(record: Path, made: dict[str, Path], part: dict) -> Callable[[], object]:
    shutil.copytree(made["samples"], record, dirs_exist_ok=True)
    file = record / "00000.safetensors"
    shard = Shard.load(file)
    words = [word for word in shard.origin.words if not word.startswith("sampler.integrator=")]
    words += [f"sampler.integrator={part['kind']}:Sampler"]
    words += [f"sampler.code={part['code']}"] if "code" in part else []
    origin = shard.origin.model_copy(update={"words": tuple(words)})
    replace(shard, origin=origin).save(file)
    return lambda: cell_of(lambda sampler: None, str(record), 0, str(made["model"]), "cell")


def of_process_in_shards(record: Path, made: dict[str, Path], part: dict) -> Callable[[], object]:
    shutil.copytree(made["samples"], record, dirs_exist_ok=True)
    file = record / "00000.safetensors"
    shard = Shard.load(file)
    words = [*shard.origin.words, f"process.kind={part['kind']}:SDE"]
    words += [f"process.code={part['code']}"] if "code" in part else []
    replace(shard, origin=shard.origin.model_copy(update={"words": tuple(words)})).save(file)
    return lambda: cell_of(lambda sampler: None, str(record), 0, str(made["model"]), "cell")


def of_decoder(record: Path, made: dict[str, Path], part: dict) -> Callable[[], object]:
    """The dataset of a model names a decoder, which `psld sample png=` uses."""
    shutil.copytree(made["model"], record, dirs_exist_ok=True)
    decode = {**part, "kind": f"{part['kind']}:Decoder"}
    tensors = {"dtype": "float32", "decode": decode}
    seal(record / "manifest.json", lambda content: content["settings"]["dataset"].update(tensors))
    dataset = read_manifest(record).settings.dataset
    return lambda: pictures_of(dataset, BYTES, record=record)


READERS = {
    "model": of_model,
    "process": of_process,
    "schedule": of_schedule,
    "guide": of_guide,
    "extractor": of_extractor,
    "decoder": of_decoder,
    "shards": of_shards,
    "process of shards": of_process_in_shards,
}


@pytest.fixture(scope="module")
def made(model, digits, features, once) -> dict[str, Path]:
    def fill(folder: Path) -> None:
        guide = ("training.steps=1", f"data={digits}", "output=guide", "network=guide-demo")
        words = [word for word in TINY if not word.startswith("network.")]
        succeeded(call(folder, "train_guide", *words, *guide))
        sample = ("sampler=em", "sampler.steps=2", "shard_size=2", "output=samples")
        succeeded(call(folder, "sample", f"model={model}", *sample))

    folder = once("strangers", fill)
    found = {"guide": folder / "guide", "samples": folder / "samples"}
    return found | {"model": model, "features": features}


@pytest.mark.parametrize("reader", READERS)
def test_code_named_in_a_file_runs_only_if_it_is_the_users_own(made, reader, tmp_path, monkeypatch):
    cells = 0
    for place, (record, file, may_run) in PLACES.items():
        for is_regular in (False, True):
            for digest in ("none", "wrong", "right"):
                folder = tmp_path / f"{cells}"
                cells += 1
                (folder / file).parent.mkdir(parents=True)
                monkeypatch.chdir(folder)
                Path(file).write_text(EVIL)
                for parent in [*Path(file).parents][:-1] if is_regular else ():
                    (parent / "__init__.py").touch()
                module = file.removesuffix(".py").replace("/", ".")
                digests = {"wrong": "0" * 64, "right": find_code(module).digest}
                part = {"kind": module} | ({"code": digests[digest]} if digest != "none" else {})
                read = READERS[reader](Path(record), made, part)
                runs = may_run and digest == "right" and (is_regular or "/" not in file)
                where = f"{place}, regular: {is_regular}, digest: {digest}"
                with fresh_modules():
                    try:
                        read()
                        error = None
                    except (UserError, RuntimeError) as found:
                        error = found
                assert Path("RAN").exists() == runs, where
                if not runs:
                    assert isinstance(error, UserError), where
                    assert "\n" not in str(error)
    assert cells == 6 * len(PLACES)


def test_a_package_that_holds_the_record_does_not_run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("nets").mkdir()
    Path("nets/__init__.py").touch()
    Path("nets/evil.py").write_text(EVIL)
    part = {"kind": "nets.evil", "code": find_code("nets.evil").digest}
    with pytest.raises(UserError, match=r"nets/evil\.py here is in the same folder"):
        of_model(Path("nets/model"), made, part)()
    assert not Path("RAN").exists()


def test_parts_that_are_not_needed_are_never_imported(made, tmp_path, monkeypatch):
    """The manifest of a model names the code as the optimizer and as the source of the dataset."""
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    code = find_code("evil").digest
    shutil.copytree(made["model"], "models/theirs")
    source = {"kind": "evil:Images", "code": code}

    def change(content: dict) -> None:
        content["settings"]["training"]["optimizer"] = {"kind": "evil:Adam", "code": code}
        content["settings"]["dataset"]["source"] = source

    seal(Path("models/theirs/manifest.json"), change)
    assert read_manifest("models/theirs").settings.training.optimizer.is_data
    seal(Path("models/theirs/manifest.json"), lambda c: c["settings"]["training"].pop("optimizer"))
    load_model("models/theirs", CPU)
    assert not Path("RAN").exists()


def test_the_record_of_a_dataset_runs_no_code(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    Path("data").mkdir()
    for ending in (".h5", ".json", ".digest"):
        shutil.copy(digits.with_suffix(ending), f"data/theirs{ending}")
    for digest in ({}, {"code": "0" * 64}, {"code": find_code("evil").digest}):
        source = {"kind": "evil:Images", **digest}
        record = Path("data/theirs.json")
        seal(record, lambda content, source=source: content["settings"].update(source=source))
        words = (*TINY, "training.steps=1", "data=data/theirs.h5", "name=x")
        succeeded(call(tmp_path, "train", *words))
        assert not Path("RAN").exists()


def test_references_and_run_directories_run_no_code(made, digits, tmp_path, monkeypatch):
    """Code runs only from a copy with the digest that the job's overrides state."""
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    code = find_code("evil").digest
    shutil.copytree(made["features"] / "reference", "features/theirs")
    part = {"kind": "evil:Features", "code": code}
    seal(Path("features/theirs/manifest.json"), lambda content: content.update(extractor=part))
    load_reference("features/theirs")
    words = (*TINY, "training.steps=1", f"data={digits}", "name=x")
    succeeded(call(tmp_path, "train", *words))
    [run] = Path("runs").iterdir()
    part = {"kind": "evil:Net", "code": code}
    settings = json.loads((run / "settings.json").read_text()) | {"network": part}
    (run / "settings.json").write_text(json.dumps(settings))
    seal(run / "model/manifest.json", lambda content: content["settings"].update(network=part))
    shutil.rmtree("models")
    succeeded(call(tmp_path, "train", *words))
    assert not Path("RAN").exists()
    wrong = ("network=absent:Net", f"network.code={code}")
    shutil.copytree(
        Path.cwd(), tmp_path / f"{run}/parts/{code}", ignore=lambda *_: ["runs", "data"]
    )
    refused(call(tmp_path, "train", *words, *wrong), 2, "there is no module absent here")
    assert not Path("RAN").exists()


def test_no_file_in_the_working_folder_replaces_a_package(digits, tmp_path):
    """Packages that are imported late are not replaced either, with or without a custom part."""
    for name in ("wandb", "scipy", "h5py", "hydra", "torch"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath('RAN').touch()\n")
    (tmp_path / "mine.py").write_text(EVIL.replace('Path("RAN").touch()', ""))
    from tests.commands import command, run

    words = (*TINY, "training.steps=1", f"data={digits}", "name=x", "wandb.mode=offline")
    succeeded(run(tmp_path, command("train", *words)))
    quiet = [word for word in words if not word.startswith("network.")]
    finished = run(tmp_path, command("train", *quiet, "network=mine:Net"))
    assert "built" in finished.stderr
    assert not (tmp_path / "RAN").exists()


def test_a_model_trained_in_the_users_folder_needs_no_trust(digits, tmp_path, monkeypatch):
    """The code of the network is in a file of the working folder."""
    from tests.parts.own import with_network

    monkeypatch.chdir(with_network(tmp_path))
    words = ("network=mynets:Mixer", "training.steps=1", f"data={digits}", "name=x")
    quiet = [word for word in TINY if not word.startswith("network.")]
    succeeded(call(tmp_path, "train", *quiet, *words))
    sample = ("sampler=em", "sampler.steps=2", "shard_size=2", "output=samples")
    assert "2 images" in succeeded(call(tmp_path, "sample", "model=by-hand/x", *sample)).stdout
