"""The plan of a grid: the remaining work and its known cost."""

import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from psld.commands.plan import forward_gigaflops
from psld.config.locations import CONFIGS
from psld.grid.composing import compose_model
from psld.grid.figures import figures_of
from psld.grid.plan import (
    PlanSettings,
    Work,
    earlier_throughput,
    jobs_of,
    network_of,
    printed_evaluations,
    work_of,
)
from psld.training.model import build_network
from tests.commands import call, refused, succeeded
from tests.grid.variants import file_with
from tests.results import write_model_manifest, write_result


def test_training_images_are_steps_times_batch(paper):
    work = work_of(paper, adaptive_evaluations=1)["cifar10-sota"]
    assert len(work.trained) == 3
    assert work.training_images == (975_000 + 877_500 + 916_500) * 128


def test_evaluations_are_samples_times_nfe(paper):
    """Of the 97M network: Table 1, Table 2 with the NFE that the paper prints, three galleries, and
    the shard that Figure 3 shows."""
    work = work_of(paper, adaptive_evaluations=1)["cifar10-sota"]
    table1 = 3 * 50_000 * 1000
    table2 = 50_000 * (352 + 246 + 231 + 159 + 159)
    assert work.evaluations == table1 + table2 + 3 * 1000 * 250 + 1000 * 1000


def test_a_guide_is_trained_and_evaluated_with_its_gradient(paper):
    work = work_of(paper, adaptive_evaluations=1)["guide-cifar10"]
    assert work.trained == ["cifar10-psld-0.01"]
    assert work.training_images == 195_000 * 256
    assert work.evaluations == 2 * 1000 * 1000


def test_shared_shards_are_counted_once(paper):
    """Of the 66M network: ten cells of ten shards and five galleries."""
    work = work_of(paper, adaptive_evaluations=1)["celeba64-ablation"]
    assert work.evaluations == 10 * 10_000 * 1000 + 5 * 1000 * 250


def test_an_adaptive_sampler_takes_what_the_paper_prints_or_else_a_guess(paper):
    printed = printed_evaluations(paper)
    assert printed["cifar10-cld/rk45-1e-5"] == 280
    assert "cifar10-vp-sde/rk45-1e-1" not in printed
    few, many = (work_of(paper, n)["cifar10-ablation"].evaluations for n in (1, 101))
    assert many - few == 4 * 10_000 * 100, "VP-SDE at four tolerances"


def test_flops_are_two_for_each_multiplication_of_a_layer(demo):
    settings = compose_model(demo.models["psld-0.02"].overrides, "demo")
    network = build_network(settings, settings.process.build())
    count = 0

    def add(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal count
        count += 2 * layer.weight.numel() * output[0, 0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, *network.in_shape), torch.ones(1))
    # The rest: linear layers, which see one vector an image, and attention, on 2×2 pixels.
    gigaflops = forward_gigaflops("model", demo.models["psld-0.02"])
    assert 1.0 < gigaflops * 1e9 / count < 1.1


# --- throughput and hours ---------------------------------------------------------------------


def plan(folder: Path, *overrides: str) -> str:
    return succeeded(call(folder, "plan", "grid_name=demo", *overrides)).stdout


def hours(output: str) -> list[str]:
    """The last two columns of the demo's network."""
    [line] = re.findall(r"^\| demo .*$", output, re.MULTILINE)
    return [column.strip() for column in line.strip("|").split("|")[-2:]]


def test_hours_follow_the_formula(folder, demo):
    work = work_of(demo, 200)["demo"]
    rates = work.training_images / 7200, work.evaluations / 36000
    given = [f"throughput.demo.train={rates[0]}", f"throughput.demo.sample={rates[1]}"]
    assert hours(plan(folder, *given)) == ["2.0", "10.0"]


def test_without_throughput_the_hours_are_unknown(folder):
    output = plan(folder)
    assert hours(output) == ["?", "?"]
    assert "grid_name=demo throughput.NETWORK.train=…" in output
    assert "Sum" not in output


def test_a_throughput_can_be_given_for_any_network(tmp_path):
    """The settings of the plan name no network: a grid may have the user's own."""
    (tmp_path / "configs/network").mkdir(parents=True)
    shutil.copy(CONFIGS / "network/demo.yaml", tmp_path / "configs/network/mine.yaml")
    grid = (CONFIGS / "grid/demo.yaml").read_text().replace("network=demo", "network=mine")
    (tmp_path / "configs/grid").mkdir()
    (tmp_path / "configs/grid/demo.yaml").write_text(grid)
    output = plan(tmp_path, "throughput.mine.train=900", "throughput.mine.sample=9000")
    assert "for guide-demo, or" in output


def test_a_guess_from_the_gpu_s_flops(folder, demo):
    work = work_of(demo, 200)["demo"]
    terahours = forward_gigaflops("model", demo.models["vp-sde"]) / 1e3 / 3600
    output = plan(folder, "sustained_tflops=1e-4")
    expected = (3 * work.training_images * terahours, work.evaluations * terahours)
    assert hours(output) == [f"{teraflop / 1e-4:.1f}" for teraflop in expected]
    assert re.search(r"^Sum: [0-9.,]+ GPU hours\.$", output, re.MULTILINE)


def settings_for(folder: Path) -> PlanSettings:
    """Nothing but what earlier runs have left in a folder."""
    return PlanSettings(
        grid_name="demo",
        list=None,
        throughput={},
        sustained_tflops=None,
        adaptive_evaluations=200,
        models=folder / "models" / "demo",
        guides=folder / "guides" / "demo",
        cells=folder / "results" / "cells" / "demo",
    )


def test_earlier_runs_are_measurements_per_gpu(tmp_path, demo):
    write_model_manifest(tmp_path, demo, "cld", images_seen=6000, seconds=10.0, ranks=2)
    cell = next(e.cell for e in demo.evaluations if e.model == "cld")
    write_result(tmp_path, demo, cell, value=1.0, nfe=40.0, sampling_seconds=20.0)
    known = earlier_throughput(demo, settings_for(tmp_path), Work("model", ["cld", "vp-sde"]))
    assert known.train == 6000 / 20
    assert known.sample == 1000 * 40 / 20


def test_an_imported_model_says_nothing_of_training(tmp_path, demo):
    write_model_manifest(tmp_path, demo, "cld", images_seen=6000, seconds=None, ranks=None)
    assert earlier_throughput(demo, settings_for(tmp_path), Work("model", ["cld"])).train is None


def test_the_network_is_the_last_that_the_overrides_choose(paper):
    assert network_of("model", paper.models["cifar10-cld"]) == "cifar10-ablation"
    twice = ("network=demo", "network=cifar10-sota")
    chosen = paper.models["cifar10-cld"].model_copy(update={"overrides": twice})
    assert network_of("model", chosen) == "cifar10-sota"


@pytest.mark.parametrize(("kind", "command"), [("model", "train"), ("guide", "train_guide")])
def test_without_an_override_the_network_is_the_command_s(paper, kind, command):
    chosen = paper.models["cifar10-cld"].model_copy(update={"overrides": ()})
    defaults = yaml.safe_load((CONFIGS / f"{command}.yaml").read_text())["defaults"]
    assert {"network": network_of(kind, chosen)} in defaults


def test_jobs_are_counted(demo):
    jobs = jobs_of(demo)
    assert jobs["train"] == len(demo.models)
    assert jobs["train_guide"] == len(demo.guides)
    assert "import" not in jobs
    assert jobs["evaluate"] == len(demo.cells)
    assert jobs["sample"] == len(demo.shards), "a job makes four shards, and no cell has more"
    assert jobs["figure"] == len(figures_of(demo))
    assert jobs["page"] == 1


def test_more_shards_a_job_are_fewer_jobs(paper):
    single = jobs_of(file_with(paper, shards_per_job=1))
    assert single["sample"] == sum(paper.shards.values())
    assert jobs_of(paper)["sample"] == sum(-(-n // 10) for n in paper.shards.values())


def test_cells_and_figures_are_listed(folder, demo):
    cells = plan(folder, "list=cells").splitlines()
    assert cells == [f"demo/{cell}" for cell in demo.cells]
    assert plan(folder, "list=figures").splitlines() == list(figures_of(demo))


def test_stages_and_tables_are_counted(folder, demo):
    output = plan(folder)
    assert f"Grid demo: {len(demo.models)} models, " in output
    assert re.search(rf"^\| tabulate +\| +{len(demo.file.tables)} \|$", output, re.MULTILINE)
    # Four shards of 250 samples for each of 30 cells.
    assert re.search(r"^\| demo-steps +\| +4 \| +30 \| +120 \|$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("throughput.demo.train=0", ["throughput.demo.train", "greater than 0"]),
        ("throughput.demo.trian=1", ["trian"]),
        ("grid_name=none", ["none.yaml: no such grid", "demo"]),
        ("grid_name=../grid/demo", ["../grid/demo.yaml: no such grid"]),
        ("list=models", ["list", "'cells' or 'figures'"]),
    ],
)
def test_wrong_settings_are_refused(folder, override, words):
    refused(call(folder, "plan", override), 2, *words)
