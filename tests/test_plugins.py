"""A user's own parts: named package.module:Class, run only where --plugin allows the package."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from segdistill import parts
from segdistill.assemble import load
from segdistill.cli import main
from segdistill.mistakes import Mistake
from small import content

PACKAGE = "my_plugin"
SOURCE = """
from typing import final

import torch
from torch import Tensor, nn

from segdistill.losses import Loss, global_mean, on_grid
from segdistill.models import Model
from segdistill.types import Stage


@final
class Far(Loss):
    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        self.power = power

    def forward(self, student: Tensor, target: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        difference = (student - target).abs() ** self.power
        return global_mean(difference.mean(1), on_grid(mask, *student.shape[-2:]).to(student.dtype))


@final
class Net(Model):
    def __init__(self, width: int = 4, *, num_classes: int) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, num_classes, 1)
        self.stages = {"first": Stage(width, 1), "logits": Stage(num_classes, 1)}

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.first(image).relu()
        return {"first": x, "logits": self.last(x)}


class Other: ...
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package in the folder that the user is in; nothing is allowed yet."""
    (tmp_path / PACKAGE).mkdir()
    (tmp_path / PACKAGE / "__init__.py").write_text("")
    (tmp_path / PACKAGE / "own.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(parts, "_ALLOWED", set[str]())
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def recipe(**said: object) -> str:
    """A student of the plugin's that learns from itself through the plugin's loss, and from labels."""
    whole = content(
        models={"student": {"kind": f"{PACKAGE}.own:Net", "width": 3}},
        losses={
            "cross_entropy": {"student": "student"},
            "far": {"kind": f"{PACKAGE}.own:Far", "student": "student", "target": "student.first", "power": 1.5},
        },
        steps=2,
    )
    whole["losses"]["far"] |= said
    Path("recipe.yaml").write_text(yaml.safe_dump(whole))
    return "recipe.yaml"


def refused(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_it_trains_and_its_network_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("train", recipe(), "--run", "run", "--plugin", PACKAGE) == 0
    assert "student: mIoU" in capsys.readouterr().out
    assert load("run").stages["first"].channels == 3
    with torch.no_grad():
        assert load("run")(torch.rand(1, 3, 8, 8))["logits"].shape == (1, 19, 8, 8)


def test_it_does_not_run_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("train", recipe(), "--run", "run") == 2
    said = capsys.readouterr().err
    assert said == (
        f"segdistill: models.student.kind: '{PACKAGE}.own:Net' is code of another package; "
        f"--plugin {PACKAGE} allows it to run\n"
    )
    assert f"{PACKAGE}.own" not in sys.modules


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"powr": 2}, "losses.far.powr: unknown key"),
        ({"kind": f"{PACKAGE}.own:Fra"}, f"losses.far.kind: {PACKAGE}.own has no 'Fra' (did you mean 'Far'?)"),
        ({"kind": f"{PACKAGE}.won:Far"}, f"losses.far.kind: Python finds no module '{PACKAGE}.won'"),
        ({"kind": f"{PACKAGE}.own:Other"}, f"losses.far.kind: {PACKAGE}.own:Other is no loss: expected a subclass"),
        ({"kind": "os:system"}, "losses.far.kind: 'os:system' is code of another package"),
    ],
)
def test_a_mistake_is_a_sentence(capsys: pytest.CaptureFixture[str], said: dict[str, object], words: str) -> None:
    assert refused(f"--plugin={PACKAGE}", "plan", recipe(**said)) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "not a name", "no_such_package_here", "a/b"])
def test_a_package_that_is_none(name: str) -> None:
    with pytest.raises(Mistake, match="--plugin"):
        parts.allow_plugin(name)


def test_a_package_is_not_its_neighbour() -> None:
    """Allowing my_plugin does not allow my_plugin_two."""
    parts.allow_plugin(PACKAGE)
    with pytest.raises(Mistake, match="--plugin my_plugin_two allows it"):
        parts.imported("my_plugin_two.own:Far", "x")
