"""Settings: strict, frozen, and with one-line errors."""

from math import inf
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from psld.config.settings import Name, Settings, parse, updated
from psld.utils.errors import UserError


class Cat(Settings):
    kind: Literal["cat"]
    lives: int = Field(9, ge=1)


class Dog(Settings):
    kind: Literal["dog"]
    name: Name

    @model_validator(mode="after")
    def _is_no_cat(self) -> "Dog":
        if self.name == "Cat":
            raise ValueError("a dog is no cat")
        return self


class House(Settings):
    animal: Annotated[Cat | Dog, Field(discriminator="kind")]
    rooms: tuple[int, ...] = ()
    door: Annotated[int, Field(ge=0)] | Literal["open"] | None = 0
    height: float = 2.5
    has_roof: bool = True

    @model_validator(mode="after")
    def _dogs_need_room(self) -> "House":
        if self.animal.kind == "dog" and not self.rooms:
            raise ValueError("a dog needs a room")
        return self


CAT = {"kind": "cat"}
INTEGER = "Input should be a valid integer, unable to parse string as an integer"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "animal is missing"),
        ({"animal": {"kind": "dog"}}, "animal.name is missing"),
        (
            {"animal": CAT | {"lifes": 7}, "garden": 1},
            "unknown key animal.lifes (is animal.lives meant?); unknown key garden",
        ),
        (
            {"animal": CAT | {"lives": 0}},
            "animal.lives: Input should be greater than or equal to 1 (got 0)",
        ),
        ({"animal": {"kind": "dog", "name": "Rex"}}, "a dog needs a room"),
        (
            {"animal": {"kind": "dog", "name": "größe"}},
            "animal.name: 'größe' is no name: letters a to z, digits, dots, dashes, underscores",
        ),
        ({"animal": {"kind": "dog", "name": "Cat"}}, "animal: a dog is no cat"),
        (
            {"animal": CAT, "door": "ajar"},
            f"door: {INTEGER} (got 'ajar'); door: Input should be 'open' (got 'ajar')",
        ),
        ({"animal": CAT, "rooms": [1, "x"]}, f"rooms.1: {INTEGER} (got 'x')"),
        ({"animal": CAT, "height": inf}, "height: Input should be a finite number (got inf)"),
        ({"animal": CAT | {"lives": True}}, "animal.lives: A boolean is no number (got True)"),
        (
            {"animal": CAT, "rooms": [1, True], "door": False, "has_roof": False},
            "rooms: A boolean is no number (got [1, True]); "
            "door: A boolean is no number (got False)",
        ),
        (
            {"animal": {"kind": "bird"}},
            "animal: Input tag 'bird' found using 'kind' does not match any of the expected tags: "
            "'cat', 'dog' (got {'kind': 'bird'})",
        ),
    ],
)
def test_complaints_name_the_key_that_the_user_wrote(content, message):
    with pytest.raises(UserError) as caught:
        parse(House, content, where="x")
    assert str(caught.value) == f"x: {message}"


def test_words_change_single_settings_and_settings_do_not_change():
    house = parse(House, {"animal": CAT, "rooms": [1, 2]}, where="x")
    words = ["animal.lives=3", "door=null"]
    changed = parse(House, updated(house.model_dump(), words), where="x")
    assert (changed.animal.lives, changed.rooms, changed.door) == (3, (1, 2), None)
    with pytest.raises(ValueError, match="frozen"):
        house.animal.lives = 3
