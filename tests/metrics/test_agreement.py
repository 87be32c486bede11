"""All metrics from one pass, compared with torch-fidelity with the same network."""

import pytest
import torch
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from psld.config.settings import parse
from psld.metrics.extraction import batches_of, gather
from psld.metrics.features import Reference
from psld.metrics.settings import MetricSettings
from psld.utils.errors import RunError
from tests.metrics.random_networks import AsDataset, images

SAMPLES, REFERENCE = images(200, 256, seed=1), images(150, 240, seed=2)


class SmallNetwork(FeatureExtractorBase):
    """Seeded random weights behind both interfaces: torch-fidelity's and ours."""

    digest = "small"
    device = torch.device("cpu")

    def __init__(self, name: str = "small", features_list=("features", "logits"), **_) -> None:
        super().__init__(name, list(features_list))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Conv2d(3, 16, 8, 4), nn.SiLU(), nn.AvgPool2d(7))
            self.head = nn.Linear(16, 10)
        self.requires_grad_(False)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.body(x / 32 - 4).flatten(1)
        both = {"features": features, "logits": 10 * self.head(features)}
        return tuple(both[name] for name in self.features_list)


MEASURES = {
    "fid": {"kind": "frechet"},
    "kid": {"kind": "kernel", "subsets": 7, "subset_size": 50},
    "inception-score": {"kind": "inception-score", "splits": 3},
    "precision-inception": {"kind": "precision", "neighbors": 4},
    "recall-inception": {"kind": "recall", "neighbors": 4},
}


def setting(name: str) -> MetricSettings:
    content = {"name": name, "extractor": {"kind": "inception"}, "measure": MEASURES[name]}
    return parse(MetricSettings, content, "metric")


@pytest.fixture
def theirs(monkeypatch) -> dict[str, float]:
    monkeypatch.setitem(FEATURE_EXTRACTORS_REGISTRY, "small", SmallNetwork)
    return torch_fidelity.calculate_metrics(
        input1=AsDataset(SAMPLES),
        input2=AsDataset(REFERENCE),
        feature_extractor="small",
        cuda=False,
        batch_size=50,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
        **{"fid": True, "isc": True, "isc_splits": 3, "prc": True, "prc_neighborhood": 4},
        **{"kid": True, "kid_subsets": 7, "kid_subset_size": 50},
    )


def test_all_metrics_of_one_pass_agree_with_torch_fidelity(theirs):
    network = SmallNetwork()
    samples, reference = (
        gather(network, batches_of(x, 70), "images", len(x)) for x in (SAMPLES, REFERENCE)
    )
    whole = Reference(reference, None, reference)
    estimates = {name: setting(name).evaluate(samples, whole).estimate for name in MEASURES}
    values = {name: estimate.value for name, estimate in estimates.items()}
    assert values == {
        "fid": pytest.approx(theirs["frechet_inception_distance"], rel=1e-5),
        "kid": pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4),
        "inception-score": pytest.approx(theirs["inception_score_mean"], rel=1e-5),
        "precision-inception": pytest.approx(theirs["precision"], abs=1e-6),
        "recall-inception": pytest.approx(theirs["recall"], abs=1e-6),
    }
    for estimate in estimates.values():
        assert estimate.interval.low < estimate.value < estimate.interval.high
    assert values["inception-score"] > 1.05
    assert 0.1 < values["recall-inception"] < 0.9


@pytest.mark.parametrize("name", ["fid", "kid", "inception-score"])
def test_features_that_are_not_finite_raise_a_run_error(name):
    samples = gather(SmallNetwork(), batches_of(SAMPLES, 70), "images", len(SAMPLES))
    samples.values[7, 2] = samples.logits[7, 2] = float("nan")
    with pytest.raises(RunError, match="NaN or infinity"):
        setting(name).evaluate(samples, Reference(samples, None, samples))
