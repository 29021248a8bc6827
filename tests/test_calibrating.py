"""The temperature of a network: least NLL against a search without derivatives, and what becomes of it in a recipe."""

import copy
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, final
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill import calibrate, calibrating, evaluate, load, predict, train
from segdistill.assemble import assemble, open_split, resolve
from segdistill.calibrating import SHARPEST, Slope, _sums, sharpest  # pyright: ignore[reportPrivateUsage]
from segdistill.checkpoint import read_card, save_weights
from segdistill.cli import main
from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.recipe import Recipe, dump, read
from segdistill.run import Run
from segdistill.types import IGNORE, Sample
from small import small

K = 5


def drawn(temperature: float, pixels: int = 20_000) -> tuple[Tensor, Tensor]:
    """(logits [k, n], labels) of a network that is calibrated at this temperature."""
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(K, pixels, generator=random, dtype=torch.float64)
    labels = torch.multinomial((logits / temperature).softmax(0).T, 1, generator=random)[:, 0]
    return logits, labels


def slope_of(logits: Tensor, labels: Tensor) -> Callable[[float], Slope]:
    def slope(sharpness: float) -> Slope:
        first, second, pixels = _sums(logits, labels, sharpness).tolist()
        return Slope(first / pixels, second / pixels)

    return slope


def least(nll: Callable[[float], float], low: float, high: float) -> float:
    """Where a convex function is least, by thirds."""
    while high - low > 1e-9:
        third = (high - low) / 3
        low, high = (low, high - third) if nll(low + third) < nll(high - third) else (low + third, high)
    return (low + high) / 2


def test_the_sums_are_the_derivatives_of_nll() -> None:
    logits, labels = drawn(2.0, 50)
    for sharpness in (0.2, 1.0, 3.0):
        at = torch.tensor(sharpness, dtype=torch.float64, requires_grad=True)
        nll = F.cross_entropy((logits * at).T, labels, reduction="sum")
        (first,) = torch.autograd.grad(nll, at, create_graph=True)
        (second,) = torch.autograd.grad(first, at)
        assert _sums(logits, labels, sharpness).tolist() == pytest.approx(
            [float(first.detach()), float(second), 50], rel=1e-9
        )


@pytest.mark.parametrize("temperature", [0.05, 0.3, 0.8, 1.0, 2.5, 12.0, 60.0])
def test_newton_finds_the_least_nll(temperature: float) -> None:
    logits, labels = drawn(1.0)
    logits = logits * temperature
    asked: list[float] = []
    slope = slope_of(logits, labels)

    def noted(sharpness: float) -> Slope:
        asked.append(sharpness)
        return slope(sharpness)

    found = sharpest(noted)
    exact = least(lambda s: float(F.cross_entropy((logits * s).T, labels)), 0.01, 100.0)
    assert found == pytest.approx(exact, rel=2e-6)
    assert 1 / found == pytest.approx(temperature, rel=0.05)
    assert len(asked) <= 7


def test_a_class_that_is_ruled_out_everywhere_has_no_say() -> None:
    logits, labels = drawn(2.0, 500)
    more = torch.cat([logits, torch.full((1, 500), -math.inf)])
    assert _sums(more, labels, 0.7).tolist() == pytest.approx(_sums(logits, labels, 0.7).tolist(), rel=1e-12)


def test_networks_that_no_temperature_helps() -> None:
    labels = torch.randint(0, K, (100,), generator=torch.Generator().manual_seed(0))
    right = 3.0 * F.one_hot(labels, K).T.double()
    with pytest.raises(
        Mistake, match=r"^net: its temperature would be below 0\.01: it is right at every labelled pixel"
    ):
        sharpest(slope_of(right, labels), "net")
    with pytest.raises(Mistake, match="net: its temperature would be above 100: it says nothing of these labels"):
        sharpest(slope_of(-right, labels), "net")
    with pytest.raises(Mistake, match="net: its logits are not finite"):
        sharpest(slope_of(right * math.nan, labels), "net")
    assert SHARPEST == 100


# Of a run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher, and its moving average, with every checkpoint; too sure, for the demonstration."""
    networks = {"teacher": {"kind": "unet", "width": 4, "depth": 2}, "average": {"follows": "teacher", "decay": 0.5}}
    recipe = small(
        "steps=10",
        "checkpoint.every=5",
        "checkpoint.keep=5",
        "optim.lr=0.03",
        models=networks,
        losses={"cross_entropy": {"student": "teacher"}},
    )
    run = train(recipe, tmp_path_factory.mktemp("trained") / "teacher")
    for which in ("best", "last"):  # four times as sure
        file = run.weights("teacher", which)
        network = load(file)
        with torch.no_grad():
            classifier = network.get_submodule("classifier")
            for parameter in classifier.parameters():
                parameter *= 4
        save_weights(file, network, read_card(file))
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """One of one's own."""
    shutil.copytree(trained.path, tmp_path / "teacher")
    return Run(tmp_path / "teacher")


@final
class Void(Dataset):
    """Another's images without its labels."""

    def __init__(self, whole: Dataset) -> None:
        self.whole, self.classes = whole, whole.classes

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Sample:
        sample = self.whole[index]
        return sample._replace(labels=torch.full_like(sample.labels, IGNORE))

    def key(self, index: int) -> str:
        return self.whole.key(index)

    def fingerprint(self) -> str:
        return self.whole.fingerprint()


def contents(run: Run) -> dict[str, bytes]:
    return {str(file.relative_to(run.path)): file.read_bytes() for file in run.path.rglob("*") if file.is_file()}


def student(run: Path | str, temperature: object, **more: Any) -> Recipe:
    models: dict[str, Any] = {
        "student": {"kind": "unet", "width": 2, "depth": 2},
        "teacher": {"weights": str(run), "frozen": True, "temperature": temperature, **more},
    }
    losses = {"cross_entropy": {"student": "student"}, "soft_targets": {"student": "student", "target": "teacher"}}
    return small("steps=2", models=models, losses=losses)


def mistake(work: Callable[[], object]) -> str:
    with pytest.raises(Mistake) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_is_calibrated_on_its_validation_split(run: Run) -> None:
    before = contents(run)
    found, file = calibrate(run.path, model="teacher")
    assert file == run.path / "best" / "teacher.temperature.json"
    after = contents(run)
    written = json.loads(after.pop("best/teacher.temperature.json"))
    assert after == before, "nothing else is written"

    recipe = read(run.recipe_file)
    val = open_split(recipe.data, "val")
    network = load(run.path, "teacher")
    seen = [(predict(network, val[i].image), val[i].labels.long()) for i in range(len(val))]
    logits = torch.cat([each.flatten(1) for each, _ in seen], 1).T.double()
    labels = torch.cat([each.flatten() for _, each in seen])

    def nll(sharpness: float) -> float:
        return float(F.cross_entropy(logits * sharpness, labels, ignore_index=IGNORE))

    numbers = found.numbers
    temperature = numbers["temperature"]
    assert temperature > 2 and 1 / temperature == pytest.approx(least(nll, 0.01, 2.0), rel=1e-5)
    assert numbers["nll_before"] == pytest.approx(nll(1.0), rel=1e-9)
    assert numbers["nll"] == pytest.approx(nll(1 / temperature), rel=1e-6) and numbers["nll"] < numbers["nll_before"]
    assert numbers["ece"] != numbers["ece_before"]
    assert numbers["pixels"] == int((labels != IGNORE).sum())
    told = evaluate(run.path, model="teacher").numbers
    assert numbers["nll_before"] == pytest.approx(told["teacher/nll"], rel=1e-12)
    assert numbers["ece_before"] == pytest.approx(told["teacher/ece"], rel=1e-12)
    assert written == {name: numbers.get(name, written[name]) for name in written}
    assert written["split"] == "val" and written["data"] == val.fingerprint()


def test_a_recipe_takes_the_number_and_keeps_it(run: Run, tmp_path: Path) -> None:
    temperature = calibrate(run.path, model="teacher").findings.numbers["temperature"]
    recipe = resolve(student(run.path, "calibrated"))
    assert recipe.models["teacher"].temperature == temperature
    assert assemble(student(run.path, "calibrated")).frozen.temperatures == {"teacher": temperature}
    taught = train(student(run.path, "calibrated"), tmp_path / "student")
    assert read(taught.recipe_file).models["teacher"].temperature == temperature
    train(student(run.path, "calibrated"), tmp_path / "student", resume=True)
    refused = mistake(lambda: train(student(run.path, 3), tmp_path / "student", resume=True))
    assert f"models.teacher.temperature: the run has {temperature}, this recipe has 3.0" in refused


def test_who_was_not_calibrated_is_told_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (run.path, f"{run.path}@step-5", run.weights("teacher", "last")):
        said = mistake(lambda path=path: resolve(student(path, "calibrated")))
        assert "models.teacher.temperature: there is no " in said and "teacher.temperature.json; `segdistill" in said
        command = said.split("`")[1].removeprefix("segdistill ").split()
        with pytest.raises(SystemExit):
            main(command)
        assert "Written: " in capsys.readouterr().out
        assert isinstance(resolve(student(path, "calibrated")).models["teacher"].temperature, float)


def test_a_checkpoint_keeps_its_own_and_is_as_good_as_before(run: Run) -> None:
    found, file = calibrate(f"{run.path}@step-5", model="teacher")
    assert file == run.checkpoints / "step-5" / "teacher.temperature.json"
    followed = calibrate(f"{run.path}@step-5", model="average")
    assert followed.file.name == "average.temperature.json"
    assert followed.findings.numbers["temperature"] != found.numbers["temperature"]
    load(f"{run.path}@step-5", "teacher")  # the manifest is right
    resolved = resolve(student(f"{run.path}@step-5", "calibrated"))
    assert resolved.models["teacher"].temperature == found.numbers["temperature"]


DAMAGES: dict[str, Callable[[dict[str, Any]], object]] = {
    "negative": lambda said: said.update(temperature=-1.0),
    "zero": lambda said: said.update(temperature=0),
    "infinite": lambda said: said.update(temperature=math.inf),
    "not a number": lambda said: said.update(temperature=math.nan),
    "a word": lambda said: said.update(temperature="hot"),
    "missing": lambda said: said.pop("temperature"),
    "of other weights": lambda said: said.update(weights="0" * 64),
    "a list of weights": lambda said: said.update(weights=[]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_does_not_say_it_of_these_weights(run: Run, damage: str) -> None:
    file = calibrate(run.path, model="teacher").file
    said = json.loads(file.read_text())
    DAMAGES[damage](said)
    file.write_text(json.dumps(said))
    refused = mistake(lambda: resolve(student(run.path, "calibrated")))
    assert refused.startswith(f"models.teacher.temperature: {file}: ") and "segdistill calibrate" in refused
    file.write_text("{")
    assert "damaged or unreadable" in mistake(lambda: resolve(student(run.path, "calibrated")))


def test_weights_that_were_trained_on_want_another(run: Run) -> None:
    calibrate(run.path, model="teacher")
    file = run.weights("teacher")
    network = copy.deepcopy(load(file))
    with torch.no_grad():
        network.get_parameter("classifier.bias").add_(1e-6)
    save_weights(file, network, read_card(file))
    refused = mistake(lambda: resolve(student(run.path, "calibrated")))
    assert f"of other weights than {file} holds now; `segdistill calibrate {run.path} --model teacher`" in refused


def test_what_cannot_be_calibrated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the run has several models; it has average and teacher" in mistake(lambda: calibrate(run.path))
    assert "only data." in mistake(lambda: calibrate(run.path, model="teacher", settings=["steps=3"]))
    subject = calibrating.opened(run.path, None, "teacher", "best", [])
    without_labels = subject._replace(dataset=Void(subject.dataset))
    monkeypatch.setattr(calibrating, "opened", Mock(return_value=without_labels))
    said = mistake(lambda: calibrate(run.path, model="teacher"))
    assert said == "val: no pixel has a label; a temperature is found by the labels"
    assert not list(run.path.glob("*/*.temperature.json"))


@pytest.mark.parametrize(
    ("temperature", "model", "sentence"),
    [
        (0, {}, "models.teacher.temperature: should be greater than 0, got 0"),
        (-1.5, {}, "models.teacher.temperature: should be greater than 0, got -1.5"),
        (True, {}, "models.teacher.temperature: should be a number, got True"),
        ("calibratd", {}, "did you mean 'calibrated'?"),
        (2, {"frozen": False}, "models.teacher.temperature: only a frozen teacher's logits are divided by one"),
        ("calibrated", {"weights": None, "kind": "timm"}, "models.teacher.temperature: `calibrated` is of weights"),
    ],
)
def test_temperatures_that_cannot_be(temperature: object, model: dict[str, Any], sentence: str) -> None:
    assert sentence in mistake(lambda: student("runs/x", temperature, **model))


def test_a_temperature_of_which_nobody_would_notice() -> None:
    models: dict[str, Any] = {
        "student": {"kind": "unet", "width": 2, "depth": 2},
        "teacher": {"weights": "runs/x", "frozen": True, "temperature": 2},
    }
    hint = {"student": "student.bottleneck", "target": "teacher.bottleneck"}
    losses = {"cross_entropy": {"student": "student"}, "hint": hint}
    said = mistake(lambda: small(models=models, losses=losses))
    assert said == "models.teacher.temperature: no loss learns from its logits; leave it out"
    assert small(models=models, losses={**losses, "dist": {"student": "student", "target": "teacher.logits"}})


def test_a_recipe_with_a_temperature_is_written_and_read(tmp_path: Path) -> None:
    for said in (2, 1.5, "calibrated"):
        recipe = student("runs/x", said)
        (tmp_path / "recipe.yaml").write_text(dump(recipe))
        assert read(tmp_path / "recipe.yaml") == recipe


def test_from_the_command_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["calibrate", str(run.path), "--model", "teacher", "--split", "train", "--which", "last", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert left.value.code in (0, None)
    assert said["file"] == str(run.path / "last" / "teacher.temperature.json")
    assert json.loads(Path(said["file"]).read_text())["split"] == "train"
    assert [row["teacher"] for row in said["tables"]["calibration"]] == ["as it is", "calibrated"]
    assert said["tables"]["calibration"][1]["temperature"] == said["numbers"]["temperature"]
