"""Measures and extractors as parts: shipped parts, their classes in a file outside of psld, and
custom parts."""

import re
from pathlib import Path

import pytest
import torch

from psld.config.kinds import SHIPPED
from psld.config.settings import parse
from psld.evaluation.folders import load_trained
from psld.metrics.blocks import assign_blocks
from psld.metrics.distances import precision, recall
from psld.metrics.extraction import FeatureExtractor, load_extractor
from psld.metrics.features import Features, Reference
from psld.metrics.named import compose_metric
from psld.metrics.settings import MetricSettings
from psld.parts import Extractor, Measure
from tests.commands import call, fresh_modules, refused, succeeded
from tests.parts.contract import check_settings, here_and_outside
from tests.parts.own import edit, write
from tests.training.small import check_equal

MODULE = '''
"""Measures and extractors of mine."""
import torch
from torch import nn

from psld.parts import Extractor, Measure


class MeanShift(Measure):
    """The squared distance of the means."""

    word = "md"
    better = "smaller"

    factor: float = 1.0
    """Multiplies it."""

    def value(self, samples, reference):
        return self.factor * (samples.mean(0) - reference.mean(0)).square().sum()


class Rows(Extractor):
    """The mean brightness of the rows."""

    word = "rows"

    def build(self, device):
        return lambda images: images.float().mean(dim=(1, 3)) / 255

    def digest(self):
        return "rows"


class Trained(Extractor):
    """A linear map that is trained to tell the classes."""

    word = "trained"
    trains = True
    classifies = True

    def build(self, device):
        return Net().to(device)

    def train(self, images, labels, device):
        net = self.build(device)
        optimizer = torch.optim.Adam(net.parameters(), 0.02)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images)[1], labels).backward()
            optimizer.step()
        return net


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, images):
        features = self.body(images.flatten(1).float() / 255)
        return features, self.head(features)
'''


@pytest.fixture
def outside(digits, tmp_path, monkeypatch) -> Path:
    """The working folder, with custom parts and the prepared digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/digits.h5").symlink_to(digits)
    return write(tmp_path, mymetrics=MODULE)


def normal(n: int, seed: int) -> Features:
    random = torch.Generator().manual_seed(seed)
    return Features(*(torch.randn(n, 4, generator=random) for _ in range(2)))


SAMPLES, REFERENCE = normal(60, 0), Reference(normal(80, 1), normal(70, 2), normal(90, 3))


def found(part: Measure, reference: Reference = REFERENCE):
    extractor = (part.extractors or ("pixels",))[0]
    name = part.name_with(Extractor.model_validate(extractor))
    content = {"name": name, "extractor": extractor, "measure": part.model_dump()}
    metric = parse(MetricSettings, content, "metric")
    assert metric.better == part.better
    other = metric.exchanged_estimate(SAMPLES, reference)
    return metric.evaluate(SAMPLES, reference), metric.scale(reference), other


@pytest.mark.parametrize("kind", SHIPPED["measure"])
def test_a_shipped_measure_and_its_class_in_a_file_outside(outside, kind):
    shipped, own = here_and_outside(outside, Measure, kind)
    results, floor, other = found(shipped)
    assert found(own) == (results, floor, other)
    assert set(floor) == {"floor", "noise"}
    assert len(results.estimate.without_block) == 20
    assert (results.nearest is not None) == shipped.finds_nearest


@pytest.mark.parametrize(("kind", "other"), [("precision", recall), ("recall", precision)])
def test_precision_and_recall_are_exchanged_with_the_sets(kind, other):
    """Copies of a reference image are in one block, like copies of a sample."""
    part = check_settings(Measure, {"kind": kind, "neighbors": 5})
    twice = Features(REFERENCE.train.values.repeat(2, 1))
    *_, exchanged = found(part, Reference(twice, None, None))
    assert exchanged == other(
        twice.values, SAMPLES.values, 5, assign_blocks(torch.arange(80).repeat(2))
    )


def test_a_custom_measure_has_a_jackknife(outside):
    part = check_settings(Measure, "mymetrics:MeanShift")
    (estimate, _, _), _, other = found(part)
    block = SAMPLES.blocks(20).block
    for j, without in enumerate(estimate.without_block):
        rest = part.value(SAMPLES.values[block != j], REFERENCE.train.values)
        assert without == pytest.approx(float(rest))
    assert other is None


def test_custom_measures_do_not_use_the_cache_of_a_reference(outside):
    """A custom measure may modify its copy of the reference, and may reuse a cache key of a shipped
    measure for another quantity."""
    shipped, own = here_and_outside(outside, Measure, "precision")
    known = REFERENCE._replace(cache={"train radii of 3 neighbors": torch.full((80,), -1.0)})
    assert found(shipped, known)[0].estimate.value == 0
    assert found(own, known) == found(own)
    assert found(own)[0].estimate.value > 0


def test_a_measure_may_modify_its_inputs(outside):
    expected = found(Measure.model_validate("mymetrics:MeanShift"))[0].estimate
    difference = "(samples.mean(0) - reference.mean(0))"
    in_place = "(samples.sub_(reference.mean(0)).mean(0) + reference.zero_()[0])"
    edit(outside / "mymetrics.py", difference, in_place)
    kept = SAMPLES.values.clone(), REFERENCE.train.values.clone()
    with fresh_modules():
        estimate = found(Measure.model_validate("mymetrics:MeanShift"))[0].estimate
    assert estimate.without_block == pytest.approx(expected.without_block)
    assert torch.equal(kept[0], SAMPLES.values)
    assert torch.equal(kept[1], REFERENCE.train.values)


IMAGES = torch.randint(256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
LABELS = torch.arange(30) % 10
QUICK = {"classifier": {"steps": 2}}
DOWNLOADED = {"inception", "dinov2"}


@pytest.mark.parametrize("kind", [*SHIPPED["extractor"], "mymetrics:Rows", "mymetrics:Trained"])
def test_an_extractor_gives_features_for_any_batch_size_and_a_digest(outside, kind):
    parts, values = here_and_outside(outside, Extractor, kind, **QUICK.get(kind, {})), []
    for part in () if kind in DOWNLOADED else parts:

        def made(part=part):
            if not part.trains:
                return load_extractor(part)
            torch.manual_seed(0)
            cpu = torch.device("cpu")
            return FeatureExtractor(part, part.train(IMAGES, LABELS, cpu), cpu)

        extractor = made()
        assert made().digest == extractor.digest
        features, logits = extractor(IMAGES)
        torch.testing.assert_close(features[3:5], extractor(IMAGES[3:5])[0])
        assert (logits is not None) == part.classifies
        assert features.dtype == torch.float32
        values.append(features)
    assert all(torch.equal(values[0], each) for each in values)


def test_custom_measures_and_extractors_run_from_the_command_line(outside):
    """Test an interval, a trained extractor that is named by its folder, and an edit that changes
    the features."""
    words = ("images=data/digits.h5", "dataset=digits", "samples=90")
    said = succeeded(call(outside, "evaluate", *words, "metric=mymetrics:MeanShift@mymetrics:Rows"))
    assert re.match(r"md-rows of 90 images: 0\.0\d+ ± 0\.0\d+\n", said.stdout)
    config = "name: fd-trained\nextractor: {kind: mymetrics:Trained}\n"
    (outside / "configs/metric").mkdir(parents=True)
    (outside / "configs/metric/fd-trained.yaml").write_text(config)
    metric = compose_metric("recall@mymetrics:Trained")
    assert (metric.name, metric.features) == ("recall-trained", "fd-trained")
    pair = "metric=recall@mymetrics:Trained"
    made_by = "fd-trained/manifest.json: no such file; run psld train_extractor"
    refused(call(outside, "evaluate", *words, pair), 2, made_by)
    said = succeeded(call(outside, "train_extractor", pair)).stdout
    assert re.search(r"accuracy [3-9]\d\.\d% on train, [3-9]\d\.\d% on test", said)
    torch.manual_seed(1)
    succeeded(call(outside, "train_extractor", pair, "output=again"))
    folders = outside / "again", outside / "features/digits/fd-trained"
    check_equal(*(load_trained(folder).network.state_dict() for folder in folders))
    text = MODULE.replace('"A linear', '"A (linear')
    (outside / "mymetrics.py").write_text(text)
    said = succeeded(call(outside, "evaluate", *words, pair)).stdout
    assert said.startswith("recall-trained of 90 images: ")
    (outside / "mymetrics.py").write_text(text.replace("range(20)", "range(3)"))
    changed = "features/digits/fd-trained: metric.extractor: code was ", "; delete it, or run psld"
    refused(call(outside, "reference", "metric=fd-trained"), 2, *changed)
    given = ("metric=fd-classifier", "extractor=features/digits/fd-trained")
    done = call(outside, "evaluate", *words, *given)
    refused(done, 2, "features/digits/fd-trained: its extractor mymetrics:Trained has code ")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("def digest(self)", "def digestt(self)", "build returns a function, whose features need"),
        ('word = "rows"', 'word = "pixels"', "fd-pixels.yaml has this name and other settings"),
    ],
)
def test_features_without_a_digest_and_duplicate_names_are_refused(outside, old, new, said):
    edit(outside / "mymetrics.py", old, new)
    words = ("images=data/digits.h5", "dataset=digits", "samples=90", "output=x.json")
    word = "metric=mymetrics:MeanShift@mymetrics:Rows"
    refused(call(outside, "evaluate", *words, word), 2, "mymetrics", said)
    assert not (outside / "x.json").exists()
