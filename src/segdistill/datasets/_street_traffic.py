"""How to paint what moves: cars, trucks, buses, trams, two-wheelers and people."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from segdistill.datasets._street_brush import CIRCLE, Brush, Ink, Point, Spot
from segdistill.datasets._street_built import shaded, vary
from segdistill.datasets._street_plan import (
    BICYCLE,
    BUS,
    CAR,
    MOTORCYCLE,
    PERSON,
    RIDER,
    TRAIN,
    TRUCK,
    Dice,
    Thing,
    Tint,
)

PAINT: tuple[Tint, ...] = (
    (215, 215, 215), (170, 172, 175), (120, 122, 126), (70, 72, 76), (35, 36, 40), (30, 32, 36),
    (40, 60, 110), (130, 35, 35), (45, 80, 60), (165, 150, 120), (190, 170, 60), (95, 60, 50),
)  # fmt: skip
CLOTHES: tuple[Tint, ...] = (
    (35, 38, 48), (50, 60, 90), (90, 90, 92), (150, 60, 55), (200, 195, 185), (70, 80, 60), (120, 95, 70),
    (40, 95, 130),
)  # fmt: skip
SKIN: tuple[Tint, ...] = ((205, 165, 140), (170, 125, 95), (110, 75, 55))
GLASS: Tint = (52, 60, 68)
RUBBER: Tint = (24, 24, 26)
DETAIL = 10.0
"""Canvas pixels per metre below which pillars, hubs and plates are not painted."""


class Pose(NamedTuple):
    """Where a vehicle stands and where it heads: 1 away from us, -1 towards us, 2 to the right, -2 to the left."""

    x: float
    z: float
    heading: int
    length: float
    half: float

    def point(self, along: float, across: float, y: float) -> Point:
        """From metres ahead of the rear, metres right of the middle and metres up to the world."""
        if self.heading == 1:
            return self.x + across, y, self.z + along
        if self.heading == -1:
            return self.x - across, y, self.z + self.length - along
        if self.heading == 2:
            return self.x + along - self.length / 2, y, self.z + self.half - across
        return self.x - along + self.length / 2, y, self.z + self.half + across

    def is_seen(self, along: float, across: float) -> bool:
        """Whether the face at this end or side (metres from the middle) looks at the camera."""
        x, _, z = self.point(self.length / 2 + along, across, 0)
        middle_x, _, middle_z = self.point(self.length / 2, 0, 0)
        return (x - middle_x) * x + (z - middle_z) * z < 0


class Body(NamedTuple):
    """The shape of a car: lengths in parts of the whole, heights in metres."""

    length: float
    half: float
    belt: float
    roof: float
    rear_belt: float
    rear_roof: float
    front_roof: float
    front_belt: float
    nose: float


BODIES = (
    Body(4.0, 0.86, 0.95, 1.46, 0.0, 0.07, 0.56, 0.76, 0.75),
    Body(4.6, 0.9, 0.95, 1.43, 0.13, 0.25, 0.55, 0.74, 0.75),
    Body(4.6, 0.9, 0.98, 1.47, 0.0, 0.1, 0.55, 0.74, 0.78),
    Body(4.5, 0.93, 1.1, 1.7, 0.0, 0.05, 0.58, 0.74, 0.95),
    Body(4.9, 0.95, 1.15, 1.95, 0.0, 0.02, 0.72, 0.86, 1.0),
)


def extrude(brush: Brush, pose: Pose, profile: Sequence[Spot], tint: Tint, label: int) -> None:
    """A body whose side is `profile` (metres ahead of the rear, metres up): the faces across it, then its side."""
    faces: list[tuple[float, list[Point], float]] = []
    for (a, low), (b, high) in pairwise(profile):
        corners = (a, -pose.half, low), (b, -pose.half, high), (b, pose.half, high), (a, pose.half, low)
        points = [pose.point(*corner) for corner in corners]
        shade = 1.15 if abs(high - low) < abs(b - a) * 0.5 else brush.light.front
        faces.append((-sum(point[2] for point in points), points, shade))
    for _, points, shade in sorted(faces, key=lambda face: face[0]):
        spots = [brush.spot(point) for point in points]
        if turns_clockwise(spots):
            brush.polygon(spots, brush.ink(tint, pose.z, label, shade))
    for across in (-pose.half, pose.half):
        if pose.is_seen(0, across):
            shade = brush.light.front if abs(pose.heading) == 2 else side_shade(brush, pose)
            brush.shape([pose.point(along, across, y) for along, y in profile], tint, label, shade * 0.92)


def side_shade(brush: Brush, pose: Pose) -> float:
    return brush.light.left if pose.x < 0 else brush.light.right


def turns_clockwise(spots: Sequence[Spot]) -> bool:
    """Whether a face looks at us."""
    pairs = zip(spots, [*spots[1:], spots[0]], strict=True)
    return sum(u * y - x * v for (u, v), (x, y) in pairs) > 0


def side_panel(brush: Brush, pose: Pose, corners: Sequence[Spot], tint: Tint, label: int) -> None:
    """A shape on whichever long side we see; corners as in a profile."""
    for across in (-pose.half, pose.half):
        if pose.is_seen(0, across):
            brush.shape([pose.point(along, across, y) for along, y in corners], tint, label)


def end_panel(brush: Brush, pose: Pose, front: bool, corners: Sequence[Spot], tint: Tint, label: int) -> None:
    """A shape on the front or the rear; corners in metres right of the middle and up."""
    along = pose.length if front else 0.0
    if pose.is_seen(along - pose.length / 2, 0):
        brush.shape([pose.point(along, across, y) for across, y in corners], tint, label)


def rectangle(left: float, low: float, right: float, high: float) -> tuple[Spot, ...]:
    return (left, low), (left, high), (right, high), (right, low)


def wheels(brush: Brush, pose: Pose, places: Sequence[float], radius: float, label: int) -> None:
    """Wheels on the side we see, and their tyres below the end we see."""
    for along in places:
        side_panel(brush, pose, [(along + radius * x, radius + radius * y) for x, y in CIRCLE], RUBBER, label)
        if brush.scale(pose.z) < DETAIL:
            continue
        hub = [(along + radius * 0.5 * x, radius + radius * 0.5 * y) for x, y in CIRCLE]
        side_panel(brush, pose, hub, (120, 120, 122), label)
    for front in (False, True):
        for middle in (-0.78, 0.78):
            corners = rectangle((middle - 0.14) * pose.half, 0.0, (middle + 0.14) * pose.half, 0.4)
            end_panel(brush, pose, front, corners, RUBBER, label)


def underside(brush: Brush, pose: Pose, height: float, label: int) -> None:
    """The dark gap between the wheels."""
    dark: Tint = (18, 18, 20)
    for front in (False, True):
        end_panel(brush, pose, front, rectangle(-pose.half * 0.95, 0.1, pose.half * 0.95, height), dark, label)
    side_panel(brush, pose, rectangle(pose.length * 0.04, 0.12, pose.length * 0.96, height), dark, label)


def lights(brush: Brush, pose: Pose, low: float, high: float, label: int) -> None:
    """Red lamps behind, white ones in front; at night they shine."""
    night = brush.light.night
    for front, tint in ((False, (200, 30, 30)), (True, (245, 240, 225))):
        for sign in (-1, 1):
            inner, outer = sorted((sign * pose.half * 0.62, sign * pose.half * 0.97))
            end_panel(brush, pose, front, rectangle(inner, low, outer, high), tint, label)
            along = pose.length if front else 0.0
            if night and pose.is_seen(along - pose.length / 2, 0):
                centre = brush.spot(pose.point(along, sign * pose.half * 0.8, (low + high) / 2))
                brush.glow(centre, (0.5 if front else 0.25) * brush.scale(pose.z), tint)


def car(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A hatchback, saloon, estate, off-roader or van."""
    body = dice.pick(BODIES)
    pose = Pose(thing.x, thing.z, thing.side, body.length, body.half)
    tint = vary(dice, dice.pick(PAINT))
    size, floor = body.length, 0.3
    underside(brush, pose, floor + 0.1, CAR)
    rear_top, front_top = (body.rear_roof * size, body.roof), (body.front_roof * size, body.roof)
    rear_belt, front_belt = (body.rear_belt * size, body.belt), (body.front_belt * size, body.belt)
    rear = (0.0, floor), (0.0, body.belt - 0.03)
    profile = (*rear, rear_belt, rear_top, front_top, front_belt, (0.985 * size, body.nose), (size, floor))
    extrude(brush, pose, profile, tint, CAR)
    screen(brush, pose, rear_belt, rear_top, CAR)
    screen(brush, pose, front_top, front_belt, CAR)
    belt, top = body.belt + 0.03, body.roof - 0.1
    rear_lean, front_lean = rear_top[0] - rear_belt[0], front_belt[0] - front_top[0]
    window = (
        (rear_belt[0] + rear_lean * 0.2 + 0.15, belt),
        (rear_top[0] + 0.15, top),
        (front_top[0] - 0.05, top),
        (front_belt[0] - front_lean * 0.15 - 0.1, belt),
    )
    side_panel(brush, pose, window, GLASS, CAR)
    wheels(brush, pose, (0.19 * size, 0.81 * size), 0.33, CAR)
    lights(brush, pose, body.nose - 0.18, body.nose + 0.02, CAR)
    if brush.scale(pose.z) < DETAIL:
        return
    pillar = (body.rear_roof + body.front_roof) / 2 * size
    side_panel(brush, pose, rectangle(pillar, belt, pillar + 0.1, top), tint, CAR)
    for front in (False, True):
        end_panel(brush, pose, front, rectangle(-0.26, 0.45, 0.26, 0.57), (225, 225, 220), CAR)


def screen(brush: Brush, pose: Pose, start: Spot, end: Spot, label: int) -> None:
    """The glass in a sloping face, inset from its edges."""
    (a, low), (b, high) = start, end
    inset = pose.half * 0.84
    first, last = (a + (b - a) * 0.12, low + (high - low) * 0.12), (a + (b - a) * 0.88, low + (high - low) * 0.88)
    corners = (
        (first[0], -inset, first[1]),
        (last[0], -inset, last[1]),
        (last[0], inset, last[1]),
        (first[0], inset, first[1]),
    )
    spots = [brush.spot(pose.point(*corner)) for corner in corners]
    if turns_clockwise(spots):
        sky = brush.light.air
        tint = shaded(GLASS, 0.8)
        tint = tint[0] + sky[0] * 0.12, tint[1] + sky[1] * 0.12, tint[2] + sky[2] * 0.12
        brush.polygon(spots, brush.ink(tint, pose.z, label))


def truck(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A lorry: a cab, and behind it a box, a flat bed or a tipper."""
    length, half, tall = dice.between(6, 10), dice.between(1.05, 1.25), dice.between(2.6, 3.6)
    pose = Pose(thing.x, thing.z, thing.side, length, half)
    load = vary(dice, dice.pick((*PAINT, (225, 225, 220), (160, 140, 110), (130, 135, 140))))
    cab = vary(dice, dice.pick(PAINT))
    underside(brush, pose, 1.0, TRUCK)
    cab_rear, cab_top = length - 1.9, min(tall, 2.7)
    parts = [
        ((cab_rear, 0.5), (cab_rear, cab_top), (length - 0.2, cab_top), (length, 1.4), (length, 0.5)),
        ((0.0, 0.85), (0.0, tall), (cab_rear - 0.15, tall), (cab_rear - 0.15, 0.85)),
    ]
    tints = [cab, load]
    order = (0, 1) if thing.side != -1 else (1, 0)
    for part in order:
        extrude(brush, pose, parts[part], tints[part], TRUCK)
    screen(brush, pose, (length - 0.2, cab_top), (length, 1.4), TRUCK)
    side_panel(brush, pose, rectangle(cab_rear + 0.5, 1.5, length - 0.3, cab_top - 0.3), GLASS, TRUCK)
    if dice.chance(0.5):
        stripe = (dice.between(30, 220), dice.between(30, 200), dice.between(30, 200))
        side_panel(brush, pose, rectangle(0.8, tall * 0.55, cab_rear - 1, tall * 0.75), stripe, TRUCK)
    end_panel(brush, pose, False, rectangle(-0.04, 0.9, 0.04, tall - 0.1), shaded(load, 0.6), TRUCK)
    end_panel(brush, pose, False, rectangle(-half, 0.75, half, 0.95), (40, 40, 42), TRUCK)
    wheels(brush, pose, (1.2, 2.2, length - 1.2), 0.48, TRUCK)
    lights(brush, pose, 0.78, 0.98, TRUCK)


def bus(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A city bus: a long box with a band of windows, doors and a lit number."""
    length, half, tall = dice.between(10, 12.5), 1.25, dice.between(2.9, 3.2)
    pose = Pose(thing.x, thing.z, thing.side, length, half)
    tint = vary(
        dice, dice.pick(((190, 45, 40), (215, 200, 70), (225, 225, 220), (50, 95, 160), (70, 130, 80), (120, 122, 126)))
    )
    underside(brush, pose, 0.5, BUS)
    extrude(brush, pose, ((0, 0.35), (0, tall), (length - 0.1, tall), (length, 0.35)), tint, BUS)
    coach_windows(brush, pose, 1.15, tall - 0.45, 1.6, BUS)
    for door in (0.45, 0.88):
        side_panel(
            brush, pose, rectangle(length * door, 0.45, length * door + 1.1, tall - 0.5), shaded(GLASS, 0.7), BUS
        )
    for front in (False, True):
        low = 0.95 if front else 1.4
        end_panel(brush, pose, front, rectangle(-half * 0.9, low, half * 0.9, tall - 0.5), GLASS, BUS)
        end_panel(brush, pose, front, rectangle(-half * 0.6, tall - 0.4, half * 0.6, tall - 0.15), (240, 160, 50), BUS)
    wheels(brush, pose, (2.6, length - 2.7), 0.48, BUS)
    lights(brush, pose, 0.6, 0.85, BUS)


def coach_windows(brush: Brush, pose: Pose, low: float, high: float, pitch: float, label: int) -> None:
    """A row of windows along the side."""
    side_panel(brush, pose, rectangle(0.4, low, pose.length - 0.3, high), GLASS, label)
    for step in range(1, int(pose.length / pitch)):
        side_panel(brush, pose, rectangle(step * pitch, low, step * pitch + 0.12, high), shaded(GLASS, 1.9), label)


def tram(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A tram on its tracks: longer and narrower than a bus, skirted, no wheels to be seen, an arm on the roof."""
    length, half, tall = thing.length, 1.2, dice.between(3.2, 3.5)
    pose = Pose(thing.x, thing.z, dice.pick((1, -1)), length, half)
    tint = vary(dice, dice.pick(((200, 190, 90), (190, 50, 45), (225, 222, 210), (60, 110, 150), (70, 120, 85))))
    profile = ((0, 0.15), (0, 1.2), (0.7, tall), (length - 0.7, tall), (length, 1.2), (length, 0.15))
    extrude(brush, pose, profile, tint, TRAIN)
    coach_windows(brush, pose, 1.3, tall - 0.6, 2.1, TRAIN)
    side_panel(brush, pose, rectangle(0, 0.15, length, 0.6), shaded(tint, 0.5), TRAIN)
    for joint in range(1, int(length / 7)):
        side_panel(brush, pose, rectangle(joint * 7, 0.2, joint * 7 + 0.4, tall), (50, 50, 52), TRAIN)
    screen(brush, pose, (0, 1.2), (0.7, tall), TRAIN)
    screen(brush, pose, (length - 0.7, tall), (length, 1.2), TRAIN)
    lights(brush, pose, 0.7, 0.9, TRAIN)
    base = brush.spot(pose.point(length / 2, 0, tall))
    top = brush.spot(pose.point(length / 2 - 1, 0, tall + 1.2))
    brush.line(base, top, max(1.0, 0.08 * brush.scale(thing.z)), brush.ink((50, 50, 52), thing.z, TRAIN))


class Figure(NamedTuple):
    """A way to place the parts of a body: where its feet are, canvas pixels per metre of it, and its light."""

    foot: Spot
    m: float

    def spot(self, right: float, up: float) -> Spot:
        return self.foot[0] + right * self.m, self.foot[1] - up * self.m


def limb(brush: Brush, figure: Figure, joints: Sequence[Spot], width: float, ink: Ink) -> None:
    """An arm or a leg."""
    spots = [figure.spot(*joint) for joint in joints]
    for start, end in pairwise(spots):
        brush.line(start, end, max(1.0, width * figure.m), ink)


def head(brush: Brush, figure: Figure, place: Spot, dice: Dice, z: float, label: int) -> None:
    """A face under hair, a cap or a helmet."""
    centre, size = figure.spot(*place), max(0.115 * figure.m, 1.0)
    top = dice.pick(((40, 32, 28), (110, 85, 60), (60, 55, 55), (170, 165, 160), (150, 45, 45)))
    brush.disc(centre, size, size * 1.2, brush.ink(dice.pick(SKIN), z, label))
    brush.disc((centre[0], centre[1] - size * 0.5), size, size * 0.75, brush.ink(top, z, label))


def torso(brush: Brush, figure: Figure, hips: Spot, shoulders: Spot, width: float, ink: Ink) -> None:
    """The body between hips and shoulders."""
    (x, low), (y, high), half = hips, shoulders, width / 2
    corners = (
        (x - half * 0.8, low),
        (y - half, high - 0.06),
        (y - half * 0.5, high),
        (y + half * 0.5, high),
        (y + half, high - 0.06),
    )
    brush.polygon([figure.spot(*corner) for corner in (*corners, (x + half * 0.8, low))], ink)


def person(brush: Brush, thing: Thing, dice: Dice) -> None:
    """Somebody walking or standing, a child now and then, with a coat, a bag or a skirt."""
    stature = dice.between(0.6, 0.8) if dice.chance(0.12) else dice.between(0.9, 1.06)
    z = thing.z
    figure = Figure(brush.spot((thing.x, 0, z)), brush.scale(z) * stature)
    trousers, coat = (brush.ink(vary(dice, dice.pick(CLOTHES)), z, PERSON) for _ in range(2))
    stride, lean = dice.between(-0.32, 0.32), dice.between(-0.04, 0.04)
    limb(brush, figure, ((0.06, 0.85), (0.08 + stride * 0.4, 0.45), (0.08 + stride * 0.7, 0.02)), 0.15, trousers)
    limb(brush, figure, ((-0.06, 0.85), (-0.06 - stride * 0.1, 0.45), (-0.08 - stride, 0.04)), 0.15, trousers)
    bottom = dice.pick((0.8, 0.8, 0.55))
    limb(brush, figure, ((-0.19 + lean, 1.38), (-0.25, 1.1), (-0.22 + stride * 0.5, 0.86)), 0.1, coat)
    torso(brush, figure, (0.0, bottom), (lean, 1.47), 0.46, coat)
    limb(brush, figure, ((0.19 + lean, 1.38), (0.26, 1.1), (0.22 - stride * 0.5, 0.86)), 0.1, coat)
    head(brush, figure, (lean, 1.6), dice, z, PERSON)
    if dice.chance(0.3):
        bag = brush.ink(dice.pick(CLOTHES), z, PERSON)
        u, v = figure.spot(0.28, 0.75)
        brush.box(u, v - 0.1 * figure.m, u + 0.16 * figure.m, v + 0.16 * figure.m, bag)


def two_wheeler(brush: Brush, thing: Thing, dice: Dice, label: int) -> None:
    """A bicycle or a motorcycle, seen from the side (heading 2) or from an end."""
    z, heavy = thing.z, label == MOTORCYCLE
    figure = Figure(brush.spot((thing.x, 0, z)), brush.scale(z))
    frame = brush.ink(vary(dice, dice.pick(PAINT)), z, label)
    rubber = brush.ink(RUBBER, z, label)
    radius, thick = (0.31, 0.13) if heavy else (0.34, 0.05)
    if abs(thing.side) != 2:
        end_on(brush, figure, heavy, frame, rubber)
        return
    for place in (-0.55, 0.55):
        centre, size = figure.spot(place, radius), radius * figure.m
        brush.claim([(centre[0] + size * x, centre[1] + size * y) for x, y in CIRCLE], label)
        brush.ring(centre, size, size, max(1.0, thick * figure.m), rubber)
    bars = ((-0.55, radius), (-0.1, 0.32), (-0.2, 0.85), (0.4, 0.8), (-0.1, 0.32))
    limb(brush, figure, bars, 0.16 if heavy else 0.05, frame)
    limb(brush, figure, ((0.55, radius), (0.4, 0.8), (0.38, 1.02), (0.28, 1.04)), 0.06, frame)
    limb(brush, figure, ((-0.32, 0.9), (-0.1, 0.9)), 0.08, rubber)
    if heavy:
        tank = ((-0.6, 0.75), (-0.35, 0.5), (0.25, 0.4), (0.42, 0.7), (0.2, 0.9), (-0.2, 0.78))
        brush.polygon([figure.spot(*corner) for corner in tank], frame)


def end_on(brush: Brush, figure: Figure, heavy: bool, frame: Ink, rubber: Ink) -> None:
    """A two-wheeler from behind or in front: a wheel, a saddle, handlebars."""
    half = 0.08 if heavy else 0.04
    u, v = figure.foot
    brush.box(u - half * figure.m, v - 0.66 * figure.m, u + half * figure.m - 1, v, rubber)
    if heavy:
        torso(brush, figure, (0, 0.3), (0, 0.85), 0.62, frame)
    limb(brush, figure, ((0, 0.6), (0, 0.95)), 0.1, frame)
    limb(brush, figure, ((-0.3, 1.02), (0.3, 1.02)), 0.06, frame)


def bicycle(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A parked bicycle."""
    two_wheeler(brush, thing._replace(side=dice.pick((1, 2, 2))), dice, BICYCLE)


def motorcycle(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A parked motorcycle."""
    two_wheeler(brush, thing._replace(side=dice.pick((1, 2, 2))), dice, MOTORCYCLE)


def cyclist(brush: Brush, thing: Thing, dice: Dice) -> None:
    ride(brush, thing, dice, BICYCLE)


def motorcyclist(brush: Brush, thing: Thing, dice: Dice) -> None:
    ride(brush, thing, dice, MOTORCYCLE)


def ride(brush: Brush, thing: Thing, dice: Dice, label: int) -> None:
    """A rider on a two-wheeler: the rider above, the machine below."""
    two_wheeler(brush, thing, dice, label)
    z = thing.z
    figure = Figure(brush.spot((thing.x, 0, z)), brush.scale(z))
    legs, coat = (brush.ink(vary(dice, dice.pick(CLOTHES)), z, RIDER) for _ in range(2))
    if abs(thing.side) == 2:
        limb(brush, figure, ((-0.22, 0.95), (0.15, 0.75), (0.02, 0.3)), 0.15, legs)
        limb(brush, figure, ((-0.22, 0.95), (0.08, 0.62), (-0.12, 0.4)), 0.14, legs)
        torso(brush, figure, (-0.24, 0.85), (0.05, 1.45), 0.32, coat)
        limb(brush, figure, ((0.05, 1.38), (0.2, 1.15), (0.36, 1.05)), 0.1, coat)
        head(brush, figure, (0.12, 1.58), dice, z, RIDER)
        return
    for sign in (-1, 1):
        limb(brush, figure, ((0.08 * sign, 0.95), (0.16 * sign, 0.65), (0.12 * sign, 0.3)), 0.14, legs)
        limb(brush, figure, ((0.18 * sign, 1.4), (0.3 * sign, 1.2), (0.27 * sign, 1.03)), 0.1, coat)
    torso(brush, figure, (0, 0.85), (0, 1.5), 0.44, coat)
    head(brush, figure, (0, 1.63), dice, z, RIDER)
