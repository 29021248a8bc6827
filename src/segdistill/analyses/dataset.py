"""What a data set shows, split by split and as a whole, and what to set in a recipe because of it.

Class frequencies and weights as in Cordts et al. 2016, https://arxiv.org/abs/1604.01685, and the papers that the losses
name; the map of where a class is, as in Zhang et al. 2017, https://arxiv.org/abs/1707.09465; near-duplicates by the
difference hash of 9×8 grey pixels. Where we differ: objects are connected pieces of the label map, since most of our
sets have no instances: two cars that touch are one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import final

import matplotlib as mpl
import numpy as np
from PIL import Image

from segdistill.analyses import Analysis, Subject
from segdistill.analyses import _advice as advice
from segdistill.analyses._attributes import attributes
from segdistill.analyses._shift import interval, shares
from segdistill.analyses._tally import Tally, moments, tally
from segdistill.analyses._twins import across, nearest
from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec
from segdistill.types import Cell, Findings, Picture, Table

ALL = "all"
"""What all splits together are called."""
DARK = 50.0
"""Mean luminance (0…255) below which an image is called dark."""
SPECK = 4
"""Objects of fewer pixels a side than this are specks."""
FEW = 10
"""Images below which a bootstrap says nothing."""
LIGHT_STEP = 8
PAIRS_TOLD, PAIRS_SHOWN, THUMBNAIL = 100, 4, 320
BITS = 64


@final
class DatasetAnalysis(Analysis):
    """Frequencies, places, company, objects, boundaries, light, shift between splits and near-duplicates.

    Tables by name: `splits`, `frequency`, `shift`, `together/<split>`, `objects/<split>`, `boundary`, `where`,
    `luminance`, `channels`, `duplicates`, `weights`, `crops`, `advice`, `classes`, and `attributes` where BDD100K's
    label files tell weather and time. Pictures: `where/<split>/<class>` and `duplicates/<n>`. A share is a fraction.

    Args:
        boundary: how near a pixel of another value makes a boundary, as a share of the image's diagonal (Boundary
            IoU's 0.005: 11 pixels in 1024×2048).
        duplicate_bits: two images are near-duplicates when at most so many of their hashes' 64 bits differ.
        resamples: of the bootstrap behind each interval.
        seed: of the bootstrap.
    """

    def __init__(self, boundary: float = 0.005, duplicate_bits: int = 6, resamples: int = 1000, seed: int = 0) -> None:
        if not 0 < boundary < 0.5:
            raise Mistake(f"boundary: expected 0 < share of the diagonal < 0.5, got {boundary}")
        if not 0 <= duplicate_bits < BITS:
            raise Mistake(f"duplicate_bits: expected 0 to 63 of 64 bits, got {duplicate_bits}")
        if resamples < 100:
            raise Mistake(f"resamples: expected at least 100, got {resamples}")
        self.boundary, self.duplicate_bits, self.resamples, self.seed = boundary, duplicate_bits, resamples, seed

    def analyse(self, subject: Subject) -> Findings:
        """What the splits show.

        Raises:
            Mistake: a sample cannot be read.
        """
        names = next(iter(subject.splits.values())).classes
        sums = {name: tally(name, split, self.boundary, subject.folder) for name, split in subject.splits.items()}
        train, *others = sums
        parts = dict(sums)
        if others:
            parts[ALL] = sum((sums[name] for name in others), sums[train])
        whole = parts[list(parts)[-1]]
        numbers: dict[str, float] = {}
        images: dict[str, Picture] = {}
        legend = [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(*names, strict=True)]
        tables = {
            "classes": Table(("class", "colour"), legend),
            "splits": _splits(parts, self.duplicate_bits),
            "frequency": _frequency(names.names, parts),
            "boundary": _boundary(names.names, parts),
            "luminance": _luminance(sums),
            "channels": _channels(parts),
            "where": _where(names.names, whole),
            "weights": _weights(names.names, sums[train]),
            "crops": _crops(names.names, sums[train]),
        }
        for name, part in parts.items():
            tables[f"together/{name}"] = _together(names.names, part)
            tables[f"objects/{name}"] = _objects(names.names, part, _reduction(subject.data, part))
            images |= {f"where/{name}/{label}": picture for label, picture in _maps(names.names, part)}
        said = [
            *advice.on_weights(names.names, sums[train].pixels),
            *advice.on_sampling(names.names, sums[train].pixels),
            *advice.on_crop(names.names, sums[train].needed_pixels, _crop(subject.data, sums[train])),
            *advice.on_resolution(_medians(names.names, sums[train], _reduction(subject.data, sums[train]))),
            *advice.on_absent(names.names, {name: part.pixels for name, part in sums.items()}),
        ]
        for other in others:
            found = self._shift(names.names, sums[train], sums[other])
            tables[f"shift/{other}"] = found
            distance = float(np.abs(shares(sums[train].pixels) - shares(sums[other].pixels)).sum() / 2)
            numbers[f"{other}/total_variation"] = distance
            said += advice.on_shift(found, train, other, distance)
            twins, share, pictures = self._duplicates(subject.splits, sums, train, other)
            tables[f"duplicates/{other}"] = twins
            numbers[f"{other}/near_duplicates_of_{train}"] = share
            images |= pictures
            itself = float((nearest(sums[other].hashes) <= self.duplicate_bits).mean())
            said += advice.on_duplicates(share, itself, self.duplicate_bits, train, other)
        tables |= _by_attribute(names.names, subject.splits, sums)
        for name, part in parts.items():
            numbers |= {f"{name}/{key}": value for key, value in _numbers(part).items()}
        numbers |= {"boundary": self.boundary, "duplicate_bits": self.duplicate_bits, "resamples": self.resamples}
        tables["advice"] = Table(("set", "because"), said)
        return Findings(numbers, images, tables)

    def _shift(self, names: Sequence[str], train: Tally, other: Tally) -> Table:
        """Each class's shares, their difference, and its interval; none from fewer than FEW labelled images a split."""
        labelled = [int(part.pixels[:, :-1].any(1).sum()) for part in (train, other)]
        columns = ("class", "train", "other", "difference", "low", "high")
        if not all(labelled):
            return Table(columns, [])
        one, two = shares(train.pixels).tolist(), shares(other.pixels).tolist()
        ends: list[tuple[Cell, Cell]] = [(None, None)] * len(names)
        if min(labelled) >= FEW:
            low, high = interval(train.pixels, other.pixels, self.resamples, np.random.default_rng(self.seed))
            ends = list(zip(low.tolist(), high.tolist(), strict=True))
        rows = [[name, a, b, b - a, *both] for name, a, b, both in zip(names, one, two, ends, strict=True)]
        return Table(columns, rows)

    def _duplicates(
        self, splits: Mapping[str, Dataset], sums: Mapping[str, Tally], train: str, other: str
    ) -> tuple[Table, float, dict[str, Picture]]:
        """The nearest pairs, the share of `other` that has one in `train`, and pictures of a few."""
        found = across(sums[train].hashes, sums[other].hashes, self.duplicate_bits)
        rows = [
            [sums[train].keys[one], sums[other].keys[two], int(bits)]
            for one, two, bits in zip(*(column[:PAIRS_TOLD] for column in found), strict=True)
        ]
        _, firsts = np.unique(found.second, return_index=True)  # each image of the other split once
        pictures: dict[str, Picture] = {}
        for place in np.sort(firsts)[:PAIRS_SHOWN]:
            pair = ((train, int(found.first[place])), (other, int(found.second[place])))
            pixels = [_thumbnail(splits[split], index) for split, index in pair]
            height = min(p.shape[0] for p in pixels)
            joined = np.concatenate([p[:height] for p in pixels], 1)
            keys = " | ".join(sums[split].keys[index] for split, index in pair)
            pictures[f"duplicates/{other}/{keys} ({int(found.bits[place])} bits)"] = Picture(joined)
        return (
            Table((f"{train} image", f"{other} image", "bits"), rows),
            len(firsts) / max(1, len(sums[other].hashes)),
            pictures,
        )


def _numbers(part: Tally) -> dict[str, float]:
    labelled, everything = int(part.pixels[:, :-1].sum(dtype=np.int64)), int(part.pixels.sum(dtype=np.int64))
    known = shares(part.pixels)[part.pixels[:, :-1].any(0)]
    return {
        "images": float(part.seen),
        "pixels": float(everything),
        "void_share": 1 - labelled / max(1, everything),
        "boundary_share": float(part.near.sum()) / max(1, labelled),
        "imbalance": float(known.max() / known.min()) if len(known) else 1.0,
        "luminance": float(part.light[:, 0].mean()),
        "contrast": float(part.light[:, 1].mean()),
    }


def _splits(parts: Mapping[str, Tally], bits: int) -> Table:
    rows: list[list[Cell]] = []
    for name, part in parts.items():
        numbers = _numbers(part)
        height, width = _shape(part)
        twins = float((nearest(part.hashes) <= bits).mean())
        dark = float((part.light[:, 0] < DARK).mean())
        sizes = len({tuple(shape) for shape in part.shapes.tolist()})
        unlabelled = int((~part.pixels[:, :-1].any(1)).sum())
        kept = [numbers[key] for key in ("void_share", "boundary_share", "luminance", "contrast")]
        size = f"{height}×{width}" + (f" and {sizes - 1} more" if sizes > 1 else "")
        rows.append([name, part.seen, unlabelled, size, *kept, dark, twins])
    columns = ("split", "images", "unlabelled", "size", "void", "boundary", "luminance", "contrast", "dark",
               "near-duplicates")  # fmt: skip
    return Table(columns, rows)


def _frequency(names: Sequence[str], parts: Mapping[str, Tally]) -> Table:
    """Pixels, their share of the labelled ones, and the share of the images that have any."""
    columns = [f"{part} {what}" for part in parts for what in ("pixels", "share", "images")]
    cells: list[list[Cell]] = [[] for _ in names]
    for part in parts.values():
        share, images = shares(part.pixels), (part.pixels[:, :-1] > 0).mean(0)
        for k, row in enumerate(cells):
            row += [int(part.pixels[:, k].sum(dtype=np.int64)), float(share[k]), float(images[k])]
    return Table(("class", *columns), [[name, *row] for name, row in zip(names, cells, strict=True)])


def _together(names: Sequence[str], part: Tally) -> Table:
    """Of the images that have the row's class, the share that also have the column's."""
    there = (part.pixels[:, :-1] > 0).astype(np.float64)
    both = there.T @ there
    rows: list[list[Cell]] = [
        [name, *(None if not both[k, k] else float(value / both[k, k]) for value in both[k])]
        for k, name in enumerate(names)
    ]
    return Table(("class", *names), rows)


def _objects(names: Sequence[str], part: Tally, reduction: float) -> Table:
    """Connected pieces; a side is the square root of a piece's pixels, rounded down.

    `10 %`: a tenth of the class's pixels lie in pieces of at most this side. Annotations leave specks of a few pixels,
    which would rule any count of pieces.
    """
    rows: list[list[Cell]] = []
    for name, sides, weights in zip(names, part.sides, part.side_pixels, strict=True):
        count = int(sides.sum())
        low, middle, high = (advice.quantile(weights, share) for share in (0.1, 0.5, 0.9))
        specks = float(sides[:SPECK].sum() / count) if count else None
        at_input = None if middle is None else middle * reduction
        rows.append([name, count, count / max(1, part.seen), specks, low, middle, high, at_input])
    columns = ("class", "objects", "an image", "specks", "10 %", "50 %", "90 %", "50 % at the input")
    return Table(columns, rows)


def _boundary(names: Sequence[str], parts: Mapping[str, Tally]) -> Table:
    """The share of each class's pixels that lie near a pixel of another value."""
    totals = {part: sums.pixels[:, :-1].sum(0, dtype=np.int64) for part, sums in parts.items()}
    rows: list[list[Cell]] = [
        [name, *(float(parts[part].near[k] / t[k]) if t[k] else None for part, t in totals.items())]
        for k, name in enumerate(names)
    ]
    return Table(("class", *parts), rows)


def places(part: Tally) -> np.ndarray:
    """float64 [K, *GRID]: each class's share of the labelled pixels at each place."""
    labelled = part.cells[:-1].sum(0)
    return part.cells[:-1] / np.maximum(1, labelled)


def _where(names: Sequence[str], part: Tally) -> Table:
    """The largest share of a place's pixels, and the class's mean place (0: top, left; 1: bottom, right)."""
    cells, share = part.cells[:-1], places(part)
    down, across_ = ((np.arange(n) + 0.5) / n for n in cells.shape[1:])
    rows: list[list[Cell]] = []
    for k, name in enumerate(names):
        total = int(cells[k].sum())
        centre = (float(cells[k].sum(1) @ down / total), float(cells[k].sum(0) @ across_ / total)) if total else None
        rows.append([name, float(share[k].max()), *(centre or (None, None))])
    return Table(("class", "most", "down", "across"), rows)


def _maps(names: Sequence[str], part: Tally) -> Iterator[tuple[str, Picture]]:
    """Pictures of where a class is, each on a scale of its own up to its largest share."""
    colours = mpl.colormaps["magma"]
    for name, share in zip(names, places(part), strict=True):
        top = share.max()
        yield name, Picture((colours(share / top if top else share)[..., :3] * 255).round().astype(np.uint8))


def _luminance(sums: Mapping[str, Tally]) -> Table:
    """Images by their mean luminance."""
    edges = np.arange(0, 257, LIGHT_STEP)
    counts = [np.histogram(part.light[:, 0], edges)[0].tolist() for part in sums.values()]
    return Table(("from", *sums), [[int(edge), *row] for edge, *row in zip(edges[:-1], *counts, strict=True)])


def _channels(parts: Mapping[str, Tally]) -> Table:
    """Mean and standard deviation of red, green and blue over all pixels, on a scale of 0 to 1."""
    rows: list[list[Cell]] = [
        [name, *(value / 255 for histogram in part.channels for value in moments(histogram))]
        for name, part in parts.items()
    ]
    return Table(("split", *(f"{c} {m}" for c in ("red", "green", "blue") for m in ("mean", "deviation"))), rows)


def _weights(names: Sequence[str], train: Tally) -> Table:
    """Each formula's weights, and how often sampling: rare_class would look for the class."""
    found = advice.class_weights(train.pixels) | {"rare_class looks for it": advice.chances(train.pixels)}
    rows: list[list[Cell]] = [
        [name, *(None if np.isnan(values[k]) else float(values[k]) for values in found.values())]
        for k, name in enumerate(names)
    ]
    return Table(("class", *found), rows)


def _crops(names: Sequence[str], train: Tally) -> Table:
    """For windows of so many per cent of the image: the share of each class's pixels in objects that they hold."""
    share = advice.held(train.needed_pixels)
    steps = range(10, 101, 10)
    background = advice.is_background(train.needed_pixels)
    rows: list[list[Cell]] = [
        [name, "background" if background[k] else "countable",
         *(None if np.isnan(share[k, step]) else float(share[k, step]) for step in steps)]
        for k, name in enumerate(names)
    ]  # fmt: skip
    return Table(("class", "kind", *(f"{step} %" for step in steps)), rows)


def _by_attribute(names: Sequence[str], splits: Mapping[str, Dataset], sums: Mapping[str, Tally]) -> dict[str, Table]:
    """How weather, scene and time of day are spread over the splits, and each class's share under them."""
    told = {split: attributes(dataset, split) for split, dataset in splits.items()}
    if not any(told.values()):
        return {}
    pixels: dict[tuple[str, str], np.ndarray] = {}
    images: Counter[tuple[str, str, str]] = Counter()
    light: Counter[tuple[str, str]] = Counter()
    for split, part in sums.items():
        for place, key in enumerate(part.keys):
            for name, value in told[split].get(PurePath(key).name, {}).items():
                pixels.setdefault((name, value), np.zeros(len(names) + 1, np.int64))
                pixels[name, value] += part.pixels[place]
                images[name, value, split] += 1
                light[name, value] += float(part.light[place, 0])  # pyright: ignore[reportArgumentType]
    rows: list[list[Cell]] = []
    for name, value in sorted(pixels):
        counts = [images[name, value, split] for split in sums]
        rows.append([name, value, *counts, light[name, value] / sum(counts)])
    tables = {"attributes": Table(("attribute", "value", *(f"{split} images" for split in sums), "luminance"), rows)}
    for name in sorted({name for name, _ in pixels}):
        values = sorted(value for other, value in pixels if other == name)
        share = [pixels[name, v][:-1] / max(1, int(pixels[name, v][:-1].sum())) for v in values]
        tables[f"attributes/{name}"] = Table(
            ("class", *values), [[label, *(float(s[k]) for s in share)] for k, label in enumerate(names)]
        )
    return tables


def _reduction(data: DataSpec, part: Tally) -> float:
    """How much shorter an object's side is at the network's input."""
    height, width = _shape(part)
    return float(np.sqrt(data.size[0] * data.size[1] / (height * width))) if data.size else 1.0


def _crop(data: DataSpec, part: Tally) -> int | None:
    """Per cent of the image's height and width that the recipe's crop surely shows, at scale 1."""
    height, width = data.size or _shape(part)
    return min(100 * data.crop[0] // height, 100 * data.crop[1] // width, 100) if data.crop else None


def _medians(names: Sequence[str], part: Tally, reduction: float) -> dict[str, float]:
    """The side of the objects that hold half of each class's pixels, at the network's input."""
    found = {name: advice.quantile(sides, 0.5) for name, sides in zip(names, part.side_pixels, strict=True)}
    return {name: side * reduction for name, side in found.items() if side is not None}


def _shape(part: Tally) -> tuple[int, int]:
    """The most frequent height and width."""
    (height, width), _ = Counter(map(tuple, part.shapes.tolist())).most_common(1)[0]
    return height, width


def _thumbnail(dataset: Dataset, index: int) -> np.ndarray:
    image = Image.fromarray(dataset[index].image.permute(1, 2, 0).contiguous().numpy())
    return np.asarray(image.resize((THUMBNAIL, max(1, round(image.height * THUMBNAIL / image.width)))))
