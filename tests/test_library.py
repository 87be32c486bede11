"""The library with a hardly trained model, and the code of docs/library.md."""

import contextlib
import inspect
import io
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import psld
from psld.diffusion.denoiser import StraightDenoiser
from psld.diffusion.likelihood import log_likelihood
from psld.diffusion.loss import Batch, EpsilonLoss
from psld.diffusion.process import LinearProcess
from psld.networks.forward import enough_threads
from psld.training.batches import Batches
from psld.utils.errors import RunError, UserError
from tests.commands import TINY, call, run, succeeded
from tests.diffusion.mixture import Mixture
from tests.diffusion.processes import phase_space, vp_sde
from tests.hub import empty_hub
from tests.workflow.project import REPOSITORY

PAGE = (REPOSITORY / "docs" / "library.md").read_text()

SECTIONS = dict(re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))

NEEDS = {
    "Export to ONNX": ("onnxruntime", "onnxscript"),
    "Run somebody else's sampler": ("diffusers",),
}
"""The packages that only this section needs, not psld."""

OWN_TEST = "The training loop"


@pytest.fixture(scope="module")
def folder(digits, starts, model, features, tmp_path_factory) -> Path:
    """A folder with files as after the demo: two models, their initial distribution and an
    extractor."""
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(starts, folder, dirs_exist_ok=True)
    denoiser = (*TINY, "training.objective=denoiser", "training.steps=5", f"data={digits}")
    succeeded(call(folder, "train", *denoiser, "output=models/demo/denoiser-psld"))
    shutil.copytree(model, folder / "models" / "demo" / "psld-0.02")
    shutil.copytree(features, folder / "features" / "digits" / "fd-classifier")
    (folder / "data").mkdir()
    for end in (".h5", ".json"):
        shutil.copy(digits.with_suffix(end), folder / "data")
    return folder


def test_every_section_has_code():
    assert len(SECTIONS) == PAGE.count("\n## ") == PAGE.count("```python")


@pytest.mark.parametrize(
    "section",
    [
        pytest.param(section, marks=[pytest.mark.slow] * ("Export" in section))
        for section in SECTIONS
        if section != OWN_TEST
    ],
)
def test_a_section_runs(section, folder, tmp_path):
    names = {}  # of this section alone
    with contextlib.chdir(folder), contextlib.ExitStack() as stack:
        if section in ("Models that travel", *NEEDS):  # diffusers imports the Hub's library
            stack.enter_context(empty_hub(tmp_path))
        for package in NEEDS.get(section, ()):
            pytest.importorskip(package)
        if section == "Models that travel":
            succeeded(call(folder, *re.search(r"^psld (push [^#]*)", PAGE, re.M)[1].split()))
        exec(SECTIONS[section], names)
    assert "images" not in names or names["images"].isfinite().all()
    if section == "Sample from a model":
        assert (folder / "sixteen.png").stat().st_size > 100


def test_the_loop_of_the_page_resumes_to_the_bit(digits, tmp_path):
    assert SECTIONS[OWN_TEST].count("\n") <= 50
    weights, draw = [], Batches.draw

    def killed(batches: Batches, step: int) -> Batch:
        if step == 13:
            raise KeyboardInterrupt
        return draw(batches, step)

    for folder in (tmp_path / "whole", tmp_path / "killed"):
        (folder / "data").mkdir(parents=True)
        for end in (".h5", ".json"):
            shutil.copy(digits.with_suffix(end), folder / "data")
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            if folder.name == "killed":
                patch.setattr(Batches, "draw", killed)
                with pytest.raises(KeyboardInterrupt):
                    exec(SECTIONS[OWN_TEST], {})
                patch.undo()
            exec(SECTIONS[OWN_TEST], names := {})
            assert len(names["state"].history) == 2
            weights.append(psld.load("mine/loop").weights_sha256)
    assert weights[0] == weights[1]


class Perfect(nn.Module):
    """The network of a perfect training on pixels with a known distribution."""

    LAW = Mixture(weights=(0.5, 0.5), means=(-0.6, 0.5), deviations=(0.1, 0.2))

    def __init__(self, process: LinearProcess) -> None:
        super().__init__()
        self.eps, self.threads = self.LAW.network(process), set()

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        self.threads.add(torch.get_num_threads())
        return self.eps(z, t)


@pytest.mark.parametrize("process", [phase_space(0.02), vp_sde()])
def test_the_integrator_of_the_examples_makes_images(process, tmp_path, monkeypatch):
    """This includes processes with momentum, for which Euler steps of the probability flow grow."""
    shutil.copy(REPOSITORY / "docs/examples/blend.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    network, threads = Perfect(process).eval(), torch.get_num_threads()
    given = {"sampler": "blend:Blend", "striding": "quadratic", "steps": 50, "raw": True}
    torch.set_num_threads(3)
    try:
        images, straight = (
            psld.sample(process, network, (16, 1, 8, 8), **given, strength=strength)
            for strength in (0.7, 0.0)
        )
    finally:
        torch.set_num_threads(threads)
    spread = [torch.linspace(0.5 / n, 1 - 0.5 / n, n) for n in (32, 32)]
    law = Perfect.LAW.draw(
        *(torch.special.ndtri(x).flatten() for x in torch.meshgrid(*spread, indexing="ij"))
    )
    error, straight_error = (
        float((each.flatten().sort().values - law.sort().values).abs().mean())
        for each in (images, straight)
    )
    assert error < 0.05
    assert (straight_error > 0.15) == (process.blocks == 2), "as the example says"
    assert network.threads == {1}, "as in model.sample"


def test_the_integrator_of_the_examples_runs_in_python_as_it_says(folder, tmp_path, monkeypatch):
    """No option of this sampler has the name of an argument of `sample`."""
    shutil.copy(REPOSITORY / "docs/examples/blend.py", tmp_path)
    monkeypatch.chdir(tmp_path)
    line = re.search(r"In Python: (.*)\.$", Path("blend.py").read_text(), re.MULTILINE)[1]
    model = psld.load(folder / "models" / "demo" / "psld-0.02", device="cpu")
    assert eval(line, {"model": model}).shape == (64, 1, 8, 8)


@pytest.mark.parametrize("name", [name for name in psld.__all__ if name != "__version__"])
def test_the_example_of_a_public_name_runs(name, folder):
    """The example is the indented block in the docstring, which the API pages show."""
    text = inspect.getdoc(getattr(psld, name))
    example = re.search(r"\n\n((?:(?: {4}.*)?\n)+)", text + "\n\n")
    assert example, text
    with contextlib.chdir(folder):
        exec(textwrap.dedent(example[1]), {"psld": psld, "torch": torch})


@pytest.mark.slow
def test_the_api_pages_have_the_public_names(tmp_path):
    succeeded(run(REPOSITORY, ["make", "docs", "INSTALLED=", f"API={tmp_path}"]))
    pages = ("library", "training/saving", "evaluation/images", "data/images")
    text = "".join((tmp_path / "psld" / f"{page}.html").read_text() for page in pages)
    assert all(f'id="{name}"' in text for name in psld.__all__ if name != "__version__")
    assert (tmp_path / "psld" / "diffusion" / "process.html").exists()


FEW = {"sampler": "multistep", "steps": 4}


def test_settings_of_a_sampler_are_values_of_python(model):
    """None is a value, not the default, and a tuple is equivalent to a YAML list."""
    loaded = psld.load(model)
    interval, everywhere, narrow = (
        loaded.sample(8, **FEW, eta_interval=levels) for levels in ((0.02, 0.5), None, [0.1, 0.5])
    )
    assert torch.equal(interval, loaded.sample(8, **FEW))
    assert torch.equal(narrow, loaded.sample(8, **FEW, eta_interval="[0.1,0.5]"))
    assert not torch.equal(interval, everywhere)
    assert not torch.equal(interval, narrow)
    with pytest.raises(UserError, match=r"sample\(\): .*etas"):
        loaded.sample(8, **FEW, etas=1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sampler": "nosuch"}, "sampler=nosuch: no such sampler; there are: .*multistep"),
        ({"steps": 1}, "sampler: steps is 1; at least 2 are needed"),
        ({"step": 3}, r"unknown key step \(is steps meant\?\)"),
        ({"sampler": "rk45", "steps": 5}, "unknown key steps "),
        ({"order": 9}, "order: Input should be less than or equal to 3"),
        ({"n": 0}, r"n: Input should be greater than or equal to 1 \(got 0\)$"),
        ({"n": True}, r"n: Input should be a valid integer \(got True\)$"),
        ({"n": 10**30}, "n: Input should be less than or equal to 1000000000000 "),
        ({"seed": torch.tensor(0.5)}, r"seed: Input should be a valid integer \(got 0.5\)$"),
        ({"batch_size": 0}, "batch_size: Input should be greater than or equal to 1 "),
        ({"scale": 3}, "scale: there is no guidance to scale; give a label or a guide"),
        ({"label": True}, "label: must be a class number, a class name or a list of"),
        ({"label": 3}, "classifier-free guidance needs a class-conditional model; .* a guide"),
        ({"sampler": "rk45", "precision": "bf16"}, "sampler: the rounding error of bf16 exceeds"),
    ],
)
def test_errors_are_in_the_words_of_the_call(model, wrong, said):
    with pytest.raises(UserError, match=rf"^sample\(\): {said}") as refused:
        psld.load(model).sample(**{"n": 2, **wrong})
    assert "sampler." not in str(refused.value)


def test_shapes_that_do_not_fit_are_refused(model):
    loaded = psld.load(model)
    with pytest.raises(UserError, match=r"sample\(\): shape: Tuple should have at least 4 items"):
        psld.sample(loaded.process, loaded.network, (1, 8, 8), **FEW)
    with pytest.raises(UserError, match=r"images of \(2, 8, 8\), not \(6, 8, 8\)"):
        psld.sample(loaded.process, loaded.network, (2, 3, 8, 8), **FEW)
    known = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)
    with pytest.raises(
        UserError, match=r"inpainting: got images of \(2, 1, 8, 8\) .*; expected \(4,"
    ):
        psld.sample(loaded.process, loaded.network, (4, 1, 8, 8), **FEW, inpainting=known)
    process, network, shape = phase_space(0.02), Own(lambda z: z).eval(), (2, 3, 8, 8)
    known = torch.zeros(shape), torch.ones(shape)
    with pytest.raises(UserError, match=r"mask of \(2, 3, 8, 8\); expected .* and \(2, 1, 8, 8\)"):
        psld.sample(process, network, shape, **FEW, inpainting=known)


def test_arrays_are_values_and_no_seed_is_a_random_one_that_is_printed(model, capsys):
    loaded = psld.load(model)
    one, other = (
        loaded.sample(np.int64(2), sampler="multistep", steps=4, eta_interval=interval)
        for interval in (np.array([0.1, 0.5]), [0.1, 0.5])
    )
    assert torch.equal(one, other)
    images = [loaded.sample(2, **FEW, seed=None) for _ in range(2)]
    assert not torch.equal(*images)
    first, _ = re.findall(r"^seed=(\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert torch.equal(images[0], loaded.sample(2, **FEW, seed=torch.tensor(int(first))))


def test_a_small_network_computes_in_one_thread(model):
    """Afterwards, torch's setting is unchanged."""
    loaded, before, threads = psld.load(model), torch.get_num_threads(), set()
    loaded.network.register_forward_hook(lambda *_: threads.add(torch.get_num_threads()))
    torch.set_num_threads(3)
    try:
        loaded.sample(2, **FEW)
        assert (threads, torch.get_num_threads()) == ({1}, 3)
        with enough_threads(loaded.network, images=100, pixels=64, least=1e4):
            assert torch.get_num_threads() == 3, "many images are worth them"
    finally:
        torch.set_num_threads(before)


def test_known_pixels_are_kept(model):
    loaded = psld.load(model)
    images, mask = torch.rand(4, 1, 8, 8) * 2 - 1, torch.ones(4, 1, 8, 8)
    mask[..., 4:] = 0
    options = {**FEW, "inpainting": (images, mask), "raw": True}
    filled = psld.sample(loaded.process, loaded.network, (4, 1, 8, 8), **options)
    assert filled.equal(loaded.sample(4, **options))
    for wrong, said in (
        ((images * 127.5 + 127.5, mask), r"the images must be in \[−1, 1\]; for bytes, x / 127.5"),
        ((images, mask * 255), r"the mask must be 1 for a known pixel, else 0; for bytes, x > 127"),
        ((images, mask / 2), "the mask must be 1 for a known pixel"),
    ):
        with pytest.raises(UserError, match=rf"^sample\(\): inpainting: {said}"):
            loaded.sample(4, **options | {"inpainting": wrong})
    with pytest.raises(UserError, match=r"inpainting: it needs start=prior"):
        loaded.sample(4, **options | {"sampler": "few"})
    torch.testing.assert_close(filled[..., :4], images[..., :4])
    assert (filled[..., 4:] - images[..., 4:]).abs().mean() > 0.1


def test_a_loaded_model_is_frozen_and_can_be_trained_on(model):
    loaded = psld.load(model)
    z, t = torch.ones(1, 2, 8, 8, requires_grad=True), torch.ones(1)
    assert not loaded.network(z.detach(), t).requires_grad
    loaded.network(z, t).sum().backward()
    assert z.grad.abs().sum() > 0
    loaded.network.requires_grad_(True)
    loaded.network(z, t).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.network.parameters())


def test_sampling_shows_its_progress_and_other_work_if_it_is_asked_for(
    model, features, monkeypatch
):
    """The output is a terminal, on which commands show progress."""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    loaded, extractor = psld.load(model), psld.load_extractor(features)
    for sampling, other in (({"progress": False}, {}), ({}, {"progress": True})):
        assert terminal.getvalue() == ""
        images = loaded.sample(8, **FEW, **sampling)
        psld.sample(loaded.process, loaded.network, (8, 1, 8, 8), **FEW, **sampling)
        psld.distance(images, images, extractor, **other)
    assert len(re.findall(r"sampling: +0%", terminal.getvalue())) == 2
    assert "features: 100%" in terminal.getvalue()


def test_a_log_gets_lines_of_long_work(model, features, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("psld.utils.progress.LINE_SECONDS", 0)
    images = psld.load(model).sample(8, **FEW, progress=True)
    psld.distance(images, images, psld.load_extractor(features), progress=True)
    for number, image in enumerate(images):
        psld.save_images(image[None], tmp_path / f"{number}.png")
    psld.load_images(tmp_path, progress=True)
    out, err = capsys.readouterr()
    for work in "sampling: step 1 of ", "features: image 8 of 8, ", "image 1 of 8, ":
        assert work in out
    assert err == ""


def test_a_denoiser_is_for_its_number_of_images(model):
    denoise = psld.denoiser(psld.load(model), n=4)
    with pytest.raises(UserError, match=r"y has the shape \(5, 1, 8, 8\); expected \(4, 1, 8, 8\)"):
        denoise(torch.zeros(5, 1, 8, 8), 1.0)


def test_a_network_is_no_denoiser_at_times_before_those_of_its_training(model):
    loaded = psld.load(model)
    training = loaded.settings.training.model_copy(update={"time_eps": 0.01})
    late = replace(loaded, settings=loaded.settings.model_copy(update={"training": training}))
    assert [psld.denoiser(each, n=1).final_time for each in (loaded, late)] == [1e-3, 0.01]


def test_a_model_is_found_by_its_name_and_a_wrong_name_gets_a_question(folder):
    with contextlib.chdir(folder):
        assert psld.load("demo/psld-0.02").folder == Path("models/demo/psld-0.02")
        for wrong in ("models/demo/psld-0.03", "demo/psld-0.03", "psld"):
            said = rf"^{wrong}: no such model \(is models/demo/psld-0.02 meant\?\)"
            with pytest.raises(UserError, match=said):
                psld.load(wrong)
        said = r"weights\.safetensors: not a folder; the one that has"
        with pytest.raises(UserError, match=said):
            psld.load("models/demo/psld-0.02/weights.safetensors")


def test_what_is_printed_is_short(model, features):
    facts = r"psld Γ = 0\.\d+ on digits, 1×8×8, [\d,]+ parameters, cpu"
    assert re.fullmatch(f"<LoadedModel {model}: {facts}>", str(psld.load(model)))
    images = torch.randint(256, (2, 60, 1, 8, 8), dtype=torch.uint8)
    result = psld.evaluate(*images, "fd-classifier", extractor=features)
    assert str(result).startswith(f"metric='fd-classifier' value={result.value} samples=60 ")
    assert len(str(result)) < 300


def test_the_users_warning_filters_stay():
    """Warnings about the user's own pictures are not suppressed."""
    others = "import warnings, torch, tqdm.auto, PIL.Image, h5py, pydantic; b = [*warnings.filters]"
    program = f"{others}; import psld.library; assert warnings.filters == b, warnings.filters"
    subprocess.run([sys.executable, "-c", program], check=True)


class Own(nn.Module):
    """A network of a user that contains a function and dropout."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.dropout = function, nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, level: torch.Tensor | None = None) -> torch.Tensor:
        return self.function(self.dropout(x) if self.training else x)


def half(x: torch.Tensor) -> torch.Tensor:
    return x / 2


def zeroing(x: torch.Tensor) -> torch.Tensor:
    result = x / 2
    x.zero_()
    return result


EVERY_LEVEL = ((1, 8, 8), 0, float("inf"))


def test_a_network_with_other_channels_is_refused():
    """Otherwise torch would broadcast the single channel to both blocks without an error."""
    process, network = phase_space(0.02), Own(lambda z: z[:, :1]).eval()
    said = r"predicts \(3, 1, 8, 8\) for states .*needs 2 channels: ε in 2 of 2 blocks"
    with pytest.raises(UserError, match=rf"sample\(\): network: {said}"):
        psld.sample(process, network, (3, 1, 8, 8), **FEW)
    x, t = torch.zeros(3, 1, 8, 8), torch.full((3,), 0.5, dtype=torch.float64)
    with pytest.raises(UserError, match=said):
        EpsilonLoss(process)(network, Batch(x, t, torch.zeros(3, 2, 8, 8), None))
    with pytest.raises(UserError, match=said):
        log_likelihood(process, network, x, torch.randn_like)
    with pytest.raises(UserError, match=said):
        StraightDenoiser(process, network, x)(x, 1.0)


def test_a_network_may_change_its_input():
    options = {"sampler": "em", "raw": True, "steps": 4}
    process, shape = phase_space(0.02), (3, 1, 8, 8)
    networks = [Own(function).eval() for function in (half, zeroing)]
    one, other = (psld.sample(process, network, shape, **options) for network in networks)
    assert torch.equal(one, other)
    models = [psld.from_denoiser(network, *EVERY_LEVEL) for network in networks]
    one, other = (theirs.sample(3, **options) for theirs in models)
    assert torch.equal(one, other)


def test_a_network_in_training_mode_is_refused(model):
    """Otherwise equal seeds would give different images, which depend on the batch size."""
    loaded, process, shape = psld.load(model), phase_space(0.02), (2, 1, 8, 8)
    network = Own(half).eval()
    theirs = psld.from_denoiser(network, *EVERY_LEVEL)
    exported = torch.export.export(network, (torch.zeros(2, 2, 8, 8), torch.ones(2))).module()
    calls = {
        loaded.network: lambda: loaded.sample(2, **FEW),
        theirs.network: lambda: theirs.sample(2, **FEW, precision="bf16"),
        network: lambda: psld.sample(process, network, shape, **FEW),
    }
    for trained, sampled in calls.items():
        sampled()
        trained.train()
        said = r"^sample\(\): the network is in training mode, .* call its eval\(\) first$"
        with pytest.raises(UserError, match=said):
            sampled()
        trained.eval()
    psld.sample(process, exported, shape, **FEW)
    with pytest.raises(UserError, match=r"^from_denoiser\(\): the network is in training mode"):
        psld.from_denoiser(Own(half), *EVERY_LEVEL)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sigma_min": "0.1"}, r"sigma_min: Input should be a valid number \(got '0.1'\)$"),
        ({"images": "digits"}, "images: not an array of images"),
        ({"images": torch.zeros(20, 1, 8, 8)}, "images: got torch.float32 "),
    ],
)
def test_a_denoiser_that_cannot_be_one_is_refused(wrong, said):
    given = {"network": Own(half).eval(), "shape": (1, 8, 8), "sigma_min": 0, "sigma_max": 80}
    with pytest.raises(UserError, match=rf"^from_denoiser\(\): {said}"):
        psld.from_denoiser(**given | wrong)


def test_a_prediction_that_is_no_tensor_is_named():
    network, process = Own(lambda _: None).eval(), phase_space(0.02)
    with pytest.raises(UserError, match="network: predicts a NoneType in place of a tensor for"):
        psld.sample(process, network, (2, 1, 8, 8), **FEW)
    with pytest.raises(UserError, match="denoiser: predicts a NoneType in place of a tensor for"):
        psld.from_denoiser(network, *EVERY_LEVEL).sample(2, **FEW)


def test_the_users_default_type_changes_nothing(model, features):
    """The default dtype affects neither samples nor measured values, and known pixels may have any
    float dtype."""
    images, others = torch.randint(256, (2, 60, 1, 8, 8), dtype=torch.uint8)
    x = images[:3] / 127.5 - 1
    known = x.double(), torch.zeros(3, 1, 8, 8)
    few, em = ({"sampler": name, "steps": 4, "raw": True} for name in ("few", "em"))
    noise = torch.randn(3, 4, 8, 8)

    def signs(z: torch.Tensor) -> torch.Tensor:
        return noise[:, : z.shape[1]].to(z)

    def results() -> list:
        loaded = psld.load(model)
        theirs = psld.from_denoiser(Own(half).eval(), (1, 8, 8), 0.002, 80, images=images)
        extractor = psld.load_extractor(features)
        metrics = {"fd-classifier": features, "kernel@pixels": None}
        likelihood = log_likelihood(loaded.process, loaded.eps(), x, signs, tolerance=1e-2)
        return [
            loaded.sample(3, **em),
            loaded.sample(3, **em, inpainting=known),
            psld.sample(loaded.process, loaded.network, (3, 1, 8, 8), **em),
            loaded.sample(3, **few),
            theirs.sample(3, **few),
            psld.denoiser(loaded, n=3)(x, 0.5),
            likelihood.log_likelihood.float(),
            psld.distance(images, others, extractor),
            *(
                psld.evaluate(images, others, metric, extractor=each).interval
                for metric, each in metrics.items()
            ),
        ]

    expected = results()
    torch.set_default_dtype(torch.float64)
    try:
        found = results()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(expected, found, strict=True):
        if isinstance(one, torch.Tensor):
            assert one.dtype == torch.float32
            assert torch.equal(one, other)
        else:
            assert one == other


def test_the_users_autocast_changes_no_distance(features):
    images = torch.randint(256, (2, 60, 1, 8, 8), dtype=torch.uint8)
    extractor = psld.load_extractor(features)

    def measured() -> tuple[float, float]:
        result = psld.evaluate(*images, "fd-classifier", extractor=features)
        return psld.distance(*images, extractor), result.value

    plain = measured()
    with torch.autocast("cpu", torch.bfloat16):
        assert measured() == plain


def test_images_are_arrays_and_tensors_of_any_strides(features):
    images, others = torch.randint(256, (2, 60, 1, 8, 8), dtype=torch.uint8)
    extractor = psld.load_extractor(features)
    expected = psld.distance(images.flip(2), others, extractor)
    assert psld.distance(images.numpy()[:, :, ::-1], others, extractor) == expected
    seen = images.numpy()[::-1]
    assert psld.from_denoiser(Own(half).eval(), *EVERY_LEVEL, images=seen).images.equal(
        images.flip(0)
    )


def test_a_distance_is_in_the_features_of_a_module_or_a_function():
    images = torch.randint(256, (2, 90, 1, 8, 8), dtype=torch.uint8)
    expected = psld.distance(*images, "pixels")

    def pixels(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) / 255

    for extractor in (pixels, Own(pixels).eval()):
        assert psld.distance(*images, extractor) == pytest.approx(expected)
    with pytest.raises(UserError, match="the extractor is in training mode"):
        psld.distance(*images, Own(pixels))


@pytest.mark.parametrize("wrong", [None, [[1], [2, 3]]])
def test_images_that_are_none_are_named(wrong, features, tmp_path):
    images = torch.randint(256, (9, 1, 8, 8), dtype=torch.uint8)
    with pytest.raises(UserError, match=r"^images: not an array of images"):
        psld.distance(wrong, images, psld.load_extractor(features))
    with pytest.raises(UserError, match=r"^reference: float32 of 9×1×8×8; uint8 N×C×H×W"):
        psld.distance(images, images / 127.5 - 1, features)
    with pytest.raises(UserError, match=r"x\.png: "):
        psld.save_images(wrong, tmp_path / "x.png")
    with pytest.raises(UserError, match=r"^reference: not an array"):
        psld.evaluate(images, wrong, "fd-classifier", extractor=features)


@pytest.mark.parametrize(
    "call",
    [
        lambda: psld.load("x" * 5000),
        lambda: psld.evaluate("x" * 5000, "y", "fd-pixels"),
        lambda: psld.save_images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), f"{'x' * 300}.png"),
        lambda: psld.load_images("/proc/self"),  # the dictionary changes while it is listed
    ],
)
def test_what_a_command_says_in_one_line_is_an_error_of_the_library(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"File name too long|/proc/self"):
        call()


def test_what_cannot_be_is_said_at_once(model):
    loaded = psld.load(model)
    with pytest.raises(RunError, match=r"^out of memory|^sample\(\): out of memory"):
        loaded.sample(10**12, **FEW)
    with pytest.raises(UserError, match=r"^sample\(\): steps: .* less than or equal to 100000"):
        loaded.sample(1, sampler="em", steps=10**9)
