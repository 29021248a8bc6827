"""A study from end to end, what a second call does, and its table against arithmetic by hand."""

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segdistill.comparing import compare
from segdistill.mistakes import Mistake
from segdistill.run import Run
from test_study import written

AVERAGE = {"models.slow": {"follows": "student", "decay": 0.9}}
pytestmark = pytest.mark.usefixtures("no_plugins")
SHORT = ("grid.temperature={T1: {}}", "grid.teacher={late: {models.teacher.weights: '{folder}/teachers/big2'}}")


@pytest.mark.slow
def test_a_study_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = {"steps": 4, "probes.measure.metrics": ["confusion", "boundary"]}
    study, out = written(tmp_path, set=measured), tmp_path / "out"
    table, told, folder, pages = compare(study, out, settings=[*SHORT, "teachers.big=null"][:2], at_once=2)
    assert folder == out and pages == [out / "comparison.html"]
    assert capsys.readouterr().err.count("mIoU %") == 6
    rows = {row[0]: row for row in table.rows}
    with (out / "runs.csv").open() as file:
        rows_of_runs = list(csv.DictReader(file))
    runs = {Path(row["run"]).name: float(row["mean_iou"]) for row in rows_of_runs}
    gains = [100 * (runs[f"late-T1-{seed}"] - runs[f"labels-{seed}"]) for seed in (3, 5)]
    assert rows["labels"][3] == pytest.approx(50 * (runs["labels-3"] + runs["labels-5"]))
    assert rows["late-T1"][5] == pytest.approx(sum(gains) / 2) and rows["labels"][5] is None
    # Four validation images: what they make of the gain is added to what the seeds make.
    assert rows["late-T1"][6] > 12.706 * abs(gains[0] - gains[1]) / 2
    assert rows["late-T1"][7] == "not decided" and 0 < rows["late-T1"][15] < 100 and rows["labels"][7] is None
    assert told[0].startswith("Against labels: better: none; worse: none; not decided: late-T1. Which arm is the best")
    assert told[1] == "± is 95 % over seeds and images (1,000 draws of 4 images)."
    assert (out / "verdict.txt").read_text().splitlines() == told
    with (out / "classes.csv").open() as file:
        classes = [row for row in csv.DictReader(file) if row["arm"] == "late-T1" and row["class"] == "road"]
    findings = [Run(out / "arms" / f"late-T1-{seed}").last_findings("measure") for seed in (3, 5)]
    road = [row[1] for each in findings if each for row in each.tables["student"].rows if row[0] == "road"]
    assert float(classes[0]["IoU %"]) == pytest.approx(50 * (road[0] + road[1]))
    shown = pages[0].read_text()
    assert all(f"{rows['late-T1'][place]:.2f}".replace("-", "−") in shown for place in (3, 4, 5, 6))
    assert 'href="logs/arms/late-T1-3.log"' in shown and (out / "logs" / "arms" / "late-T1-3.log").exists()
    with (out / "measures.csv").open() as file:
        measures = [row for row in csv.DictReader(file) if row["measure"] == "mean_boundary_iou"]
    by_arm = {row["arm"]: row for row in measures if "/" not in row["arm"]}
    looked = {arm: [Run(out / "arms" / f"{arm}-{s}").last_findings("measure") for s in (3, 5)] for arm in by_arm}
    said = {arm: sum(f.numbers["student/mean_boundary_iou"] for f in found if f) / 2 for arm, found in looked.items()}
    assert float(by_arm["late-T1"]["value"]) == pytest.approx(said["late-T1"])
    assert float(by_arm["late-T1"]["gain"]) == pytest.approx(said["late-T1"] - said["labels"])
    for name, value in runs.items():
        place = out / ("teachers" if name.startswith("big") else "arms") / name
        found = Run(place).last_findings("measure")
        assert found is not None and found.numbers["student/mean_iou"] == value
    # The command of a cell gives the same numbers.
    command = next(row["command"] for row in rows_of_runs if row["run"].endswith("late-T1-5"))
    (name, _, threads), *program = shlex.split(command)[0].partition("="), *shlex.split(command)[1:]
    environment = {**os.environ, name: threads}
    subprocess.run([sys.executable, "-m", *program], check=True, env=environment, capture_output=True)
    repeated = Run(out / "again" / "late-T1-5").last_findings("measure")
    assert repeated is not None and repeated.numbers["student/mean_iou"] == runs["late-T1-5"]
    # Where some run keeps no counts of its images, the intervals are over seeds alone, and the numbers the same.
    for file in (out / "arms" / "late-T1-5").glob("findings/measure/*/images.safetensors"):
        file.rename(file.with_suffix(".away"))
    alone = compare(study, out, settings=SHORT)
    assert alone.table.rows[-1][6] == pytest.approx(12.706 * abs(gains[0] - gains[1]) / 2, rel=1e-3)
    assert alone.table.rows[-1][5] == table.rows[-1][5] and "over seeds alone" in alone.sentences[1]
    for file in (out / "arms" / "late-T1-5").glob("findings/measure/*/images.away"):
        file.rename(file.with_suffix(".safetensors"))
    # A second call trains nothing.
    before = {file: file.stat().st_mtime_ns for file in out.rglob("log.jsonl")}
    again, _, _, _ = compare(study, out, settings=SHORT, at_once=2)
    assert again == table and before == {file: file.stat().st_mtime_ns for file in out.rglob("log.jsonl")}
    # What W&B leaves in a run leads out of the study.
    (out / "arms" / "labels-3" / "wandb").mkdir()
    (out / "arms" / "labels-3" / "wandb" / "debug-core.log").symlink_to(tmp_path / "elsewhere.log")
    assert compare(study, out, settings=SHORT).table == table
    (out / "arms" / "wandb").symlink_to(tmp_path)
    with pytest.raises(Mistake, match="wandb: a link that leads out"):
        compare(study, out, settings=SHORT)
    (out / "arms" / "wandb").unlink()
    # A teacher that was trained again is another one; so are its arms.
    shutil.copytree(out, tmp_path / "other", symlinks=True)
    shutil.rmtree(tmp_path / "other" / "teachers" / "big2")
    with pytest.raises(Mistake, match=r"late-T1-3: (was trained with|learned from another teacher)"):
        compare(study, tmp_path / "other", settings=[*SHORT, "teachers.big2.set.seed=9"], at_once=2)
    # Other settings are no continuation.
    with pytest.raises(
        Mistake, match=r"was trained with optim\.lr 0\.01, and the study says 0\.02; delete it, or use --out"
    ):
        compare(study, out, settings=[*SHORT, "set.optim.lr=0.02"])


@pytest.mark.slow
def test_both_networks_of_an_arm_stand_in_the_table(tmp_path: Path) -> None:
    """A moving average, too, even one from which nobody learns; its gain is over the student that it follows."""
    arms = {"labels": {"recipe": "plain.yaml"}, "average": {"recipe": "plain.yaml", "set": AVERAGE}}
    table, *_ = compare(written(tmp_path, arms=arms, teachers={}, grid={}, seeds=[3, 5]), tmp_path / "out")
    rows = {(row[0], row[1]): row for row in table.rows}
    assert list(rows) == [("labels", "student"), ("average", "student"), ("average", "slow")]
    assert rows["average", "student"][3] == rows["labels", "student"][3] and rows["average", "student"][5] == 0
    run = Run(tmp_path / "out" / "arms" / "average-5").last_findings("measure")
    assert run is not None and run.numbers["slow/mean_iou"] != run.numbers["student/mean_iou"]
    assert rows["average", "slow"][5] == pytest.approx(rows["average", "slow"][3] - rows["labels", "student"][3])


@pytest.mark.slow
def test_what_fails_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    """The teacher of an arm cannot be trained; the baseline can."""
    study, out = written(tmp_path), tmp_path / "out"
    broken = "teachers={big2: {recipe: plain.yaml, set: {models.student: {weights: nowhere}}}}"
    with pytest.raises(
        RuntimeError, match=r"3 of 5 runs failed: teachers/big2: .*nowhere.*; late-T1-3: teachers/big2 failed"
    ):
        compare(study, out, settings=[broken, *SHORT], at_once=2)
    assert {Run(out / "arms" / f"labels-{seed}").info()["finished"] for seed in (3, 5)} == {4}


@pytest.mark.slow
def test_ctrl_c_reaches_the_runs_and_the_study_goes_on(tmp_path: Path) -> None:
    study, out = written(tmp_path), tmp_path / "out"
    settings = ["teachers={}", "grid={}", "seeds=[0]", "set.steps=4000", "set.checkpoint.every=4000"]
    command = [sys.executable, "-m", "segdistill", "compare", str(study), "--out", str(out), "--json"]
    command += [word for setting in settings for word in ("--set", setting)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        log = out / "arms" / "labels-0" / "log.jsonl"
        deadline = time.monotonic() + 120
        while not (log.exists() and log.stat().st_size > 200):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 130, told
    (checkpoint,) = (out / "arms" / "labels-0" / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    settings[3:] = [f"set.steps={step + 2}", "set.checkpoint.every=4000"]
    with pytest.raises(Mistake, match=r"was trained with steps 4000"):
        compare(study, out, settings=settings)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert max(line["step"] for line in lines) == step < 4000


def test_what_would_be_found_out_only_afterwards(tmp_path: Path) -> None:
    study = written(tmp_path)
    with pytest.raises(Mistake, match=r"analyses: there is no .*dark_knowlege"):
        compare(study, tmp_path / "out", settings=["analyses=[dark_knowlege]"])
    with pytest.raises(Mistake, match=r"teachers/big: probes: .* measure"):
        compare(study, tmp_path / "out", settings=["set.probes={}"])
    nowhere = "set.data={kind: camvid, root: nowhere}"
    with pytest.raises(Mistake, match=r"teachers/big: nowhere.*: there is no such folder"):
        compare(study, tmp_path / "out", settings=[nowhere])
    assert not (tmp_path / "out").exists()


def test_one_study_is_not_trained_twice_at_a_time(tmp_path: Path) -> None:
    study = written(tmp_path)
    with Run(tmp_path / "out").held(), pytest.raises(Mistake, match="training there"):
        compare(study, tmp_path / "out")
    assert not (tmp_path / "out" / "recipes").exists()
