"""What air, lens and sensor make of a painted scene, and what annotators leave of its labels."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from segdistill.datasets._street_brush import Brush
from segdistill.datasets._street_plan import (
    BICYCLE,
    BUILDING,
    FENCE,
    MOTORCYCLE,
    POLE,
    RIDER,
    ROAD,
    SIDEWALK,
    TERRAIN,
    TRAFFIC_LIGHT,
    TRAFFIC_SIGN,
    VEGETATION,
    WALL,
    Dice,
    Light,
)
from segdistill.types import IGNORE

OCTAVES = (12, 24, 48, 96, 192, 384)
"""Cells across the image, from the coarsest grain to the finest."""
SMOOTH = (0.02, 0.02, 0.02, 0.02, 0.02, 0.02)
GRAIN = {
    ROAD: (0.05, 0.05, 0.05, 0.05, 0.06, 0.05),
    SIDEWALK: (0.05, 0.05, 0.06, 0.08, 0.07, 0.05),
    BUILDING: (0.06, 0.05, 0.05, 0.05, 0.05, 0.05),
    WALL: (0.06, 0.06, 0.07, 0.08, 0.08, 0.06),
    VEGETATION: (0.06, 0.1, 0.18, 0.25, 0.3, 0.25),
    TERRAIN: (0.08, 0.1, 0.12, 0.16, 0.2, 0.16),
}
"""How strongly each octave shows on a class; on the others as in SMOOTH."""
THIN = (FENCE, POLE, TRAFFIC_LIGHT, TRAFFIC_SIGN, RIDER, MOTORCYCLE, BICYCLE)
"""Classes of which a void rim would leave too little."""


def octaves(generator: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    """Fields of noise, float32 [H, W] between -1 and 1; a larger image gets finer ones on top of the same."""
    fields: list[np.ndarray] = []
    for cells in OCTAVES:
        if cells > width and fields:
            break
        rows = max(2, round(cells * height / width))
        coarse = generator.random((rows, cells), np.float32) * 2 - 1
        enlarged = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        fields.append(np.asarray(enlarged))
    return fields


def grain(image: np.ndarray, labels: np.ndarray, fields: list[np.ndarray]) -> np.ndarray:
    """Roughen each class in its own way."""
    table = np.tile(np.asarray(SMOOTH, np.float32), (256, 1))
    for label, strengths in GRAIN.items():
        table[label] = strengths
    table[IGNORE] = GRAIN[ROAD]
    gain = np.ones(labels.shape, np.float32)
    for octave, field in enumerate(fields):
        gain += table[:, octave][labels] * field
    return image * gain[:, :, None]


def expose(image: np.ndarray, light: Light, brush: Brush, fields: list[np.ndarray]) -> np.ndarray:
    """Lamps, glare, exposure, colour cast, contrast and a darker rim."""
    height, width = image.shape[:2]
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    gain = light.exposure * (1 - light.vignette * 0.5 * (rows * rows + columns * columns))
    image = image * (gain[:, :, None] * np.asarray(light.cast, np.float32))
    image = (image - 110) * light.contrast + 110 if not light.night else image
    for glow in brush.glows():
        x, y = glow.x / brush.width * 2 - 1, glow.y / brush.height * 2 - 1
        reach = max(glow.radius / brush.width, 0.004) * 2
        square = ((columns - x) / reach) ** 2 + ((rows - y) * (height / width) / reach) ** 2
        image = image + (0.9 / (1 + square * square))[:, :, None] * np.asarray(glow.tint, np.float32)
    if light.glare:
        top = brush.horizon / brush.height * 2 - 1.1
        square = (columns - (light.glare_place * 2 - 1)) ** 2 + ((rows - top) * 0.6) ** 2
        veil = (light.glare / (1 + square * 6))[:, :, None]
        image = image + veil * (np.asarray((255, 235, 200), np.float32) - image * 0.5)
    if light.rain:
        image = image * 0.92 + 6 * fields[1][:, :, None]
    return image


def weather(image: Image.Image, light: Light, dice: Dice) -> Image.Image:
    """Streaks of rain, flakes of snow; drawn faintly over everything."""
    if not light.rain and not light.snow:
        return image
    width, height = image.size
    draw = ImageDraw.Draw(image, "RGBA")
    slant = dice.between(-0.02, 0.02)
    for _ in range(int(90 * light.rain)):
        x, y, length = dice.between(0, 1), dice.between(-0.1, 1), dice.between(0.02, 0.09)
        start, end = (x * width, y * height), ((x + slant) * width, (y + length) * height)
        draw.line((start, end), (205, 210, 220, 60), max(1, width // 400))
    for _ in range(int(140 * light.snow)):
        x, y, size = dice.between(0, 1) * width, dice.between(0, 1) * height, dice.between(0.0008, 0.0026) * width
        draw.ellipse((x - size, y - size, x + size, y + size), (245, 245, 250, 190))
    return image


def develop(colours: np.ndarray, labels: np.ndarray, brush: Brush, light: Light, seed: int) -> np.ndarray:
    """The photograph, uint8 [H, W, 3], of painted colours float32 [H, W, 3] with hard labels [H, W]."""
    height, width = labels.shape
    generator = np.random.default_rng(seed)
    fields = octaves(generator, height, width)
    image = expose(grain(colours, labels, fields), light, brush, fields)
    photograph = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    photograph = weather(photograph, light, Dice(seed))
    if light.blur:
        photograph = photograph.filter(ImageFilter.GaussianBlur(light.blur * width / 1000))
    noise = generator.random((height, width, 3), np.float32) - np.float32(0.5)
    noisy = np.asarray(photograph, np.float32) + noise * (light.noise * 3.4)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def clouds(generator: np.random.Generator) -> np.ndarray:
    """A field of clouds between 0 and about 1.5, float32 [48, 96]."""
    field = np.zeros((48, 96), np.float32)
    for rows, columns, weight in ((4, 4, 0.6), (8, 10, 0.5), (16, 24, 0.3), (32, 48, 0.15)):
        coarse = Image.fromarray(generator.random((rows, columns), np.float32))
        field += weight * np.asarray(coarse.resize((96, 48), Image.Resampling.BICUBIC))
    return field


def leave_rims(labels: np.ndarray, generator: np.random.Generator, share: float) -> np.ndarray:
    """Void along stretches of the borders between classes, as annotators leave them; thin classes keep their pixels."""
    height, width = labels.shape
    border = np.zeros(labels.shape, bool)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    thick = max(1, round(width / 400))
    for step in range(1, thick):
        border[:, step:] |= border[:, :-step].copy()
    coarse = Image.fromarray(generator.random((12, 24), np.float32))
    stretches = np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST)) < share
    spared = np.isin(labels, THIN)
    return np.where(border & stretches & ~spared, IGNORE, labels).astype(np.uint8)
