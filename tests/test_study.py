"""What a study says: its arms, its grid, where its runs go, and the sentence for whatever does not fit."""

from pathlib import Path

import pytest
import yaml

from segdistill.mistakes import Mistake
from segdistill.recipe import Recipe, read
from segdistill.study import jobs, read_study, trial
from small import content

FROZEN = {"weights": "runs/t", "frozen": True}


def written(folder: Path, **more: object) -> Path:
    """A study over two teachers, beside its recipes."""
    taught = content(
        models={"student": {"kind": "unet", "width": 4, "depth": 2}, "teacher": FROZEN},
        losses={
            "cross_entropy": {"student": "student"},
            "soft_targets": {"student": "student", "target": "teacher", "temperature": 1},
        },
    )
    for name, recipe in (("plain", content()), ("taught", taught)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    study = {
        "recipe": "taught.yaml",
        "seeds": [3, 5],
        "baseline": "labels",
        "set": {"steps": 4},
        "teachers": {
            "big": {"recipe": "plain.yaml", "set": {"models.student.width": 6}},
            "big2": {"recipe": "plain.yaml"},
        },
        "arms": {"labels": {"recipe": "plain.yaml"}},
        "grid": {
            "teacher": {
                "early": {"models.teacher.weights": "{folder}/teachers/big@step-2"},
                "late": {"models.teacher.weights": "{folder}/teachers/big2"},
            },
            "temperature": {
                "T1": {},
                "T4": {"losses.soft_targets": {"student": "student", "target": "teacher", "temperature": 4}},
            },
        },
        **more,
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    return file


def test_every_combination_with_every_seed(tmp_path: Path) -> None:
    found = jobs(read_study(written(tmp_path)), tmp_path, tmp_path / "out")
    assert [job.name for job in found[:4]] == ["teachers/big", "teachers/big2", "labels-3", "labels-5"]
    arms = [job for job in found if job.arm is not None]
    assert [job.name for job in arms[2:]] == [
        f"{teacher}-{t}-{seed}" for teacher in ("early", "late") for t in ("T1", "T4") for seed in (3, 5)
    ]
    assert {job.recipe.steps for job in found} == {4}
    by_name = {job.name: job for job in found}
    assert by_name["teachers/big"].recipe.models["student"].parameters["width"] == 6
    assert by_name["teachers/big"].recipe.seed == 0 and by_name["late-T4-5"].recipe.seed == 5
    early, late = by_name["early-T4-3"], by_name["late-T1-3"]
    assert early.recipe.models["teacher"].weights == f"{(tmp_path / 'out').as_posix()}/teachers/big@step-2"
    assert (early.recipe.losses["soft_targets"].parameters["temperature"], early.needs) == (4, {"teachers/big"})
    assert (late.recipe.losses["soft_targets"].parameters["temperature"], late.needs) == (1, {"teachers/big2"})
    assert late.run == tmp_path / "out" / "arms" / "late-T1-3"


def test_settings_for_the_study_and_for_every_recipe(tmp_path: Path) -> None:
    study = read_study(written(tmp_path), ["seeds=[7]", "set.data.batch=2", "set.log.wandb=off"])
    found = jobs(study, tmp_path, tmp_path)
    assert {job.recipe.data.batch for job in found} == {2} and {job.recipe.steps for job in found} == {4}
    assert {job.recipe.seed for job in found} == {0, 7}


def test_a_setting_inside_of_one_arm_or_teacher(tmp_path: Path) -> None:
    settings = ["teachers.big.set.optim.lr=0.5", "arms.labels.set.optim.warmup=3", "set.seed=4"]
    found = {job.name: job.recipe for job in jobs(read_study(written(tmp_path), settings), tmp_path, tmp_path)}
    assert (found["teachers/big"].optim.lr, found["teachers/big2"].optim.lr) == (0.5, 0.01)
    assert (found["labels-3"].optim.warmup, found["labels-3"].optim.lr) == (3, 0.01)


def test_an_arm_may_learn_from_runs_of_another(tmp_path: Path) -> None:
    """Such as from all seeds of the baseline: their ensemble."""
    several = {f"models.e{seed}": {"weights": f"{{folder}}/arms/labels-{seed}", "frozen": True} for seed in (3, 5)}
    edges = {
        f"losses.e{seed}": {"kind": "soft_targets", "student": "student", "target": f"e{seed}", "temperature": 1}
        for seed in (3, 5)
    }
    ensemble = {"recipe": "plain.yaml", "set": several | edges}
    arms = {"labels": {"recipe": "plain.yaml"}, "ensemble": ensemble}
    file = written(tmp_path, arms=arms, grid={}, teachers={})
    found = {job.name: job for job in jobs(read_study(file), tmp_path, tmp_path / "out")}
    assert found["ensemble-5"].needs == {"labels-3", "labels-5"} and found["labels-3"].needs == set()
    assert found["ensemble-5"].recipe.models["e3"].weights == f"{(tmp_path / 'out').as_posix()}/arms/labels-3"
    taught = {"models.teacher.weights": "{folder}/arms/labels-{seed}"}
    each = written(tmp_path, arms={"labels": {"recipe": "plain.yaml"}, "own": {"set": taught}}, grid={}, teachers={})
    own = {job.name: job for job in jobs(read_study(each), tmp_path, tmp_path / "out")}["own-5"]
    assert own.needs == {"labels-5"} and (own.recipe.models["teacher"].weights or "").endswith("out/arms/labels-5")
    file = written(tmp_path, arms=arms, grid={}, teachers={})
    with pytest.raises(Mistake, match=r"ensemble: there is no arms/labels-5; there is labels-3.*did you mean"):
        jobs(read_study(file, ["seeds=[3]"]), tmp_path, tmp_path / "out")
    tune = {"trials": 1, "ranges": {"optim.lr": [1e-3, 1]}}
    tuned = read_study(written(tmp_path, arms=arms, grid={}, teachers={}, tune=tune))
    with pytest.raises(Mistake, match="tune: ensemble learns from arms/labels-3, which is trained after the trials"):
        trial(tuned, tmp_path, tmp_path / "out", "ensemble", 0, {})
    arms["labels"] = {"recipe": "plain.yaml", "set": {"models.student.weights": "{folder}/arms/ensemble-3"}}
    with pytest.raises(Mistake, match="runs that learn from each other in a circle"):
        jobs(read_study(written(tmp_path, arms=arms, grid={}, teachers={})), tmp_path, tmp_path / "out")


def test_a_mapping_that_stands_twice_is_set_once(tmp_path: Path) -> None:
    file = written(
        tmp_path, set={"models.student.width": 8}, teachers={}, grid={}, arms={"labels": {"recipe": "two.yaml"}}
    )
    recipe = yaml.safe_dump(content(models=None, losses=None))
    graph = "models: {student: &n {kind: unet, width: 4, depth: 2}, other: *n}\n"
    losses = "losses: {cross_entropy: {student: student}, more: {kind: cross_entropy, student: other}}\n"
    (tmp_path / "two.yaml").write_text(recipe.replace("models: null\n", graph).replace("losses: null\n", losses))
    (job, _) = jobs(read_study(file), tmp_path, tmp_path)
    widths = {name: spec.parameters["width"] for name, spec in job.recipe.models.items()}
    assert widths == {"student": 8, "other": 4}


def test_a_study_is_told_from_a_recipe(tmp_path: Path) -> None:
    file = written(tmp_path)
    with pytest.raises(Mistake, match=r"is a study, not a recipe; segdistill compare "):
        read(file)
    with pytest.raises(Mistake, match=r"steps: a key of recipes; for every run of the study it is set\.steps"):
        read_study(file, ["steps=6"])
    with pytest.raises(Mistake, match="is a recipe, not a study; segdistill train "):
        read_study(tmp_path / "plain.yaml")
    with pytest.raises(Mistake, match=r"seed: .*set\.seed"):
        read_study(file, ["seed=6"])


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"seeds": []}, "seeds: expected one at least, got none"),
        ({"grid": {"t": {}}}, r"grid\.t: it has no choices"),
        ({"grid": {"t": {"a": {"steps": 1}}, "u": {"b": {"steps": 2}}}}, "grid: the arm 'a-b' sets steps twice"),
        (
            {
                "teachers": {
                    name: {"recipe": "taught.yaml", "set": {"models.teacher.weights": f"{{folder}}/teachers/{other}"}}
                    for name, other in (("one", "two"), ("two", "one"))
                },
                "grid": {},
            },
            "runs that learn from each other in a circle",
        ),
        (
            {"baseline": "label"},
            r"baseline: there is no arm 'label'; there is labels, early-T1, .* \(did you mean 'labels'\?\)",
        ),
        ({"seeds": [1, 1]}, "seeds: one stands twice"),
        ({"arms": {}, "grid": {}, "baseline": None}, "there are no arms; expected arms, or a grid"),
        ({"arms": {"a b": {}}}, "'a b': a name is at most 64 letters"),
        ({"arm": {}}, r"arm: unknown key; a study accepts .* \(did you mean 'arms'\?\)"),
        ({"arms": {"labels": {"recipes": "x"}}}, r"arms.labels.recipes: unknown key; .*did you mean 'recipe'"),
        ({"arms": {"labels": {"recipe": "plane.yaml"}}}, r"plane.yaml: no such recipe \(did you mean 'plain.yaml'\?\)"),
        ({"arms": {"labels": {"recipe": "plain.yaml", "set": {"step": 3}}}}, r"labels: step: unknown key; .*'steps'"),
        (
            {"grid": {"t": {"one": {"models.teacher.weights": "{folder}/teachers/bog"}}}},
            r"one: there is no teachers/bog; there is big and big2 \(did you mean 'big'\?\)",
        ),
    ],
)
def test_whatever_does_not_fit_is_a_sentence(tmp_path: Path, more: dict[str, object], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        jobs(read_study(written(tmp_path, **more)), tmp_path, tmp_path)


def student_updates(recipe: Recipe) -> float:
    """Steps in which the node `student` learns."""
    ring = [phase for phase in recipe.phases if phase.last is None]
    long = [float(phase.steps or phase.epochs or 0) for phase in ring]
    hers = [any(recipe.losses[name].student.split(".")[0] == "student" for name in phase.losses) for phase in ring]
    share = sum(each for each, learns in zip(long, hers, strict=True) if learns) / sum(long) if ring else 1.0
    return recipe.steps * share


def test_the_shipped_studies_are_sound(repository: Path, tmp_path: Path) -> None:
    files = sorted((repository / "recipes" / "studies").glob("*.yaml"))
    assert files
    for file in files:
        found = jobs(read_study(file), file.parent, tmp_path)
        assert len({job.name for job in found}) == len(found)
        assert f"segdistill compare recipes/studies/{file.name}" in file.read_text().splitlines()[0]
        for job in found:  # a study is fair: what learns from a teacher has the schedule of what does not
            if job.arm is not None and not job.arm.startswith("clock_"):
                first = next(each for each in found if each.arm is not None)
                assert student_updates(job.recipe) == first.recipe.steps
                hers = round(job.recipe.optim.warmup * student_updates(job.recipe) / job.recipe.steps)
                alike = {"states": "shared", "warmup": hers}  # as many of the student's updates
                assert job.recipe.optim.model_copy(update=alike) == first.recipe.optim


def test_equal_time_is_equal_but_for_the_length(repository: Path, tmp_path: Path) -> None:
    """A `clock_` arm is the arm of that name, its schedule drawn out or pressed together as a whole."""
    file = repository / "recipes" / "studies" / "online.yaml"
    arms = {job.arm: job.recipe for job in jobs(read_study(file), file.parent, tmp_path) if job.recipe.seed == 1}
    pressed = {arm: recipe for arm, recipe in arms.items() if arm is not None and arm.startswith("clock_")}
    assert len(pressed) == 8
    for arm, recipe in pressed.items():
        plain = arms[arm.removeprefix("clock_")]
        factor = recipe.steps / plain.steps
        optim = {"warmup": round(plain.optim.warmup * factor)}
        ramps = {name: loss.model_copy(update={"ramp": loss.ramp * factor}) for name, loss in plain.losses.items()}
        length = {"steps": recipe.steps, "log": recipe.log, "losses": ramps}
        assert recipe == plain.model_copy(update={**length, "optim": plain.optim.model_copy(update=optim)}), arm
        read(file.parent / read_study(file).recipe)
