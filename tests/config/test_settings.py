"""Settings: strict, frozen, and with one-line errors."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from psld.config.settings import Settings, parse
from psld.utils.errors import UserError


class Cat(Settings):
    kind: Literal["cat"]
    lives: int = Field(9, ge=1)


class Dog(Settings):
    kind: Literal["dog"]
    name: str

    @model_validator(mode="after")
    def _is_no_cat(self) -> "Dog":
        if self.name == "Cat":
            raise ValueError("a dog is no cat")
        return self


class House(Settings):
    animal: Annotated[Cat | Dog, Field(discriminator="kind")]
    rooms: tuple[int, ...] = ()
    door: Annotated[int, Field(ge=0)] | Literal["open"] = 0

    @model_validator(mode="after")
    def _dogs_need_room(self) -> "House":
        if self.animal.kind == "dog" and not self.rooms:
            raise ValueError("a dog needs a room")
        return self


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "x: animal is missing"),
        ({"animal": {"kind": "dog"}}, "x: animal.name is missing"),
        ({"animal": {"kind": "cat", "lifes": 7}}, "x: unknown key animal.lifes"),
        (
            {"animal": {"kind": "cat", "lives": 0}},
            "x: animal.lives: Input should be greater than or equal to 1 (got 0)",
        ),
        ({"animal": {"kind": "dog", "name": "Rex"}}, "x: (settings): a dog needs a room"),
        ({"animal": {"kind": "dog", "name": "Cat"}}, "x: animal: a dog is no cat"),
        (
            {"animal": {"kind": "cat"}, "door": "ajar"},
            "x: door: Input should be a valid integer, unable to parse string as an integer "
            "(got 'ajar'); door: Input should be 'open' (got 'ajar')",
        ),
        (
            {"animal": {"kind": "cat"}, "rooms": [1, "x"]},
            "x: rooms.1: Input should be a valid integer, unable to parse string as an integer "
            "(got 'x')",
        ),
        (
            {"animal": {"kind": "cat", "tail": 1}, "garden": 1},
            "x: unknown key animal.tail; unknown key garden",
        ),
    ],
)
def test_complaints_name_the_key_that_the_user_wrote(content, message):
    with pytest.raises(UserError) as caught:
        parse(House, content, where="x")
    assert str(caught.value) == message


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(UserError, match=r"^x: animal: .*'bird'.*'cat', 'dog'"):
        parse(House, {"animal": {"kind": "bird"}}, where="x")


def test_a_wrong_entry_of_a_list_is_named():
    with pytest.raises(UserError, match=r"^x: rooms\.1: .*integer.*'large'"):
        parse(House, {"animal": {"kind": "cat"}, "rooms": [1, "large"]}, where="x")


def test_settings_do_not_change():
    house = parse(House, {"animal": {"kind": "cat"}}, where="x")
    with pytest.raises(ValueError, match="frozen"):
        house.animal.lives = 3
