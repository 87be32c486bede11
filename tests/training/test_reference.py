"""Compare losses, weights and EMA after a few steps with the official training code."""

import json

import pytest
import torch

from psld.diffusion.loss import EpsilonLoss
from psld.models.objectives import TrainingSettings
from psld.networks.ncsnpp import NCSNpp
from psld.paper.parameters import from_official
from psld.training.batches import Batch
from psld.training.loop import optimize
from psld.training.state import TrainingState
from tests.diffusion.processes import phase_space, vp_sde
from tests.paper.official_options import settings_from_spec
from tests.reference import load, mass_inverse, reference_files


def part(v, prefix):
    """Return the weights stored under w0/, w/ or ema/, by official name."""
    names = [name for name in v if name.startswith(prefix)]
    return {name.removeprefix(prefix): torch.from_numpy(v[name]) for name in names}


@pytest.mark.parametrize("path", reference_files("training_*.npz"), ids=lambda path: path.stem)
def test_training_reference(path):
    v = load(path)
    spec = json.loads(str(v["spec"]))
    if bool(v["vp"]):
        process = vp_sde()
    else:
        process = phase_space(
            float(v["gamma"]), mass_inverse=mass_inverse(v), matching=str(v["mode"])
        )
    settings = TrainingSettings(
        steps=len(v["losses"]),
        batch_size=v["x"].shape[1],
        learning_rate=float(v["lr"]),
        warmup_steps=int(v["warmup"]),
        grad_clip=float(v["grad_clip"]),
        ema_decay=float(v["ema_decay"]),
    )
    network = NCSNpp(settings_from_spec(spec), int(v["size"]), spec["in_ch"], spec["out_ch"])
    network.load_state_dict(from_official(part(v, "w0/"), network))
    state = TrainingState(network, settings)
    loss_of = EpsilonLoss(process, "fid")
    for step, expected in enumerate(v["losses"]):
        batch = Batch(
            x0=torch.from_numpy(v["x"][step]),
            t=torch.from_numpy(v["t"][step]),
            eps=torch.from_numpy(v["eps"][step]),
            auxiliary_eps=torch.from_numpy(v["m_noise"][step])
            if process.needs_auxiliary_noise
            else None,
        )
        network.train()
        loss, _ = optimize(state, network, loss_of, batch, settings)
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for prefix, actual in (("w/", network), ("ema/", state.average.network)):
        expected = from_official(part(v, prefix), network)
        for name, value in actual.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-5, msg=name)
    # In six steps the average moves by 1e-7, visible only in weights that start at 0.
    start = from_official(part(v, "w0/"), network)
    for name, value in state.average.network.state_dict().items():
        if not start[name].any():
            assert expected[name].any()
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-11, msg=name)
