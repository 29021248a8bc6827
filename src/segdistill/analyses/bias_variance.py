"""How much of a network's error all seeds share (bias), how much is each one's own (variance), and what distillation
changes of either.

Heskes 1998 (cross-entropy), Yang et al. 2020, https://arxiv.org/abs/2002.11328 (Brier), Domingos 2000,
https://mlanthology.org/aaai/2000/domingos2000aaai-unified (0-1); students and variance: Zhou et al. 2021,
https://arxiv.org/abs/2102.00650. Where we differ: every pixel is a decision; all numbers are corrected for the few runs
that there are; and the variance is that over seeds, which draw the first weights and the order of the data, unless
`data.parts` gives every seed other training images, which is Yang's protocol.
"""

from collections.abc import Mapping
from typing import final

import matplotlib as mpl
import numpy as np
from PIL import Image

from segdistill.analyses import Analysis, Subject
from segdistill.analyses._arms import arms_of, pairings
from segdistill.analyses._ensembles import Settings, Told, tell
from segdistill.analyses._listening import WIDEST, Samples, images
from segdistill.analyses._parted import (
    CHANGED,
    SHOWN,
    Over,
    Part,
    about_arms,
    by_class,
    by_seed,
    change_by_class,
    changes,
    decomposition,
    numbers_of,
    over_groups,
    with_share,
    zero_one,
)
from segdistill.mistakes import Mistake
from segdistill.types import ClassTable, Findings, Picture, Table

WHO = "bias_variance"
SURE = 0.995
"""Share of the pixels that the pictures' scales hold."""


@final
class BiasVariance(Analysis):
    """Bias and variance over the seeds of every arm, of cross-entropy, Brier and 0-1 loss, on the validation split.

    An arm is the runs whose recipes differ in the seed alone, two at least; their last weights are asked. A distilled
    arm's baseline is the same network on labels alone, as in `class_results`. Losses are means over labelled pixels
    (cross-entropy in nats), each the sum of its bias and its variance (of 0-1: its net variance).

    Tables: `decomposition` by loss and by what it is over: pixels, classes (their mean), body, boundary, and the mean
    of classes that are frequent, common or rare: above 10 %, above 1 % and up to 1 % of the labelled pixels; `plug_in`
    is the variance before it was corrected. `zero_one`: unbiased and biased variance. `by_class/<arm>`; `change` and,
    by class, `change/<arm>`, against the baseline, paired by seed; `arms`, `classes`, `advice`. Pictures:
    `maps/<image>/image`, `maps/<image>/<arm> bias` and `… variance` of the cross-entropy, each on one scale from 0 to
    the number `bias_scale` or `variance_scale`.

    Args:
        images: validation images, spread evenly; default all.
        stride: every so many rows and columns a pixel is looked at.
        boundary: as in the analysis `dataset`.
        pictures: validation images whose maps are shown.
        baseline: the arm that all others are compared with.
    """

    def __init__(
        self,
        images: int | None = None,
        stride: int = 4,
        boundary: float = 0.005,
        pictures: int = 3,
        baseline: str | None = None,
    ) -> None:
        if (images is not None and images < 1) or pictures < 0 or not 1 <= stride <= 16:
            got = f"images {images}, pictures {pictures} and stride {stride}"
            raise Mistake(f"{WHO}: expected images >= 1, pictures >= 0 and 1 <= stride <= 16, got {got}")
        if not 0 < boundary < 0.5:
            raise Mistake(f"boundary: expected 0 < share of the diagonal < 0.5, got {boundary}")
        self.images, self.stride, self.boundary, self.pictures = images, stride, boundary, pictures
        self.baseline = baseline

    def analyse(self, subject: Subject) -> Findings:
        """What the runs of an arm share, and what they do not.

        Raises:
            Mistake: as `arms_of` and `pairings` say, or a sample cannot be read or has no labelled pixel.
        """
        if not subject.runs:
            raise Mistake(f"{WHO}: expected at least two run directories")
        split = list(subject.splits)[-1]
        classes = subject.splits[split].classes
        arms = arms_of(subject.runs, classes, WHO)
        pairs = pairings(arms, self.baseline, WHO)
        samples = images(subject.splits[split], subject.data, split, self.images, self.pictures)
        settings = Settings(len(classes.names), self.boundary, self.stride)
        told = {arm.name: tell(samples, arm, settings, subject.folder) for arm in arms}
        pixels = next(iter(told.values())).sums.pixels.sum(0)
        if not pixels.sum():
            raise Mistake(f"{WHO}: no pixel that is looked at in {split} is labelled")
        share = pixels / pixels.sum()
        over = {name: over_groups(one.sums, share) for name, one in told.items()}
        tables = {
            "classes": _legend(classes),
            "arms": about_arms(arms, pairs),
            "decomposition": decomposition(over),
            "zero_one": zero_one(over),
            "change": Table(CHANGED, [row for pair in pairs for row in changes(pair, over)]),
        }
        tables |= {f"by_class/{name}": by_class(classes.names, one.sums, share) for name, one in told.items()}
        numbers = {"images": float(samples.length), "stride": float(self.stride), "boundary": self.boundary}
        for name, found in over.items():
            numbers |= numbers_of(name, found["pixels"], found["classes"])
        for arm, baseline in pairs:
            table = change_by_class(
                (arm, baseline), told[arm.name].sums, told[baseline.name].sums, classes.names, share
            )
            tables[f"change/{arm.name}"] = table
            numbers |= with_share(arm.name, table)
        for row in tables["change"].rows:
            if row[4] == "pixels":
                parts = zip(("loss", "bias", "variance"), (row[5], row[8], row[11]), strict=True)
                numbers |= {f"{row[0]}/change/{row[3]}/{part}": float(v) for part, v in parts if v is not None}
        tables["advice"] = Table(("about", "finding"), _advice(tables["change"], over))
        pictures, scales = _pictures(told, samples)
        return Findings(numbers | scales, pictures, tables)


def _legend(classes: ClassTable) -> Table:
    rows = [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(*classes, strict=True)]
    return Table(("class", "colour"), rows)


def _advice(change: Table, over: Mapping[str, Mapping[str, Over]]) -> list[tuple[str, str]]:
    """A sentence for every comparison; where there is none, for every arm."""
    said: list[tuple[str, str]] = []
    for arm, baseline, seeds, loss, name, *cells in change.rows:
        if (loss, name) == ("cross_entropy", "pixels"):
            mean, bias, variance = (Part(*cells[begin : begin + 3]) for begin in (0, 3, 6))
            sentence = (
                f"against {baseline}, {seeds} paired seed{'s' * (seeds != 1)}, in nats of cross-entropy a pixel:"
                f" {_signed(mean)}, of which bias {_signed(bias)}, {_verdict(bias)}, and variance"
                f" {_signed(variance)}, {_verdict(variance)}."
            )
            said.append((str(arm), sentence))
    if said:
        return said
    for arm, found in over.items():
        values = by_seed(found["pixels"].values, "cross_entropy")
        mean, bias, variance = (float(values[part].mean()) for part in ("loss", *SHOWN))
        said.append((arm, f"cross-entropy {mean:.4f} nats a pixel: bias {bias:.4f}, variance {variance:.4f}."))
    text = (
        "expected runs of one network with and without distillation, of which some have the same seed; or set baseline."
    )
    return [("no comparison", text), *said]


def _signed(part: Part) -> str:
    value, low, high = part
    said = f"{value:+.4f}" + ("" if low is None else f" ({low:+.4f} … {high:+.4f})")
    return said.replace("-", "−")


def _verdict(part: Part) -> str:
    if not isinstance(part.low, float) or not isinstance(part.high, float):
        return "undecided"
    return "higher" if part.low > 0 else "lower" if part.high < 0 else "undecided"


def _pictures(told: Mapping[str, Told], samples: Samples) -> tuple[dict[str, Picture], dict[str, float]]:
    """Photographs with each arm's bias and variance, and what their scales end at."""
    found: dict[str, Picture] = {}
    tops: dict[str, float] = {}
    for place, part in enumerate(SHOWN):
        maps = [one[place].ravel().astype(np.float64) for arm in told.values() for one in arm.maps.values()]
        tops[part] = max(1e-3, float(np.quantile(np.concatenate(maps), SURE))) if maps else 0.0
    colours = mpl.colormaps["magma"]
    for place in samples.pictured:
        seen = next(samples.starting(place))
        image = Image.fromarray(seen.image.permute(1, 2, 0).contiguous().numpy())
        if image.width > WIDEST:
            image = image.resize((WIDEST, max(1, round(image.height * WIDEST / image.width))))
        found[f"maps/{seen.key}/image"] = Picture(np.asarray(image))
        for name, arm in told.items():
            for index, part in enumerate(SHOWN):
                shade = colours(arm.maps[seen.key][index].astype(np.float64) / tops[part])[..., :3]
                found[f"maps/{seen.key}/{name} {part}"] = Picture((255 * shade).round().astype(np.uint8))
    return found, {f"{part}_scale": top for part, top in tops.items()}
