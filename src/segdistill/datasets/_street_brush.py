"""A brush that paints colours and labels in one stroke, in perspective, through haze."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from segdistill.datasets._street_plan import Lens, Light, Tint

Point = tuple[float, float, float]
Spot = tuple[float, float]
Ink = tuple[int, int, int, int]
"""Red, green, blue and, where others keep the opacity, the label."""

LONGEST_METRES = 12.0
"""How long a thing may be whose length is not laid out, such as a bus."""
SAMPLES = 2
"""Canvas pixels per image pixel, each way; colours are averaged over them, labels are taken from one."""
NEAREST_METRES = 0.8
MARGIN_METRES = 5.0
"""How far the widest thing reaches to its sides."""
THINNEST = SAMPLES
"""What is thinner than an image pixel is drawn one pixel wide, or its label would come and go."""
CIRCLE: Sequence[Spot] = (
    (1.0, 0.0), (0.866, 0.5), (0.5, 0.866), (0.0, 1.0), (-0.5, 0.866), (-0.866, 0.5),
    (-1.0, 0.0), (-0.866, -0.5), (-0.5, -0.866), (0.0, -1.0), (0.5, -0.866), (0.866, -0.5),
)  # fmt: skip


class Glow(NamedTuple):
    """A lamp that shines into the lens: where on the canvas, how large, and what was painted there."""

    x: float
    y: float
    radius: float
    tint: Tint
    pixel: object


class Brush:
    """Paints on `canvas`, an RGBA image whose alpha channel holds the labels."""

    def __init__(self, canvas: Image.Image, lens: Lens, light: Light) -> None:
        self.canvas = canvas
        self.width, self.height = canvas.size
        self.light = light
        self._glows: list[Glow] = []
        self.horizon = lens.horizon * self.height
        self._bend = lens.bend
        self._eye = lens.height_metres
        self._focal = lens.focal * self.width
        self._centre = lens.centre * self.width
        self._draw = ImageDraw.Draw(canvas)

    def spot(self, point: Point) -> Spot:
        """Where on the canvas a point of the world is."""
        x, y, z = point
        if z < NEAREST_METRES:
            z = NEAREST_METRES
        scale = self._focal / z
        return self._centre + (x + self._bend * z * z) * scale, self.horizon + (self._eye - y) * scale

    def scale(self, z: float) -> float:
        """Canvas pixels per metre at a distance."""
        return self._focal / max(z, NEAREST_METRES)

    def sees(self, x: float, near: float, far: float) -> bool:
        """Whether anything within a few metres of this line along the street can be on the canvas."""
        sides: set[int] = set()
        for z in (near, far):
            u, reach = self.spot((x, 0.0, z))[0], MARGIN_METRES * self.scale(z)
            sides.add(-1 if u + reach < 0 else 1 if u - reach > self.width else 0)
        return len(sides) == 2 or 0 in sides

    def ink(self, tint: Tint, z: float, label: int, shade: float = 1.0) -> Ink:
        """A colour as it arrives through the air."""
        clear = self.light.visibility_metres / (self.light.visibility_metres + max(z, 0.0))
        own, air, veil = shade * clear, self.light.air, 1 - clear
        red, green, blue = tint[0] * own + air[0] * veil, tint[1] * own + air[1] * veil, tint[2] * own + air[2] * veil
        return int(min(max(red, 0), 255)), int(min(max(green, 0), 255)), int(min(max(blue, 0), 255)), label

    def shape(self, points: Sequence[Point], tint: Tint, label: int, shade: float = 1.0) -> None:
        """A polygon in the world."""
        z = sum(point[2] for point in points) / len(points)
        self.polygon([self.spot(point) for point in points], self.ink(tint, z, label, shade))

    def polygon(self, spots: Sequence[Spot], ink: Ink) -> None:
        """A polygon on the canvas."""
        self._draw.polygon(spots, ink)

    def box(self, left: float, top: float, right: float, bottom: float, ink: Ink) -> None:
        """An upright rectangle, at least one image pixel wide and high."""
        right, bottom = max(right, left + THINNEST - 1), max(bottom, top + THINNEST - 1)
        self._draw.rectangle((round(left), round(top), round(right), round(bottom)), ink)

    def line(self, start: Spot, end: Spot, width: float, ink: Ink) -> None:
        self._draw.line((start, end), ink, max(1, round(width)))

    def disc(self, centre: Spot, across: float, down: float, ink: Ink) -> None:
        """A filled ellipse with these half axes."""
        x, y = centre
        self._draw.ellipse((x - across, y - down, x + across, y + down), ink)

    def ring(self, centre: Spot, across: float, down: float, width: float, ink: Ink) -> None:
        x, y = centre
        self._draw.ellipse((x - across, y - down, x + across, y + down), None, ink, max(1, round(width)))

    def claim(self, spots: Sequence[Spot], label: int) -> None:
        """Label a polygon and leave its colours: what is seen through a fence belongs to the fence."""
        left, top = max(0, int(min(x for x, _ in spots))), max(0, int(min(y for _, y in spots)))
        right = min(self.width, int(max(x for x, _ in spots)) + 2)
        bottom = min(self.height, int(max(y for _, y in spots)) + 2)
        if right <= left or bottom <= top:
            return
        piece = self.canvas.crop((left, top, right, bottom))
        labels = piece.getchannel("A")
        ImageDraw.Draw(labels).polygon([(x - left, y - top) for x, y in spots], label)
        piece.putalpha(labels)
        self.canvas.paste(piece, (left, top))

    def glow(self, centre: Spot, radius: float, tint: Tint) -> None:
        """Remember a lamp that shines into the lens, if nothing is painted over it later."""
        place = int(centre[0]), int(centre[1])
        if 0 <= place[0] < self.width and 0 <= place[1] < self.height:
            self._glows.append(Glow(*centre, radius, tint, self.canvas.getpixel(place)))

    def glows(self) -> list[Glow]:
        """The lamps that nothing hides."""
        return [glow for glow in self._glows if self.canvas.getpixel((int(glow.x), int(glow.y))) == glow.pixel]
