"""Class maps in files: found by name, counted as the official evaluation counts them, refused where they do not fit."""

import contextlib
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.cli import main
from segdistill.datasets import Dataset
from segdistill.datasets.camvid import Camvid
from segdistill.datasets.cityscapes import Cityscapes
from segdistill.datasets.streets import Streets
from segdistill.evaluation import evaluate_files
from segdistill.labels import CITYSCAPES, to_label_ids
from segdistill.make_data import make
from segdistill.metrics.confusion import Confusion
from segdistill.mistakes import Mistake
from segdistill.prediction_files import find, pairs
from segdistill.recipe import Recipe, parse
from segdistill.types import IGNORE
from small import content


@pytest.fixture
def data(tmp_path: Path) -> Cityscapes:
    make(tmp_path / "data", "cityscapes", 16, (48, 64))
    return Cityscapes(tmp_path / "data", split="val")


def recipe(data: Path) -> Recipe:
    return parse({**content(), "data": {"kind": "cityscapes", "root": str(data)}})


def predicted(dataset: Dataset, seed: int = 0) -> list[np.ndarray]:
    """The labels, with a fifth of the pixels changed, some to nothing; and void pixels called something."""
    random = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for index in range(len(dataset)):
        labels = dataset.labels(index)
        other = random.choice([*range(15), 17, 18, IGNORE], labels.shape)
        found.append(np.where((random.random(labels.shape) < 0.2) | (labels == IGNORE), other, labels).astype(np.uint8))
    return found


def written(
    folder: Path,
    dataset: Dataset,
    maps: list[np.ndarray],
    name: Callable[[str], str] = lambda key: f"{key}_pred.png",
) -> Path:
    for index, each in enumerate(maps):
        file = folder / name(dataset.key(index))
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(each).save(file)
    return folder


def by_hand(dataset: Dataset, maps: list[np.ndarray]) -> Confusion:
    """Void predictions made a class of their own, which no label has."""
    counts = np.zeros((20, 20), np.int64)
    for index, each in enumerate(maps):
        for y, p in zip(dataset.labels(index).ravel().tolist(), each.ravel().tolist(), strict=True):
            if y != IGNORE:
                counts[y, min(p, 19)] += 1
    total = Confusion(num_classes=19)
    total.counts, total.unanswered = torch.from_numpy(counts[:19, :19]), torch.from_numpy(counts[:19, 19])
    return total


def test_the_numbers_are_those_of_a_count_by_hand(data: Cityscapes, tmp_path: Path) -> None:
    maps = predicted(data)
    folder = written(tmp_path / "out", data, maps)
    found = evaluate_files(folder, recipe(tmp_path / "data"))
    total = by_hand(data, maps)
    assert total.unanswered.sum() > 0
    for name in ("mean_iou", "frequency_weighted_iou", "pixel_accuracy"):
        assert found.numbers[f"predictions/{name}"] == pytest.approx(total.result()[name], rel=1e-12)
    share = (total.unanswered.sum() / (total.counts.sum() + total.unanswered.sum())).item()
    assert found.numbers["predictions/unanswered"] == pytest.approx(share, rel=1e-12)
    assert [row[0] for row in found.tables["predictions"].rows] == list(data.classes.names)


def test_raw_ids_and_train_ids_say_the_same(data: Cityscapes, tmp_path: Path) -> None:
    """As do palette images, and a set whose own files hold train ids (void is 255 in both)."""
    maps = predicted(data)
    train = pairs(data, find(written(tmp_path / "train", data, maps), data))
    raw = written(tmp_path / "raw", data, [to_label_ids(each) for each in maps])
    assert torch.equal(pairs(data, find(raw, data), "raw"), train)
    palette = tmp_path / "palette"
    for index, each in enumerate(maps):
        image = Image.fromarray(each)
        image.putpalette(bytes(range(256)) * 3)
        palette.mkdir(exist_ok=True)
        image.save(palette / f"{data.key(index)}.png")
    assert torch.equal(pairs(data, find(palette, data)), train)
    make(tmp_path / "trained", "cityscapes", 16, (48, 64), "labelTrainIds")
    other = Cityscapes(tmp_path / "trained", split="val")
    assert torch.equal(pairs(other, find(tmp_path / "train", other)), train)
    assert int(train[IGNORE].sum()) > 0 and torch.equal(train.sum(), torch.tensor(4 * 48 * 64))


def test_other_kinds_of_labels_are_counted_as_well(data: Cityscapes, tmp_path: Path) -> None:
    """16 bit files, colours, and a set without files: none is added up as it is stored."""
    maps = predicted(data)
    expected = pairs(data, find(written(tmp_path / "train", data, maps), data))
    wide = written(tmp_path / "wide", data, [each.astype(np.uint16) for each in maps])
    assert torch.equal(pairs(data, find(wide, data)), expected)
    scenes = Streets(16, (48, 64), val_count=4, split="val")
    drawn = [np.roll(scenes.labels(index), 3, 1) for index in range(4)]
    folder = written(tmp_path / "scenes", scenes, drawn)
    assert torch.equal(pairs(scenes, find(folder, scenes))[:19, :19], by_hand(scenes, drawn).counts)
    with pytest.raises(Mistake, match="ids: this data set has no files"):
        pairs(scenes, find(folder, scenes), "raw")


def test_real_colours_are_raw_ids(real_data: Path, tmp_path: Path) -> None:
    """CamVid's own label pictures, taken for predictions, are right everywhere."""
    dataset = Camvid(real_data / "camvid", split="val")
    few = dataset.only(range(3))
    for pair in few.pairs:
        assert pair.labels is not None
        (tmp_path / pair.labels.name).write_bytes(pair.labels.read_bytes())
    found = pairs(few, find(tmp_path, few), "raw")
    assert int(found.sum()) == int(found.diagonal().sum()) > 0


def test_equals_the_official_evaluation(data: Cityscapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cityscapesScripts on the same files, unlabelled predictions and ignored classes among them."""
    pytest.importorskip("cityscapesscripts", reason="needs cityscapesscripts (the extra 'official')")
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

    random = np.random.default_rng(1)
    maps = [to_label_ids(each) for each in predicted(data, 1)]
    ignored = [label.id for label in CITYSCAPES if label.train_id == IGNORE and label.id >= 0]
    maps = [np.where(random.random(m.shape) < 0.1, random.choice(ignored, m.shape), m).astype(np.uint8) for m in maps]
    folder = written(tmp_path / "out", data, maps)
    monkeypatch.setattr(official.args, "evalInstLevelScore", False)  # its code does not run with numpy 2.4
    monkeypatch.setattr(official.args, "evalPixelAccuracy", False)
    monkeypatch.setattr(official.args, "quiet", True)
    monkeypatch.setattr(official.args, "JSONOutput", False)
    truths = [str(pair.labels) for pair in data.pairs]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = official.evaluateImgLists([str(file) for file in find(folder, data)], truths, official.args)
    found = evaluate_files(folder, recipe(tmp_path / "data"), ids="raw")
    rows = {str(row[0]): row[1] for row in found.tables["predictions"].rows}
    for name, iou in rows.items():
        score = theirs["classScores"][name]
        assert math.isnan(score) if iou is None else iou == pytest.approx(score, abs=1e-9)
    assert found.numbers["predictions/mean_iou"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-9)


@pytest.mark.parametrize(
    "name",
    ["{}.png", "{}_leftImg8bit.png", "city/{}-logits.v2.png", "a/b/{}.tif"],
)
def test_a_prediction_is_found_by_its_name(name: str, data: Cityscapes, tmp_path: Path) -> None:
    maps = predicted(data)
    folder = written(tmp_path / "out", data, maps, name.format)
    Image.fromarray(maps[0]).save(folder / "train_999999_000000.png")  # of another split: left alone
    files = find(folder, data)
    for file, each in zip(files, maps, strict=True):
        assert (np.asarray(Image.open(file)) == each).all()


def test_a_longer_name_is_not_taken_for_a_shorter(tmp_path: Path) -> None:
    """The whole key decides first, then the file's name where only one key has it."""
    named = _Named(["a/1", "a/1_2", "b/1"])
    for name in ("a/1_x", "a/1_2_x", "b/1"):
        file = tmp_path / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(file)
    assert [file.relative_to(tmp_path).as_posix() for file in find(tmp_path, named)] == [
        "a/1_x.png", "a/1_2_x.png", "b/1.png",
    ]  # fmt: skip
    Image.new("L", (8, 8)).save(tmp_path / "a" / "1.png")
    with pytest.raises(Mistake, match=r"a second prediction of 'a/1' beside"):
        find(tmp_path, named)


class _Named(Dataset):
    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError

    def key(self, index: int) -> str:
        return self.keys[index]

    def fingerprint(self) -> str:
        return "0" * 16


def test_what_does_not_fit_is_one_sentence(data: Cityscapes, tmp_path: Path) -> None:
    maps = predicted(data)
    said = recipe(tmp_path / "data")
    folder = written(tmp_path / "out", data, maps)
    file = find(folder, data)[2]
    whole = file.read_bytes()

    def fails(sentence: str) -> None:
        with pytest.raises(Mistake, match=sentence):
            evaluate_files(folder, said)

    Image.fromarray(maps[2][:40]).save(file)
    fails(f"{file.name}: a 64x40 prediction for 64x48 labels; both must be of one size")
    wrong = maps[2].copy()
    wrong[3, 4:6] = 33
    Image.fromarray(wrong).save(file)
    fails(f"{file.name}: label values 33 in 2 pixels; accepted are 0…18 and 255")
    file.write_bytes(whole[:60])
    fails(f"{file.name}: damaged or unreadable")
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(file)
    fails(f"{file.name}: labels of mode RGB")
    file.unlink()
    fails(f"1 of 4 samples have no prediction: {data.key(2)}; expected an image file")
    with pytest.raises(Mistake, match="there is no such folder"):
        evaluate_files(tmp_path / "nothing", said)


def test_the_command(data: Cityscapes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = predicted(data)
    folder = written(tmp_path / "out", data, [to_label_ids(each) for each in maps])
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({**content(), "data": {"kind": "cityscapes", "root": "elsewhere"}}))
    words = ["evaluate", str(folder), "--recipe", str(file), "--ids", "raw", "--set", f"data.root={tmp_path / 'data'}"]
    with pytest.raises(SystemExit) as leaving:
        main([*words, "--json"])
    assert leaving.value.code == 0
    numbers = json.loads(capsys.readouterr().out)["numbers"]
    assert numbers["predictions/mean_iou"] == pytest.approx(by_hand(data, maps).result()["mean_iou"], rel=1e-12)
    with pytest.raises(SystemExit) as leaving:
        main([*words, "--model", "student"])
    assert leaving.value.code == 2 and "--model" in capsys.readouterr().err
