"""Digests of samples, and samplers, models and guides that do not fit each other."""

import pytest

from benchmarks.settings import compose_model
from psld.config.compose import compose_content
from psld.config.settings import parse
from psld.sampling.named import compose_named, named_process
from psld.sampling.settings import check_fit, gaussians, images_digest, sampler_content
from psld.training.settings import TrainGuideSettings
from psld.utils.errors import UserError
from tests.diffusion.sampling import multistep


def sampler(words: str):
    return compose_named([*words.split()], "test").sampler


def guide(words: str) -> TrainGuideSettings:
    content = compose_content("train_guide", ["name=x", "grid_name=x", *words.split()], "test")
    return parse(TrainGuideSettings, content, "test")


def test_the_digest_of_images_includes_everything_that_determines_them():
    process = compose_model(["process=cld"], "test").process
    first = ["a", None, multistep(5), 0, 100, None]
    digests = {images_digest(*first)}
    others = ("b", "guide", multistep(6), 1, 50, process)
    for place, other in enumerate(others):
        digests.add(images_digest(*[*first[:place], other, *first[place + 1 :]]))
    assert len(digests) == 7


def test_unset_options_are_not_in_the_record_of_a_sampler():
    """A new option therefore does not change the digests of earlier samples."""
    content = sampler_content(multistep(5))
    assert not {"start", "fall", "start_level", "levels", "norms"} & content.keys()
    assert content["steps"] == 5
    chosen = multistep(5, start="mixture", start_level=2.0, fall=3.0)
    assert {"start": "mixture", "start_level": 2.0, "fall": 3.0}.items() <= (
        sampler_content(chosen).items()
    )
    assert sampler_content(multistep(5, precision="bf16"))["norms"] == "bf16"


def test_a_sampler_ends_at_or_after_the_smallest_training_time():
    model = compose_model(["training.time_eps=0.01"], "test")
    check_fit(multistep(5, final_time=0.01), model, None)
    with pytest.raises(UserError, match=r"use 0\.01 or more"):
        check_fit(multistep(5, final_time=0.0099), model, None)
    denoiser = compose_model(["training.time_eps=0.01", "training.objective=denoiser"], "test")
    check_fit(multistep(5, final_time=1e-3), denoiser, None)


GUIDED = "guidance@sampler.guidance=classifier"


@pytest.mark.parametrize(
    ("words", "guide_words", "said"),
    [
        ("", "", None),
        ("", "process=vp-sde training.objective=denoiser", None),
        ("sampler.guidance.official_time=true", "network.embedding=positional", None),
        ("", "dataset.num_classes=9", "dataset.num_classes 9, the model with 10"),
        ("", "dataset=fashion-mnist", "dataset.name fashion-mnist, the model with digits"),
        ("", None, "needs a guide; train a guide"),
        ("", "process.gamma=0.02", "trained with a different process"),
        (
            "sampler.guidance.official_time=true",
            "training.objective=denoiser network.embedding=positional",
            "this guide accepts noise levels, not times",
        ),
        (
            "sampler.guidance.official_time=true",
            "network.embedding=fourier",
            "embeds the logarithm of the time",
        ),
    ],
)
def test_a_guide_fits_its_model(words, guide_words, said):
    chosen = sampler(f"{GUIDED} {words}")
    given = chosen, compose_model([], "test"), None if guide_words is None else guide(guide_words)
    if said is None:
        assert check_fit(*given) == list(range(10)), "cycle is all classes"
        return
    with pytest.raises(UserError, match=said):
        check_fit(*given)


def test_a_dataset_without_classes_has_no_guidance_to_one():
    model = compose_model(["dataset=celeba64"], "test")
    with pytest.raises(UserError, match="needs classes, but dataset celeba64 has none"):
        check_fit(sampler(GUIDED), model, guide(""))


@pytest.mark.parametrize("label", [10, "[3,ten]"])
def test_a_class_that_the_dataset_does_not_have_is_named(label):
    model = compose_model(["training.label_dropout=0.1"], "test")
    free = "guidance@sampler.guidance=classifier-free sampler.guidance.label"
    assert check_fit(sampler(f"{free}=[9,0]"), model, None) == [9, 0]
    assert check_fit(sampler(f"{free}=two"), model, None, ("zero", "one", "two")) == [2]
    with pytest.raises(UserError, match="has no class"):
        check_fit(sampler(f"{free}={label}"), model, None)


def test_initial_distributions_are_described_by_their_number_of_gaussians():
    assert gaussians([1]) == gaussians([1, 1]) == "one Gaussian"
    assert gaussians([4]) == gaussians([4, 4]) == "4 Gaussians"
    assert gaussians([8, 1, 32]) == "1 to 32 Gaussians"


def test_a_process_is_a_name_or_a_name_with_settings():
    assert named_process("f()", "vp-sde").kind == "vp-sde"
    assert named_process("f()", {"psld": {"gamma": 0.25}}).gamma == 0.25
