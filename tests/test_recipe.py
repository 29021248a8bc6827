"""Recipes: read, overridden and dumped without loss; every mistake is one sentence that helps."""

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.assemble import resolve
from segdistill.mistakes import Mistake
from segdistill.recipe import differences, dump, override, parse, read
from small import content

CONTENT: dict[str, Any] = {
    "data": {"kind": "streets", "count": 4, "scene_size": [48, 64], "batch": 2, "augment": {"scale": [0.75, 1.5]}},
    "models": {"teacher": {"weights": "runs/t", "frozen": True}, "student": {"kind": "unet", "width": 4}},
    "losses": {
        "cross_entropy": {"student": "student"},
        "soft_targets": {"student": "student", "target": "teacher", "temperature": 2.0},
    },
    "phases": [{"steps": 5, "losses": ["cross_entropy"]}, {"epochs": 1, "losses": ["soft_targets"]}],
    "optim": {"lr": 0.001},
    "steps": 10,
    "probes": {"measure": {"every": 5}, "predictions": {}},
}


def changed(path: str, value: Any = None, *, remove: bool = False) -> dict[str, Any]:
    content = copy.deepcopy(CONTENT)
    *parents, last = path.split(".")
    place: Any = content
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    if remove:
        del place[last]
    elif isinstance(place, list):
        place[int(last)] = value
    else:
        place[last] = value
    return content


def without_teacher(path: str = "", value: Any = None) -> dict[str, Any]:
    """The recipe with nothing to look up on the disk."""
    content = changed(path, value) if path else copy.deepcopy(CONTENT)
    del content["models"]["teacher"], content["losses"]["soft_targets"], content["phases"]
    return content


def said_by(content: dict[str, Any]) -> str:
    """The sentence that parsing or resolving ends with."""
    with pytest.raises(Mistake) as caught:
        resolve(parse(content))
    sentence = str(caught.value)
    assert "\n" not in sentence and "pydantic" not in sentence.lower() and "traceback" not in sentence.lower()
    return sentence


# What is said survives


def test_dump_reads_back(tmp_path: Path) -> None:
    recipe = parse(CONTENT)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(recipe))
    assert read(file) == recipe


def test_models_and_losses_keep_their_order(tmp_path: Path) -> None:
    """The order of plots and tables, of parameters in the optimiser, and of sums."""
    file = tmp_path / "recipe.yaml"
    file.write_text(
        yaml.safe_dump(changed("losses.auxiliary", {"student": "student"}) | {"phases": []}, sort_keys=False)
    )
    recipe = read(file)
    assert list(recipe.models) == ["teacher", "student"]
    assert list(recipe.losses) == ["cross_entropy", "soft_targets", "auxiliary"]


def test_a_resolved_recipe_reads_back(tmp_path: Path) -> None:
    """Lists, tuples and paths of parts included: the run directory holds this one, and resuming compares it."""
    recipe = resolve(parse(without_teacher()))
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(recipe))
    assert resolve(read(file)) == recipe
    assert not differences(read(file), recipe)
    assert recipe.data.parameters["val_count"] == 100  # a default of streets
    assert recipe.models["student"].parameters["depth"] == 4


def test_a_resolved_folder_recipe_reads_back(tmp_path: Path) -> None:
    data = {
        "kind": "folder",
        "images": "x/{split}/images",
        "labels": "x/{split}/masks",
        "classes": [{"name": "road", "colour": [128, 64, 128]}, {"name": "car", "colour": [0, 0, 142]}],
        "remap": {7: "road", "#00008e": "car"},
        "hold_out": ["0001TP"],
    }
    recipe = resolve(parse({**without_teacher(), "data": data}))
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(recipe))
    assert not differences(resolve(read(file)), recipe)


def test_the_shipped_recipes_are_sound(repository: Path) -> None:
    files = sorted(file for file in (repository / "recipes").rglob("*.yaml") if file.parent.name != "studies")
    assert files
    for file in files:
        recipe = read(file)
        assert parse(yaml.safe_load(dump(recipe))) == recipe, file


def test_a_recipe_cannot_be_changed() -> None:
    recipe = parse(CONTENT)
    with pytest.raises(ValueError, match="frozen"):
        recipe.steps = 3  # pyright: ignore


@pytest.mark.parametrize(("written", "value"), [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("3E4", 3e4), ("2", 2.0)])
def test_yamls_strings_of_numbers_become_numbers(tmp_path: Path, written: str, value: float) -> None:
    """YAML 1.1 reads `1e-3` as a string."""
    file = tmp_path / "recipe.yaml"
    text = yaml.safe_dump(without_teacher("losses.cross_entropy", {"student": "student"}))
    file.write_text(text.replace("lr: 0.001", f"lr: {written}"))
    recipe = read(file, [f"losses.soft_targets={{student: student, target: student.logits, temperature: {written}}}"])
    assert recipe.optim.lr == value
    assert resolve(recipe).losses["soft_targets"].parameters["temperature"] == value


def test_a_bare_off_is_off(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(CONTENT) + "log: {wandb: off}\n")
    assert read(file).log.wandb == "off"


def test_trained_models() -> None:
    content = changed("models.average", {"follows": "student"})
    assert parse(content).trained() == ["student"]


def test_differences_are_named() -> None:
    old, new = parse(CONTENT), parse(changed("losses.soft_targets.temperature", 4.0))
    assert differences(old, new) == {"losses.soft_targets.temperature": (2.0, 4.0)}
    longer = parse(changed("steps", 20))
    assert differences(old, longer) == {"steps": (10, 20)}
    assert differences(old, old) == {}


# Overrides


def test_override() -> None:
    content = override(
        CONTENT, ["data.batch=4", "losses.new={student: student}", "data.size=[48, 64]", "optim.lr=1e-4"]
    )
    assert content["data"]["batch"] == 4
    assert content["losses"]["new"] == {"student": "student"}
    assert content["data"]["size"] == [48, 64]
    assert parse(override(CONTENT, ["optim.lr=1e-4"])).optim.lr == 1e-4
    assert CONTENT["data"]["batch"] == 2  # a copy


def test_override_of_a_list_and_of_what_is_not_there_yet() -> None:
    content = override(CONTENT, ["phases.0.steps=7", "log.every=3", "data.augment.scale.0=0.5"])
    assert content["phases"][0]["steps"] == 7
    assert content["log"] == {"every": 3}
    assert content["data"]["augment"]["scale"] == [0.5, 1.5]


def test_later_overrides_win_and_values_may_hold_equals_signs() -> None:
    assert override({}, ["a=1", "a=2"]) == {"a": 2}
    assert override({}, ["a=b=c"]) == {"a": "b=c"}
    assert override({"a": 1}, ["a="]) == {"a": None}


NAMES = st.text("abcdefg_", min_size=1, max_size=4)
LEAVES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | NAMES
TREES = st.recursive(LEAVES, lambda x: st.dictionaries(NAMES, x, max_size=3) | st.lists(x, max_size=3), max_leaves=8)


@settings(max_examples=100, deadline=None)
@given(content=st.dictionaries(NAMES, TREES, max_size=3), path=st.lists(NAMES, min_size=1, max_size=3), value=TREES)
def test_override_sets_exactly_one_place(content: dict[str, Any], path: list[str], value: Any) -> None:
    before = copy.deepcopy(content)
    setting = (
        f"{'.'.join(path)}={yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix('...' + chr(10))}"
    )
    place: Any = before
    for name in path[:-1]:
        place = place.get(name, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        with pytest.raises(Mistake, match=re.escape(f"--set {'.'.join(path)}: ")):
            override(content, [setting])
        assert content == before
        return
    after = override(content, [setting])
    assert content == before
    place = after
    for name in path[:-1]:
        place = place[name]
    assert place[path[-1]] == value
    # And nothing else: taken out again, what is left is the old content without this place.
    del place[path[-1]]
    assert without(after, path) == without(before, path)


def without(content: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """A copy in which the place, and every parent that it leaves empty, is gone."""
    rest = {name: value for name, value in content.items() if name != path[0]}
    below = content.get(path[0])
    if len(path) > 1 and isinstance(below, dict):
        kept = without(below, path[1:])
        if kept:
            rest[path[0]] = kept
    return rest


def test_null_takes_a_node_an_edge_or_a_probe_out() -> None:
    taught = content(
        losses={"cross_entropy": {"student": "student"}, "more": {"kind": "cross_entropy", "student": "other"}},
        models={name: {"kind": "unet", "width": 4, "depth": 2} for name in ("student", "other")},
        probes={"measure": {}, "speed": {}},
    )
    recipe = parse(override(taught, ["losses.more=null", "models.other=null", "probes.speed=null"]))
    left = [*recipe.losses, *recipe.models, *recipe.probes]
    assert left == ["cross_entropy", "student", "measure"]
    assert parse(override(taught, ["optim.clip=null"])).losses.keys() == {"cross_entropy", "more"}


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("data.batch", "--set data.batch: expected KEY=VALUE, as in data.batch=4"),
        ("=4", "--set =4: expected KEY=VALUE, as in data.batch=4"),
        ("steps.x=4", "--set steps.x: the recipe has no such place"),
        ("steps.x.y=4", "--set steps.x.y: the recipe has no such place"),
        ("data.augment.scale.7=4", "--set data.augment.scale.7: the recipe has no such place"),
        ("phases.first.steps=4", "--set phases.first.steps: the recipe has no such place"),
        ("probes.sped=null", "--set probes.sped: the recipe has no such place"),
        ("data.size=[1, 2", "--set data.size: '[1, 2' is not YAML"),
        ("data.size=!!python/object:os.system x", "--set data.size: '!!python/object:os.system x' is not YAML"),
    ],
)
def test_mistakes_in_set(setting: str, sentence: str) -> None:
    with pytest.raises(Mistake) as caught:
        override(CONTENT, [setting])
    assert str(caught.value) == sentence


@pytest.mark.parametrize("setting", [".=4", "data.=4", "data..batch=4", ".steps=4"])
def test_set_with_an_empty_name(tmp_path: Path, setting: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(without_teacher()))
    with pytest.raises(Mistake) as caught:
        resolve(read(file, [setting]))
    assert "unknown key" in str(caught.value) or "--set" in str(caught.value)


# Files


def test_no_such_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "teacher.yaml").write_text("")
    with pytest.raises(Mistake) as caught:
        read(tmp_path / "techer.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'techer.yaml'}: no such recipe (did you mean '")
    assert str(caught.value).endswith("teacher.yaml'?)")


def test_no_such_file_with_nothing_near(tmp_path: Path) -> None:
    """A long folder in common is no likeness."""
    (tmp_path / "teacher.yaml").write_text("")
    with pytest.raises(Mistake) as caught:
        read(tmp_path / "q")
    assert str(caught.value) == f"{tmp_path / 'q'}: no such recipe"


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="no such recipe"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\t- x", "a: 'x"])
def test_not_yaml(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(Mistake, match=re.escape(f"{file}: not YAML: ") + ".*line 1") as caught:
        read(file)
    assert "\n" not in str(caught.value)


def test_not_text(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(Mistake, match=re.escape(f"{file}: not YAML")):
        read(file)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "3"])
def test_not_a_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(Mistake, match=re.escape(f"{file}: a recipe is a mapping with data, models, losses")):
        read(file)


@pytest.mark.parametrize(
    ("tag", "written"),
    [
        ("!!python/object/apply:os.getcwd []", "tag:yaml.org,2002:python/object/apply:os.getcwd"),
        ("!!python/name:os.system", "tag:yaml.org,2002:python/name:os.system"),
        ("!own 3", "!own"),
        ("!!int 3", "tag:yaml.org,2002:int"),
    ],
)
def test_tags_are_refused(tmp_path: Path, tag: str, written: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"steps: {tag}\n")
    with pytest.raises(Mistake, match=re.escape(f"{file}: not YAML: a recipe has no tags such as {written}")):
        read(file)


# Keys and values


@pytest.mark.parametrize(
    ("path", "value", "near"),
    [
        ("lossess", {}, "losses"),
        ("data.bacth", 4, "batch"),
        ("data.augment.scael", [1, 1], "scale"),
        ("data.scen_size", [48, 64], "scene_size"),
        ("models.student.widht", 4, "width"),
        ("models.student.frozn", True, "frozen"),
        ("losses.cross_entropy.label_smothing", 0.1, "label_smoothing"),
        ("losses.cross_entropy.wieght", 0.1, "weight"),
        ("optim.learning_rat", 0.1, None),
        ("optim.weigth_decay", 0.1, "weight_decay"),
        ("probes.measure.evry", 1, "every"),
        ("checkpoint", {"kep": 1}, "keep"),
        ("log", {"wandbb": "off"}, "wandb"),
    ],
)
def test_a_misspelled_key(path: str, value: object, near: str | None) -> None:
    sentence = said_by(without_teacher(path, value))
    where = path if not isinstance(value, dict) or not value else f"{path}.{next(iter(value))}"
    assert sentence.startswith(f"{where}: unknown key")
    if near:
        assert sentence.endswith(f"(did you mean '{near}'?)")


@pytest.mark.parametrize(
    ("path", "value", "accepted"),
    [
        ("lossess", {}, ["data", "models", "losses", "steps"]),
        ("data.bacth", 4, ["batch", "crop", "count"]),
        ("data.augment.scael", [1, 1], ["scale", "flip", "jitter"]),
        ("models.student.widht", 4, ["width", "depth", "weights"]),
        ("losses.cross_entropy.wieght", 1, ["weight", "student", "label_smoothing"]),
        ("optim.lrr", 0.1, ["lr", "weight_decay", "schedule"]),
        ("probes.measure.evry", 1, ["every"]),
    ],
)
def test_a_misspelled_key_is_told_what_is_accepted(path: str, value: object, accepted: list[str]) -> None:
    words = re.findall(r"\w+", said_by(without_teacher(path, value)).split("(did you mean")[0])
    assert set(accepted) <= set(words)


def test_the_nearest_key_is_one_that_may_stand_there() -> None:
    """`keep` belongs to checkpoint, `power` to optim: suggesting them elsewhere leads astray."""
    assert "did you mean 'keep'" not in said_by(without_teacher("optim.kep", 1))
    assert "did you mean 'power'" not in said_by(without_teacher("log", {"powr": 1}))


def test_a_misspelled_key_in_a_phase() -> None:
    sentence = said_by(changed("phases.0", {"stesp": 5, "losses": ["cross_entropy"]}))
    assert sentence.startswith("phases.0.stesp: unknown key")
    assert "did you mean 'steps'" in sentence


@pytest.mark.parametrize(
    ("path", "kind", "sentence"),
    [
        ("data.kind", "cityscape", "data.kind: there is no dataset 'cityscape'; there is .*mean 'cityscapes'"),
        ("models.student.kind", "unett", "models.student.kind: there is no model 'unett'; there is .*mean 'unet'"),
        ("losses.cross_entropy.kind", "crossentropy", "losses.cross_entropy.kind: there is no loss .*'cross_entropy'"),
        ("probes.mesure", {}, "probes.mesure: there is no probe 'mesure'; there is .*mean 'measure'"),
        ("losses.cros_entropy", {"student": "student"}, "losses.cros_entropy.kind: there is no .*mean 'cross_entropy'"),
        ("optim.kind", "adam", "optim.kind: .*'adamw' or 'sgd', got 'adam'"),
    ],
)
def test_an_unknown_part(path: str, kind: object, sentence: str) -> None:
    content = without_teacher(path, kind)
    if path.startswith("data"):  # or streets' parameters would be the mistake
        content["data"] = {"kind": kind, "root": "x"}
    assert re.match(sentence, said_by(content))


@pytest.mark.parametrize(
    ("path", "value", "got"),
    [
        ("steps", "many", "'many'"),
        ("steps", 0, "0"),
        ("steps", 1.5, "1.5"),
        ("seed", -1, "-1"),
        ("precision", "fp8", "'fp8'"),
        ("data.batch", 0, "0"),
        ("data.batch", "eight", "'eight'"),
        ("data.crop", [64], "missing"),
        ("data.crop", 64, "64"),
        ("data.crop", [0, 0], "0"),
        ("data.size", [-4, 64], "-4"),
        ("data.augment.jitter", 1.0, "1.0"),
        ("data.augment", {"scale": [2.0, 1.0]}, "2.0"),
        ("data.count", "all", "'all'"),
        ("models.student.width", "wide", "'wide'"),
        ("models.student.normalisation", "layer", "'layer'"),
        ("losses.cross_entropy.label_smoothing", "some", "'some'"),
        ("losses.cross_entropy.class_weights", "enett", "'enett'"),
        ("losses.cross_entropy.weight", -1, "-1"),
        ("losses.cross_entropy.distill_on", "void", "'void'"),
        ("losses.cross_entropy.ramp", 0.5, "0.5"),
        ("optim.lr", 0, "0"),
        ("optim.lr", math.inf, "inf"),
        ("optim.schedule", "step", "'step'"),
        ("probes.measure.every", -1, "-1"),
        ("log", {"wandb": "on line"}, "'on line'"),
        ("models", 3, "3"),
        ("data", "streets", "'streets'"),
        ("losses.cross_entropy", None, "None"),
    ],
)
def test_a_wrong_value(path: str, value: object, got: str) -> None:
    """The path, and what we got; one finding."""
    content = changed(path, value) if path == "models" else without_teacher(path, value)
    sentence = said_by(content)
    assert sentence.startswith(path), sentence
    assert got in sentence


def test_a_missing_key() -> None:
    for path in ("steps", "data", "losses", "data.kind", "losses.cross_entropy.student"):
        assert said_by(changed(path, remove=True)).startswith(f"{path}: missing")


def test_a_missing_parameter_of_a_part() -> None:
    content = without_teacher("data", {"kind": "cityscapes"})
    assert said_by(content) == "data.root: missing"


def test_two_findings_are_both_told() -> None:
    content = changed("steps", 0)
    content["optim"]["lr"] = "fast"
    assert re.match(r"optim\.lr: .*'fast'; steps: .*0$", said_by(content))


# The graph


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            "losses.soft_targets.target",
            "teachr",
            (
                "losses.soft_targets.target: there is no node 'teachr'; there is teacher, student and labels"
                " (did you mean 'teacher'?)"
            ),
        ),
        (
            "losses.soft_targets.student",
            "studnt.dec1",
            (
                "losses.soft_targets.student: there is no model that learns 'studnt'; there is student"
                " (did you mean 'student'?)"
            ),
        ),
        (
            "losses.soft_targets.student",
            "teacher",
            "losses.soft_targets.student: there is no model that learns 'teacher'; there is student",
        ),
        ("phases.0.losses", ["cross_entrop"], "phases.0.losses: there is no loss 'cross_entrop'"),
        (
            "phases.0",
            {"losses": ["cross_entropy"]},
            "phases.0: a phase has either steps or epochs, or is the last",
        ),
        (
            "phases.0",
            {"steps": 1, "epochs": 1, "losses": ["soft_targets"]},
            "phases.0: a phase has either steps or epochs, or is the last",
        ),
        (
            "phases.0",
            {"last": 0.1, "losses": ["soft_targets"]},
            "phases.0.last: only the phase that stands last can be the last",
        ),
        (
            "phases",
            [{"last": 0.1, "losses": ["soft_targets", "cross_entropy"]}],
            "phases.0.last: there is nothing before it",
        ),
        ("models.student", {"width": 4}, "models.student: needs a kind (an architecture) or weights (a run)"),
        ("models.teacher", {"kind": "unet", "frozen": True}, "models.teacher: a frozen model needs weights"),
        ("models.other", {"kind": "unet"}, "models.other: learns from nothing"),
        ("models.labels", {"kind": "unet"}, "models"),
        ("models.average", {"follows": "teacher"}, "models.average.follows: 'teacher' is no model that learns"),
        ("models.average", {"follows": "studnt"}, "models.average.follows: 'studnt' is no model that learns (did you"),
    ],
)
def test_a_graph_that_does_not_hold(path: str, value: object, sentence: str) -> None:
    assert said_by(changed(path, value)).startswith(sentence)


@pytest.mark.parametrize("shelf", ["models", "losses"])
def test_a_name_that_is_no_word(shelf: str) -> None:
    """Neither torch nor --set could address it; with a slash it would be another folder."""
    spec = {"kind": "unet"} if shelf == "models" else {"kind": "cross_entropy", "student": "student"}
    for name in ("a.b", "a/b", ""):
        content = without_teacher()
        content[shelf][name] = spec
        if shelf == "models":
            content["losses"]["more"] = {"kind": "cross_entropy", "student": name}
        sentence = said_by(content)
        assert sentence.startswith(shelf) and "name" in sentence


def test_a_follower_has_no_parameters() -> None:
    content = without_teacher("models.average", {"follows": "student", "width": 8})
    assert said_by(content).startswith("models.average.width: not accepted here; it follows student")


def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("steps: 1\nlosses:\n  a: {student: s}\n  a: {student: t}\n")
    with pytest.raises(Mistake, match="the key 'a' stands twice"):
        read(file)


def test_every_loss_acts_in_some_phase() -> None:
    content = {
        "data": {"kind": "streets"},
        "models": {"s": {"kind": "unet"}},
        "losses": {"a": {"kind": "cross_entropy", "student": "s"}, "b": {"kind": "cross_entropy", "student": "s"}},
        "phases": [{"steps": 2, "losses": ["a"]}],
        "steps": 4,
    }
    with pytest.raises(Mistake, match=r"losses\.b: acts in no phase"):
        parse(content)
    with pytest.raises(Mistake, match=r"phases\.0\.losses"):
        parse({**content, "phases": [{"steps": 2, "losses": []}]})


def test_a_choice_or_a_list_is_one_sentence_with_the_nearest_match() -> None:
    """Of a setting that may be several things, not one complaint for each of them under a name nobody wrote."""
    sentence = said_by(without_teacher("losses.cross_entropy.class_weights", "erfnt"))
    assert sentence.startswith("losses.cross_entropy.class_weights: should be a valid list, or 'inverse', ")
    assert sentence.endswith("got 'erfnt' (did you mean 'erfnet'?)")
    assert said_by(without_teacher("models.student.classes", 11)).startswith("models.student.classes: should be a ")


@pytest.mark.parametrize(
    "path", ["steps", "data.batch", "optim.lr", "models.student.width", "losses.cross_entropy.weight"]
)
def test_true_is_no_number(path: str) -> None:
    """Pydantic would read it as 1."""
    assert said_by(without_teacher(path, True)) == f"{path}: should be a number, got True"


def test_a_misspelled_key_that_is_required_is_named() -> None:
    content = without_teacher("losses.cross_entropy", {"stduent": "student"})
    assert said_by(content) == "losses.cross_entropy.student: missing; there is 'stduent'"


def test_the_kind_of_a_sampling_is_not_part_of_a_path() -> None:
    sentence = said_by(without_teacher("data.sampling", {"kind": "rare_class", "shrae": 1}))
    assert sentence.startswith("data.sampling.shrae: unknown key; data.sampling accepts kind, share, ")
    assert sentence.endswith("(did you mean 'share'?)")


def test_a_misspelled_key_of_a_class() -> None:
    classes = [{"name": "road", "colour": [1, 2, 3]}, {"nmae": "car", "colour": [4, 5, 6]}]
    assert said_by(without_teacher("data", {"kind": "folder", "images": "x", "classes": classes})) == (
        "data.classes.1.name: missing; there is 'nmae'; "
        "data.classes.1.nmae: unknown key; data.classes.1 accepts name and colour (did you mean 'name'?)"
    )


def test_null_said_to_a_part_is_written_down() -> None:
    """The part's own default may be another."""
    recipe = parse(without_teacher("losses.cross_entropy.class_weights", None))
    assert parse(yaml.safe_load(dump(recipe))) == recipe
    assert yaml.safe_load(dump(recipe))["losses"]["cross_entropy"]["class_weights"] is None


def test_whole_numbers_as_keys_are_words() -> None:
    """So that a recipe is the same after it was written and read."""
    data = {"kind": "folder", "images": "x", "classes": [{"name": "road", "colour": [1, 2, 3]}], "remap": {7: "road"}}
    recipe = parse(without_teacher("data", data))
    assert recipe.data.parameters["remap"] == {"7": "road"}
    assert parse(yaml.safe_load(dump(recipe))) == recipe
    assert "the key '7' stands twice" in said_by(without_teacher("data", data | {"remap": {7: "road", "7": "road"}}))


def test_a_date_is_a_word(tmp_path: Path) -> None:
    """A folder of recordings is called by its day."""
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(without_teacher("data.train", "DAY")).replace("DAY", "2026-01-31"))
    assert read(file).data.train == "2026-01-31"


def test_null_inside_of_what_a_part_was_told_is_a_difference() -> None:
    def told(arguments: dict[str, Any]) -> Any:
        teacher = {"kind": "hooked", "module": "a:b", "taps": {"logits": "['out']"}, "arguments": arguments}
        return parse(without_teacher("models.teacher", None) | {"models": {"student": teacher}})

    assert differences(told({"weights": None}), told({})) == {
        "models.student.arguments": (None, {}),
        "models.student.arguments.weights": (None, None),
    }
