"""What stands where in a street scene: camera, light, ground and things, laid out before anything is painted.

Metres: x to the right of the camera, y above the ground, z ahead. A plan knows nothing of pixels.
"""

from collections.abc import Sequence
from random import Random
from typing import NamedTuple, TypeVar

from segdistill.types import IGNORE

(
    ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, VEGETATION, TERRAIN,
    SKY, PERSON, RIDER, CAR, TRUCK, BUS, TRAIN, MOTORCYCLE, BICYCLE,
) = range(19)  # fmt: skip

Item = TypeVar("Item")
Tint = tuple[float, float, float]
"""Red, green and blue between 0 and 255, before light and haze."""


class Dice:
    """Random numbers from a seed; only `Random.random`, whose sequence Python promises never to change."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._random()

    def whole(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + int((high - low + 1) * self._random())

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, options: Sequence[Item]) -> Item:
        return options[int(len(options) * self._random())]

    def seed(self) -> int:
        return int(self._random() * 2**53)


class Lens(NamedTuple):
    """The camera: lengths in image widths, except `horizon`, which is in image heights."""

    focal: float
    horizon: float
    centre: float
    height_metres: float
    bend: float
    """Sideways metres of the street per squared metre ahead."""


class Light(NamedTuple):
    """Sun, air and camera of a frame; strengths are 0 where there is none."""

    night: bool
    left: float
    """How bright a wall on the left of the street is; `right` and `front` likewise."""
    right: float
    front: float
    shadow: float
    visibility_metres: float
    air: Tint
    """The colour of haze, and of the sky at the horizon."""
    zenith: Tint
    clouds: float
    exposure: float
    cast: Tint
    """Gain of the channels."""
    contrast: float
    vignette: float
    glare: float
    glare_place: float
    rain: float
    snow: float
    blur: float
    """In thousandths of the image width."""
    noise: float


class Band(NamedTuple):
    """A strip of ground beside the road."""

    label: int
    width: float
    tint: Tint


class Side(NamedTuple):
    """One side of the street: the kerb's x, the strips outward from it, and what the ground is behind them."""

    sign: int
    kerb: float
    bands: Sequence[Band]
    behind: Band

    def edge(self) -> float:
        """The x where the strips end and the frontage begins."""
        return self.kerb + self.sign * sum(band.width for band in self.bands)

    def beside(self, metres: float) -> float:
        """The x so many metres outward from the kerb."""
        return self.kerb + self.sign * metres


class Crossing(NamedTuple):
    """A street that crosses ours."""

    near: float
    far: float
    zebra: bool


class Thing(NamedTuple):
    """Something to paint: `depth` orders it, `seed` settles its looks."""

    kind: str
    x: float
    z: float
    depth: float
    seed: int
    side: int = 0
    length: float = 0.0
    height: float = 0.0


class Plan(NamedTuple):
    """A whole scene."""

    lens: Lens
    light: Light
    left: Side
    right: Side
    road: Tint
    marking: float
    """How fresh the paint on the road is, 0 to 1."""
    lanes: Sequence[float]
    tracks: float | None
    """The x of a tram's tracks."""
    crossing: Crossing | None
    things: Sequence[Thing]
    """From far to near."""
    bonnet: float
    """The height of our own bonnet in image heights; 0 where it is out of sight."""
    seed: int


def lay_out(seed: int) -> Plan:
    """The scene of a seed."""
    dice = Dice(seed)
    light = lay_light(dice)
    lens = lay_lens(dice)
    road = grey(dice, 70, 125)
    tram = dice.chance(0.12)
    left = lay_side(dice, -1, dice.between(3.0, 9.0) + (3.0 if tram else 0.0))
    right = lay_side(dice, 1, dice.between(1.8, 5.5))
    near = dice.between(13, 45)
    crossing = Crossing(near, near + dice.between(7, 11), dice.chance(0.6)) if dice.chance(0.35) else None
    tracks = left.kerb + 2.2 if tram else None
    things: list[Thing] = []
    for side in (left, right):
        things += lay_frontage(dice, side, crossing)
        things += lay_furniture(dice, side)
        things += lay_parked(dice, side, crossing)
        things += lay_people(dice, side)
    things += lay_backdrop(dice)
    things += lay_traffic(dice, left, right, crossing)
    if tracks is not None:
        z = dice.between(18, 60)
        things.append(Thing("tram", tracks, z, z, dice.seed(), length=dice.between(14, 24)))
    things.sort(key=lambda thing: -thing.depth)
    bonnet = dice.between(0.03, 0.11) if dice.chance(0.65) else 0.0
    lanes = lay_lanes(dice, left.kerb, right.kerb)
    marking = dice.between(0.2, 1.0)
    return Plan(lens, light, left, right, road, marking, lanes, tracks, crossing, things, bonnet, dice.seed())


def grey(dice: Dice, low: float, high: float) -> Tint:
    """A grey with a slight warmth or coolness."""
    level, warmth = dice.between(low, high), dice.between(-8, 8)
    return level + warmth, level, level - warmth


def lay_lens(dice: Dice) -> Lens:
    bend = dice.between(-0.0022, 0.0022) if dice.chance(0.5) else 0.0
    return Lens(
        focal=dice.between(0.78, 1.1),
        horizon=dice.between(0.38, 0.48),
        centre=dice.between(0.42, 0.58),
        height_metres=dice.between(1.2, 1.7),
        bend=bend,
    )


def lay_light(dice: Dice) -> Light:
    """Mostly day, clear or overcast; sometimes low sun, haze or rain; rarely fog, snow or night."""
    night = dice.chance(0.05)
    weather = dice.pick(("clear", "clear", "clear", "clear", "overcast", "overcast", "overcast", "haze", "rain", "low"))
    rare = dice.chance(0.05)
    fog, snow = rare and dice.chance(0.5), rare and dice.chance(0.5)
    grey_sky = weather in ("overcast", "rain", "haze") or fog or snow
    level = dice.between(150, 225)
    air = (level, level + 3, level + 8) if grey_sky else (level + 15, level + 18, level + 25)
    zenith = (level - 15, level - 8, level + 5) if grey_sky else (level - 90, level - 45, level + 15)
    if weather == "low":
        air, zenith = (250.0, 215.0, 170.0), (150.0, 165.0, 200.0)
    if night:
        air, zenith = (45.0, 42.0, 50.0), (12.0, 14.0, 26.0)
    sunny = not grey_sky and not night
    tilt = dice.between(-0.3, 0.3) if sunny else dice.between(-0.06, 0.06)
    visibility = dice.between(350, 900)
    if weather in ("haze", "rain"):
        visibility = dice.between(70, 200)
    if fog:
        visibility = dice.between(22, 45)
    exposure = dice.between(0.5, 0.75) if night else dice.between(0.72, 1.18)
    return Light(
        night=night,
        left=1.0 + tilt,
        right=1.0 - tilt,
        front=dice.between(0.72, 1.1),
        shadow=dice.between(0.35, 0.6) if sunny else dice.between(0.12, 0.3),
        visibility_metres=visibility,
        air=air,
        zenith=zenith,
        clouds=dice.between(0, 1),
        exposure=exposure * (0.85 if weather == "rain" else 1.0),
        cast=(dice.between(0.92, 1.08), dice.between(0.95, 1.05), dice.between(0.9, 1.1)),
        contrast=dice.between(0.75, 1.2),
        vignette=dice.between(0, 0.35),
        glare=dice.between(0.3, 0.9) if weather == "low" and not night else 0.0,
        glare_place=dice.between(0.25, 0.75),
        rain=dice.between(0.4, 1) if weather == "rain" and not snow else 0.0,
        snow=dice.between(0.4, 1) if snow else 0.0,
        blur=dice.between(1.0, 3.2) if dice.chance(0.25) else 0.0,
        noise=dice.between(1, 5) + (6 if night else 0),
    )


def lay_side(dice: Dice, sign: int, kerb: float) -> Side:
    pavement = Band(SIDEWALK, dice.between(2.0, 5.5), grey(dice, 90, 165))
    green, shade = dice.between(80, 130), dice.between(0.5, 1)
    grass = Band(TERRAIN, dice.between(0.8, 3.0), (green * shade + dice.between(-5, 35), green, green * 0.5))
    parking = Band(IGNORE, 2.3, grey(dice, 80, 140))
    kinds = ([pavement], [pavement], [pavement], [grass, pavement], [pavement, grass], [parking, pavement])
    behind = dice.pick((pavement, pavement, grass, grass, Band(IGNORE, 0, grey(dice, 80, 140))))
    return Side(sign, sign * kerb, dice.pick(kinds), behind)


def lay_lanes(dice: Dice, left: float, right: float) -> list[float]:
    """Where the dashed lines are."""
    width = dice.between(2.9, 3.6)
    ours = dice.between(-2.0, -1.4)
    return [x for x in (ours - width, ours, ours + width) if left + 2 < x < right - 1.6]


def lay_frontage(dice: Dice, side: Side, crossing: Crossing | None) -> list[Thing]:
    """Buildings and the gaps between them, from beside the camera to the end of the street."""
    things: list[Thing] = []
    z = dice.between(-8, 2)
    leafy = dice.between(0, 0.75)
    set_back = dice.between(0, 1.5) if dice.chance(0.7) else dice.between(2, 6)
    tall = dice.between(10, 30)
    is_open = True
    while z < 95:
        length = dice.between(8, 22)
        if crossing and z < crossing.far and z + length > crossing.near - 2:
            if crossing.near - 2 - z > 4:
                length = crossing.near - 2 - z
            else:
                z, is_open = crossing.far + 2, True
                continue
        x = side.edge() + side.sign * set_back
        if dice.chance(leafy):
            things += lay_gap(dice, side, z, length)
            is_open = True
        else:
            height = max(5.0, tall + dice.between(-4, 5))
            kind = "corner" if is_open else "building"
            things.append(Thing(kind, x, z, z + length, dice.seed(), side.sign, length, height))
            is_open = False
        z += length
    return things


def lay_gap(dice: Dice, side: Side, z: float, length: float) -> list[Thing]:
    """A garden, a yard, a wood: trees behind a wall, a fence, a hedge or nothing."""
    edge, end = side.edge(), z + length
    things = [Thing("building", edge + side.sign * 16, z, end + 9, dice.seed(), side.sign, length, dice.between(6, 14))]
    front = dice.pick(("wall", "wall", "fence", "fence", "hedge", "hedge", "none", "none"))
    if front != "none":
        height = dice.between(0.9, 2.3)
        things.append(Thing(front, edge + side.sign * 0.3, z, end, dice.seed(), side.sign, length, height))
    spacing = 4.5 if z < 50 else 9.0
    for step in range(int(length / spacing) + 1):
        x = edge + side.sign * dice.between(2, 7)
        place = z + step * spacing + dice.between(0, 3)
        if place > 3:
            depth = end + 1 + (place - z) * 0.1
            things.append(Thing("tree", x, place, depth, dice.seed(), height=dice.between(5, 12)))
    return things


def lay_backdrop(dice: Dice) -> list[Thing]:
    """What closes the view at the end of the street."""
    things: list[Thing] = []
    for step in range(11):
        x = (step - 5) * 20 + dice.between(-8, 8)
        if dice.chance(0.5):
            things.append(Thing("tree", x, 150, 150, dice.seed(), height=dice.between(9, 20)))
            things.append(Thing("tree", x + 9, 145, 145, dice.seed(), height=dice.between(9, 16)))
        else:
            height, side = dice.between(10, 34), -1 if x < 0 else 1
            things.append(Thing("building", x, 152, 152, dice.seed(), side, 15, height))
    return things


def lay_furniture(dice: Dice, side: Side) -> list[Thing]:
    """Lamp posts, signs, lights, trees in a row, bollards, railings and bins beside the kerb."""
    things: list[Thing] = []
    x = side.beside(0.4)

    def put(kind: str, z: float, outward: float = 0.0, height: float = 0.0, length: float = 0.0) -> None:
        place = x + side.sign * outward
        things.append(Thing(kind, place, z, z + length, dice.seed(), side.sign, length, height))

    spacing = dice.between(17, 34)
    for step in range(dice.whole(1, 3)):
        put("lamp", dice.between(4, 14) + step * spacing, height=dice.between(5.5, 9))
    if dice.chance(0.45):
        outward, gap, height = dice.between(0.2, 1.2), dice.between(7, 12), dice.between(5, 10)
        for step in range(dice.whole(3, 8)):
            put("tree", 7 + step * gap + dice.between(-1, 1), outward, height * dice.between(0.8, 1.2))
    for _ in range(dice.whole(0, 2)):
        put("sign", dice.between(7, 40), dice.between(-0.1, 0.8), dice.between(2.2, 3.2))
    if dice.chance(0.42):
        put("signal", dice.between(8, 36), height=dice.between(2.6, 3.6))
    if dice.chance(0.12):
        put("gantry", dice.between(15, 45), height=dice.between(5.2, 6.2))
    if dice.chance(0.2):
        start = dice.between(5, 20)
        for step in range(dice.whole(4, 9)):
            put("bollard", start + step * 1.6)
    if dice.chance(0.12):
        put("fence", dice.between(6, 20), 0.0, dice.between(0.9, 1.1), dice.between(8, 25))
    if dice.chance(0.3):
        put("bin", dice.between(8, 30), dice.between(0.2, 1.5))
    for _ in range(dice.whole(0, 3) if dice.chance(0.5) else 0):
        put("bicycle", dice.between(6.5, 22), dice.between(0.3, 1.2))
    if dice.chance(0.1):
        put("motorcycle", dice.between(7, 20), dice.between(-1.2, 0.8))
    if dice.chance(0.3):
        put("bush", dice.between(8, 40), dice.between(0.8, 2.0), dice.between(0.6, 1.4))
    return things


def lay_parked(dice: Dice, side: Side, crossing: Crossing | None) -> list[Thing]:
    """A row of parked cars, with holes."""
    if abs(side.kerb) < (3.6 if side.sign > 0 else 5.0) or not dice.chance(0.85):
        return []
    things: list[Thing] = []
    x, z = side.beside(-1.1), dice.between(5, 25)
    for _ in range(dice.whole(2, 9)):
        free = crossing is None or z + 5 < crossing.near or z > crossing.far
        if free and dice.chance(0.75):
            things.append(Thing("car", x + dice.between(-0.15, 0.15), z, z, dice.seed(), dice.pick((side.sign, 1))))
        z += dice.between(5.2, 7)
    return things


def lay_people(dice: Dice, side: Side) -> list[Thing]:
    """People on the pavement, alone or in twos and threes."""
    things: list[Thing] = []
    wide = sum(band.width for band in side.bands)
    for _ in range(dice.whole(0, 5) if dice.chance(0.85) else 0):
        x, z = side.beside(dice.between(0.6, max(1.0, wide - 0.3))), dice.between(6, 32)
        for step in range(dice.pick((1, 1, 2, 2, 3))):
            things.append(Thing("person", x + step * 0.7, z + step * 0.2, z + step * 0.2, dice.seed()))
    return things


def lay_traffic(dice: Dice, left: Side, right: Side, crossing: Crossing | None) -> list[Thing]:
    """Whatever moves on the road: ahead of us, towards us and across."""
    things: list[Thing] = []

    def put(kind: str, x: float, z: float, side: int) -> None:
        things.append(Thing(kind, x, z, z, dice.seed(), side))

    z = dice.between(8, 40)
    for _ in range(dice.whole(0, 3)):
        put("car", dice.between(-0.5, 0.4), z, 1)
        z += dice.between(8, 25)
    z = dice.between(9, 40)
    for _ in range(dice.whole(0, 3) if left.kerb < -4.2 else 0):
        put("car", max(left.kerb + (3.3 if left.kerb < -5 else 1.4), -3.4) + dice.between(-0.3, 0.3), z, -1)
        z += dice.between(7, 20)
    for _ in range(dice.whole(0, 2) if crossing else 0):
        assert crossing is not None
        kind = dice.pick(("car", "car", "car", "car", "car", "car", "cyclist", "person", "person", "person"))
        put(kind, dice.between(-14, 14), dice.between(crossing.near + 1, crossing.far - 1), dice.pick((-2, 2)))
    for kind in ("truck", "bus"):
        if dice.chance(0.15):
            x, side = (dice.between(-0.5, 0.4), 1) if dice.chance(0.5) else (left.kerb + dice.between(1.4, 1.8), -1)
            put(kind, x, dice.between(13, 50), side)
    if dice.chance(0.2):
        put("cyclist", right.beside(-0.7), dice.between(8, 28), 1)
    if dice.chance(0.08):
        put("cyclist", left.beside(-0.7), dice.between(8, 28), -1)
    if dice.chance(0.08):
        put("motorcyclist", dice.between(-1.5, 1), dice.between(9, 25), dice.pick((-1, 1)))
    if dice.chance(0.08):
        put("person", dice.between(left.kerb + 1, right.kerb - 0.5), dice.between(12, 35), 0)
    return things
