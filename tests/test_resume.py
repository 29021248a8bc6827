"""Promise 7: a run goes on with the recipe, data, classes and teacher that it began with, or says what differs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import segdistill
from segdistill import checkpoint
from segdistill.make_data import make
from segdistill.mistakes import Mistake
from segdistill.recipe import Recipe
from segdistill.run import Run, write_json
from segdistill.training import Work, train
from segdistill.types import Batch, Step
from small import content, small

UNET = {"kind": "unet", "width": 4, "depth": 2}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make(tmp_path / "data", "cityscapes", 4, (48, 64), label_type="labelTrainIds")
    return tmp_path / "data"


def recipe_on(data: Path, *settings: str, **more: Any) -> Recipe:
    place = {"kind": "folder", "images": str(data / "leftImg8bit/{split}"), "labels": str(data / "gtFine/{split}"),
             "image_ending": "_leftImg8bit", "label_ending": "_gtFine_labelTrainIds"}  # fmt: skip
    classes = [{"name": f"class {index}", "colour": [index, 0, 0]} for index in range(19)]
    return small("steps=2", *settings, data={**place, "classes": classes, "batch": 2, "crop": [32, 48]}, **more)


def teacher(tmp_path: Path) -> Run:
    graph = {"models": {"teacher": {**UNET, "width": 6}}, "losses": {"cross_entropy": {"student": "teacher"}}}
    return train(small("steps=2", **graph), tmp_path / "teacher")


def distilled(teacher: Run) -> Recipe:
    edges = {"cross_entropy": {"student": "student"}, "soft_targets": {"student": "student", "target": "teacher"}}
    nodes = {"teacher": {"weights": str(teacher.path), "frozen": True}, **content()["models"]}
    return small("steps=2", models=nodes, losses=edges)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("steps=8", r"steps: the run has 6, this recipe has 8; --allow-change steps permits it"),
        ("seed=1", r"seed: the run has 0, this recipe has 1; --allow-change seed"),
        ("optim.lr=0.1", r"optim\.lr: the run has 0\.01, this recipe has 0\.1; --allow-change optim\.lr"),
        ("losses.cross_entropy.weight=2", r"losses\.cross_entropy\.weight: the run has 1\.0, this recipe has 2\.0"),
        ("data.crop=[32,32]", r"data\.crop: the run has \[32, 48\], this recipe has \[32, 32\]"),
        ("models.student.width=5", r"models\.student\.width: the run has 4, this recipe has 5"),
        ("probes.measure.every=3", r"probes\.measure\.every: the run has 0, this recipe has 3"),
    ],
)
def test_another_recipe_is_refused_by_the_key_that_differs(tmp_path: Path, setting: str, said: str) -> None:
    train(small(), tmp_path / "run")
    before = (tmp_path / "run" / "recipe.yaml").read_text()
    with pytest.raises(Mistake, match=said):
        train(small(setting), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == before


def test_what_is_allowed_may_change_and_the_run_remembers_it(tmp_path: Path) -> None:
    train(small(), tmp_path / "run")
    run = train(small("steps=8"), tmp_path / "run", resume=True, allow_change=["steps"])
    assert max(line["step"] for line in run.log()) == 8
    train(small("steps=8"), tmp_path / "run", resume=True)  # it is the run's own now
    with pytest.raises(Mistake, match=r"--allow-change step: the recipe has no such key \(did you mean 'steps'\?\)"):
        train(small("steps=9"), tmp_path / "run", resume=True, allow_change=["step"])


def test_a_change_that_the_networks_do_not_survive_is_one_sentence(tmp_path: Path) -> None:
    train(small(), tmp_path / "run")
    with pytest.raises(Mistake, match=r"does not fit the network as the recipe has it: size mismatch for"):
        train(small("models.student.width=5"), tmp_path / "run", resume=True, allow_change=["models.student.width"])
    with pytest.raises(Mistake, match=r"optim\.kind: the run has adamw, whose moments mean nothing to sgd"):
        train(small("optim.kind=sgd"), tmp_path / "run", resume=True, allow_change=["optim"])
    with pytest.raises(Mistake, match=r"steps: the run has done 6 already, this recipe has 4"):
        train(small("steps=4"), tmp_path / "run", resume=True, allow_change=["steps"])
    train(small(), tmp_path / "run", resume=True)  # what was refused has changed nothing


def test_what_the_optimiser_is_told_anew_acts(tmp_path: Path) -> None:
    for name, decay in (("light", "0.01"), ("heavy", "0.9")):
        train(small("steps=3", "optim.schedule=constant"), tmp_path / name)
        settings = ("steps=6", "optim.schedule=constant", f"optim.weight_decay={decay}")
        train(small(*settings), tmp_path / name, resume=True, allow_change=["steps", "optim.weight_decay"])
    light, heavy = (
        sum(float(p.detach().square().sum()) for p in segdistill.load(tmp_path / name, which="last").parameters())
        for name in ("light", "heavy")
    )
    assert heavy < 0.99 * light


def test_an_extended_run_that_is_killed_logs_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(small("optim.schedule=constant"), tmp_path / "run")
    update = Work.update

    def pulled(work: Work, batches: list[Batch], step: int) -> Step | None:
        if step == 8:
            raise RuntimeError("pulled the plug")
        return update(work, batches, step)

    longer = small("steps=12", "optim.schedule=constant", "checkpoint.every=100")
    monkeypatch.setattr(Work, "update", pulled)
    with pytest.raises(RuntimeError, match="plug"):
        train(longer, tmp_path / "run", resume=True, allow_change=["steps", "checkpoint"])
    monkeypatch.undo()
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')  # torn
    run = train(longer, tmp_path / "run", resume=True)
    assert [line["step"] for line in run.log() if "loss" in line] == list(range(1, 13))


def test_a_log_line_over_several_steps_is_the_same_after_a_resume(tmp_path: Path) -> None:
    settings = ("log.every=4", "optim.schedule=constant", "probes={}", "checkpoint.every=3")
    straight = train(small("steps=8", *settings), tmp_path / "straight")
    update = Work.update

    def pulled(work: Work, batches: list[Batch], step: int) -> Step | None:
        if step == 3:
            raise RuntimeError("pulled the plug")
        return update(work, batches, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "update", pulled)
        with pytest.raises(RuntimeError, match="plug"):
            train(small("steps=8", *settings), tmp_path / "run")
    run = train(small("steps=8", *settings), tmp_path / "run", resume=True)
    assert [line["loss"] for line in run.log()] == [line["loss"] for line in straight.log()]


def test_a_run_that_weights_and_biases_watched_goes_on_and_is_read(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    recipe = small("steps=2", "log.wandb=offline")
    run = train(recipe, tmp_path / "run")
    assert any((run.path / "wandb").iterdir())
    train(recipe, run.path, resume=True)
    assert segdistill.evaluate(run.path).numbers["student/mean_iou"] >= 0


def test_a_bad_sample_is_not_forgotten_and_its_limit_not_walked_past(tmp_path: Path) -> None:
    make(tmp_path / "data", "cityscapes", 8, (48, 64))
    bad = sorted((tmp_path / "data").rglob("train/**/*_leftImg8bit.png"))[2]
    bad.write_bytes(bad.read_bytes()[:-300])
    data = {"kind": "cityscapes", "root": str(tmp_path / "data"), "batch": 4, "crop": [32, 48], "bad_share": 0.05}
    recipe = small("checkpoint.every=1", data=data)
    for resume in (False, True, True):
        with pytest.raises(
            Mistake, match=r"data: train: 1 of 8 samples cannot be read \(12\.5%, data\.bad_share allows 5%\)"
        ):
            train(recipe, tmp_path / "run", resume=resume)
    assert bad.name.removesuffix("_leftImg8bit.png") in (tmp_path / "run" / "bad_samples.json").read_text()


def test_one_process_does_not_train_one_run_twice_at_a_time(tmp_path: Path) -> None:
    with Run(tmp_path / "run").held(), pytest.raises(Mistake, match="this process is training there already"):
        train(small(), tmp_path / "run")


def test_another_teacher_is_refused_and_may_be_allowed(tmp_path: Path) -> None:
    first = teacher(tmp_path)
    train(distilled(first), tmp_path / "run")
    file = first.weights("teacher")
    changed = segdistill.load(first.path)
    with torch.no_grad():
        next(changed.parameters()).add_(0.1)
    checkpoint.save_weights(file, changed, checkpoint.read_card(file))
    with pytest.raises(Mistake, match=r"fingerprints\.teacher: the run began with \w+, now it is \w+"):
        train(distilled(first), tmp_path / "run", resume=True)
    train(distilled(first), tmp_path / "run", resume=True, allow_change=["fingerprints.teacher"])
    train(distilled(first), tmp_path / "run", resume=True)


@pytest.mark.parametrize("split", ["train", "val"])
def test_other_data_are_refused_and_may_be_allowed(tmp_path: Path, data: Path, split: str) -> None:
    train(recipe_on(data), tmp_path / "run")
    file = next((data / "gtFine" / split).rglob("*_labelTrainIds.png"))
    labels = np.array(Image.open(file))
    labels[0, 0] = (labels[0, 0] + 1) % 19
    Image.fromarray(labels).save(file)
    with pytest.raises(Mistake, match=rf"fingerprints\.{split}: the run began with"):
        train(recipe_on(data), tmp_path / "run", resume=True)
    train(recipe_on(data), tmp_path / "run", resume=True, allow_change=[f"fingerprints.{split}"])


def test_another_class_table_is_refused_by_the_names_that_differ(tmp_path: Path, data: Path) -> None:
    before = recipe_on(data)
    train(before, tmp_path / "run")
    renamed = recipe_on(data, "data.classes.3.name=tram")
    with pytest.raises(Mistake, match=r"^data\.classes: the run has"):
        train(renamed, tmp_path / "run", resume=True)
    with pytest.raises(
        Mistake, match=r"^classes: the run began with others .* only the run have class 3; only the data"
    ):
        train(renamed, tmp_path / "run", resume=True, allow_change=["data.classes"])
    with pytest.raises(Mistake, match=r"^fingerprints\.train: "):
        train(renamed, tmp_path / "run", resume=True, allow_change=["data.classes", "classes"])
    train(renamed, tmp_path / "run", resume=True, allow_change=["data.classes", "classes", "fingerprints"])


def test_another_number_of_processes_or_version_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = train(small(), tmp_path / "run")
    info = run.info()
    write_json(run.info_file, info | {"processes": 2, "versions": {**info["versions"], "torch": "1.0"}})
    train(small(), run.path, resume=True)
    said = capfd.readouterr().err
    assert "it began with processes 2 and goes on with 1: the same samples in the same order" in said
    assert "it began with torch 1.0 and goes on with " in said


def test_a_copied_run_goes_on_elsewhere(tmp_path: Path) -> None:
    run = train(small(), tmp_path / "run")
    copy = shutil.copytree(run.path, tmp_path / "copy")
    longer = train(small("steps=8"), copy, resume=True, allow_change=["steps"])
    assert longer.info()["finished"] == 8 and run.info()["finished"] == 6
