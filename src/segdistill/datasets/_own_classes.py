"""Classes that a recipe names itself: for data sets of one's own, whatever they lie in."""

import re
from typing import Literal

from typing_extensions import TypedDict  # pydantic takes typing's own only from Python 3.12

from segdistill.datasets import hexadecimal
from segdistill.labels import Coding
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.types import IGNORE, ClassTable, Colour


class OwnClass(TypedDict):
    name: str
    colour: Colour


def table_of(classes: list[OwnClass]) -> ClassTable:
    """The classes in the order given, which is their train ids."""
    names = tuple(item["name"] for item in classes)
    colours = tuple(item["colour"] for item in classes)
    if not 1 <= len(names) < IGNORE:
        raise Mistake(f"classes: {len(names)} of them; accepted are 1 to {IGNORE - 1}")
    for k, (name, colour) in enumerate(zip(names, colours, strict=True)):
        if name == "ignore" or name in names[:k]:
            raise Mistake(f"classes.{k}.name: '{name}' is taken; accepted are different names, none of them 'ignore'")
        if not all(0 <= value <= 255 for value in colour) or colour in colours[:k]:
            raise Mistake(
                f"classes.{k}.colour: {list(colour)} is taken or no colour; accepted are different [r, g, b] of 0…255"
            )
    return ClassTable(names, colours)


def coding_of(table: ClassTable, remap: dict[int | str, str], unknown: Literal["refuse", "ignore"]) -> Coding:
    """What label files hold: a class's position, or the ids of `remap`; the classes' colours, and those of `remap`."""
    train_ids = {name: k for k, name in enumerate(table.names)} | {"ignore": IGNORE}
    ids: dict[int, int] = {}
    colours = {colour: k for k, colour in enumerate(table.colours)}
    for raw, name in remap.items():
        if name not in train_ids:
            raise Mistake(
                f"remap.{raw}: there is no class '{name}'; there is {one_of(train_ids)}{nearest(name, train_ids)}"
            )
        if isinstance(raw, str) and re.fullmatch("#[0-9a-fA-F]{6}", raw):
            red, green, blue = bytes.fromhex(raw[1:])
            colours[red, green, blue] = train_ids[name]
        elif str(raw).isdecimal() and int(raw) <= 255:
            ids[int(raw)] = train_ids[name]
        else:
            raise Mistake(f"remap.{raw}: accepted are ids of 0…255 and colours such as '{hexadecimal((128, 64, 128))}'")
    return Coding({IGNORE: IGNORE} | (ids or {k: k for k in range(len(table.names))}), colours, unknown)
