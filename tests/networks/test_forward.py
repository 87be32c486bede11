"""Forward passes: in bfloat16, compiled, in the preconditioning of EDM, and CPU threads."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from psld.networks.forward import Denoiser, enough_threads, forward_pass
from psld.networks.ncsnpp import NCSNpp, NCSNppGuide, PositionalEmbedding
from tests.networks.networks import SIZE, images_and_times, small, small_guide, unsettled

FIR = {"resampling": "fir", "embedding": "fourier", "progressive_input": "residual"}
DDPM = {"block": "ddpm", "progressive_input": "input_skip", "progressive_combine": "cat"}
NETWORKS = {
    "FIR, with classes": lambda: NCSNpp(
        small(**FIR, progressive_output="output_skip"), SIZE, 2, 1, num_classes=3
    ),
    "DDPM": lambda: NCSNpp(small(**DDPM), SIZE, 2, 2),
    "denoiser": lambda: Denoiser(NCSNpp(small(), SIZE, 2, 2), 0.5, 1e-3, 80.0),
    "guide": lambda: NCSNppGuide(small_guide(), SIZE, 2, 4),
}


def output_and_gradient(network: nn.Module, called: nn.Module) -> tuple[Tensor, Tensor]:
    network.zero_grad()
    result = called(*images_and_times(batch=4))
    result.float().square().mean().backward()
    return result.detach(), torch.cat([p.grad.flatten() for p in network.parameters()])


@pytest.mark.parametrize("kind", ["FIR, with classes", "DDPM", "denoiser", "guide"])
def test_bf16_agrees_with_fp32(kind):
    network = unsettled(NETWORKS[kind]())
    pairs = zip(
        output_and_gradient(network, forward_pass(network, "bf16")),
        output_and_gradient(network, network),
        strict=True,
    )
    for half, exact in pairs:
        assert 0 < (half.float() - exact).norm() / exact.norm() < 0.1
    assert {p.dtype for p in network.parameters()} == {torch.float32}


class Casts(TorchDispatchMode):
    """Counts casts of single tensors, and casts of many tensors at once."""

    count = together = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default
        self.together += func is torch.ops.aten._foreach_copy_.default
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("kind", ["denoiser", "guide"])
def test_bf16_leaves_nothing_in_fp32_and_casts_weights_together(kind):
    """Only the output of a denoiser has the dtype of its input."""
    network, results = unsettled(NETWORKS[kind]()), []
    for module in network.modules():
        if not isinstance(module, PositionalEmbedding | Denoiser):
            module.register_forward_hook(lambda *call: results.append(call[2]))
    with Casts() as casts:
        output_and_gradient(network, forward_pass(network, "bf16"))
    types = [each.dtype for each in results if isinstance(each, Tensor)]
    assert len(types) > 40
    assert set(types) == {torch.bfloat16}
    assert casts.count < 5
    assert casts.together < len(list(network.parameters())) / 10, "there, and of gradients back"


@pytest.mark.slow
def test_compiled_networks_have_a_graph_for_each_number_of_images(monkeypatch):
    """A graph with a dynamic batch size, which torch would build by default, is slower.

    Each graph is complete: there are no graph breaks and no data-dependent control flow.
    """
    graphs = []

    def backend(graph, inputs, options):
        graphs.append(any(isinstance(each, torch.SymInt) for each in inputs))
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend, fullgraph=True))
    network = unsettled(NCSNpp(small(**FIR, channel_multipliers=(1, 2)), SIZE, 2, 2))
    called, plain = (forward_pass(network, "bf16", compile=compile) for compile in (True, False))
    for batch in (4, 2, 4):
        inputs = images_and_times(batch)
        torch.testing.assert_close(called(*inputs), plain(*inputs))
    assert graphs == [False, False]


@pytest.mark.parametrize("embedding", ["positional", "fourier"])
def test_a_denoiser_applies_the_preconditioning_of_edm(embedding):
    """F receives c_in y, ln σ / 4 and the label; Fourier features compute the logarithm."""
    s, label = 0.4, torch.tensor([0, 3])
    inner = unsettled(NCSNpp(small(embedding=embedding), SIZE, 2, 2, num_classes=3))
    denoiser = Denoiser(inner, s, 1e-3, 80.0)
    y, _ = images_and_times()
    sigma = torch.tensor([0.2, 7.0])
    total = (sigma**2 + s**2)[:, None, None, None]
    time = sigma**0.25 if embedding == "fourier" else sigma.log() / 4
    for given in ((), (label,)):
        F = inner(y / total.sqrt(), time, *given)
        expected = s**2 / total * y + sigma[:, None, None, None] * s / total.sqrt() * F
        torch.testing.assert_close(denoiser(y, sigma, *given), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(denoiser(y, 0.2)[0], denoiser(y, sigma)[0], rtol=1e-4, atol=1e-5)


def test_the_number_of_threads_follows_the_work():
    """The work is parameters × pixels × images; the number of threads never increases."""
    network, before = nn.Linear(9, 10), torch.get_num_threads()  # 100 parameters
    torch.set_num_threads(3)
    try:
        for images, pixels, threads in ((1, 1, 1), (5, 2, 1), (5, 3, 2), (10, 2, 2), (10, 9, 3)):
            with enough_threads(network, images, pixels, least=1000):
                assert torch.get_num_threads() == threads
            assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), enough_threads(network, 1, 1):
            _ = 1 / 0
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_bf16_accepts_custom_networks():
    image = torch.ones(1, 3, 4, 4)
    for network in (torch.nn.Conv2d(3, 3, 1), torch.nn.Identity()):
        called = forward_pass(network, "bf16")
        assert called(image).shape == image.shape
    assert forward_pass(torch.nn.Conv2d(3, 3, 1), "bf16")(image).dtype == torch.bfloat16


@pytest.mark.slow
def test_a_denoiser_is_exported_for_any_number_of_images():
    network = unsettled(NETWORKS["denoiser"]()).eval()
    n, given = torch.export.Dim("n"), images_and_times(batch=4)
    program = torch.export.export(network, given, dynamic_shapes=({0: n}, {0: n}))
    more = images_and_times(batch=7)
    torch.testing.assert_close(program.module()(*more), network(*more))
