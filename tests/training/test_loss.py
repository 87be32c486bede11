"""The images that a loss sees in a training: their deviation, start and noise."""

import pytest
import torch

from psld.data.store import ImageStore
from psld.diffusion.loss import NoisyImages
from psld.diffusion.settings import NoiseLaw
from psld.training.batches import Batches
from psld.training.settings import Start
from psld.training.start import deviation, measure_start
from tests.diffusion.mixture import dense
from tests.training.small import ONE_RANK, random_images, recipe


@pytest.mark.parametrize("flip", [False, True])
def test_deviation_and_start_are_those_of_what_the_training_sees(flip, digits):
    """The deviation is around the mean of each pixel."""
    store = ImageStore.open(digits)
    x = torch.from_numpy(store.images("train").copy()).double() / 127.5 - 1
    if flip:
        x = torch.cat([x, x.flip(-1)])
    assert deviation(store, flip) == pytest.approx(float(x.var(0, correction=0).mean().sqrt()))
    one = Start(components=())
    data = measure_start(store.images("train"), torch.device("cpu"), one, flip=flip).data
    mean, covariance = x.flatten(1).mean(0), x.flatten(1).T.cov(correction=0)
    torch.testing.assert_close(data.means[0].double(), mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(dense(data, 0).double(), covariance, atol=1e-2, rtol=0)


def test_batches_draw_noise_for_the_image_alone():
    batches = Batches(
        random_images(), False, NoisyImages(NoiseLaw()), recipe(batch_size=4), ONE_RANK
    )
    batch = batches.draw(0)
    assert batch.eps.shape == batch.x0.shape
    assert batch.auxiliary_eps is None
