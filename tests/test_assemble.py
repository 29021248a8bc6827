"""Assembly: what fits becomes a run, and what does not is one sentence before a step is trained."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from segdistill import evaluate, layouts
from segdistill.assemble import Assembly, assemble, load, open_split, weights, weights_file
from segdistill.checkpoint import (
    FACTS,
    MANIFEST,
    TENSORS,
    Card,
    digest,
    load_state,
    read_card,
    save_weights,
    under,
)
from segdistill.data import training_batches
from segdistill.datasets.streets import Streets
from segdistill.labels import CAMVID_11, CITYSCAPES_19
from segdistill.mistakes import Mistake
from segdistill.models.unet import UNet
from segdistill.probes.measure import Measure
from segdistill.recipe import parse, read
from segdistill.run import Run, sha256, write_json
from segdistill.training import train
from segdistill.types import ClassTable
from small import small

CITY = "ulm_000001_00000"
TINY = {"kind": "unet", "width": 2, "depth": 2}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Cityscapes with two images in each split."""
    folder = tmp_path / "data" / "cityscapes"
    for split in ("train", "val"):
        streets = Streets(2, (48, 64), val_count=2, split=split)
        samples = [streets[i]._replace(key=f"{CITY}{i}") for i in range(2)]
        layouts.write("cityscapes", samples, folder, split, "labelIds")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a finished run leaves of its network."""
    return finished(tmp_path / "runs" / "teacher", CITYSCAPES_19)


def finished(folder: Path, classes: ClassTable, kind: str = "unet", model: str = "teacher") -> Path:
    torch.manual_seed(1)
    network = UNet(4, 2, num_classes=len(classes.names))
    parameters = {"width": 4, "depth": 2, "normalisation": "batch", "separable": False}
    card = Card(kind, parameters, classes, None, 10, {"mean_iou": 0.5})
    save_weights(folder / "best" / f"{model}.safetensors", network, card)
    (folder / "recipe.yaml").write_text("steps: 10\n")
    return folder


def content(root: Path | None = None, **more: Any) -> dict[str, Any]:
    data = {"kind": "streets", "count": 2, "val_count": 2, "scene_size": [48, 64], "batch": 2}
    base: dict[str, Any] = {
        "data": {"kind": "cityscapes", "root": str(root), "batch": 2} if root else data,
        "models": {"student": dict(TINY)},
        "losses": {"cross_entropy": {"student": "student"}},
        "steps": 4,
    }
    return base | more


def taught(run: Path, root: Path | None = None, **teacher: Any) -> dict[str, Any]:
    said = content(root)
    said["models"]["teacher"] = {"weights": str(run), "frozen": True, **teacher}
    said["losses"]["soft_targets"] = {"student": "student", "target": "teacher"}
    return said


def made(said: dict[str, Any]) -> Assembly:
    return assemble(parse(said))


def mistake(said: dict[str, Any]) -> str:
    with pytest.raises(Mistake) as caught:
        made(said)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def label_file(root: Path, split: str, index: int = 0) -> Path:
    return root / "gtFine" / split / "ulm" / f"{CITY}{index}_gtFine_labelIds.png"


def image_file(root: Path, split: str, index: int = 0) -> Path:
    return root / "leftImg8bit" / split / "ulm" / f"{CITY}{index}_leftImg8bit.png"


# What fits


def test_a_sound_recipe(root: Path, run: Path) -> None:
    before = run.joinpath("best", "teacher.safetensors").read_bytes()
    assembly = made(taught(run, root))
    assert list(assembly.system.models) == ["student"] and list(assembly.frozen.models) == ["teacher"]
    assert set(assembly.models()) == {"student"}
    assert assembly.recipe.models["teacher"].parameters["width"] == 4
    assert set(assembly.fingerprints) == {"train", "val", "teacher"}
    assert assembly.connections == [
        "cross_entropy: student.logits <- labels: as they are",
        "soft_targets: student.logits <- teacher.logits: as they are",
    ]
    theirs = load(run).state_dict()
    for name, value in assembly.frozen.models["teacher"].state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert run.joinpath("best", "teacher.safetensors").read_bytes() == before


def test_pixels_of_the_training_split_are_counted(root: Path) -> None:
    assembly = made(content(root))
    labels = np.stack([np.asarray(assembly.train.labels(i)) for i in range(2)])
    assert assembly.class_pixels == [int((labels == k).sum()) for k in range(19)]


def test_edges_bring_their_ends_together(run: Path) -> None:
    said = taught(run)
    said["losses"] = {
        "cross_entropy": {"student": "student"},
        "deep": {"kind": "cross_entropy", "student": "student.dec2"},
        "features": {"kind": "soft_targets", "student": "student.enc1", "target": "teacher.bottleneck"},
    }
    assembly = made(said)
    assert set(assembly.connections) == {
        "cross_entropy: student.logits <- labels: as they are",
        "deep: student.dec2 <- labels: 1×1 adapter 4 -> 19 channels, resize stride 2 -> 1",
        "features: student.enc1 <- teacher.bottleneck: 1×1 adapter 2 -> 16 channels, resize stride 1 -> 4",
    }


def test_the_card_rebuilds_the_model(tmp_path: Path) -> None:
    assembly = made(content())
    file = tmp_path / "student.safetensors"
    save_weights(file, assembly.system.models["student"], assembly.card("student", 3, {"mean_iou": 0.25}))
    again = load(file)
    for name, value in assembly.system.models["student"].state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert not again.training
    assert read_card(file).step == 3


def test_a_follower_starts_as_what_it_follows() -> None:
    said = content()
    said["models"]["average"] = {"follows": "student", "decay": 0.9}
    said["losses"]["soft_targets"] = {"student": "student", "target": "average"}
    assembly = made(said)
    assert set(assembly.models()) == {"student", "average"}
    for name, value in assembly.system.models["student"].state_dict().items():
        mine = assembly.frozen.models["average"].state_dict()[name]
        assert torch.equal(mine, value) and mine.data_ptr() != value.data_ptr(), name


def test_phases_in_epochs() -> None:
    said = content(phases=[{"epochs": 2, "losses": ["cross_entropy"]}, {"steps": 3, "losses": ["more"]}])
    said["losses"]["more"] = {"kind": "cross_entropy", "student": "student"}
    said["data"] |= {"count": 6}
    assert [phase.steps for phase in made(said).system.phases] == [6, 3]


def test_the_last_phase_is_a_share_of_all_steps() -> None:
    ring = [{"steps": 2, "losses": ["cross_entropy"]}, {"steps": 1, "losses": ["more"]}]
    said = content(phases=[*ring, {"last": 0.05, "losses": ["cross_entropy", "more"]}])
    said["losses"]["more"] = {"kind": "cross_entropy", "student": "student"}
    said["steps"] = 60
    system = made(said).system
    assert system.ending == (57, {"cross_entropy", "more"}) and len(system.phases) == 2


# Stages and edges


@pytest.mark.parametrize("end", ["student", "target"])
def test_no_such_stage(run: Path, end: str) -> None:
    said = taught(run)
    node = "student" if end == "student" else "teacher"
    said["losses"]["soft_targets"][end] = f"{node}.enc9"
    assert mistake(said) == (
        f"losses.soft_targets: {node} has no stage 'enc9'; it has enc1, enc2, bottleneck, dec2, dec1 and logits"
        " (did you mean 'enc2'?)"
    )


def test_labels_have_no_stages() -> None:
    said = content()
    said["losses"]["cross_entropy"]["target"] = "labels.logits"
    assert re.match(r"losses\.cross_entropy\.target: .*, got 'labels\.logits'$", mistake(said))


def test_a_loss_that_needs_a_teacher_does_not_learn_from_labels() -> None:
    """The target was forgotten, and its default are the labels."""
    said = content()
    said["losses"]["soft_targets"] = {"student": "student"}
    assert mistake(said).startswith("losses.soft_targets.target:")


def test_a_loss_that_learns_from_labels_has_no_teacher(run: Path) -> None:
    """It would learn from the labels all the same, and the teacher would look as if it taught."""
    said = taught(run)
    said["losses"]["cross_entropy"]["target"] = "teacher"
    assert mistake(said).startswith("losses.cross_entropy.target:")


@pytest.mark.parametrize(
    ("loss", "parameters", "sentence"),
    [
        ("soft_targets", {"temperature": 0}, "losses.soft_targets.temperature: expected more than 0, got 0.0"),
        ("cross_entropy", {"label_smoothing": 1}, "losses.cross_entropy.label_smoothing: expected 0 <= ε < 1, got 1.0"),
        ("cross_entropy", {"class_weights": [1, 2]}, "losses.cross_entropy.class_weights: expected 19 numbers"),
    ],
)
def test_a_parameter_out_of_range(run: Path, loss: str, parameters: dict[str, Any], sentence: str) -> None:
    said = taught(run)
    said["losses"][loss] |= parameters
    assert mistake(said).startswith(sentence)


def test_a_models_parameter_out_of_range_names_the_node() -> None:
    said = content(models={"student": {"kind": "unet", "width": 0}})
    assert re.match(r"models\.student.*width.*got width 0", mistake(said))


@pytest.mark.parametrize("name", ["keys", "train", "forward"])
def test_a_name_that_torch_has_taken(name: str) -> None:
    """`nn.ModuleDict` refuses it with a KeyError."""
    said = content(models={name: TINY}, losses={"cross_entropy": {"student": name}})
    assert mistake(said).startswith(f"models.{name}")
    said = content(losses={name: {"kind": "cross_entropy", "student": "student"}})
    assert mistake(said).startswith(f"losses.{name}")


# Weights


def test_no_run_at_all(run: Path) -> None:
    wrong = run.with_name("techer")
    sentence = mistake(taught(wrong))
    assert sentence.startswith(f"models.teacher.weights: {wrong}: not a run directory (it has no recipe.yaml)")


def test_no_run_names_the_nearest(run: Path) -> None:
    assert mistake(taught(run.with_name("techer"))).endswith("teacher'?)")


def test_a_run_that_never_finished(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("steps: 1\n")
    sentence = mistake(taught(tmp_path))
    assert sentence == f"models.teacher.weights: {tmp_path}: the run has no trained weights in best/; did it finish?"


def test_no_such_weights_file(run: Path) -> None:
    file = run / "best" / "x.safetensors"
    assert mistake(taught(file)) == f"models.teacher.weights: {file}: no such weights file"


def test_a_file_that_is_no_weights(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"not that")
    assert mistake(taught(file)).startswith(f"models.teacher.weights: {file}: not a safetensors file, or a truncated")


def test_weights_without_a_card(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "x.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    assert mistake(taught(file)).startswith(f"models.teacher.weights: {file}: safetensors, but without the card")


def test_a_run_of_several_models(run: Path) -> None:
    finished(run, CITYSCAPES_19, model="other")
    assert weights_file(run, "other").name == "other.safetensors"
    made(taught(run))  # the one of the same name
    said = taught(run)
    said["models"]["taecher"] = said["models"].pop("teacher")
    said["losses"]["soft_targets"]["target"] = "taecher"
    assert mistake(said) == (
        f"models.taecher.weights: {run}: the run has no model 'taecher'; it has other and teacher"
        " (did you mean 'teacher'?)"
    )


def test_another_class_table(tmp_path: Path) -> None:
    names = ("road", "lawn", *CITYSCAPES_19.names[2:])[:18]
    classes = ClassTable(names, CITYSCAPES_19.colours[:18])
    other = finished(tmp_path / "other", classes)
    assert mistake(taught(other)) == (
        "models.teacher: its classes are not the data's: it has 18 classes and the data 19; only the weights have lawn;"
        " only the data have sidewalk and bicycle; `class_map` connects them"
    )


def test_the_same_classes_in_another_order(tmp_path: Path) -> None:
    """A teacher of swapped classes would teach nonsense in silence."""
    classes = ClassTable(CITYSCAPES_19.names[::-1], CITYSCAPES_19.colours[::-1])
    assert "the same 19 names in another order" in mistake(taught(finished(tmp_path / "other", classes)))


def test_a_class_map_connects_two_tables(tmp_path: Path) -> None:
    """A teacher of CamVid's 11 classes for streets' 19: the edge compares the groups, each end in its own order."""
    said = taught(finished(tmp_path / "other", CAMVID_11), class_map="camvid_to_cityscapes")
    assembly = made(said)
    edge = assembly.system.edge("soft_targets")
    assert edge.translation is not None and len(edge.translation.groups.names) == 11
    assert assembly.connections[1] == (
        "soft_targets: student.logits <- teacher.logits: 11 and 19 classes in 11 groups, without our terrain"
    )
    batch = next(training_batches(assembly.train, assembly.recipe.data, 0, start=0, batch=2, rank=0, ranks=1))
    step = assembly.system(batch, assembly.frozen(batch, {"teacher"}), 0)
    assert step.losses["soft_targets"] > 0


def test_a_class_map_that_cannot_be(tmp_path: Path, run: Path) -> None:
    other = finished(tmp_path / "other", CAMVID_11)
    assert mistake(taught(other, class_map="camvid_to_cityscape")).endswith("did you mean 'camvid_to_cityscapes'?)")
    sentence = mistake(taught(other, class_map={"road": "street"}))
    assert sentence.startswith("models.teacher.class_map.road: the data have no class 'street'")
    assert mistake(taught(run, class_map="camvid_to_cityscapes")).endswith("leave the map out")


def test_a_stride_is_for_logits(run: Path) -> None:
    said = taught(run)
    said["losses"]["soft_targets"] |= {"distill_stride": 4}
    assert made(said).connections[1].endswith("logits averaged over 4×4 pixels")
    said["losses"]["soft_targets"] |= {"student": "student.dec1", "target": "teacher.dec1"}
    assert mistake(said).startswith("losses.soft_targets.distill_stride: only for the logits of two models")


def test_a_stride_cuts_a_crop_into_whole_cells(run: Path) -> None:
    said = taught(run)
    said["data"]["crop"] = [44, 64]
    said["losses"]["soft_targets"] |= {"distill_stride": 8}
    assert mistake(said).endswith("44×64 crops are not made of whole 8×8")


def test_a_loss_whose_channels_are_classes_learns_from_logits(run: Path) -> None:
    said = taught(run)
    said["losses"]["decoupled"] = {"student": "student.dec2", "target": "teacher.dec2"}
    assert mistake(said).endswith("the channels of decoupled are classes: it learns from logits, got teacher.dec2")


def test_labels_have_their_own_mask(run: Path) -> None:
    said = taught(run)
    said["losses"]["cross_entropy"] |= {"distill_on": "all"}
    assert mistake(said).startswith("losses.cross_entropy.distill_on: cross_entropy learns at labelled pixels")


def test_stages_come_deepest_first(run: Path) -> None:
    said = taught(run)
    stages = [[f"{node}.dec1", f"{node}.dec2"] for node in ("student", "teacher")]
    said["losses"]["review"] = {"student": stages[0], "target": stages[1]}
    assert "review.student: expected the stages deepest first, got strides 1 and 2" in mistake(said)


def test_edges_of_one_random_loss_draw_apart(run: Path) -> None:
    said = taught(run)
    for name in ("one", "two"):
        said["losses"][name] = {"kind": "masked_generation", "student": "student.dec1", "target": "teacher.dec1"}
    losses = [made(said).system.edge(name).loss.state_dict()["_extra_state"] for name in ("one", "two", "one")]
    assert not torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])


def test_lists_of_stages(run: Path) -> None:
    said = taught(run)
    said["losses"]["soft_targets"] |= {
        "student": ["student.dec1", "student.dec2"],
        "target": ["teacher.dec1", "teacher.dec2"],
    }
    assert "soft_targets compares one stage with one" in mistake(said)
    said["losses"]["soft_targets"]["target"] = ["teacher.dec1"]
    assert mistake(said).endswith("student.[dec1, dec2] are 2 stages and teacher.dec1 1")
    said["losses"]["soft_targets"]["student"] = ["student.dec1", "teacher.dec2"]
    assert "stages of one node" in mistake(said)


def test_the_card_says_another_kind(tmp_path: Path) -> None:
    other = finished(tmp_path / "other", CITYSCAPES_19, kind="notanet")
    assert mistake(taught(other, kind="unet")) == f"models.teacher.kind: 'unet', but {other} holds a 'notanet'"
    assert mistake(taught(other)).startswith("models.teacher.kind: there is no model 'notanet'; there is ")


def test_the_card_says_another_width(run: Path) -> None:
    assert mistake(taught(run, width=8)) == f"models.teacher.width: 8, but {run} was trained with 4"
    made(taught(run, width=4, kind="unet"))


def test_a_misspelled_parameter_beside_weights(run: Path) -> None:
    sentence = mistake(taught(run, widht=4))
    assert sentence.startswith("models.teacher.widht: unknown key; models.teacher accepts width, depth")
    assert sentence.endswith("(did you mean 'width'?)")


# Data


def test_no_data(root: Path) -> None:
    said = content(root.with_name("cityscape"))
    sentence = mistake(said)
    assert sentence.startswith(f"{root.with_name('cityscape')}: there is no such folder (did you mean 'cityscapes'?)")
    assert "; expected leftImg8bit/<split>/<city>/" in sentence


@pytest.mark.parametrize("key", ["train", "validate_on"])
def test_no_such_split(root: Path, key: str) -> None:
    said = content(root)
    said["data"][key] = "trian"
    assert mistake(said) == (
        f"{root / 'leftImg8bit'}: there is no split 'trian'; there is train and val (did you mean 'train'?)"
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split(root: Path, split: str) -> None:
    for file in root.rglob(f"{split}/ulm/*.png"):
        file.unlink()
    sentence = mistake(content(root))
    assert sentence.startswith(f"{root / 'leftImg8bit' / split}: split '{split}' is empty; expected leftImg8bit/")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_without_labels(root: Path, split: str) -> None:
    label_file(root, split, 1).unlink()
    sentence = mistake(content(root))
    assert sentence.startswith(f"{root / 'leftImg8bit' / split}: 1 of 2 images have no label: {CITY}1_leftImg8bit.png")
    assert "; expected leftImg8bit/<split>/<city>/" in sentence


def shrunk(root: Path, split: str) -> str:
    file = label_file(root, split)
    Image.fromarray(np.full((24, 32), 7, np.uint8)).save(file)
    return f"{file}: 32x24 labels for a 64x48 image ({CITY}0_leftImg8bit.png); both must be of one size"


def unknown_label(root: Path, split: str) -> str:
    file = label_file(root, split)
    labels = np.asarray(Image.open(file)).copy()
    labels[:2, :3] = 77
    Image.fromarray(labels).save(file)
    return f"{file}: label values 77 in 6 pixels; accepted are 0…33"


def no_image(root: Path, split: str) -> str:
    file = image_file(root, split)
    file.write_text("not a picture")
    return f"{file}: not an image; accepted are whole files of PNG"


def no_label_image(root: Path, split: str) -> str:
    file = label_file(root, split)
    file.write_text("not a picture")
    return f"{file}: not an image; accepted are whole files of PNG"


def colour_labels(root: Path, split: str) -> str:
    file = label_file(root, split)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(file)
    return f"{file}: labels of mode RGB; accepted are 8 or 16 bit grey and palette images of ids"


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("damage", [shrunk, unknown_label, no_image, no_label_image, colour_labels])
def test_a_bad_file_is_named_before_training(root: Path, split: str, damage: Callable[[Path, str], str]) -> None:
    """Of the validation split as well: else it stops a run at its first look, after hours."""
    sentence = damage(root, split)
    said = mistake(content(root))
    assert said.startswith(f"data: {split}: 1 of 2 samples cannot be read (50%, data.bad_share allows 1%): {sentence}")
    assert said.endswith("; data check names them all")


# Order of checks


def test_the_graph_is_checked_before_any_file_is_opened(root: Path) -> None:
    unknown_label(root, "train")
    said = content(root)
    said["losses"]["cross_entropy"]["student"] = "student.dec9"
    assert mistake(said).startswith("losses.cross_entropy: student has no stage 'dec9'")


def test_the_recipe_is_not_changed_by_being_assembled() -> None:
    said = content()
    kept = copy.deepcopy(said)
    recipe = parse(said)
    dumped = recipe.model_dump()
    assemble(recipe)
    assert said == kept and recipe.model_dump() == dumped


def test_assembling_leaves_the_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    made(content())
    assert torch.equal(torch.rand(2), expected)


# A network as it was in a checkpoint


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a network, its moving average and a second network, with the checkpoints of steps 2, 4 and 6."""
    models = {"teacher": TINY, "average": {"follows": "teacher", "decay": 0.5}, "second": {**TINY, "width": 3}}
    losses = {"teach": {"kind": "cross_entropy", "student": "teacher"}}
    losses["learn"] = {"kind": "cross_entropy", "student": "second"}
    settings = ["checkpoint.every=2", "checkpoint.keep=9", "data.size=[48, 64]", "optim.lr=0.05"]
    return train(small(*settings, models=models, losses=losses), tmp_path_factory.mktemp("kept") / "run@home")


@pytest.fixture
def own(kept: Run, tmp_path: Path) -> Run:
    shutil.copytree(kept.path, tmp_path / "run@home")
    return Run(tmp_path / "run@home")


def at(run: Run, step: int) -> str:
    return f"{run.path}@step-{step}"


@pytest.mark.parametrize("step", [2, 4, 6])
@pytest.mark.parametrize("name", ["teacher", "average", "second"])
def test_a_checkpoint_of_a_run_is_a_teacher(kept: Run, name: str, step: int) -> None:
    found = load_state(kept.checkpoints, step)
    assert found is not None
    prefix = "follow/average/" if name == "average" else f"system/models.{name}."
    expected = under(found[0].tensors, prefix)
    before = {file: file.read_bytes() for file in kept.path.rglob("*") if file.is_file()}
    network = load(at(kept, step), name)
    assert not network.training and expected.keys() == network.state_dict().keys()
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    said = content()
    said["models"][name] = {"weights": at(kept, step), "frozen": True}  # of several, the one of the same name
    said["losses"]["soft_targets"] = {"student": "student", "target": name}
    assembly = made(said)
    assert digest(assembly.frozen.models[name]) == digest(network) == assembly.fingerprints[name]
    assert assembly.recipe.models[name].parameters["width"] == (3 if name == "second" else 2)
    assert weights(at(kept, step), name).card.size == (48, 64)
    assert {file: file.read_bytes() for file in kept.path.rglob("*") if file.is_file()} == before
    if step == 6:
        last = load(kept.path, name, "last").state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in last.items())


def test_networks_of_one_checkpoint_are_told_apart(kept: Run) -> None:
    """An analysis remembers what it computed under their digests."""
    digests = {weights(at(kept, step), name).digest() for step in (2, 4) for name in ("teacher", "average", "second")}
    assert len(digests) == 6


def test_a_checkpoint_is_evaluated_as_what_it_is(kept: Run) -> None:
    probe = Measure(classes=CITYSCAPES_19, input_size=(48, 64))
    val = open_split(read(kept.recipe_file).data, "val")
    expected = probe({"teacher": load(at(kept, 2), "teacher")}, val).numbers
    found = evaluate(at(kept, 2), model="teacher").numbers
    assert expected.items() <= found.items() and found != evaluate(at(kept, 4), model="teacher").numbers


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("@step-5", "no checkpoint of step 5 is kept; there is step-2, step-4 and step-6 (the nearest is step-4)"),
        ("@step-900", "(the nearest is step-6)"),
        ("@step-99999999999999999999999", "expected RUN@step-N, as in run@home@step-480"),
        ("@480", "expected RUN@step-N, as in run@home@step-480"),
        ("@step-", "expected RUN@step-N"),
        ("@step-٣", "expected RUN@step-N"),
        ("@last", "expected RUN@step-N"),
    ],
)
def test_no_such_checkpoint(kept: Run, said: str, sentence: str) -> None:
    for work in (load, evaluate):
        with pytest.raises(Mistake) as caught:
            work(f"{kept.path}{said}", model="teacher")
        assert sentence in str(caught.value)
    assert sentence in mistake(taught(Path(f"{kept.path}{said}")))


def test_a_run_without_checkpoints_or_of_another_name(own: Run) -> None:
    shutil.rmtree(own.checkpoints)
    assert "no checkpoint of step 2 is kept; there is nothing" in mistake(taught(Path(at(own, 2))))
    found = mistake(taught(Path(f"{own.path}s@step-2")))
    assert "models.teacher.weights" in found and "not a run directory" in found and "did you mean 'run@home'?" in found


def test_which_network_of_a_checkpoint(kept: Run) -> None:
    for model, sentence in ((None, "several models; it has teacher, average and second"), ("secnd", "'second'?")):
        with pytest.raises(Mistake) as caught:
            load(at(kept, 2), model)
        assert sentence in str(caught.value)
    with pytest.raises(Mistake, match="names a checkpoint, which is neither the best nor the last; leave 'last' out"):
        load(at(kept, 2), "teacher", "last")


def resign(place: Path) -> None:
    """A manifest that fits whatever lies there."""
    digests = {name: sha256(place / name) for name in (TENSORS, FACTS)}
    (place / MANIFEST).write_text(json.dumps({"step": int(place.name[5:]), "sha256": digests}, indent=1))


def foreign(place: Path, tensors: dict[str, torch.Tensor]) -> None:
    (place / TENSORS).write_bytes(save(tensors))
    resign(place)


BROKEN: dict[str, tuple[Callable[[Run, Path], object], str]] = {
    "cut": (lambda _, place: truncate(place / TENSORS), "state.safetensors is damaged"),
    "no manifest": (lambda _, place: (place / MANIFEST).unlink(), "it has no MANIFEST.json"),
    "no tensors": (lambda _, place: (place / TENSORS).unlink(), "state.safetensors is damaged"),
    "signed garbage": (
        lambda _, place: ((place / TENSORS).write_bytes(b"{" * 99), resign(place)),
        "it is no checkpoint of ours",
    ),
    "signed facts": (lambda _, place: ((place / FACTS).write_text("{}"), resign(place)), "it is no checkpoint of ours"),
    "other tensors": (lambda _, place: foreign(place, {"x": torch.ones(1)}), "does not fit the network"),
    "other shapes": (
        lambda _, place: foreign(
            place,
            {k: torch.ones(1) for k in (load_state(place.parent, 4) or pytest.fail())[0].tensors},
        ),
        "does not fit the network",
    ),
    "no classes": (
        lambda run, _: write_json(run.info_file, {**run.info(), "classes": None}),
        "run.json: damaged, or of an earlier version; expected the names of the classes",
    ),
    "classes of a bomb": (
        lambda run, _: write_json(run.info_file, {**run.info(), "classes": [["a"] * 9]}),
        "expected the names of the classes",
    ),
    "other classes": (
        lambda run, _: write_json(run.info_file, {**run.info(), "classes": ["a", "b"]}),
        "does not fit the network",
    ),
    "a torn recipe": (
        lambda run, _: run.recipe_file.write_text("models: ["),
        "recipe.yaml: damaged, or of another version",
    ),
    "another recipe": (
        lambda run, _: run.recipe_file.write_text(run.recipe_file.read_text().replace("width: 2", "width: 5")),
        "does not fit the network",
    ),
    "another kind": (
        lambda run, _: run.recipe_file.write_text(run.recipe_file.read_text().replace("kind: unet", "kind: os:system")),
        "os:system",
    ),
    "a link": (
        lambda run, place: (shutil.rmtree(place), place.symlink_to(run.path.parent)),
        "a link that leads out of the run directory",
    ),
}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_or_hostile_checkpoint_is_refused(own: Run, damage: str) -> None:
    work, sentence = BROKEN[damage]
    work(own, own.checkpoints / "step-4")
    found = mistake(taught(Path(at(own, 4))))
    assert sentence in found and len(found) < 4000


def test_a_checkpoint_that_goes_while_it_is_looked_at(own: Run) -> None:
    found = weights(at(own, 4), "teacher")
    shutil.rmtree(own.checkpoints / "step-4")
    with pytest.raises(Mistake, match="step-4: the checkpoint is gone"):
        found.fill(load(own.path, "teacher"))


def test_a_student_does_not_go_on_with_another_teacher(own: Run, tmp_path: Path) -> None:
    models = {"student": TINY, "teacher": {"weights": at(own, 2), "frozen": True}}
    losses = {"cross_entropy": {"student": "student"}, "soft_targets": {"student": "student", "target": "teacher"}}
    recipe = small("steps=2", models=models, losses=losses)
    train(recipe, tmp_path / "student")
    for folder in (own.checkpoints / "step-2", own.checkpoints / "step-4"):
        folder.rename(own.checkpoints / f"{folder.name}.was")
    (own.checkpoints / "step-4.was").rename(own.checkpoints / "step-2")
    manifest = own.checkpoints / "step-2" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"step": 4', '"step": 2'))
    with pytest.raises(Mistake, match=r"fingerprints\.teacher: the run began with [0-9a-f]{16}, now it is"):
        train(recipe, tmp_path / "student", resume=True)
