"""The loop: the same seed gives the same bits, a killed run goes on as if nothing had been, two processes are one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import segdistill
from segdistill import training
from segdistill.assemble import assemble
from segdistill.checkpoint import digest, load_state
from segdistill.gradients import Proof, pulls
from segdistill.make_data import make
from segdistill.mistakes import Mistake
from segdistill.probes.measure import Measure
from segdistill.recipe import Recipe, dump
from segdistill.run import Run
from segdistill.system import Stages, System
from segdistill.training import Work, accelerate, micro_batch, train
from segdistill.types import IGNORE, Batch, Findings, Step
from small import content, online, small

GOLDEN = Path(__file__).parent / "golden"
TESTS = Path(__file__).parent


def weights(run: Run) -> dict[str, torch.Tensor]:
    """Everything the last checkpoint holds."""
    found = load_state(run.checkpoints)
    assert found is not None
    return dict(found[0].tensors)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["supervised", "online"])
def test_twenty_steps_follow_the_golden_trajectory(name: str, tmp_path: Path) -> None:
    """If this fails after a refactor, the numbers of every user changed: say why in the commit, with the numbers."""
    recipe = small("steps=20", **(online() if name == "online" else {}))
    run = train(recipe, tmp_path / "run")
    losses = [line["loss"] for line in run.log() if "loss" in line]
    file = GOLDEN / f"{name}.json"
    if not file.exists():
        file.write_text(json.dumps(losses, indent=1) + "\n")
        pytest.fail(f"{file.name} was missing and has been written; look at it and commit it")
    assert losses == pytest.approx(json.loads(file.read_text()), rel=1e-3)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    one, two, three = (
        train(small(f"seed={seed}", **online()), tmp_path / name) for name, seed in zip("abc", (0, 0, 1), strict=True)
    )
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(three))


def test_workers_change_no_bit(tmp_path: Path) -> None:
    alone = train(small(), tmp_path / "alone")
    helped = train(small("data.workers=2"), tmp_path / "helped")
    assert same(weights(alone), weights(helped))


def test_accumulated_parts_are_one_batch(tmp_path: Path) -> None:
    """With group normalisation and as many counting pixels in each part."""
    unet = {"kind": "unet", "width": 4, "depth": 2, "normalisation": "group"}
    edge = {"kind": "soft_targets", "distill_on": "all"}
    graph = {
        "models": {"one": unet, "other": unet},
        "losses": {
            "there": {"student": "one", "target": "other", **edge},
            "back": {"student": "other", "target": "one", **edge},
        },
        "optim": {"kind": "sgd", "lr": 1.0},
    }
    whole = train(small("steps=1", **graph), tmp_path / "whole")
    parts = train(small("steps=1", "optim.accumulate=2", **graph), tmp_path / "parts")
    for name, value in weights(whole).items():
        if name.startswith("system/"):
            torch.testing.assert_close(value, weights(parts)[name], rtol=1e-5, atol=1e-6)
    assert whole.log()[0]["loss"] == pytest.approx(parts.log()[0]["loss"], rel=1e-5)


def test_resume_continues_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small("steps=9", "checkpoint.every=4", **online())
    straight = train(recipe, tmp_path / "straight")
    update = Work.update

    def interrupted(work: Work, batches: list[Batch], step: int) -> Step:
        if step == 6:
            raise RuntimeError("pulled the plug")
        return update(work, batches, step)

    monkeypatch.setattr(Work, "update", interrupted)
    with pytest.raises(RuntimeError, match="plug"):
        train(recipe, tmp_path / "resumed")
    monkeypatch.undo()
    resumed = train(recipe, tmp_path / "resumed", resume=True)
    assert same(weights(straight), weights(resumed))
    assert [line["step"] for line in resumed.log()] == [line["step"] for line in straight.log()]
    assert [line.get("loss") for line in resumed.log()] == [line.get("loss") for line in straight.log()]


def test_ctrl_c_within_a_step_leaves_a_checkpoint_of_the_whole_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("checkpoint.every=100", **online())
    forward = System.forward

    def interrupted(system: System, batch: Batch, references: dict[str, Stages], step: int) -> Step:
        result = forward(system, batch, references, step)
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(System, "forward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    monkeypatch.undo()
    found = load_state(Run(tmp_path / "run").checkpoints)
    assert found is not None and found[0].step == 3
    resumed = train(recipe, tmp_path / "run", resume=True)
    assert same(weights(resumed), weights(train(recipe, tmp_path / "straight")))


def test_an_interrupted_end_is_caught_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(measure: Measure, models: object, dataset: object) -> Findings:
        raise RuntimeError("no power")

    monkeypatch.setattr(Measure, "__call__", fail)
    with pytest.raises(RuntimeError, match="no power"):
        train(small(), tmp_path / "run")
    monkeypatch.undo()
    run = train(small(), tmp_path / "run", resume=True)
    assert run.last_findings("measure") is not None
    assert segdistill.load(run.path, which="last").stages["logits"].channels == 19


def test_a_mistake_leaves_nothing_that_the_next_try_stumbles_over(tmp_path: Path) -> None:
    for settings in (
        ("optim.accumulate=3",),
        ("probes.predictions.count=0",),
        ("losses.cross_entropy.label_smoothing=2",),
    ):
        with pytest.raises(Mistake):
            train(small(*settings), tmp_path / "run")
        train(small("steps=1"), tmp_path / "run")
        shutil.rmtree(tmp_path / "run")


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(Mistake, match=r"data\.batch: 4 images cannot be shared evenly by 3 processes with"):
        micro_batch(small(), 3)
    assert micro_batch(small("optim.accumulate=2"), 2) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_one_sentence_from_a_worker_too(tmp_path: Path, workers: int) -> None:
    make(tmp_path / "data", "cityscapes", 4, (48, 64))
    data = {"kind": "cityscapes", "root": str(tmp_path / "data"), "batch": 4, "crop": [32, 48], "workers": workers}
    image = sorted((tmp_path / "data").rglob("train/**/*_leftImg8bit.png"))[1]
    image.write_bytes(image.read_bytes()[:-400])
    with pytest.raises(Mistake) as told:
        train(small(data=data), tmp_path / "run")
    assert image.name in str(told.value) and "Traceback" not in str(told.value)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    train(small("steps=1"), tmp_path / "run")
    with pytest.raises(Mistake, match="--resume"):
        train(small("steps=1"), tmp_path / "run")


def teacher(tmp_path: Path) -> Run:
    return train(small("steps=3", models={"teacher": {"kind": "unet", "width": 6, "depth": 2}},
                       losses={"cross_entropy": {"student": "teacher"}}), tmp_path / "teacher")  # fmt: skip


def distilled(teacher: Run) -> Recipe:
    return small(
        models={"teacher": {"weights": str(teacher.path), "frozen": True}, **content()["models"]},
        losses={
            "cross_entropy": {"student": "student"},
            "soft_targets": {"student": "student", "target": "teacher"},
        },
    )


def test_a_teacher_is_the_same_after_training_as_before(tmp_path: Path) -> None:
    recipe = distilled(teacher(tmp_path))
    assembly = assemble(recipe)
    before = digest(assembly.frozen.models["teacher"])
    (tmp_path / "run").mkdir()
    Run(tmp_path / "run").info_file.write_text("{}")
    Work(Run(tmp_path / "run"), assembly, accelerate(recipe)).run()
    assert digest(assembly.frozen.models["teacher"]) == before
    assert before == digest(segdistill.load(tmp_path / "teacher"))


def test_only_the_student_is_in_the_students_file(tmp_path: Path) -> None:
    run = train(distilled(teacher(tmp_path)), tmp_path / "run")
    student = segdistill.load(run.path)
    assert [file.name for file in (run.path / "best").glob("*.safetensors")] == ["student.safetensors"]
    assert load_file(run.weights("student", "last")).keys() == student.state_dict().keys()


def test_a_gradient_that_is_not_finite_reaches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small("steps=5", "probes={}")
    assembly = assemble(recipe)
    before = {name: value.clone() for name, value in assembly.system.state_dict().items()}
    monkeypatch.setattr("segdistill.system.as_float", lambda image: image.float() * float("nan"))
    (tmp_path / "run").mkdir()
    Run(tmp_path / "run").info_file.write_text("{}")
    Work(Run(tmp_path / "run"), assembly, accelerate(recipe)).run()
    assert same(dict(assembly.system.state_dict()), before)
    skipped = json.loads((tmp_path / "run" / "skipped.json").read_text())["skipped"]
    assert [entry["step"] for entry in skipped] == [0, 1, 2, 3, 4]
    assert all(key.startswith("train-") for key in skipped[0]["keys"][0][0])
    with pytest.raises(FloatingPointError, match="10 of the last 100 updates"):
        train(small("steps=20", "probes={}"), tmp_path / "long")


def test_fp16_is_refused_where_it_would_be_ignored(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device, where fp16 is real")
    with pytest.raises(Mistake, match=r"precision: fp16 needs a CUDA device"):
        train(small("precision=fp16"), tmp_path / "run")


def test_bf16_trains_near_fp32(tmp_path: Path) -> None:
    full = train(small("steps=4", "probes={}"), tmp_path / "fp32")
    half = train(small("steps=4", "probes={}", "precision=bf16"), tmp_path / "bf16")
    for one, other in zip(full.log(), half.log(), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.03)
        assert one["loss"] != other["loss"]


def launch(recipe: Path, run: Path, *more: str) -> subprocess.Popen[bytes]:
    """`segdistill train` in a process group of its own, so that its workers die with it."""
    command = [sys.executable, "-m", "segdistill", "train", str(recipe), "--run", str(run), *more]
    return subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_killed_at_a_random_step_with_workers_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        dump(small("steps=40", "data.workers=2", "checkpoint.every=7", "probes.measure.every=11", **online()))
    )
    assert launch(recipe, tmp_path / "straight").wait() == 0
    dice = random.Random(time.time_ns())
    killed = Run(tmp_path / "killed")
    moments: list[int] = []
    for _ in range(2):
        moment = dice.randrange(max([2, *moments]) + 1, 36)
        process = launch(recipe, killed.path, "--resume")
        while not any(line["step"] >= moment for line in _log(killed)):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        moments.append(min(30, max(line["step"] for line in _log(killed))))
    assert launch(recipe, killed.path, "--resume").wait() == 0
    one, other = Run(tmp_path / "straight"), killed
    assert same(weights(one), weights(other)), f"killed at {moments}"
    assert same(load_file(one.weights("student", "last")), load_file(other.weights("student", "last")))


def _log(run: Run) -> list[dict[str, float]]:
    """A run's log while it is being written: the last line may be half a line."""
    lines = run.log_file.read_text().split("\n")[:-1] if run.log_file.exists() else []
    return [json.loads(line) for line in lines]


def torchrun(processes: int, *arguments: str) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, *arguments] if processes > 1 else [sys.executable, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=600)


@pytest.mark.slow
def test_two_processes_end(tmp_path: Path) -> None:
    """One that does not give up Python's lock by itself: without a nap a third of these never did."""
    script = tmp_path / "leaves.py"
    script.write_text(
        "import sys\n"
        "import torch, torch.distributed as dist\n"
        "from accelerate import Accelerator\n"
        "from segdistill.training import leave\n"
        "sys.setswitchinterval(100)\n"
        "def main():\n"
        "    accelerator = Accelerator(cpu=True)\n"
        "    model = accelerator.prepare_model(torch.nn.Linear(4, 4))\n"
        "    model(torch.ones(2, 4)).sum().backward()\n"
        "    for _ in range(20):\n"
        "        dist.all_gather_object([None, None], list(range(1000)))\n"
        "    leave(accelerator)\n"
        "main()\n"
    )
    for _ in range(3):
        torchrun(2, str(script))


def ranks(processes: int, recipe: Recipe, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, list[object]]]:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump(recipe))
    torchrun(processes, str(TESTS / "ranks.py"), str(folder / "recipe.yaml"), str(folder))
    return load_file(folder / "gradients.safetensors"), json.loads((folder / "said.json").read_text())


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one_with_uneven_void(tmp_path: Path) -> None:
    graph = online()
    for spec in graph["models"].values():
        if "kind" in spec:
            spec["normalisation"] = "group"  # batch statistics are each process's own
    recipe = small("data.batch=8", "data.unlabelled=12", **graph)
    one, _ = ranks(1, recipe, tmp_path / "one")
    two, said = ranks(2, recipe, tmp_path / "two")
    assert abs(said["void"][0] - said["void"][1]) > 0.1  # type: ignore[operator]
    whole, other = (torch.cat([g.flatten() for _, g in sorted(gradients.items())]) for gradients in (one, two))
    assert one.keys() == two.keys()
    assert float((whole - other).norm() / whole.norm()) < 1e-5


@pytest.mark.slow
def test_three_processes_count_ten_images_once_each(tmp_path: Path) -> None:
    recipe = small("data.batch=6", "data.val_count=10")
    _, one = ranks(1, recipe, tmp_path / "one")
    _, three = ranks(3, recipe, tmp_path / "three")
    assert one["counts"] == three["counts"]
    assert "student/ece" in one["numbers"] and one["numbers"] == pytest.approx(three["numbers"], rel=1e-9)
    val = assemble(recipe).val
    labelled = sum(int((val[index].labels != 255).sum()) for index in range(10))
    assert sum(map(sum, three["counts"]["student"])) == labelled  # type: ignore[index, call-overload]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(small("models.student.normalisation=group", "steps=8")))
    for processes in (1, 2):
        torchrun(processes, "-m", "segdistill", "--", "train", str(recipe), "--run", str(tmp_path / str(processes)))
    one, two = Run(tmp_path / "1"), Run(tmp_path / "2")
    for before, after in zip(one.log(), two.log(), strict=True):
        assert before["step"] == after["step"]
        if "loss" in before:
            assert before["loss"] == pytest.approx(after["loss"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_with_batch_statistics_resume_exactly_and_measure_what_they_save(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(small("steps=6", **online())))
    for name in ("straight", "resumed"):
        torchrun(2, "-m", "segdistill", "--", "train", str(recipe), "--run", str(tmp_path / name))
    straight, resumed = Run(tmp_path / "straight"), Run(tmp_path / "resumed")
    before = resumed.weights("student", "last").read_bytes()
    shutil.rmtree(resumed.checkpoints / "step-6")
    shutil.rmtree(resumed.path / "last")
    torchrun(2, "-m", "segdistill", "--", "train", str(recipe), "--run", str(resumed.path), "--resume")
    assert resumed.weights("student", "last").read_bytes() == before
    assert same(weights(straight), weights(resumed))
    measured = straight.last_findings("measure")
    assert measured is not None
    for name in ("teacher", "student", "average"):
        alone = segdistill.evaluate(straight.path, model=name, which="last").numbers[f"{name}/mean_iou"]
        assert measured.numbers[f"{name}/mean_iou"] == pytest.approx(alone, abs=1e-12)


def test_launched_for_two_but_running_alone_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Mistake, match=r"WORLD_SIZE=2, but 1 processes run"):
        train(small(), tmp_path / "run")


def test_an_edge_is_proven_by_any_process_and_refused_on_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose crops are void may not go on checking alone: the others would not answer its sums."""
    recipe = small()
    work = Work(Run(tmp_path / "run"), assemble(recipe), accelerate(recipe))
    shape = (4, 32, 48)
    image = torch.zeros(4, 3, 32, 48, dtype=torch.uint8)
    batch = Batch(image, torch.full(shape, IGNORE), torch.zeros(shape, dtype=torch.bool), ("",) * 4)
    assert work.unproven == {"cross_entropy"}
    work.check(batch, 0)
    assert work.unproven == {"cross_entropy"}  # nothing said yet
    other = (set[str]({"cross_entropy"}), dict[str, str]())
    monkeypatch.setattr(training, "gather_object", lambda mine: [*mine, other])
    work.check(batch, 0)
    assert work.unproven == set()
    work.unproven = {"cross_entropy"}
    monkeypatch.setattr(training, "gather_object", lambda mine: [*mine, tuple(Proof(set(), {"cross_entropy": "no"}))])
    with pytest.raises(Mistake, match="no"):
        work.check(batch, 0)


# What each edge pulls on, while it trains


def test_pulls_are_those_of_the_first_batch_and_move_nothing(tmp_path: Path) -> None:
    """In turns of labels and teacher both are looked at in every phase; the trajectory is that of a run that is not."""
    ring = [{"steps": 1, "losses": ["teach", "learn"]}, {"steps": 1, "losses": ["listen", "deep", "steady"]}]
    graph = {**online(), "phases": ring}
    recipe = small("steps=4", "log.pulls=2", "log.every=1", "checkpoint.every=2", "checkpoint.keep=9", **graph)
    run = train(recipe, tmp_path / "looked")
    assert same(weights(run), weights(train(small("steps=4", **graph), tmp_path / "alone")))
    lines = [line for line in run.log() if "loss" in line]
    assert [("cosine/listen" in line, "pull/teach" in line) for line in lines] == [(False, False), (True, True)] * 2
    found = load_state(run.checkpoints, 2)
    assert found is not None
    assembly = assemble(recipe)
    training.fill(assembly.system, assembly.frozen, found[0], "checkpoint")
    work = Work(Run(tmp_path / "unused"), assembly, accelerate(recipe))
    pulled = pulls(assembly.system, assembly.frozen, next(work.batches(0, 0)), None)
    assert {f"pull/{name}" for name in pulled} == {key for key in lines[1] if key.startswith("pull/")}
    for name, pull in pulled.items():
        assert lines[1][f"pull/{name}"] == pytest.approx(pull.norm, rel=1e-5)
        assert pull.cosine is None or lines[1][f"cosine/{name}"] == pytest.approx(pull.cosine, abs=1e-5)
    assert pulled["listen"].cosine is not None and pulled["teach"].cosine is None
