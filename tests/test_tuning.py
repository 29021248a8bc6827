"""Trials of every arm: as many for each, the same whether or not the study was killed, and what they choose."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from segdistill.comparing import compare
from segdistill.mistakes import Mistake
from segdistill.run import Run, write_json
from segdistill.study import Job, read_study
from segdistill.tuning import DRAWN, Tuning
from segdistill.types import Findings
from test_study import written

pytestmark = pytest.mark.usefixtures("no_plugins")
LEARNING = {"optim.lr": [1e-3, 1e-1]}
WEIGHT = {"losses.soft_targets.weight": [0.1, 10]}
ARMS = {
    "labels": {"recipe": "plain.yaml"},
    "soft": {"tune": WEIGHT, "set": {"models.teacher.weights": "{folder}/teachers/big2"}},
}


TEACHERS = {"big2": {"recipe": "plain.yaml"}}


def study(folder: Path, trials: int = DRAWN + 2, **more: object) -> Path:
    tune = {"trials": trials, "set": {"steps": 6}, "ranges": LEARNING, **more}
    return written(folder, arms=ARMS, grid={}, teachers=TEACHERS, tune=tune)


def opened(file: Path, out: Path) -> Tuning:
    spec = read_study(file)
    assert spec.tune is not None
    tuning = Tuning(spec, spec.tune, file.parent, out)
    tuning.open()
    return tuning


def train(job: Job, score: Callable[[Job], float], upto: int = 6) -> None:
    """What a run leaves that the tuning reads."""
    for step in range(2, upto + 1, 2):
        Run(job.run).write_findings("measure", step, Findings({"student/mean_iou": score(job) * step / 6}, {}, {}))
    write_json(Run(job.run).info_file, {"finished": 6} if upto == 6 else {})


def peak(job: Job) -> float:
    """Best at lr 0.03 and a weight of 2."""
    loss = job.recipe.losses.get("soft_targets")
    off = math.log(job.recipe.optim.lr / 0.03) ** 2 + (math.log((loss.weight if loss else 2) / 2) ** 2)
    return 0.9 * math.exp(-off / 4)


def round_of(tuning: Tuning) -> list[Job]:
    trials = tuning.next_round()
    for job in trials:
        train(job, peak)
        tuning.end(job)
    return trials


def test_every_arm_has_as_many_trials_and_the_best_is_chosen(tmp_path: Path) -> None:
    tuning = opened(study(tmp_path, trials=16), tmp_path / "out")
    rounds: list[list[Job]] = []
    while trials := round_of(tuning):
        rounds.append(trials)
    assert [len(each) for each in rounds] == [2] * 16
    assert [job.name for job in rounds[7]] == ["trials/labels-07", "trials/soft-07"]
    first = {job.name: job.recipe for job in rounds[0]}  # as the recipes say
    assert first["trials/labels-00"].optim.lr == first["trials/soft-00"].optim.lr == 0.01
    assert {job.recipe.seed for each in rounds for job in each} == {1000}
    assert {job.recipe.steps for each in rounds for job in each} == {6}
    assert rounds[0][1].needs == {"teachers/big2"} and rounds[0][0].needs == set()
    scores = {job.name: peak(job) for each in rounds for job in each}
    rows = tuning.table().rows
    chosen = {row[0]: row for row in rows if row[5] == "yes"}
    assert set(chosen) == {"labels", "soft"} and len(rows) == 32
    values = tuning.chosen()
    for arm, row in chosen.items():
        best = max(score for name, score in scores.items() if arm in name)
        assert row[4] == pytest.approx(100 * best) and row[2] == "complete" and best > 0.8
        assert row[6] == values[arm]["optim.lr"] and 0.015 < values[arm]["optim.lr"] < 0.06
        assert float(f"{row[6]:.3g}") == row[6]
    assert values["labels"].keys() == {"optim.lr"} and values["soft"].keys() == {"optim.lr", *WEIGHT}
    # More is tried near the peak than chance would: the estimator learns.
    late = [job.recipe.optim.lr for each in rounds[8:] for job in each if "labels" in job.name]
    assert sum(0.015 < rate < 0.06 for rate in late) / len(late) > 0.45  # of the range it is 0.30


def test_a_killed_study_proposes_what_it_would_have(tmp_path: Path) -> None:
    """Killed after every possible part of the work: a new process reads the file and goes on."""
    file = study(tmp_path)
    whole = opened(file, tmp_path / "whole")
    wanted = []
    while trials := round_of(whole):
        wanted.append([(job.name, job.recipe.optim.lr) for job in trials])
    found = []
    while True:
        asked = opened(file, tmp_path / "killed").next_round()  # killed when they were asked
        again = opened(file, tmp_path / "killed").next_round()
        assert [job.recipe for job in asked] == [job.recipe for job in again]
        if not again:
            break
        found.append([(job.name, job.recipe.optim.lr) for job in again])
        train(again[0], peak)
        opened(file, tmp_path / "killed").end(again[0])  # killed when one had ended
        train(again[1], peak)
        (left,) = (each for each in opened(file, tmp_path / "killed").next_round() if each.name == again[1].name)
        assert left.recipe == again[1].recipe
        opened(file, tmp_path / "killed").end(again[1])
        for job in opened(file, tmp_path / "killed").next_round():  # those of the next round, asked too early
            assert job.name > again[0].name[:-2]
    assert [dict(each).keys() for each in found] == [dict(each).keys() for each in wanted] and found == wanted
    assert opened(file, tmp_path / "killed").chosen() == whole.chosen()
    assert opened(file, tmp_path / "killed").table().rows == whole.table().rows


def test_a_trial_below_the_median_is_stopped_and_counts(tmp_path: Path) -> None:
    tuning = opened(study(tmp_path, trials=DRAWN + 2), tmp_path / "out")
    for _ in range(DRAWN):
        for job in tuning.next_round():
            train(job, lambda job: 0.5 + int(job.name[-2:]) / 100)
            assert not tuning.hopeless(job)
            tuning.end(job)
    bad, good = tuning.next_round()
    train(bad, lambda _: 0.1, upto=2)
    train(good, lambda _: 0.9, upto=4)
    assert tuning.hopeless(bad) and not tuning.hopeless(good) and not tuning.hopeless(good)
    train(good, lambda _: 0.9)
    tuning.end(bad)
    tuning.end(good)
    # One that was too quick to be stopped is judged alike.
    for job in tuning.next_round():
        train(job, lambda _: 0.1)
        tuning.end(job)
    assert tuning.next_round() == []
    states = {(row[0], row[1]): row[2:5] for row in tuning.table().rows}
    assert states["labels", DRAWN] == ["pruned", 2, pytest.approx(100 * 0.1 / 3)]
    assert states["soft", DRAWN] == ["complete", 6, 90] and states["soft", DRAWN + 1][0] == "pruned"
    assert [row[1] for row in tuning.table().rows if row[5] == "yes"] == [DRAWN - 1, DRAWN]


def test_what_was_not_finite_counts_and_is_not_chosen(tmp_path: Path) -> None:
    tuning = opened(study(tmp_path, trials=1), tmp_path / "out")
    one, other = tuning.next_round()
    train(one, peak, upto=4)
    train(other, peak)
    tuning.end(one)
    tuning.end(other)
    assert tuning.next_round() == []
    with pytest.raises(RuntimeError, match="labels: none of its 1 trials came to its end"):
        tuning.chosen()


def test_sentences(tmp_path: Path) -> None:
    tuning = opened(study(tmp_path, trials=1, set={"steps": 6, "data.validate_on": "train"}), tmp_path / "out")
    round_of(tuning)
    same = tuning.sentences({"train"})
    assert tuning.sentences({"val"}) == [
        "Settings were chosen by 1 trial of every arm (seed 1000, mean IoU of student on train): tuning.csv.",
        "Trials of labels and soft were judged on the images that they were trained on.",
        "labels: optim.lr 0.01 (as in its recipe).",
        "soft: optim.lr 0.01 (as in its recipe) and losses.soft_targets.weight 1.0 (as in its recipe).",
    ]
    assert same[1].startswith("The table is measured on the images that settings were chosen by")
    near = opened(study(tmp_path, trials=1, ranges={"optim.lr": [0.0099, 0.1]}), tmp_path / "near")
    round_of(near)
    _, _, *edges = near.sentences({"test"})
    assert edges[0] == "labels: optim.lr 0.01 is near an end of [0.0099, 0.1]; a better one may lie beyond."


def test_choices_are_taken_as_they_stand(tmp_path: Path) -> None:
    ranges = {"optim.lr": [1e-3, 1e-1], "optim.schedule": {"choices": ["poly", "cosine"]}}
    tuning = opened(study(tmp_path, ranges=ranges), tmp_path / "out")
    while round_of(tuning):
        pass
    said = {row[-2] for row in tuning.table().rows} | {row[-1] for row in tuning.table().rows}
    assert {"poly", "cosine"} <= said


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"tune": None}, r"arms\.soft\.tune: how many trials\?"),
        ({"tune": {"trials": 0}}, r"tune\.trials: .*greater than 0"),
        ({"tune": {"trials": 2, "seed": 3, "ranges": LEARNING}}, r"tune\.seed: expected none of the seeds, got 3"),
        ({"tune": {"trials": 2}}, "tune: the arm 'labels' has nothing to tune"),
        ({"tune": {"trial": 2, "ranges": LEARNING}}, r"tune\.trial: unknown key; .*did you mean 'trials'"),
        ({"tune": {"trials": 2, "ranges": {"optim.lr": [2, 1]}}}, "a low end below the high one, got 2.0 and 1.0"),
        ({"tune": {"trials": 2, "ranges": {"optim.lr": [1]}}}, r"optim\.lr: expected \[low, high\]"),
        ({"tune": {"trials": 2, "ranges": {"optim.lr": [0, 1]}}}, r"optim\.lr.*greater than 0"),
        ({"tune": {"trials": 2, "ranges": {"optim.lr": {"choice": [1]}}}}, "did you mean 'choices'"),
    ],
)
def test_what_a_study_may_not_say(tmp_path: Path, more: dict[str, object], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        read_study(written(tmp_path, arms=ARMS, grid={}, **more))


@pytest.mark.parametrize(
    ("ranges", "sentence"),
    [
        ({"optim.rate": [0.1, 1]}, r"tune: labels: optim\.rate: unknown key; .*"),
        ({"optim.lr": [0.1, 1]}, r"tune: labels has optim\.lr 0\.01, which is not in \[0\.1, 1\]"),
        (
            {"optim.schedule": {"choices": ["cosine", "constant"]}},
            "schedule poly, which is none of cosine and constant",
        ),
        (
            {"losses.cross_entrop.weight": [0.1, 1]},
            r"tune: labels has no losses\.cross_entrop; it has cross_entropy \(did you mean 'cross_entropy'\?\);",
        ),
        ({"optim.schedule": {"choices": ["cosine", "pol"]}}, r"tune: labels: optim\.schedule: .*'pol'"),
    ],
)
def test_what_a_recipe_does_not_have(tmp_path: Path, ranges: dict[str, object], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        opened(study(tmp_path, ranges=ranges), tmp_path / "out")


def test_other_ranges_or_another_network_are_refused(tmp_path: Path) -> None:
    opened(study(tmp_path), tmp_path / "out")
    with pytest.raises(
        Mistake, match=r"tuning\.db: labels was tuned within other ranges; delete it, trials and arms, or use --out"
    ):
        opened(study(tmp_path, ranges={"optim.lr": [1e-3, 1]}), tmp_path / "out")
    with pytest.raises(Mistake, match=r"tune\.network: labels does not train 'teacher'; it trains student"):
        opened(study(tmp_path, network="teacher"), tmp_path / "other")


@pytest.mark.slow
def test_a_study_that_tunes_is_killed_and_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle of the trials; nothing that was finished is trained again, and all is as without it."""
    file = study(tmp_path, trials=2)
    file.write_text(file.read_text().replace("seeds:\n- 3\n- 5\n", "seeds:\n- 3\n"))
    whole = compare(file, tmp_path / "whole", at_once=2)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "segdistill", "compare", str(file), "--out", str(out), "--jobs", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ, start_new_session=True) as process:
        deadline = time.monotonic() + 300
        while not (out / "trials" / "labels-01" / "log.jsonl").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    subprocess.run(["pkill", "-KILL", "-f", str(out)], check=False)  # its runs have sessions of their own
    done = [run for run in (*out.glob("teachers/*"), *out.glob("trials/*")) if Run(run).info().get("finished")]
    before = {file: file.stat().st_mtime_ns for run in done for file in [run / "log.jsonl"]}
    assert before
    found = compare(file, out, at_once=2)
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert (out / "tuning.csv").read_text() == (tmp_path / "whole" / "tuning.csv").read_text()
    timed = {whole.table.columns.index(name) for name in ("minutes", "teacher %")}
    rows = [[[c for i, c in enumerate(row) if i not in timed] for row in each.table.rows] for each in (whole, found)]
    assert rows[0] == rows[1]
    chosen = {row[0]: row[6] for row in _tuning(out) if row[5] == "yes"}
    for arm, rate in chosen.items():
        assert f"lr: {rate}" in (out / "arms" / f"{arm}-3" / "recipe.yaml").read_text()


def _tuning(out: Path) -> list[list[str]]:
    return [line.split(",") for line in (out / "tuning.csv").read_text().splitlines()[1:]]
