"""How to paint what everything stands on and before: sky, road, markings, pavements and shadows."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from segdistill.datasets._street_brush import Brush, Point, Spot
from segdistill.datasets._street_plan import ROAD, SIDEWALK, SKY, Dice, Light, Plan, Side, Thing, Tint
from segdistill.types import IGNORE

END_METRES = 300.0
STEPS: Sequence[float] = (0.8, 7, 15, 26, 42, 70, 120, END_METRES)
SHADOWS = {"car": 1.0, "truck": 1.3, "bus": 1.3, "tram": 1.3, "person": 0.35, "cyclist": 0.4, "motorcyclist": 0.5}
"""Half the width of the shadow below each kind of thing, in metres."""
HOOD: Sequence[Spot] = (
    (0, 0.7), (0.08, 0.4), (0.2, 0.18), (0.35, 0.04), (0.5, 0), (0.65, 0.04), (0.8, 0.18), (0.92, 0.4), (1, 0.7),
)  # fmt: skip
"""The edge of our own bonnet: across the image, and down from its highest point."""


def sky(size: tuple[int, int], horizon: float, light: Light, clouds: np.ndarray) -> Image.Image:
    """A canvas of nothing but sky: paler towards the horizon, with clouds from a small field of noise."""
    rows = np.clip(np.linspace(0, 1 / horizon, len(clouds), dtype=np.float32), 0, 1)[:, None, None]
    zenith, air = np.asarray(light.zenith, np.float32), np.asarray(light.air, np.float32)
    cover = np.clip((clouds - 1.1 + 1.6 * light.clouds) * 0.9, 0, 1)[:, :, None] * (1 - 0.55 * rows)
    base = zenith + (air - zenith) * rows
    cloud = np.asarray(light.air, np.float32) * 0.55 + (30.0 if light.night else 112.0)
    colours = base + (cloud - base) * cover * (0.15 if light.night else 0.8)
    canvas = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    canvas.putalpha(SKY)
    return canvas


def ground(brush: Brush, plan: Plan) -> None:
    """Everything flat: what lies behind the pavements, pavements, road, tracks, crossing, markings."""
    dice = Dice(plan.seed)
    for side in (plan.left, plan.right):
        strip(brush, side.edge(), side.edge() + side.sign * 400, side.behind.tint, side.behind.label)
        x = side.kerb
        for band in side.bands:
            strip(brush, x, x + side.sign * band.width, band.tint, band.label)
            x += side.sign * band.width
    strip(brush, plan.left.kerb, plan.right.kerb, plan.road, ROAD)
    wear(brush, plan, dice)
    for side in (plan.left, plan.right):
        kerb_stone(brush, side, dice)
    paint = lighter(plan.road, 105 * plan.marking + 15)
    for x in plan.lanes:
        dashes(brush, x, dice.between(0, 6), paint)
    if dice.chance(0.4):
        strip(brush, plan.right.kerb - 0.35, plan.right.kerb - 0.22, paint, ROAD)
    if plan.tracks is not None:
        rails(brush, plan.tracks, dice)
    cross(brush, plan, paint)


def lighter(tint: Tint, amount: float) -> Tint:
    return tint[0] + amount, tint[1] + amount, tint[2] + amount


def strip(brush: Brush, left: float, right: float, tint: Tint, label: int) -> None:
    """A strip of ground along the whole street, in pieces that fade into the haze."""
    for near, far in pairwise(STEPS):
        patch(brush, left, right, near, far, tint, label)


def patch(brush: Brush, left: float, right: float, near: float, far: float, tint: Tint, label: int) -> None:
    brush.shape(((left, 0, near), (left, 0, far), (right, 0, far), (right, 0, near)), tint, label)


def wear(brush: Brush, plan: Plan, dice: Dice) -> None:
    """Patches of newer asphalt, tyre tracks and covers."""
    for _ in range(dice.whole(0, 4)):
        x, z = dice.between(plan.left.kerb, plan.right.kerb - 1), dice.between(3, 25)
        width, length = dice.between(0.5, 3), dice.between(1, 12)
        tint = lighter(plan.road, dice.between(-16, 14))
        patch(brush, x, min(x + width, plan.right.kerb), z, z + length, tint, ROAD)
    if dice.chance(0.5):
        tint = lighter(plan.road, dice.between(-9, 9))
        for x in (-0.9, 0.75):
            strip(brush, x - 0.25, x + 0.25, tint, ROAD)


def kerb_stone(brush: Brush, side: Side, dice: Dice) -> None:
    """A pale or dark line of stones where the pavement begins."""
    label = side.bands[0].label
    if label == IGNORE:
        return
    tint = lighter(side.bands[0].tint, dice.between(-30, 45)) if label == SIDEWALK else (140.0, 140.0, 138.0)
    strip(brush, side.kerb, side.kerb + side.sign * 0.22, tint, SIDEWALK)


def dashes(brush: Brush, x: float, start: float, paint: Tint) -> None:
    """A broken line between two lanes."""
    for step in range(9):
        z = start + step * 8
        if z + 3.5 > 1:
            patch(brush, x - 0.09, x + 0.09, max(z, 1.0), z + 3.5, paint, ROAD)


def rails(brush: Brush, x: float, dice: Dice) -> None:
    """Tram tracks, in the road or on a bed of their own, which has no class."""
    if dice.chance(0.4):
        strip(brush, x - 1.3, x + 1.3, (dice.between(80, 120), 95, 85), IGNORE)
        label = IGNORE
    else:
        label = ROAD
    for rail in (-0.72, 0.72):
        strip(brush, x + rail - 0.07, x + rail + 0.07, (58, 58, 62), label)


def cross(brush: Brush, plan: Plan, paint: Tint) -> None:
    """The street that crosses ours, its pavements and its zebra."""
    if plan.crossing is None:
        return
    near, far, _ = plan.crossing
    for side in (plan.left, plan.right):
        edge, away = side.kerb, side.kerb + side.sign * 120
        pavement = next((band.tint for band in side.bands if band.label == SIDEWALK), side.behind.tint)
        patch(brush, edge, away, near - 2, far + 2, pavement, SIDEWALK)
        patch(brush, edge, away, near, far, plan.road, ROAD)
    patch(brush, plan.left.kerb, plan.right.kerb, near - 0.2, far + 0.2, plan.road, ROAD)
    if not plan.crossing.zebra:
        patch(brush, 0, plan.right.kerb, near - 1, near - 0.6, paint, ROAD)
        return
    x = plan.left.kerb + 0.4
    while x < plan.right.kerb - 0.6:
        patch(brush, x, x + 0.5, near - 3.6, near - 0.8, paint, ROAD)
        x += 1.0


def shadows(brush: Brush, plan: Plan) -> None:
    """Darken the ground below vehicles and people, and beside the wall that hides the sun."""
    mask = Image.new("L", brush.canvas.size, 0)
    draw = ImageDraw.Draw(mask)
    strength = int(255 * plan.light.shadow)
    tilt = plan.light.left - plan.light.right
    if abs(tilt) > 0.15:
        side = plan.right if tilt > 0 else plan.left
        reach = -side.sign * abs(tilt) * 14
        points = [(side.edge(), 0.0, z) for z in (0.8, 90.0)] + [(side.edge() + reach, 0.0, z) for z in (90.0, 0.8)]
        draw.polygon([brush.spot(point) for point in points], int(strength * 0.55))
    for thing in plan.things:
        if thing.kind in SHADOWS:
            draw.polygon(shadow(brush, thing, tilt), strength + 60)
    soft = mask.filter(ImageFilter.BoxBlur(brush.width / 400))
    horizon = max(0, int(brush.horizon))
    part = (0, horizon, brush.width, brush.height)
    piece, shade = brush.canvas.crop(part), soft.crop(part)
    labels = piece.getchannel("A")
    dark = Image.new("RGBA", piece.size, (8, 9, 14, 0))
    piece = Image.composite(dark, piece, shade)
    piece.putalpha(labels)
    brush.canvas.paste(piece, (0, horizon))


def shadow(brush: Brush, thing: Thing, tilt: float) -> list[Spot]:
    """The outline of what a thing keeps in the dark."""
    half, length = SHADOWS[thing.kind], 0.4 if SHADOWS[thing.kind] < 0.9 else 4.6
    length = thing.length or (9.0 if thing.kind in ("truck", "bus") else length)
    if abs(thing.side) == 2 and half >= 0.9:
        half, length = length / 2, 2.0
    lean = tilt * 3.0
    left, right = thing.x - half + min(lean, 0), thing.x + half + max(lean, 0)
    near, far = thing.z - 0.25, thing.z + length
    corners: tuple[Point, ...] = ((left, 0, near), (left, 0, far), (right, 0, far), (right, 0, near))
    return [brush.spot(corner) for corner in corners]


def bonnet(brush: Brush, plan: Plan) -> None:
    """The front of our own car, which has no class."""
    if not plan.bonnet:
        return
    dice = Dice(plan.seed + 1)
    level = dice.between(15, 120)
    width, height = brush.width, brush.height
    top = height * (1 - plan.bonnet)
    middle = width * dice.between(0.45, 0.55)
    outline = [(width * place, top + height * plan.bonnet * rise) for place, rise in HOOD]
    brush.polygon([*outline, (width, height), (0, height)], (int(level), int(level), int(level * 1.05), IGNORE))
    shine = min(255, int(level * 1.5 + 20))
    brush.disc((middle, height), width * 0.3, height * plan.bonnet * 0.5, (shine, shine, shine, IGNORE))
