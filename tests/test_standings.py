"""Tables, verdicts and sentences of runs that were made up, against arithmetic by hand."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from segdistill import recipe as recipes
from segdistill.gains import class_ious, draw, mean_iou
from segdistill.intervals import interval, ratio, student
from segdistill.mistakes import Mistake
from segdistill.run import Run, append_json, write_json, write_text
from segdistill.standings import ARMS, CLASSES, RUNS, Standings
from segdistill.study import Job, jobs, read_study
from segdistill.types import Cell, Findings, Table
from test_study import written

pytestmark = pytest.mark.usefixtures("no_plugins")  # they stand in commands
NAMES = ("road", "car", "train")


def counted(share: float, random: np.random.Generator) -> np.ndarray:
    """Twelve images, of whose pixels a share is called right; nowhere is a train."""
    labels = np.random.default_rng(0).integers(500, 1500, (12, 3)) * (1, 1, 0)
    hits = np.rint(labels * np.clip(share + 0.05 * random.normal(size=(12, 1)), 0, 1)).astype(np.int64)
    wrong = np.roll(labels[:, :2] - hits[:, :2], 1, axis=1)
    return np.stack([hits, labels, hits + np.pad(wrong, ((0, 0), (0, 1)))], 1).astype(np.uint32)


def found(counts: Mapping[str, np.ndarray]) -> Findings:
    ious = {name: class_ious(each, np.ones((1, 12))) for name, each in counts.items()}
    tables: dict[str, Table] = {}
    for name, iou in ious.items():
        rows: list[list[Cell]] = [
            [label, None if value != value else float(value), 0.5, 0.1]
            for label, value in zip(NAMES, iou[0], strict=True)
        ]
        tables[name] = Table(("class", "iou", "accuracy", "frequency"), rows)
    return Findings({f"{name}/mean_iou": float(mean_iou(iou)[0]) for name, iou in ious.items()}, {}, tables)


def finish(job: Job, share: float, seed: int, counts: bool = True) -> None:
    """What the run would leave: better by 0.05 at step 2, at which its weights are the best, than at its end."""
    run, random = Run(job.run), np.random.default_rng(seed)
    write_text(run.recipe_file, recipes.dump(job.recipe))
    write_json(run.info_file, {"seconds": 60.0 + 60 * job.recipe.seed, "threads": 2})
    for step, more in ((2, 0.05), (4, 0.0)):
        looked = {name: counted(share + more, random) for name, spec in job.recipe.models.items() if not spec.frozen}
        told = found(looked)
        ece = 0.05 + 0.02 * job.recipe.seed if share > 0.65 else 0.1 + 0.01 * job.recipe.seed
        own = {f"{name}/{key}": value for name in looked for key, value in (("ece", ece), ("absent_classes", 1.0))}
        run.write_findings("measure", step, told._replace(numbers={**told.numbers, **own}))
        if counts:
            run.write_by_image(step, looked)
    for step in (2, 4):
        append_json(run.log_file, {"step": step, "seconds_per_step": 0.4, "seconds/teacher": 0.1 * (step // 2 - 1)})


@pytest.fixture
def todo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Three arms of three seeds, the third with a teacher, and another teacher."""
    monkeypatch.setattr("os.fsync", lambda _: None)  # seventy files a test
    grid = {"teacher": {"late": {"models.teacher.weights": "{folder}/teachers/big2@step-4"}}}
    file = written(tmp_path, grid=grid, seeds=[0, 1, 2], arms={"labels": {"recipe": "plain.yaml"}})
    spec = read_study(file, ["arms.other={recipe: plain.yaml}"])
    return jobs(spec, tmp_path, tmp_path / "out")


SHARES = {"labels": 0.5, "other": 0.5, "late": 0.7, "teachers/big": 0.9, "teachers/big2": 0.9}


def finished(todo: list[Job], counts: bool = True, **shares: float) -> Standings:
    for place, job in enumerate(todo):
        arm = job.arm or job.name
        finish(job, (SHARES | shares)[arm] + 0.01 * job.recipe.seed, place, counts)
    return Standings(todo, "labels")


def rows(table: Table) -> dict[str, dict[str, Cell]]:
    return {str(row[0]): dict(zip(table.columns, row, strict=True)) for row in table.rows}


def numbers(todo: list[Job], arm: str, step: int = 4) -> list[float]:
    runs = [Run(job.run) for job in todo if (job.arm or job.name) == arm]
    return [100 * dict(run.findings("measure"))[step].numbers["student/mean_iou"] for run in runs]


def drawn(todo: list[Job], arm: str) -> np.ndarray:
    """Mean over the seeds of what the arm has in each draw of images."""
    runs = [Run(job.run) for job in todo if (job.arm or job.name) == arm]
    return np.mean([100 * mean_iou(class_ious(run.by_image(4)["student"], draw(12))) for run in runs], axis=0)


def by_images(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.cov(one, other)[0, 1]) * 12 / 11 * (student(0.05, 11) / 1.959964) ** 2


def test_gains_are_over_seeds_and_images_and_the_verdict_is_by_them(todo: list[Job]) -> None:
    standings = finished(todo)
    table = rows(standings.arms())
    assert tuple(table["late"]) == ARMS
    gains = [one - other for one, other in zip(numbers(todo, "late"), numbers(todo, "labels"), strict=True)]
    moved = drawn(todo, "late") - drawn(todo, "labels")
    mean, half = interval(gains, by_images(moved, moved))
    assert (table["late"]["gain"], table["late"]["± gain"]) == (pytest.approx(mean), pytest.approx(half, rel=1e-6))
    _, narrow = interval(gains)
    assert narrow is not None and half is not None and half > narrow
    assert (table["late"]["verdict"], table["other"]["verdict"]) == ("better", "not decided")
    assert table["labels"]["verdict"] is table["labels"]["gain"] is table["teachers/big"]["verdict"] is None
    best = [one - other for one, other in zip(numbers(todo, "late", 2), numbers(todo, "labels", 2), strict=True)]
    assert table["late"]["best gain"] == pytest.approx(np.mean(best))
    assert (table["late"]["minutes"], table["late"]["teacher %"]) == (2, pytest.approx(12.5))
    assert standings.sentences() == [
        "Against labels: better: late; worse: none; not decided: other. The best of all: late.",
        "± is 95 % over seeds and images (1,000 draws of 12 images).",
    ]


def test_what_is_recovered_of_the_gap(todo: list[Job]) -> None:
    """To the teacher as it was at the step whose weights taught."""
    recovered = rows(finished(todo).arms())["late"]
    (teacher,) = numbers(todo, "teachers/big2")
    ours, base = numbers(todo, "late"), numbers(todo, "labels")
    gain, gap = drawn(todo, "late") - drawn(todo, "labels"), drawn(todo, "teachers/big2") - drawn(todo, "labels")
    images = by_images(gain, gain), by_images(gap, gap), by_images(gain, gap)
    expected = ratio([a - b for a, b in zip(ours, base, strict=True)], [teacher - b for b in base], images)
    assert expected is not None
    told = [recovered[name] for name in ("recovered %", "from %", "to %")]
    assert told == pytest.approx([100 * each for each in expected], rel=1e-6)
    assert 25 < expected.low * 100 < 50 < expected.high * 100 < 70


def test_a_teacher_that_is_hardly_ahead_has_no_gap(todo: list[Job]) -> None:
    standings = finished(todo, **{"teachers/big2": 0.515})
    assert rows(standings.arms())["late"]["recovered %"] is None
    assert standings.sentences()[-1] == (
        "What part of the gap to the teacher is recovered by late cannot be said: the teacher is not ahead of the "
        "baseline by more than chance."
    )


def test_runs_without_counts_have_intervals_over_seeds(todo: list[Job]) -> None:
    standings = finished(todo, counts=False)
    table = rows(standings.arms())
    _, half = interval([one - other for one, other in zip(numbers(todo, "late"), numbers(todo, "labels"), strict=True)])
    assert table["late"]["± gain"] == pytest.approx(half) and table["late"]["recovered %"] is not None
    assert standings.sentences()[1] == (
        "± is 95 % over seeds alone: counts of the same single images are not there for every run."
    )


def test_runs_of_other_images_are_not_paired_by_image(todo: list[Job]) -> None:
    finished(todo)
    (job,) = [job for job in todo if job.name == "other-1"]
    counts = Run(job.run).by_image(4)["student"]
    Run(job.run).write_by_image(4, {"student": counts[::-1].copy()})
    assert "over seeds alone" in Standings(todo, "labels").sentences()[1]


def test_damaged_counts_are_named(todo: list[Job]) -> None:
    finished(todo)
    file = todo[-1].run / "findings" / "measure" / "00000004" / "images.safetensors"
    for content in (file.read_bytes()[:50], b"", b"{}"):
        file.write_bytes(content)
        with pytest.raises(Mistake, match=r"00000004/images\.safetensors: damaged"):
            Standings(todo, "labels")
    Run(todo[-1].run).write_by_image(4, {"student": np.zeros((3, 3, 2), np.int64)})
    with pytest.raises(Mistake, match=r"images\.safetensors: damaged: 'student' is not of uint32"):
        Standings(todo, "labels")


def test_gains_of_classes(todo: list[Job]) -> None:
    table = finished(todo).classes()
    assert table.columns == CLASSES
    told = {(row[0], row[2]): row for row in table.rows}
    runs = {
        arm: [Run(job.run).last_findings("measure") for job in todo if job.arm == arm] for arm in ("late", "labels")
    }
    road = {arm: [each.tables["student"].rows[0][1] for each in runs[arm] if each is not None] for arm in runs}
    gains = [100 * (float(a or 0) - float(b or 0)) for a, b in zip(road["late"], road["labels"], strict=True)]
    assert told["late", "road"][6] == pytest.approx(np.mean(gains))
    half, (_, narrow) = told["late", "road"][7], interval(gains)
    assert isinstance(half, float) and narrow is not None and half > narrow
    assert told["late", "train"][3:] == [0, None, None, None, None]  # nowhere
    assert told["labels", "road"][6:] == [None, None]


def test_every_run_has_its_command(todo: list[Job], tmp_path: Path) -> None:
    table = finished(todo).runs(tmp_path / "out")
    assert table.columns == RUNS
    told = {str(row[7]): row for row in table.rows}
    out = tmp_path / "out"
    row = told[str(out / "arms" / "late-1")]
    assert row[:3] == ["late", "student", 1] and row[5:7] == [120, pytest.approx(0.125)]
    assert row[8] == f"OMP_NUM_THREADS=2 segdistill train {out}/recipes/arms/late-1.yaml --run {out}/again/late-1"


def test_without_a_baseline_nothing_is_ranked(todo: list[Job]) -> None:
    finished(todo)
    standings = Standings(todo, None)
    assert standings.sentences()[0] == "No arm is ranked: there is no baseline, or nothing to compare with it."
    assert {row[5] for row in standings.arms().rows} == {None}
