"""Tables of bias and variance: of arms, over pixels and classes, and of what an arm changes against its baseline."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from segdistill.analyses._arms import Arm
from segdistill.analyses._decompositions import BODY, BOUNDARY, COLUMNS, LOSSES, Sums, pseudo
from segdistill.analyses._experiments import spearman
from segdistill.intervals import interval
from segdistill.types import Cell, Table

GROUPS = {"frequent": (0.1, 1.0), "common": (0.01, 0.1), "rare": (0.0, 0.01)}
"""Classes by their share of the labelled pixels: above the first number, up to the second."""
SPREAD = 3
"""Runs from which intervals of bias and variance are told, and the 0-1 loss at all: what most of two call a pixel is
what the lower class says."""
SHOWN = ("bias", "variance")
PLACE = {column: place for place, column in enumerate(COLUMNS)}


class Part(NamedTuple):
    """A number and its 95 % interval over seeds."""

    value: Cell
    low: Cell = None
    high: Cell = None


class Over(NamedTuple):
    """Of an arm, over some of the pixels."""

    pixels: int
    values: np.ndarray
    """[1 + R, len(COLUMNS)]: of all runs, and without each."""


def over_groups(sums: Sums, share: np.ndarray) -> dict[str, Over]:
    """By what it is over; groups without a class are left out."""
    means, pixels = sums.by_class(), sums.pixels
    found = {
        "pixels": Over(int(pixels.sum()), sums.over_pixels()),
        "classes": Over(int(pixels.sum()), means[share > 0].mean(0)),
        "body": Over(int(pixels[BODY].sum()), sums.over_pixels([BODY])),
        "boundary": Over(int(pixels[BOUNDARY].sum()), sums.over_pixels([BOUNDARY])),
    }
    for name, (above, most) in GROUPS.items():
        inside = (share > above) & (share <= most)
        if inside.any():
            found[name] = Over(int(pixels[:, inside].sum()), means[inside].mean(0))
    return {name: one for name, one in found.items() if one.pixels}


def by_seed(values: np.ndarray, loss: str) -> dict[str, np.ndarray]:
    """Each run's pseudo-values [R] of a loss, its bias and its variance; of the loss that is what the run's own is."""
    parts = {part: pseudo(values[:, PLACE[loss, part]]) for part in SHOWN}
    return {"loss": parts["bias"] + parts["variance"], **parts}


def part_of(values: np.ndarray, part: str, loss: str, runs: int) -> Part:
    """The mean and its interval of pseudo-values, or of their differences, where so many runs tell that."""
    if np.isnan(values).any() or (part != "loss" and loss == "zero_one" and runs < SPREAD):
        return Part(None)
    value, half = interval(values.tolist())
    if half is None or (part != "loss" and runs < SPREAD):
        return Part(value)
    return Part(value, value - half, value + half)


def about_arms(arms: Sequence[Arm], pairs: Sequence[tuple[Arm, Arm]]) -> Table:
    baselines = {arm.name: baseline.name for arm, baseline in pairs}
    rows: list[list[Cell]] = [
        [
            arm.name,
            arm.experiment.results[0].model,
            len(arm.weights),
            " ".join(map(str, arm.seeds)),
            " ".join(result.run.name for result in arm.experiment.results),
            baselines.get(arm.name),
        ]
        for arm in arms
    ]
    return Table(("arm", "model", "runs", "seeds", "directories", "baseline"), rows)


def decomposition(over: Mapping[str, Mapping[str, Over]]) -> Table:
    rows: list[list[Cell]] = []
    for arm, found in over.items():
        for loss in LOSSES:
            for name, one in found.items():
                runs, seeds = len(one.values) - 1, by_seed(one.values, loss)
                mean, bias, variance = (part_of(values, part, loss, runs) for part, values in seeds.items())
                is_told = loss != "zero_one" or runs >= SPREAD
                plug_in = float(one.values[0, PLACE[loss, "variance"]]) if is_told else None
                rows.append([arm, runs, loss, name, one.pixels, mean.value, *bias, *variance, plug_in])
    columns = ("arm", "runs", "loss", "over", "pixels", "mean", "bias", "bias_low", "bias_high", "variance",
               "variance_low", "variance_high", "plug_in")  # fmt: skip
    return Table(columns, rows)


def zero_one(over: Mapping[str, Mapping[str, Over]]) -> Table:
    """The net variance of the 0-1 loss is the unbiased one less the part of the biased one that corrects mistakes."""
    parts = ("bias", "unbiased", "biased", "variance")
    rows: list[list[Cell]] = []
    for arm, found in over.items():
        for name, one in found.items():
            runs = len(one.values) - 1
            told = [part_of(pseudo(one.values[:, PLACE["zero_one", part]]), part, "zero_one", runs) for part in parts]
            error = part_of(by_seed(one.values, "zero_one")["loss"], "loss", "zero_one", runs)
            rows.append([arm, name, one.pixels, error.value, *(part.value for part in told)])
    return Table(("arm", "over", "pixels", "error", "bias", "unbiased", "biased", "net"), rows)


def by_class(names: Sequence[str], sums: Sums, share: np.ndarray) -> Table:
    """A class that never occurs has none."""
    rows: list[list[Cell]] = []
    pixels = sums.pixels.sum(0)
    for k, (name, values) in enumerate(zip(names, sums.by_class(), strict=True)):
        told = [part_of(found, part, loss, sums.runs).value
                for loss in LOSSES for part, found in by_seed(values, loss).items()]  # fmt: skip
        rows.append([name, int(pixels[k]), float(share[k]), *told])
    columns = [f"{loss}{'' if part == 'mean' else f'_{part}'}" for loss in LOSSES for part in ("mean", *SHOWN)]
    return Table(("class", "pixels", "share", *columns), rows)


CHANGED = ("arm", "baseline", "seeds", "loss", "over", "mean", "mean_low", "mean_high", "bias", "bias_low", "bias_high",
           "variance", "variance_low", "variance_high")  # fmt: skip


def _change(pair: tuple[Arm, Arm], one: np.ndarray, other: np.ndarray, loss: str) -> list[Cell]:
    """Of a loss, its bias and its variance, with their intervals: differences of pseudo-values of the same seed."""
    arm, baseline = pair
    shared = [(arm.seeds.index(seed), baseline.seeds.index(seed)) for seed in arm.seeds if seed in baseline.seeds]
    mine, its = ([place[side] for place in shared] for side in (0, 1))
    fewest = min(len(arm.seeds), len(baseline.seeds))
    with_it, without = by_seed(one, loss), by_seed(other, loss)
    parts = [part_of(with_it[part][mine] - without[part][its], part, loss, fewest) for part in with_it]
    return [cell for part in parts for cell in part]


def changes(pair: tuple[Arm, Arm], over: Mapping[str, Mapping[str, Over]]) -> list[list[Cell]]:
    arm, baseline = pair
    shared = len(set(arm.seeds) & set(baseline.seeds))
    start: list[Cell] = [arm.name, baseline.name, shared]
    one, other = over[arm.name], over[baseline.name]
    return [
        [*start, loss, name, *_change(pair, one[name].values, other[name].values, loss)]
        for loss in LOSSES
        for name in one
    ]


def change_by_class(pair: tuple[Arm, Arm], one: Sums, other: Sums, names: Sequence[str], share: np.ndarray) -> Table:
    with_it, without = one.by_class(), other.by_class()
    rows: list[list[Cell]] = [
        [name, loss, float(share[k]), *_change(pair, with_it[k], without[k], loss)]
        for loss in LOSSES
        for k, name in enumerate(names)
    ]
    return Table(("class", "loss", "share", *CHANGED[5:]), rows)


def with_share(arm: str, table: Table) -> dict[str, float]:
    """Spearman's rank correlation over classes of how the cross-entropy's parts change with the class's share."""
    rows = [row for row in table.rows if row[1] == "cross_entropy" and row[3] is not None]
    place = {part: 3 + CHANGED[5:].index(part) for part in SHOWN}
    return {f"{arm}/change/{part}_with_share": spearman([(row[2], row[at]) for row in rows])
            for part, at in place.items()}  # fmt: skip


def numbers_of(arm: str, pixels: Over, classes: Over) -> dict[str, float]:
    found: dict[str, float] = {f"{arm}/runs": float(len(pixels.values) - 1)}
    for loss in LOSSES:
        for name, one in (("", pixels), ("/classes", classes)):
            for part, values in by_seed(one.values, loss).items():
                value = part_of(values, part, loss, len(values)).value
                if isinstance(value, float):
                    found[f"{arm}/{loss}/{part}{name}"] = value
    return found
