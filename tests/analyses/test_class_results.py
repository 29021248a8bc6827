"""Gains are paired by seed, their intervals are Student's, and what is undecided is called so."""

import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from segdistill import recipe as recipes
from segdistill.analyses import Subject
from segdistill.analyses.class_results import ClassResults
from segdistill.datasets.streets import Streets
from segdistill.intervals import interval
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec
from segdistill.run import Run, write_json, write_text
from segdistill.types import Findings, Table

SMALL, LARGE = {"kind": "unet", "width": 8}, {"kind": "unet", "width": 32}
ON_LABELS = {"cross_entropy": {"student": "student"}}
TAUGHT = ON_LABELS | {"soft_targets": {"student": "student", "target": "teacher"}}
NAMES = Streets(1, (48, 96), split="val").classes.names


def fabricate(
    path: Path, seed: int, ious: dict[str, float | None], taught: bool = False, large: bool = False, val: str = "v"
) -> Run:
    """A finished run whose classes not named in `ious` have IoU 0.5."""
    run = Run(path)
    models: dict[str, Any] = {"student": LARGE if large else SMALL}
    if taught:
        models["teacher"] = {"weights": str(path.parent / "large"), "frozen": True}
    content = {"data": {"kind": "streets"}, "models": models, "losses": TAUGHT if taught else ON_LABELS}
    write_text(run.recipe_file, recipes.dump(recipes.parse(content | {"steps": 10, "seed": seed})))
    write_json(run.info_file, {"fingerprints": {"train": "t", "val": val}})
    rows = [[name, ious.get(name, 0.5), 0.5, 0.1] for name in NAMES]
    run.write_findings(
        "measure", 10, Findings({}, {}, {"student": Table(("class", "iou", "accuracy", "frequency"), rows)})
    )
    return run


def subject(runs: list[Run]) -> Subject:
    splits = {split: Streets(4, (48, 96), val_count=3, split=split) for split in ("train", "val")}
    return Subject(DataSpec(kind="streets"), splits, runs)


def house(folder: Path) -> list[Run]:
    """A teacher, and three seeds with and without it, in an order that gives no hint."""
    runs = [fabricate(folder / "large", 0, {"road": 0.9, "car": 0.8}, large=True)]
    for seed, gain in ((2, 0.06), (0, 0.04), (1, 0.05)):
        runs.append(fabricate(folder / f"soft-{seed}", seed, {"road": 0.6 + seed / 10 + gain, "car": 0.3 - gain,
                                                              "train": None}, taught=True))  # fmt: skip
        runs.append(fabricate(folder / f"plain-{seed}", seed, {"road": 0.6 + seed / 10, "car": 0.3, "train": None}))
    return runs


def test_gains_are_paired_by_seed(tmp_path: Path) -> None:
    """Unpaired, road's seeds lie 0.1 apart and would hide a gain of 0.05."""
    found = ClassResults().analyse(subject(house(tmp_path)))
    gain = {str(row[0]): list(row[1:]) for row in found.tables["gain/soft"].rows}
    half = 4.302653 * statistics.stdev([0.06, 0.04, 0.05]) / math.sqrt(3)
    assert gain["road"] == [pytest.approx(x) for x in (0.05, 0.05 - half, 0.05 + half, 0.75, 0.7, 0.9)] + ["saved"]
    assert gain["car"] == [pytest.approx(x) for x in (-0.05, -0.05 - half, -0.05 + half, 0.25, 0.3, 0.8)] + ["lost"]
    assert gain["sky"] == [0, 0, 0, 0.5, 0.5, 0.5, "undecided"]
    assert gain["train"] == [None, None, None, None, None, 0.5, "absent"]
    assert found.numbers["soft/mean_gain"] == pytest.approx(0)
    assert found.numbers["soft/seeds"] == 3
    ious = found.tables["ious"]
    assert list(ious.columns) == ["class", "large", "soft", "plain"]
    assert ious.rows[NAMES.index("road")] == ["road", *map(pytest.approx, (0.9, 0.75, 0.7))]
    ((name, sentence),) = found.tables["advice"].rows
    assert name == "soft"
    assert "saved: road; lost: car; undecided: 16 of 18" in str(sentence)
    assert "furthest ahead in car (55.0 points) and road (15.0 points)" in str(sentence)


def test_the_properties_are_those_of_the_labels(tmp_path: Path) -> None:
    whole = subject(house(tmp_path))
    rows = {str(row[0]): row[1:] for row in ClassResults().analyse(whole).tables["properties"].rows}
    maps = [whole.splits["train"].labels(index) for index in range(4)]
    labelled = sum(int((m != 255).sum()) for m in maps)
    for k, name in enumerate(NAMES):
        assert rows[name][0] == pytest.approx(sum(int((m == k).sum()) for m in maps) / labelled)
        assert rows[name][1] == sum((m == k).any() for m in maps) / 4


def test_gains_that_follow_frequency_are_told(tmp_path: Path) -> None:
    """A gain that grows with the share has rank correlation 1 with it."""
    plain = fabricate(tmp_path / "plain", 0, {})
    first = ClassResults().analyse(subject([plain]))
    share = {str(row[0]): float(row[1] or 0) for row in first.tables["properties"].rows}
    assert first.tables["advice"].rows[0][0] == "no comparison"
    taught = fabricate(tmp_path / "soft", 0, {name: 0.5 + value / 10 for name, value in share.items()}, taught=True)
    found = ClassResults().analyse(subject([plain, taught]))
    assert found.numbers["soft/gain_with_share"] == pytest.approx(1)
    assert {row[7] for row in found.tables["gain/soft"].rows} == {"undecided"}  # one seed has no interval


def test_runs_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    runs = [fabricate(tmp_path / "plain", 0, {}), fabricate(tmp_path / "soft", 1, {}, taught=True)]
    assert ClassResults().analyse(subject(runs)).tables["advice"].rows[0][0] == "no comparison"


def test_runs_on_other_images_are_a_mistake(tmp_path: Path) -> None:
    runs = [fabricate(tmp_path / "a", 0, {}), fabricate(tmp_path / "b", 0, {}, taught=True, val="w")]
    with pytest.raises(Mistake, match="a and b were not validated on the same images"):
        ClassResults().analyse(subject(runs))


def test_a_run_that_was_not_measured_is_a_mistake(tmp_path: Path) -> None:
    run = Run(tmp_path / "plain")
    content = {"data": {"kind": "streets"}, "models": {"student": SMALL}, "losses": ON_LABELS, "steps": 10}
    write_text(run.recipe_file, recipes.dump(recipes.parse(content)))
    with pytest.raises(Mistake, match="expected finished runs"):
        ClassResults().analyse(subject([run]))


def test_an_interval_of_ten_differences() -> None:
    values = [0.1 * i for i in range(10)]
    mean, half = interval(values)
    assert mean == pytest.approx(0.45)
    assert half == pytest.approx(2.262157 * statistics.stdev(values) / math.sqrt(10))
    assert interval([0.3]) == (0.3, None)
