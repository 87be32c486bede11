"""Settings: strict, frozen, and with one-line errors."""

from math import inf
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from psld.config.compose import for_hydra, over
from psld.config.settings import (
    DIGEST,
    FREE,
    Name,
    Neutral,
    Settings,
    is_plain,
    key_of,
    load_record,
    parse,
    quoted,
    unknown_key,
    updated,
    value_in,
    without,
    write_record,
)
from psld.utils.errors import UserError
from psld.utils.files import read_json


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
            "animal.name: 'größe' is no name: "
            "use letters a to z, digits, dots, dashes, underscores",
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
def test_errors_name_the_key_that_the_user_wrote(content, message):
    with pytest.raises(UserError) as caught:
        parse(House, content, where="x")
    assert str(caught.value) == f"x: {message}"


def test_overrides_return_changed_copies_of_immutable_settings():
    house = parse(House, {"animal": CAT, "rooms": [1, 2]}, where="x")
    words = ["animal.lives=3", "door=null"]
    changed = parse(House, updated(house.model_dump(), words), where="x")
    assert (changed.animal.lives, changed.rooms, changed.door) == (3, (1, 2), None)
    with pytest.raises(ValueError, match="frozen"):
        house.animal.lives = 3


class Bowl(Settings):
    liters: float
    color: Annotated[str, FREE] = "red"
    lid: Annotated[bool, Neutral(False)] = False
    note: str | None = None


class Street(Settings):
    house: House = House(animal=Cat(kind="cat", lives=3), height=4)
    other: Cat | Bowl | None = None
    pets: Annotated[Cat | Dog | None, Field(discriminator="kind")] = None
    named: dict[str, Cat] = {}
    lists: list[int] = []


def test_values_of_a_group_override_the_default_of_the_group():
    street = parse(Street, {"house": {"rooms": [1]}}, where="x")
    assert street.house == House(animal=Cat(kind="cat", lives=3), height=4, rooms=(1,))
    other = {"house": {"animal": {"kind": "dog", "name": "Rex"}, "rooms": [1]}}
    assert parse(Street, other, where="x").house.animal == Dog(kind="dog", name="Rex")
    assert {street: 1}[parse(Street, {"house": {"rooms": [1]}}, where="x")] == 1


def test_unknown_keys_are_found_in_groups():
    some = {"other": {"liters": 1}, "named": {"Tom": CAT}, "pets": CAT}
    assert unknown_key(Street, some) is None
    assert unknown_key(Street, some | {"pets": CAT | {"name": "Tom"}}) == "pets.name"
    assert unknown_key(Street, some | {"house": {"room": 1}}) == "house.room"


def test_overrides_are_read_and_removed_without_hydra():
    words = ["sampler=em", "a.b=1", "x=2", "x=3"]
    assert (value_in(words, "x"), value_in(words, "a")) == ("3", None)
    assert without(words, "x", "sampler") == ["a.b=1"]
    assert [key_of(word) for word in ("+a.b=1", "mask@a.mask=halves", "~c")] == [
        "a.b",
        "a.mask",
        "c",
    ]
    assert [is_plain(word) for word in ("a=1", "a.b-c=x/y z", "a", "a=[1]", "a='x'", "a=$b")] == [
        *(True, True, False, False, False, False),
    ]
    content = {"a": {"b": 0, "c": 1}, "d": 2}
    assert updated(content, ["a.b='x y'", "d=null", "e.f=3"]) == {
        **{"a": {"b": "x y", "c": 1}, "d": None, "e": {"f": "3"}},
    }
    assert content == {"a": {"b": 0, "c": 1}, "d": 2}
    assert quoted(r"it's a\b") == r"'it\'s a\\b'"


def test_a_part_is_selected_before_its_settings_for_any_order_of_overrides():
    words = ["training.optimizer.weight_decay=1", "training.optimizer=adamw"]
    assert for_hydra(words) == for_hydra(words[::-1])


def test_command_line_overrides_replace_the_overrides_of_a_grid():
    words = ["process=psld", "process.gamma=0.1", "sampler=em", "sampler.steps=10"]
    words += ["guidance@sampler.guidance=inpainting", "training.seed=3"]
    assert over(words, ["process=cld"]) == [*words[2:], "process=cld"]
    kept = [words[4], words[5]]
    assert over(words[2:], ["sampler=rk45"]) == [*kept, "sampler=rk45"]
    assert over(words, ["process.gamma=0.3"]) == [*words, "process.gamma=0.3"]
    assert over(words, ["training.seed=4"]) == [*words[:5], "training.seed=4"]


def test_a_damaged_record_is_refused(tmp_path):
    path, cat = tmp_path / "cat.json", Cat(kind="cat", lives=7)
    write_record(path, cat)
    assert next(iter(read_json(path))) == DIGEST, "no cut hides it"
    assert load_record(Cat, path, "no cat") == cat
    path.write_text(path.read_text().replace("7", "8"))
    with pytest.raises(UserError, match=r"no cat .damaged: its record_sha256 differs"):
        load_record(Cat, path, "no cat")
    path.write_text("[]")
    with pytest.raises(UserError, match=r"^no cat$"):
        load_record(Cat, path, "no cat")


class Zoo(Settings):
    bowls: tuple[Bowl, ...]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    named: dict[str, Bowl]
    folder: Annotated[str, FREE]
    size: Annotated[int | None, Field(ge=1), FREE] = None


def test_the_identity_omits_free_fields():
    """This includes fields in groups, lists, dictionaries and unions. Fields that are null are
    omitted, too."""
    free = {"liters": 2, "color": "blue", "lid": True}
    pet = {"kind": "cat", "lives": 3}
    zoo = parse(
        Zoo, {"bowls": [{"liters": 1}, free], "pet": pet, "named": {"a": free}, "folder": "x"}, ""
    )
    lid = {"liters": 2.0, "lid": True}
    assert zoo.identity() == {"bowls": [{"liters": 1.0}, lid], "pet": pet, "named": {"a": lid}}
    assert Zoo.free() == {"folder", "size"}
    assert Bowl.free() == {"color"}


def test_a_neutral_value_that_is_not_the_default_is_refused():
    with pytest.raises(TypeError, match=r"Kennel\.open: its neutral value is not its default"):

        class Kennel(Settings):
            open: Annotated[bool, Neutral(False)] = True
