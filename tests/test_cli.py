"""The verbs, as a person types them: what they print, where they write, how they fail."""

import json
import math
import re
import shlex
from pathlib import Path

import pytest

from segdistill import parts
from segdistill.cli import main
from segdistill.demonstration import demo
from segdistill.make_data import make
from segdistill.recipe import dump, override, parse, read
from segdistill.run import Run
from segdistill.training import Work, train
from small import content, small

SMALL = ["steps=2", "data.crop=[32,48]", "data.batch=2", "log.wandb=off", "probes.measure.every=0", "data.workers=0"]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """exit code, stdout and stderr of a command line."""
    with pytest.raises(SystemExit) as leaving:
        main(list(words))
    out, err = capsys.readouterr()
    code = leaving.value.code
    return (code if isinstance(code, int) else 0), out, err


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(small("steps=2")))
    return file


def test_list_names_every_part_with_its_signature(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["shelf"], row["part"]) for row in rows] == [(s, n) for s in parts.SHELVES for n in parts.names(s)]
    wise = next(row for row in rows if row["part"] == "channel_wise")
    assert wise["what a recipe may say"] == "temperature: float = 4.0"
    code, _, err = said(capsys, "list", "loses")
    assert code == 2 and "did you mean 'losses'?" in err


def test_plan_says_what_will_happen(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "plan", str(recipe), "--json")
    found = json.loads(out)
    assert code == 0
    assert {row["stage"]: row["shape"] for row in found["stages"]}["student.bottleneck"] == "16×8×12"
    edge = found["edges"][0]
    assert edge["edge"] == "cross_entropy" and 2 < edge["value"] < 5 and edge["gradient"] > 0
    assert found["numbers"]["train_images"] == 12 and found["numbers"]["seconds_per_step"] > 0
    assert found["device"].startswith("cpu (") and found["numbers"]["bf16_over_fp32"] > 0
    code, out, _ = said(capsys, "plan", str(recipe))
    assert code == 0 and "student.dec1" in out and "s a step" in out


def test_train_evaluate_report(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    code, out, _ = said(capsys, "train", str(recipe), "--run", str(run))
    assert code == 0 and out.startswith("student: mIoU ") and out.endswith(f"%\nThe run: {run}\n")
    code, out, _ = said(capsys, "evaluate", str(run), "--json")
    numbers = json.loads(out)["numbers"]
    measured = Run(run).last_findings("measure")
    assert code == 0 and measured is not None
    assert numbers["student/mean_iou"] == pytest.approx(measured.numbers["student/mean_iou"], abs=1e-9)
    code, out, _ = said(capsys, "evaluate", str(run), "--split", "train", "--which", "last")
    assert code == 0 and "bicycle" in out
    code, out, _ = said(capsys, "report", str(run))
    assert code == 0 and (run / "report.html").stat().st_size > 10_000


def test_a_mistake_is_one_sentence_and_exit_code_2(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected in (
        (("plan", "recipes/none.yaml"), "recipes/none.yaml: no such recipe"),
        (("plan", str(recipe), "--set", "optim.lrr=1"), "clip, states and accumulate (did you mean 'lr'?)"),
        (("plan", str(recipe), "--set", "models.student.widht=1"), "models.student.widht: unknown key"),
        (("plan", str(recipe), "--set", "losses.cross_entropy.student=student.enc9"), "(did you mean 'enc"),
        (("evaluate", str(tmp_path / "nothing")), "not a run directory"),
        (("data", "make", "--out", str(tmp_path)), "not empty"),
    ):
        code, out, err = said(capsys, *words)
        assert code == 2 and out == "" and err.count("\n") == 1 and expected in err, (words, err)
    assert said(capsys, "plam")[0] == 2


def test_ctrl_c_is_exit_code_130(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Work, "update", interrupted)
    with pytest.raises(SystemExit) as leaving:
        main(["train", str(recipe), "--run", str(tmp_path / "run")])
    assert leaving.value.code == 130


def test_data_make_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "cityscapes"
    arguments = ("data", "make", "--out", str(root), "--count", "4", "--size", "48", "64")
    code, out, _ = said(capsys, *arguments)
    assert code == 0 and "train: 4 images" in out
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(parse({**content(), "data": {"kind": "cityscapes", "root": str(root)}})))
    code, out, _ = said(capsys, "data", "check", str(file), "--json")
    assert code == 0 and json.loads(out)["bad"] == [] and out.startswith("{"), "nothing but the document"
    broken = next(root.rglob("*_leftImg8bit.png"))
    broken.write_bytes(broken.read_bytes()[:200])
    code, out, _ = said(capsys, "data", "check", str(file))
    assert code == 1 and broken.name in out


@pytest.mark.slow
def test_the_demo_compares_three_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_scenes = ["data.count=6", "data.val_count=4", "data.scene_size=[48,64]", "data.cache=false"]
    table, page = demo(tmp_path / "demo", [*SMALL, *small_scenes])
    assert [row[0] for row in table.rows] == ["teacher", "baseline", "distilled"]
    assert table.rows[1][1] == table.rows[2][1], "baseline and distilled are the same network"
    assert "of the teacher’s GMACs" in page.read_text()

    def update(*_: object) -> None:
        pytest.fail("a finished arm is not trained again")

    monkeypatch.setattr(Work, "update", update)
    again, _ = demo(tmp_path / "demo", [*SMALL, *small_scenes])
    assert [row[:-1] for row in again.rows] == [row[:-1] for row in table.rows]


def recipes(repository: Path) -> list[Path]:
    return sorted(file for file in (repository / "recipes").glob("*/*.yaml") if file.parent.name != "studies")


@pytest.mark.slow
def test_every_recipe_trains(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On data made in the recipe's layout, its teacher first; twenty steps of CamVid's, two of the others."""
    monkeypatch.chdir(tmp_path)
    make(Path("data/cityscapes"), "cityscapes", 4, (48, 64))
    make(Path("data/bdd100k"), "bdd100k", 4, (48, 64))
    _camvid(Path("data/camvid"))
    files = sorted(recipes(repository), key=lambda file: not file.stem.endswith("teacher"))
    assert {file.parent.name for file in files} == {"bdd100k", "camvid", "cityscapes", "streets"}
    for file in files:
        if "timm" not in file.stem:
            _trains(file)


@pytest.mark.slow
@pytest.mark.extras
def test_every_recipe_of_timm_trains(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="needs the extra smp")
    monkeypatch.chdir(tmp_path)
    _camvid(Path("data/camvid"))
    _trains(repository / "recipes/camvid/timm_teacher.yaml", "models.teacher.encoder_weights=null")
    _trains(repository / "recipes/camvid/soft_targets_timm.yaml")


def _trains(file: Path, *more: str) -> None:
    """Every edge acts."""
    settings = [*SMALL, "data.size=null", *more]
    if file.parent.name == "camvid":
        settings = [*settings, "steps=20", "checkpoint.every=20"]
    if file.stem in ("teacher", "small_teacher", "small_frames_teacher"):
        settings.append("models.teacher.width=4")
    if file.parent.name == "streets":
        settings = [*settings, "data.count=4", "data.val_count=2", "data.scene_size=[48,64]"]
        if "unlabelled" in file.read_text():
            settings.append("data.unlabelled=4")
    if "runs/demo/teacher" in file.read_text():
        settings.append("models.teacher.weights=runs/streets-teacher")
    run = train(file, settings=settings)
    assert run.last_findings("measure") is not None, file
    last = [line for line in run.log() if "loss" in line][-1]
    for name, edge in read(file).losses.items():
        value = last[f"loss/{name}"]
        fills = parts.find("losses", edge.kind or name, name).silent_at_first and "steps=20" not in settings
        assert math.isfinite(value) and (value != 0 or fills), f"{file}: {name}"


def _camvid(root: Path) -> None:
    """Six scenes under CamVid's names, with labels of its eleven classes."""
    from PIL import Image

    from segdistill.datasets.streets import Streets

    for split, name, count in (("train", "0001TP", 4), ("train", "0006R0", 2), ("val", "0016E5", 2)):
        scenes = Streets(count, (48, 64), val_count=2, split="train")
        for index in range(count):
            sample = scenes[index]
            labels = sample.labels.numpy() % 12
            for folder, pixels in (("images", sample.image.permute(1, 2, 0).numpy()), ("labels", labels)):
                place = root / split / folder
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place / f"{name}_{index:06d}.png")


@pytest.mark.slow
@pytest.mark.usefixtures("no_plugins")
def test_every_command_of_the_readme_runs(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order in which they stand, with the training cut short."""
    text = (repository / "README.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL)
    commands = [line[2:].split("  #")[0] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    commands = [command for command in commands if command.startswith("segdistill ")]
    assert len(commands) >= 6
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(repository / "recipes")
    for command in commands:
        words = shlex.split(command)[1:]
        if words[0] in ("train", "plan", "demo"):
            scenes = ["data.count=4", "data.val_count=2", "data.scene_size=[48,64]"]
            on_streets = words[0] == "demo" or "streets" in words[1]
            more = [*SMALL, "data.size=null", *(scenes if on_streets else [])]
            words += [word for setting in more for word in ("--set", setting)]
        if words[0] == "compare":
            more = [
                f"set.{setting}" for setting in (*SMALL, "data.count=4", "data.val_count=2", "data.scene_size=[48,64]")
            ]
            words += [word for setting in (*more, "seeds=[0]") for word in ("--set", setting)]
        if words[:2] == ["data", "make"]:
            words += ["--count", "4", "--size", "48", "64"]
        code, _, err = said(capsys, *words)
        untaught = words[0] == "calibrate" and "its temperature would be above 100" in err  # after two steps it may be
        assert code == 0 or untaught, f"{command}: {err}"


def test_recipes_are_found_and_valid(repository: Path) -> None:
    for file in recipes(repository):
        recipe = read(file)
        assert parse(override(recipe.model_dump(mode="json", exclude_none=True), [])) == recipe
        assert file.read_text().startswith("# "), f"{file}: its header says command, cost and expected result"
