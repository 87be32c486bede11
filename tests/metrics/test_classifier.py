"""The feature classifier: deterministic, accurate, and for any labeled dataset."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from psld.evaluation.folders import accuracy
from psld.metrics import classifier
from psld.metrics.classifier import ImageShape, shifted
from psld.metrics.extraction import FeatureExtractor, batches_of, gather
from psld.metrics.settings import ClassifierSettings
from psld.utils.errors import RunError, UserError

QUICK = ClassifierSettings(kind="classifier", width=4, features=8, steps=3, batch_size=16)


def train(settings: ClassifierSettings, images: np.ndarray, labels: np.ndarray) -> FeatureExtractor:
    arrays = (torch.from_numpy(np.array(each)) for each in (images, labels))
    return FeatureExtractor(settings, settings.train(*arrays, torch.device("cpu")), "cpu")


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits in a random order, because the dataset repeats the sequence 0…9."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return np.round(data.images * 255 / 16).astype(np.uint8)[order, None], data.target[order]


@pytest.fixture(scope="module")
def trained() -> FeatureExtractor:
    images, labels = digits()
    settings = ClassifierSettings(kind="classifier", steps=60)
    return train(settings, images[:1000], labels[:1000])


def test_features_are_standardized_over_the_training_images(trained):
    """Then the trace of the covariance of the features, which determines the scale of distances, is
    near d."""
    images, _ = digits()
    training = images[:1000]
    features = gather(trained, batches_of(training, 256), "digits", len(training))
    statistics = features.total
    variances = statistics.covariance.diagonal()
    assert statistics.mean.abs().max() < 0.3
    assert 0.8 < variances.mean() < 1.25


def test_logits_belong_to_the_features(trained):
    features, logits = trained(torch.from_numpy(digits()[0][:5]))
    assert features.shape == (5, 32)
    torch.testing.assert_close(logits, trained.network.head(torch.nn.functional.silu(features)))


def test_the_seed_determines_the_weights_and_the_global_generator_is_unchanged():
    images, labels = digits()
    torch.manual_seed(1)
    first = train(QUICK, images, labels)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = train(QUICK, images, labels)
    other = train(QUICK.model_copy(update={"seed": 1}), images, labels)
    assert first.digest == again.digest != other.digest
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_determines_the_batches(monkeypatch):
    monkeypatch.setattr(classifier, "stream_seed", lambda seed, *stream: 0)  # equal first weights
    images, labels = digits()
    settings = [QUICK.model_copy(update={"seed": seed}) for seed in (0, 1)]
    first, second = (train(each, images, labels) for each in settings)
    assert first.digest != second.digest


def test_the_learning_rate_rises_and_falls_and_each_step_has_its_own_gradient(monkeypatch):
    """With equal batches, gradients that are not reset would double in the second step."""
    rates, norms = [], []

    class Noted(torch.optim.AdamW):
        def step(self, *given):
            rates.append(self.param_groups[0]["lr"])
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(sum(g.square().sum().item() for g in gradients) ** 0.5)
            return super().step(*given)

    monkeypatch.setattr(torch.optim, "AdamW", Noted)
    images, labels = digits()
    quick = QUICK.model_copy(update={"steps": 10, "learning_rate": 1e-6, "shift": 0})
    same = np.repeat(images[:1], 16, axis=0), np.repeat(labels[:1], 16)
    train(quick, *same)
    assert len(rates) == 10
    assert (rates[0], max(rates)) == (pytest.approx(1e-6 / 25), pytest.approx(1e-6))
    assert rates.index(max(rates)) == 2, "three tenths of the steps rise"
    assert rates[-1] < 1e-10
    assert norms[-1] == pytest.approx(norms[0], rel=0.01)


def test_cudnn_is_deterministic_while_a_classifier_trains():
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    with classifier.deterministic():
        assert (cudnn.deterministic, cudnn.benchmark) == (True, False)
    assert (cudnn.deterministic, cudnn.benchmark) == before


def test_each_setting_of_a_training_changes_its_weights():
    digests = {train(QUICK, *digits()).digest}
    for key in ("steps", "batch_size", "learning_rate", "shift"):
        changed = QUICK.model_copy(update={key: 2 * getattr(QUICK, key)})
        digests.add(train(changed, *digits()).digest)
    assert len(digests) == 5


def test_the_accuracy_is_the_fraction_of_correct_labels_for_any_batch_size(trained):
    images, labels = digits()
    answers = trained(torch.from_numpy(images[1000:1100]))[1].argmax(dim=1).numpy()
    for size in (7, 100):
        found = accuracy(trained, images[1000:1100], labels[1000:1100], size)
        assert found == pytest.approx(np.mean(answers == labels[1000:1100]))
        assert found > 0.5


def test_images_are_halved_to_four_pixels_and_channels_doubled_twice():
    """Weights of earlier trainings have these shapes."""
    shape = ImageShape(channels=3, image_size=36, num_classes=7)
    weights = QUICK.build_trained(shape, torch.device("cpu")).state_dict()
    convolutions = [each.shape for each in weights.values() if each.ndim == 4]
    widths = [(4, 3), (8, 4), (8, 8), (16, 8), (16, 16), (16, 16), (16, 16), (16, 16), (16, 16)]
    assert convolutions == [(*pair, 3, 3) for pair in widths]
    assert [each.shape for each in weights.values() if each.ndim == 2] == [(8, 16 * 3**2), (7, 8)]


def test_color_images_of_an_odd_size_have_features():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 3, 9, 9), dtype=np.uint8)
    extractor = train(QUICK, images, random.integers(0, 3, 40))
    assert [each.shape for each in extractor(torch.from_numpy(images[:2]))] == [(2, 8), (2, 3)]


def test_images_of_another_shape_raise_user_errors(trained):
    for wrong in (torch.zeros(2, 1, 8, 8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(UserError, match=r"accepts uint8 images of \(1, 8, 8\)"):
            trained(wrong)


def test_divergence_raises_a_run_error():
    images, labels = digits()
    settings = QUICK.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(RunError, match="learning_rate"):
        train(settings, images, labels)


def test_shifts_move_whole_images_and_repeat_the_border():
    x = torch.arange(25.0).reshape(1, 1, 5, 5)
    by = [(torch.arange(5) + offset).clamp(0, 4) for offset in (-1, 0, 1)]
    expected = {tuple(x[0, 0][i][:, j].flatten().tolist()) for i in by for j in by}
    random = torch.Generator().manual_seed(0)
    batch = shifted(x.expand(300, 1, 5, 5), most=1, random=random)
    assert {tuple(image.flatten().tolist()) for image in batch} == expected
    assert len(expected) == 9
    assert torch.equal(shifted(x, most=0, random=random), x)
