"""Bits per dimension in the workflow: the rule, its table, and when it is measured again."""

import csv

import pytest

from tests.workflow.project import GRID, Project

pytestmark = pytest.mark.slow

BITS = """
defaults: [dataset=digits, network=tiny, training=tiny, wandb.mode=disabled]
metric: fd-classifier-tiny
samples: 10
shard_size: 10
batch_size: 10
gallery: em-3
likelihood: [images=6, shard_size=3, tolerance=0.1]

models:
  vp-sde: [process=vp-sde]
  psld: [process=psld]

samplers:
  em: {overrides: [sampler=em], budget: sampler.steps}

tables:
  tiny-bits:
    title: "Tiny: likelihood"
    headings: [model]
    cell: {sampler: em}
    columns:
      - {label: bits/dim, show: bits_per_dimension}
      - {label: distance, budget: 3}
    rows:
      - {label: [PSLD], model: psld}
"""


def test_a_table_of_bits_is_made_and_follows_its_settings(fresh: Project):
    (fresh.folder / GRID).write_text(BITS)
    assert fresh.plan("tiny-bits")["likelihood"] == 1, "of the model that the table shows"
    fresh.run("tiny-bits")
    with (fresh.folder / "results/tables/tiny/tiny-bits.csv").open() as file:
        bits, distance = csv.DictReader(file)
    assert float(bits["ours"]) > 0
    assert bits["status"] == distance["status"] == "measured"
    shards = fresh.folder / "results/cells/tiny/psld/likelihood"
    assert sorted(path.name for path in shards.iterdir()) == ["00000.json", "00001.json"]
    assert fresh.plan("tiny-bits") == {}
    fresh.edit(GRID, "images=6", "images=9")
    assert fresh.plan("tiny-bits") == {"likelihood": 1, "tabulate": 1}
    fresh.run("tiny-bits")
    log = (fresh.folder / "logs/likelihood/tiny/psld.log").read_text()
    assert log.count("kept") == 2, "complete shards are kept"
