"""The complete demo on a GPU, with parallel jobs; no job may fail."""

import json

import torch

from tests.workflow.project import Project


def test_the_whole_demo(gpu, tmp_path):
    project = Project.create_with_grids(tmp_path / "demo")
    project.timeout = 600  # Each of 85 jobs initializes CUDA.
    project.run("demo", "--cores", "8")
    results = [json.loads(path.read_text()) for path in project.files("results/cells/demo")]
    assert results
    manifests = [json.loads(p.read_text()) for p in project.folder.glob("models/*/*/manifest.json")]
    assert {manifest["device"] for manifest in manifests} == {torch.cuda.get_device_name()}
    assert len(project.files("results/tables/demo")) >= 4
