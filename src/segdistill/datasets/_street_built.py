"""How to paint what stands still: buildings, walls, fences, trees, posts, signs and lights."""

from collections.abc import Callable, Sequence
from math import sqrt

from segdistill.datasets._street_brush import CIRCLE, SAMPLES, Brush, Ink, Point, Spot
from segdistill.datasets._street_plan import (
    BUILDING,
    FENCE,
    POLE,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
    WALL,
    Dice,
    Thing,
    Tint,
)
from segdistill.types import IGNORE

Wall = Callable[[float, float], Point]
"""From metres along a wall and metres above the ground to a point of the world."""

MASONRY: tuple[Tint, ...] = (
    (178, 165, 140), (150, 148, 145), (140, 95, 78), (196, 190, 182), (110, 105, 102),
    (165, 140, 110), (120, 125, 130), (185, 160, 150), (95, 80, 72), (205, 198, 170),
)  # fmt: skip
NEAREST_WINDOW = 2.0
STRIDE = 11
"""How far to step through the panes from floor to floor; without a common factor with their number."""
CLUMPS = (
    (0.55, 9, 0.72, 0.42, 0.05),
    (0.65, 8, 1.0, 0.15, 0.0),
    (0.85, 10, 0.72, 0.27, -0.08),
    (1.2, 8, 0.6, 0.17, -0.3),
)
"""Shade, number, spread, size and lift of the clumps of a crown, from the inside out."""
SIGN_BLUE: Tint = (35, 75, 160)
SIGN_RED: Tint = (190, 35, 40)
STEEL: tuple[Tint, ...] = ((120, 122, 122), (75, 78, 80), (55, 65, 58), (150, 148, 142))
LEAVES: tuple[Tint, ...] = ((70, 92, 45), (88, 105, 52), (60, 78, 48), (105, 112, 60), (110, 90, 50), (78, 88, 70))


def vary(dice: Dice, tint: Tint, amount: float = 18) -> Tint:
    """A neighbour of a colour."""
    level = dice.between(-amount, amount)
    return (
        tint[0] + level + dice.between(-6, 6),
        tint[1] + level + dice.between(-6, 6),
        tint[2] + level + dice.between(-6, 6),
    )


def building(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A block whose facade along the street we see; its front hides behind the next block."""
    block(brush, thing, dice, is_corner=False)


def corner(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A block of which we see two facades: one along the street and one towards us."""
    block(brush, thing, dice, is_corner=True)


def block(brush: Brush, thing: Thing, dice: Dice, is_corner: bool) -> None:
    """A wall along the street, one towards us, and sometimes a pitched roof."""
    x, near, height = thing.x, thing.z, thing.height
    tint = vary(dice, dice.pick(MASONRY))
    shade = brush.light.left if thing.side < 0 else brush.light.right
    deep = dice.between(7, 14)
    if dice.chance(0.4):
        roof(brush, thing, deep, vary(dice, dice.pick(((120, 70, 55), (85, 80, 80), (100, 85, 75)))), shade)

    def along(s: float, y: float) -> Point:
        return x, y, near + s

    def across(s: float, y: float) -> Point:
        return x + thing.side * s, y, near

    style = dice.seed()
    if near > 1:
        front = facade if is_corner else plain
        front(brush, Dice(style), across, deep, height, tint, brush.light.front)
    facade(brush, Dice(style), along, thing.length, height, tint, shade)


def roof(brush: Brush, thing: Thing, deep: float, tint: Tint, shade: float) -> None:
    """A pitched roof whose ridge runs along the street."""
    x, near, far, eaves = thing.x, thing.z, thing.z + thing.length, thing.height
    ridge_x, ridge = x + thing.side * deep / 2, eaves + deep * 0.32
    if near > 1:
        brush.shape(
            ((x, eaves, near), (ridge_x, ridge, near), (x + thing.side * deep, eaves, near)), tint, BUILDING, 0.8
        )
    slope = ((x, eaves, near), (x, eaves, far), (ridge_x, ridge, far), (ridge_x, ridge, near))
    brush.shape(slope, tint, BUILDING, shade)


def facade(brush: Brush, dice: Dice, wall: Wall, length: float, height: float, tint: Tint, shade: float) -> None:
    """A wall with storeys of windows, and a ground floor of shops, doors or more windows."""
    plain(brush, dice, wall, length, height, tint, shade)
    start, end = brush.spot(wall(0, 0))[0], brush.spot(wall(length, 0))[0]
    if max(start, end) < 0 or min(start, end) > brush.width or abs(end - start) < 4 * SAMPLES:
        return
    storey, pitch = dice.between(2.9, 3.7), dice.between(1.9, 3.4)
    wide, tall = dice.between(0.4, 0.72), dice.between(0.42, 0.62)
    glass = vary(dice, dice.pick(((55, 62, 72), (95, 110, 125), (75, 75, 72), (40, 45, 50))))
    trim = dice.between(0.75, 1.3)
    shops, cornice = dice.chance(0.45), dice.chance(0.5)
    if cornice:
        stripe(brush, wall, length, height - 0.5, height, shaded(tint, trim), shade)
    if shops:
        shop_fronts(brush, Dice(dice.seed()), wall, length, shade)
    else:
        stripe(brush, wall, length, 0, dice.between(0.4, 1.0), shaded(tint, 0.75), shade)
    if dice.chance(0.3):
        for floor in range(1, int(height / storey)):
            stripe(brush, wall, length, floor * storey, floor * storey + 0.22, shaded(tint, trim), shade)
    columns = max(1, int(length / pitch))
    margin = (length - columns * pitch) / 2
    rows = [
        (floor * storey + storey * (1 - tall) * 0.6, floor * storey + storey * (0.6 + 0.4 * tall))
        for floor in range(1 if shops else 0, int((height - 0.4) / storey))
    ]
    panes = window_inks(brush, (wall(0, 0)[2] + wall(length, 0)[2]) / 2, glass, shade)
    for column in range(columns):
        left = margin + (column + (1 - wide) / 2) * pitch
        windows(brush, dice, wall, left, left + wide * pitch, rows, panes)


def plain(brush: Brush, dice: Dice, wall: Wall, length: float, height: float, tint: Tint, shade: float) -> None:
    """A wall without windows, or too far away to tell."""
    brush.shape((wall(0, 0), wall(0, height), wall(length, height), wall(length, 0)), tint, BUILDING, shade)


def window_inks(brush: Brush, z: float, glass: Tint, shade: float) -> Sequence[Ink]:
    """Window panes of a facade to choose from: dark ones, some that mirror the sky, some lit."""
    dark, mirror = brush.ink(glass, z, BUILDING, shade), brush.ink(shaded(glass, 1.5), z, BUILDING, shade)
    lit = brush.ink((250, 215, 140), z * 0.2, BUILDING)
    if brush.light.night:
        return dark, dark, lit, dark, dark, lit, dark
    return *(dark,) * 12, mirror, mirror, mirror, *(dark,) * 10, mirror, mirror, mirror, lit


def windows(
    brush: Brush, dice: Dice, wall: Wall, left: float, right: float, rows: Sequence[Spot], panes: Sequence[Ink]
) -> None:
    """A column of windows; `rows` are their lower and upper edges in metres."""
    first, last = wall(left, 0), wall(right, 0)
    choice = dice.whole(0, len(panes) - 1)
    if first[2] < NEAREST_WINDOW:
        return
    start, end = brush.spot(first), brush.spot(last)
    if max(start[0], end[0]) < 0 or min(start[0], end[0]) > brush.width or abs(end[0] - start[0]) < SAMPLES * 0.8:
        return
    near, far = brush.scale(first[2]), brush.scale(last[2])
    for floor, (low, high) in enumerate(rows):
        if start[1] - low * near < 0:
            return
        corners = (
            (start[0], start[1] - low * near),
            (start[0], start[1] - high * near),
            (end[0], end[1] - high * far),
            (end[0], end[1] - low * far),
        )
        brush.polygon(corners, panes[(choice + floor * STRIDE) % len(panes)])


def shaded(tint: Tint, factor: float) -> Tint:
    return tint[0] * factor, tint[1] * factor, tint[2] * factor


def stripe(brush: Brush, wall: Wall, length: float, low: float, high: float, tint: Tint, shade: float) -> None:
    brush.shape((wall(0, low), wall(0, high), wall(length, high), wall(length, low)), tint, BUILDING, shade)


def shop_fronts(brush: Brush, dice: Dice, wall: Wall, length: float, shade: float) -> None:
    """Show windows, doors and coloured boards over them."""
    s = 0.3
    while s < length - 1.5:
        end = min(length - 0.3, s + dice.between(2.5, 6))
        tint = vary(dice, (60, 62, 66), 25)
        board = (dice.between(30, 200), dice.between(30, 180), dice.between(30, 180))
        brush.shape((wall(s, 0.3), wall(s, 2.5), wall(end, 2.5), wall(end, 0.3)), tint, BUILDING, shade)
        brush.shape((wall(s, 2.5), wall(s, 3.0), wall(end, 3.0), wall(end, 2.5)), board, BUILDING, shade)
        s = end + 0.4


def wall(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A free-standing wall: concrete, brick or plaster, sometimes painted on."""
    x, near, far, height = thing.x, thing.z, thing.z + thing.length, thing.height
    tint = vary(dice, dice.pick(MASONRY))
    shade = 0.95 * (brush.light.left if thing.side < 0 else brush.light.right)
    if near > 1:
        end = ((x, 0, near), (x, height, near), (x + thing.side * 0.4, height, near), (x + thing.side * 0.4, 0, near))
        brush.shape(end, tint, WALL, brush.light.front)
    brush.shape(((x, 0, near), (x, height, near), (x, height, far), (x, 0, far)), tint, WALL, shade)
    top = height * 0.93
    brush.shape(((x, top, near), (x, height, near), (x, height, far), (x, top, far)), shaded(tint, 1.15), WALL, shade)
    s = near
    while s < far and dice.chance(0.95):
        if s > 2:
            brush.shape(((x, 0, s), (x, top, s), (x, top, s + 0.08), (x, 0, s + 0.08)), shaded(tint, 0.8), WALL, shade)
        s += dice.between(2.4, 3.2)
    if dice.chance(0.25):
        paint = (dice.between(20, 220), dice.between(20, 220), dice.between(20, 220))
        z = dice.between(max(3, near), max(4, far))
        if z + 2 < far:
            low, high = height * 0.25, height * 0.7
            brush.shape(((x, low, z), (x, high, z + 0.3), (x, high * 0.9, z + 2), (x, low * 1.4, z + 1.6)), paint, WALL)


def fence(brush: Brush, thing: Thing, dice: Dice) -> None:
    """Bars between posts; what is seen through them belongs to the fence."""
    x, near, far, height = thing.x, max(thing.z, 2.0), thing.z + thing.length, thing.height
    if far <= near:
        return
    tint = vary(dice, dice.pick(((60, 62, 60), (150, 150, 148), (95, 75, 55), (40, 60, 45), (170, 165, 160))))
    wooden, gap = dice.chance(0.25), dice.pick((0.25, 0.4, 0.6))
    brush.claim([brush.spot(p) for p in ((x, 0.02, near), (x, height, near), (x, height, far), (x, 0.02, far))], FENCE)
    for level in (0.12, 0.5, 0.95):
        start, end = brush.spot((x, level * height, near)), brush.spot((x, level * height, far))
        brush.line(start, end, 0.05 * brush.scale((near * 2 + far) / 3), brush.ink(tint, near, FENCE))
    z, last = near, -9.0
    while z < far:
        foot, head = brush.spot((x, 0.02, z)), brush.spot((x, height, z))
        apart, z_next = abs(foot[0] - last), z + gap
        if apart >= 3 and -4 < foot[0] < brush.width + 4:
            thick = max(1.0, (gap * 0.7 if wooden else 0.04) * brush.scale(z))
            thick = min(thick, apart * 0.8)
            brush.line(foot, head, thick, brush.ink(tint, z, FENCE))
            last = foot[0]
        z = z_next


def tree(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A trunk and a crown of clumps, light above and dark below."""
    leaf = vary(dice, dice.pick(LEAVES), 14)
    m, (u, ground) = brush.scale(thing.z), brush.spot((thing.x, 0, thing.z))
    radius = thing.height * dice.between(0.24, 0.36)
    if u + radius * 2 * m < 0 or u - radius * 2 * m > brush.width:
        return
    trunk = dice.between(0.12, 0.25)
    middle = ground - (thing.height - radius * 1.05) * m
    bark = brush.ink(vary(dice, (72, 62, 52), 15), thing.z, VEGETATION)
    brush.box(u - trunk * m, middle, u + trunk * m, ground, bark)
    crown(brush, dice, (u, middle), radius * m, radius * m * dice.between(0.9, 1.35), leaf, thing.z)


def crown(brush: Brush, dice: Dice, centre: Spot, across: float, down: float, leaf: Tint, z: float) -> None:
    """Overlapping clumps of leaves; fewer where they could not be told apart."""
    part = 1.5 if across > 80 else 1.0 if across > 24 else 0.6 if across > 11 else 0.34
    for shade, count, spread, size, lift in CLUMPS:
        ink, larger = brush.ink(leaf, z, VEGETATION, shade), size * (1.3 - 0.3 * part)
        for _ in range(int(count * part)):
            x, y = dice.between(-1, 1), dice.between(-1, 1)
            pull = spread / max(1.0, sqrt(x * x + y * y))
            grow = dice.between(0.7, 1.2) * larger
            place = centre[0] + x * pull * across, centre[1] + (y * pull + lift) * down
            brush.disc(place, grow * across, grow * down, ink)


def hedge(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A clipped hedge along the street, with clumps along its top."""
    x, near, far, height = thing.x, max(thing.z, 2.0), thing.z + thing.length, thing.height
    if far <= near:
        return
    leaf = vary(dice, dice.pick(LEAVES), 14)
    brush.shape(((x, 0, near), (x, height, near), (x, height, far), (x, 0, far)), leaf, VEGETATION, 0.75)
    for _ in range(40):
        s, y = dice.between(0, 1), dice.between(0.15, 1.0) * height
        z = near / (1 - s * (1 - near / far))
        size = dice.between(0.12, 0.3) * height * brush.scale(z)
        brush.disc(brush.spot((x, y, z)), size, size * 0.8, brush.ink(leaf, z, VEGETATION, dice.between(0.55, 1.15)))


def bush(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A low round shrub."""
    size = thing.height * brush.scale(thing.z)
    u, ground = brush.spot((thing.x, 0, thing.z))
    crown(brush, dice, (u, ground - size * 0.45), size * 0.7, size * 0.45, vary(dice, dice.pick(LEAVES), 14), thing.z)


def post(brush: Brush, x: float, z: float, height: float, thick: float, tint: Tint) -> Spot:
    """A pole; the answer is its head."""
    m, (u, ground) = brush.scale(z), brush.spot((x, 0, z))
    half = max(thick * m, 2.0) / 2
    brush.box(u - half, ground - height * m, u + half - 0.5, ground, brush.ink(tint, z, POLE))
    return u, ground - height * m


def steel(dice: Dice) -> Tint:
    return vary(dice, dice.pick(STEEL))


def lamp(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A street lamp: a tall post, an arm over the road, a lantern."""
    tint = steel(dice)
    m = brush.scale(thing.z)
    head = post(brush, thing.x, thing.z, thing.height, dice.between(0.1, 0.16), tint)
    reach = -thing.side * dice.between(0.8, 2.2) * m
    if dice.chance(0.7):
        ink = brush.ink(tint, thing.z, POLE)
        brush.line(head, (head[0] + reach, head[1] - 0.2 * m), max(2.0, 0.09 * m), ink)
        brush.disc((head[0] + reach, head[1] - 0.15 * m), 0.35 * m, max(1.0, 0.1 * m), ink)
    else:
        reach = 0.0
        brush.disc(head, 0.2 * m, 0.25 * m, brush.ink(tint, thing.z, POLE))
    if brush.light.night:
        brush.glow((head[0] + reach, head[1]), 0.9 * m, (255, 200, 120))


def bollard(brush: Brush, thing: Thing, dice: Dice) -> None:
    post(brush, thing.x, thing.z, 0.9, 0.14, STEEL[1])


def sign(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A plate or two on a post."""
    m = brush.scale(thing.z)
    head = post(brush, thing.x, thing.z, thing.height, 0.06, steel(dice))
    size = max(dice.between(0.32, 0.5) * m, 1.6)
    plate(brush, dice, (head[0], head[1] + size * 0.6), size, thing.z)
    if dice.chance(0.3):
        plate(brush, dice, (head[0], head[1] + size * 2.7), size * 0.9, thing.z)


def plate(brush: Brush, dice: Dice, centre: Spot, size: float, z: float) -> None:
    """A traffic sign: triangle, disc, diamond, octagon or panel, rimmed."""
    u, v = centre
    form = dice.pick(("triangle", "disc", "disc", "diamond", "panel", "panel", "octagon"))
    face, rim = dice.pick((((235, 235, 230), SIGN_RED), (SIGN_BLUE, (225, 225, 225)), ((235, 235, 230), SIGN_RED)))
    if form == "octagon":
        face, rim = SIGN_RED, (230, 225, 225)
    if form == "diamond":
        face, rim = (225, 190, 60), (235, 235, 230)
    if form == "panel":
        face = dice.pick((SIGN_BLUE, (235, 235, 230), (225, 200, 70), (40, 110, 80)))
        rim = shaded(face, 0.8)
    outlines: dict[str, tuple[Spot, ...]] = {
        "triangle": ((0, -1), (0.95, 0.7), (-0.95, 0.7)),
        "diamond": ((0, -1.1), (1.1, 0), (0, 1.1), (-1.1, 0)),
        "panel": ((-0.8, -1), (0.8, -1), (0.8, 1), (-0.8, 1)),
        "disc": tuple(CIRCLE),
        "octagon": ((-1, -0.41), (-0.41, -1), (0.41, -1), (1, -0.41), (1, 0.41), (0.41, 1), (-0.41, 1), (-1, 0.41)),
    }
    for scale, tint in ((1.0, rim), (0.7, face)):
        spots = [(u + x * size * scale, v + y * size * scale) for x, y in outlines[form]]
        brush.polygon(spots, brush.ink(tint, z, TRAFFIC_SIGN))
    if dice.chance(0.5):
        ink = brush.ink((30, 30, 35) if face[0] > 150 else (235, 235, 235), z, TRAFFIC_SIGN)
        brush.box(u - size * 0.35, v - size * 0.12, u + size * 0.35, v + size * 0.12, ink)


def gantry(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A sign board over the road on an arm."""
    m, tint = brush.scale(thing.z), steel(dice)
    head = post(brush, thing.x, thing.z, thing.height, 0.25, tint)
    reach = -thing.side * 4.5 * m
    brush.line(
        (head[0], head[1] + 0.3 * m),
        (head[0] + reach, head[1] + 0.3 * m),
        max(2.0, 0.16 * m),
        brush.ink(tint, thing.z, POLE),
    )
    face = dice.pick((SIGN_BLUE, (40, 110, 80), (225, 200, 70), (230, 230, 228)))
    left, right = sorted((head[0] + reach * 0.45, head[0] + reach))
    brush.box(left, head[1] - 0.4 * m, right, head[1] + 1.0 * m, brush.ink(face, thing.z, TRAFFIC_SIGN))
    ink = brush.ink((235, 235, 235) if face[0] < 150 else (30, 30, 30), thing.z, TRAFFIC_SIGN)
    for row in (0.0, 0.5):
        brush.box(left + 0.2 * m, head[1] + (row - 0.1) * m, right - 0.4 * m, head[1] + (row + 0.1) * m, ink)


def signal(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A traffic light on its post, sometimes with a second one on an arm over the road."""
    m, tint = brush.scale(thing.z), steel(dice)
    lit = dice.pick((0, 0, 1, 2, 2))
    if dice.chance(0.35):
        head = post(brush, thing.x, thing.z, 5.2, 0.15, tint)
        end = head[0] - thing.side * dice.between(2.5, 4.5) * m
        brush.line(head, (end, head[1]), max(2.0, 0.1 * m), brush.ink(tint, thing.z, POLE))
        lamps(brush, (end, head[1] + 0.3 * m), lit, thing.z)
        lamps(brush, (head[0], head[1] + 2.2 * m), lit, thing.z)
    else:
        lamps(brush, post(brush, thing.x, thing.z, thing.height, 0.13, tint), lit, thing.z)


def lamps(brush: Brush, centre: Spot, lit: int, z: float) -> None:
    """Three lamps in a dark box, one of them lit."""
    m, (u, v) = brush.scale(z), centre
    half, tall = max(0.17 * m, 1.6), max(0.5 * m, 2.6)
    brush.box(u - half, v - tall, u + half, v + tall, brush.ink((28, 30, 32), z, TRAFFIC_LIGHT))
    colours: tuple[Tint, ...] = ((255, 60, 45), (255, 190, 50), (70, 240, 150))
    for place, colour in enumerate(colours):
        tint = colour if place == lit else shaded(colour, 0.22)
        brush.disc((u, v + (place - 1) * tall * 0.62), half * 0.72, half * 0.72, brush.ink(tint, z, TRAFFIC_LIGHT))
    if brush.light.night:
        brush.glow((u, v + (lit - 1) * tall * 0.62), 0.5 * m, colours[lit])


def bin_(brush: Brush, thing: Thing, dice: Dice) -> None:
    """A litter bin, a box, a kiosk: things without a class."""
    m, (u, ground) = brush.scale(thing.z), brush.spot((thing.x, 0, thing.z))
    wide, tall = dice.between(0.25, 0.7) * m, dice.between(0.8, 1.6) * m
    tint = (dice.between(40, 180), dice.between(40, 150), dice.between(30, 120))
    brush.box(u - wide, ground - tall, u + wide, ground, brush.ink(tint, thing.z, IGNORE))
    brush.box(u - wide, ground - tall, u + wide, ground - tall * 0.85, brush.ink(shaded(tint, 0.6), thing.z, IGNORE))
