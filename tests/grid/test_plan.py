"""The plan of a grid: the remaining work and its estimated cost."""

import re
from dataclasses import replace
from unittest.mock import Mock

import pytest

from psld.grid.figures import all_figures, trained_models
from psld.grid.rows import distances
from psld.report.plan import (
    Work,
    earlier_throughput,
    gigaflops,
    jobs_by_stage,
    readable,
    work_by_network,
)
from tests.commands import call, succeeded
from tests.grid.mine import file_with
from tests.results import write_model_manifest, write_result


def test_work_is_images_times_network_evaluations(paper):
    """The 97M network has Table 1, Table 2 with the NFE that the paper prints, three galleries, and
    the shard of Figure 3. The 66M network has ten cells of ten shards, each counted once, and five
    galleries."""
    work = work_by_network(paper)
    large, shared, guide = work["cifar10-sota"], work["celeba64-ablation"], work["guide-cifar10"]
    assert len(large.trained) == 3
    assert large.training_images == (975_000 + 877_500 + 916_500) * 128
    table1, table2 = 3 * 50_000 * 1000, 50_000 * (352 + 246 + 231 + 159 + 159)
    assert large.evaluations == table1 + table2 + 3 * 1000 * 250 + 1000 * 1000
    assert shared.evaluations == 10 * 10_000 * 1000 + 5 * 1000 * 250
    assert guide.trained == [paper.guides["cifar10-psld-0.01"]]
    assert guide.training_images == 195_000 * 256
    assert guide.evaluations == 2 * 1000 * 1000, "with its gradient"


def test_adaptive_sampler_uses_the_nfe_of_the_paper_or_a_guess(paper, monkeypatch):
    few = work_by_network(paper)["cifar10-ablation"].evaluations
    monkeypatch.setattr("psld.report.plan.ADAPTIVE_EVALUATIONS", 300)
    many = work_by_network(paper)["cifar10-ablation"].evaluations
    assert many - few == 4 * 10_000 * 100, "VP-SDE at four tolerances"


# --- throughput and hours ---------------------------------------------------------------------


def plan(folder, *overrides: str) -> str:
    return succeeded(call(folder, "plan", "grid_name=demo", *overrides)).stdout


def hours(output: str) -> list[str]:
    """Return the last two columns of the row of the demo's network in the table of work."""
    [line] = re.findall(r"^\| demo .*$", output, re.MULTILINE)
    return [column.strip() for column in line.strip("|").split("|")[-2:]]


def test_hours_follow_from_flops_and_a_measured_step(folder, demo, monkeypatch):
    works = work_by_network(demo)
    work, images = works["demo"], sum(each.flops(0.5) for each in works.values()) / 0.5 / 3
    monkeypatch.setattr("psld.report.plan.gigaflops", lambda trained: 0.5)
    monkeypatch.setattr("psld.report.plan.seconds_per_image", lambda network: 7200 / images)
    output = plan(folder, "sustained_tflops=1e-2")
    slowed = work.evaluations + 5 * work.adaptive  # RK45 steps take six times as long
    expected = (3 * work.training_images, slowed)
    assert 0 < work.adaptive < work.evaluations
    assert hours(output) == [f"{each * 0.5 / 1e3 / 3600 / 1e-2:.1f}" for each in expected]
    assert re.search(r"^Sum: [0-9.,]+ GPU hours\.$", output, re.MULTILINE)
    assert output.splitlines()[-1].startswith("On one core of this machine: about 2 hours for ")


def test_flops_are_cached_until_the_network_code_changes(tmp_path, monkeypatch, demo):
    count = Mock(return_value=7 * 10**9)
    monkeypatch.setattr("psld.report.plan.forward_flops", count)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".cache").mkdir()  # created when a grid is read
    for edited, counts in ((None, 1), ("report", 1), ("networks", 2)):
        digest = lambda *rooms, edited=edited: f"edited: {edited in rooms}"  # noqa: E731
        monkeypatch.setattr("psld.report.plan.code_digest", digest)
        assert gigaflops(demo.models["cld"]) == 7
        assert count.call_count == counts


def test_throughput_of_earlier_runs_is_per_gpu(folder, demo):
    write_model_manifest(folder, demo, "cld", images_seen=6000, seconds=10.0, ranks=2)
    cell = next(cell for cell in demo.measured_cells if cell.model.name == "cld")
    write_result(folder, demo, cell.name, value=1.0, nfe=40.0, sampling_seconds=20.0)
    measured = [entry.read() for entry in distances(demo)]
    earlier = earlier_throughput(measured, Work([demo.models["cld"], demo.models["vp-sde"]]))
    assert earlier == (6000 / 20, 1000 * 40 / 20)
    write_model_manifest(folder, demo, "cld", seconds=None, ranks=None)  # imported
    assert earlier_throughput(measured, Work([demo.models["cld"]]))[0] is None


@pytest.mark.parametrize(
    "changes", [{"network": {"base_channels": 128}}, {"dataset": {"image_size": 32}}]
)
def test_models_of_different_sizes_are_different_networks(demo, changes):
    """The name in configs/network does not determine the cost, nor does the order of models."""
    cld, [(group, change)] = demo.models["cld"], changes.items()
    settings = getattr(cld.settings, group).model_copy(update=change)
    large = cld.model_copy(update={"settings": cld.settings.model_copy(update={group: settings})})
    models = demo.models | {"cld": large}
    works, mirrored = (
        work_by_network(replace(demo, models=dict(order)))
        for order in (models.items(), reversed(models.items()))
    )
    assert [model.name for model in works["demo (cld)"].trained] == ["cld"]
    assert set(works) == {"demo", "demo (cld)", "guide-demo"}
    evaluations = [{each.evaluations for each in plan.values()} for plan in (works, mirrored)]
    assert evaluations[0] == evaluations[1]


def test_number_of_jobs_by_stage(demo, paper):
    assert jobs_by_stage(demo) == {
        **{"prepare": 1, "start": 1, "train_extractor": 1, "reference": 1, "train_guide": 1},
        **{"train": len(trained_models(demo)), "evaluate": len(demo.measured_cells)},
        "sample": sum(-(-cell.shards // 4) for cell in demo.cells.values()),
        **{"tabulate": len(demo.file.tables), "figure": len(all_figures(demo))},
        **{"page": 1, "certify": 1},
    }
    shards = [cell.shards for cell in paper.cells.values()]
    assert jobs_by_stage(file_with(paper, shards_per_job=1))["sample"] == sum(shards)
    assert jobs_by_stage(paper)["sample"] == sum(-(-n // 10) for n in shards)


def test_plan_lists_cells_figures_and_jobs(folder, demo):
    cells = plan(folder, "list=cells").splitlines()
    assert cells == [f"demo/{cell.name}" for cell in demo.measured_cells]
    assert plan(folder, "list=figures").splitlines() == list(all_figures(demo))
    output = plan(folder)
    assert f"Grid demo: {len(demo.models)} models, " in output
    assert re.search(rf"^\| tabulate +\| +{len(demo.file.tables)} \|$", output, re.MULTILINE)
    # Each of 10 cells has four shards of 250 samples, and each cell of the ODE has two.
    assert re.search(r"^\| demo-steps +\| +3 \| +10 \| +40 \|$", output, re.MULTILINE)
    assert re.search(r"^\| demo-tolerance +\| +2 \| +2 \| +4 \|$", output, re.MULTILINE)
    assert hours(output) == ["?", "?"]
    assert re.search(r"^On one core of this machine: about \d+ \w+ for trainings", output, re.M)
    assert "add sustained_tflops=…" in output
    assert "Sum" not in output
    numbers = (None, 0, 0.01234, 0.5, 1, 12.34, 1234.5)
    assert [readable(n) for n in numbers] == ["?", "0.0", "0.012", "0.5", "1.0", "12.3", "1,234.5"]
