import pytest
import torch

from psld.networks.ncsnpp import NCSNppGuide
from psld.utils.errors import UserError
from tests.networks.networks import SIZE, images_and_times, small_guide, unsettled


@pytest.mark.parametrize("block", ["biggan", "ddpm"])
def test_logits_train_every_parameter(block):
    guide = unsettled(NCSNppGuide(small_guide(block=block), SIZE, 2, 5)).train()
    x, t = images_and_times(batch=3)
    logits = guide(x, t)
    assert logits.shape == (3, 5)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2, 4])).backward()
    assert [name for name, p in guide.named_parameters() if p.grad is None] == []


def test_gradient_with_respect_to_the_image_is_per_image():
    """What guidance uses: the logit of one image depends on that image alone."""
    guide = unsettled(NCSNppGuide(small_guide(), SIZE, 2, 5))
    x, t = images_and_times(batch=3)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(guide(x, t)[1, 0], x)
    assert gradient[1].abs().max() > 0
    assert gradient[0].abs().max() == gradient[2].abs().max() == 0


def test_logits_depend_on_time():
    guide = unsettled(NCSNppGuide(small_guide(), SIZE, 2, 5))
    x, _ = images_and_times(batch=1)
    early, late = guide(x, torch.tensor([0.1])), guide(x, torch.tensor([0.9]))
    assert not torch.allclose(early, late, atol=1e-3)


def test_image_of_another_size():
    guide = NCSNppGuide(small_guide(), SIZE, 2, 5)
    with pytest.raises(UserError, match=r"\(2, 8, 8\), not \(2, 16, 16\)"):
        guide(torch.zeros(1, 2, 16, 16), torch.ones(1))
