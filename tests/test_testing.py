"""The suites can fail, and a part of somebody's own package passes them, in a pytest run as its author runs it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest

from segdistill import losses, parts
from segdistill.cli import main
from segdistill.mistakes import Mistake
from segdistill.testing import LossSuite

ROOT = Path(__file__).parents[1]
PARTS = '''
from pathlib import Path

import torch
from torch import nn

from segdistill.datasets import Dataset, fingerprint_of, images_in, need_split, paired, read_image, read_labels
from segdistill.labels import Coding
from segdistill.losses import Loss, global_mean, on_grid
from segdistill.models import Model
from segdistill.types import ClassTable, Sample, Stage


class Right(Loss):
    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, student, target, labels, mask):
        apart = (student.float() - target.float()) if student.element_size() < 4 else student - target
        return global_mean((apart.abs() ** self.power).mean(1), on_grid(mask, *student.shape[-2:]).to(apart.dtype))


class Leaks(Loss):
    """Counts every cell."""

    def forward(self, student, target, labels, mask):
        apart = (student.float() - target.float()) if student.element_size() < 4 else student - target
        return global_mean((apart**2).mean(1), torch.ones_like(apart[:, 0])) * (mask.sum() > 0)


class Divides(Loss):
    """By the count of its own process, which may be 0."""

    def forward(self, student, target, labels, mask):
        apart = (student.float() - target.float()) if student.element_size() < 4 else student - target
        counts = on_grid(mask, *student.shape[-2:]).to(apart.dtype)
        return ((apart**2).mean(1) * counts).sum() / counts.sum()


class Net(Model):
    def __init__(self, width: int = 2, promised: int = 2, *, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.last = nn.Conv2d(width, num_classes, 1)
        self.stages = {"stem": Stage(width, promised), "logits": Stage(num_classes, 1)}

    def forward(self, image):
        stem = self.stem(image)
        logits = nn.functional.interpolate(self.last(stem.relu()), image.shape[-2:], mode="bilinear")
        return {"stem": stem, "logits": logits}


class Dotted(Dataset):
    """Images of one dot each; the label says where."""

    classes = ClassTable(("dot", "road"), ((255, 0, 0), (128, 64, 128)))

    def __init__(self, shared: bool = False, *, split: str) -> None:
        need_split(Path("dotted"), split, ("train", "val"))
        self.split, self.shared = split, shared
        self.samples = [self.draw(index) for index in range(len(self))]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index] if self.shared else self.draw(index)

    def draw(self, index: int) -> Sample:
        if index >= 3:
            raise IndexError(index)
        labels = torch.ones(8, 8, dtype=torch.uint8)
        labels[index, 5 if self.split == "val" else 2] = 0
        return Sample((labels * 200).repeat(3, 1, 1), labels, f"{self.split}{index}")

    def fingerprint(self) -> str:
        return "0123456789abcdef" if self.split == "val" else "fedcba9876543210"
'''

TESTS = """
from segdistill.testing import DatasetSuite, LossSuite, ModelSuite


class TestRight(LossSuite):
    kinds = ["own_parts.here:Right", "hint"]
    settings = {"own_parts.here:Right": {"power": 1.5}}


class TestLeaks(LossSuite):
    kinds = ["own_parts.here:Leaks"]


class TestDivides(LossSuite):
    kinds = ["own_parts.here:Divides"]


class TestNet(ModelSuite):
    kinds = ["own_parts.here:Net"]


class TestOtherStride(ModelSuite):
    kinds = ["own_parts.here:Net"]
    settings = {"own_parts.here:Net": {"promised": 4}}


class TestDotted(DatasetSuite):
    kinds = ["own_parts.here:Dotted"]


class TestShared(DatasetSuite):
    kinds = ["own_parts.here:Dotted"]
    settings = {"own_parts.here:Dotted": {"shared": True}}
"""


class Ran(NamedTuple):
    """What a pytest found."""

    passed: dict[str, list[str]]
    """By test class, the tests."""
    failed: dict[str, list[str]]
    output: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, printed: "Printed") -> Ran:
    folder = tmp_path_factory.mktemp("user")
    (folder / "own_parts").mkdir()
    (folder / "own_parts" / "__init__.py").write_text("")
    (folder / "own_parts" / "here.py").write_text(PARTS)
    (folder / "test_own_parts.py").write_text(TESTS)
    write_plugin(printed, folder)
    python = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "--junitxml=found.xml"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = Ran({}, {}, python.stdout)
    for case in ElementTree.parse(folder / "found.xml").iter("testcase"):
        if case.find("skipped") is None:
            outcome = found.passed if case.find("failure") is None and case.find("error") is None else found.failed
            outcome.setdefault(case.attrib["classname"].split(".")[-1], []).append(case.attrib["name"].split("[")[0])
    return found


@pytest.mark.parametrize(
    ("suite", "least"), [("TestRight", 30), ("TestNet", 14), ("TestDotted", 13), ("TestMyLosses", 14)]
)
def test_a_right_part_passes(ran: Ran, suite: str, least: int) -> None:
    assert suite not in ran.failed, ran.output
    assert len(ran.passed[suite]) >= least


@pytest.mark.parametrize(
    ("suite", "failing"),
    [
        ("TestLeaks", {"test_masked_pixels_have_no_influence", "test_two_processes_give_what_one_gives"}),
        ("TestDivides", {"test_an_empty_mask_gives_an_attached_zero", "test_two_processes_give_what_one_gives"}),
        ("TestOtherStride", {"test_forward_gives_the_stages_as_promised"}),
        ("TestShared", {"test_a_sample_is_the_readers_own"}),
    ],
)
def test_a_wrong_part_fails_where_it_is_wrong(ran: Ran, suite: str, failing: set[str]) -> None:
    assert set(ran.failed[suite]) == failing, ran.output
    assert len(ran.passed[suite]) > len(failing)


def test_a_failure_shows_both_sides(ran: Ran) -> None:
    """pytest rewrites the suites' assertions, though they are no test files."""
    assert "assert torch.Size([2, 2, 17, 24]) == (2, 2, 9, 12)" in ran.output


@pytest.mark.parametrize(
    ("kinds", "settings", "words"),
    [
        ([], {}, "TestIt.kinds: expected a list of the losses to test, got []"),
        ("hint", {}, "TestIt.kinds: expected a list of the losses to test, got 'hint'"),
        (
            ["hint"],
            {"hnit": {}},
            "TestIt.settings: 'hnit' is not among the kinds; they are hint (did you mean 'hint'?)",
        ),
    ],
)
def test_a_suite_that_tests_nothing_is_a_mistake(
    kinds: list[str], settings: dict[str, dict[str, object]], words: str, request: pytest.FixtureRequest
) -> None:
    suite = type("TestIt", (LossSuite,), {"kinds": kinds, "settings": settings})
    with pytest.raises(Mistake) as caught:
        suite().pytest_generate_tests(request.node)
    assert str(caught.value) == words


# The document for authors: its file, test, recipe and suite, as it prints them.


class Printed(NamedTuple):
    """The blocks of docs/add-a-loss.md."""

    loss: str
    test: str
    suite: str
    recipe: str
    edge: str


@pytest.fixture(scope="module")
def printed() -> Printed:
    text = (ROOT / "docs" / "add-a-loss.md").read_text()
    loss, test, suite = re.findall(r"^```python[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    recipe, edge = re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return Printed(loss, test, suite, recipe, edge)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """No other test finds the document's modules."""
    yield
    for name in [name for name in sys.modules if name.endswith("huber_hint") or name == "my_package"]:
        del sys.modules[name]


@pytest.mark.usefixtures("forgotten")
def test_the_documents_test_passes_and_its_recipe_trains(
    printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its file on the shelf."""
    (tmp_path / "huber_hint.py").write_text(printed.loss)
    (tmp_path / "recipe.yaml").write_text(printed.recipe)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    names: dict[str, Any] = {}
    exec(compile(printed.test, "add-a-loss.md", "exec"), names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert len(tests) == 4
    for each in tests:
        each()
    assert verb("plan", "recipe.yaml", *SHORT) == verb("train", "recipe.yaml", "--run", "run", *SHORT) == 0
    assert "huber_hint: student.dec2 <- teacher.dec2: 1×1 adapter 8 -> 16 channels" in capsys.readouterr().out


@pytest.mark.usefixtures("forgotten")
def test_the_documents_plugin_trains(printed: Printed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plugin(printed, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(parts, "_ALLOWED", set[str]())
    assert verb("train", "recipe.yaml", "--run", "run", *SHORT, "--plugin", "my_package") == 0


SHORT = ("--set=steps=2", "--set=log.wandb=off", "--set=data.scene_size=[48,64]", "--set=data.crop=[48,64]")


def verb(*words: str) -> object:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    return caught.value.code


def write_plugin(printed: Printed, folder: Path) -> None:
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("")
    (folder / "my_package" / "huber_hint.py").write_text(printed.loss)
    (folder / "test_my_package.py").write_text(printed.suite)
    edge = re.compile(r"^  huber_hint: .*\n", re.MULTILINE)
    assert len(edge.findall(printed.recipe)) == 1
    (folder / "recipe.yaml").write_text(edge.sub(lambda _: printed.edge, printed.recipe))
