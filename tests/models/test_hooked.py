"""Networks of others: what a tap finds, how the image is given to it, and every way in which a tap can be wrong."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from foreign_network import Network
from segdistill import parts
from segdistill.assemble import assemble, load
from segdistill.checkpoint import Card, save_weights
from segdistill.mistakes import Mistake
from segdistill.models.hooked import Hooked
from segdistill.recipe import override, parse
from segdistill.types import ClassTable
from small import content

pytestmark = pytest.mark.extras
LOGITS = {"logits": "['out']"}


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    parts.allow_plugin("foreign_network")
    yield


def build(taps: dict[str, str] | None = None, seed: int = 0, **more: Any) -> Hooked:
    torch.manual_seed(seed)
    return Hooked("foreign_network:make", LOGITS | (taps or {}), multiple=8, **more)


def mistake(taps: dict[str, str] | None = None, **more: Any) -> str:
    with pytest.raises(Mistake) as caught:
        build(taps, **more)
    return str(caught.value)


def noise(height: int = 32, width: int = 48, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_taps_find_what_the_network_computes() -> None:
    model = build({"stem": "stem", "inner": "stem.0", "deep": "deep[1]['features']",
                   "first": "again@1", "second": "again@2", "coarse": "classifier"}).eval()  # fmt: skip
    network = model.network
    assert isinstance(network, Network)
    found = model(noise())
    x = (noise() - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    expected = {"inner": network.stem[0](x), "stem": network.stem(x)}
    expected["deep"] = network.deep(expected["stem"])[1]["features"]
    expected["first"] = network.again(expected["deep"])
    expected["second"] = network.again(expected["first"])
    expected["logits"] = network(x)["out"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)
    assert {name: tuple(stage) for name, stage in model.stages.items()} == {
        "logits": (5, 1),
        "stem": (6, 2),
        "inner": (6, 2),
        "deep": (8, 4),
        "first": (8, 4),
        "second": (8, 4),
        "coarse": (5, 4),
    }


def test_a_layer_that_is_written_over_is_handed_out_as_it_was() -> None:
    """The normalisation's output, which the rectifier after it overwrites; and gradients flow through both."""
    model = build({"before": "deep.norm", "after": "deep.act"}).eval()
    found = model(noise())
    assert found["before"].min() < 0
    torch.testing.assert_close(found["before"].relu(), found["after"])
    assert model.overwritten == {"before"}
    found["before"].square().mean().backward()
    assert isinstance(model.network, Network)
    weight = model.network.deep.norm.weight
    assert weight.grad is not None and weight.grad.all()


@torch.no_grad()
def test_colours_as_the_network_wants_them() -> None:
    """Blue first, up to 255, less the mean in that order."""
    mean, std = (104.0, 117.0, 123.0), (1.0, 2.0, 4.0)
    model = build(mean=mean, std=std, scale=255.0, bgr=True).eval()
    image = noise()
    given = torch.stack([(255 * image[:, 2 - c] - mean[c]) / std[c] for c in range(3)], 1)
    expected = model.network(given)["out"]
    torch.testing.assert_close(model(image)["logits"], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_padding_is_the_mean_colour() -> None:
    model = build().eval()
    full = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 24, 32).clone()
    full[..., :21, :27] = noise(21, 27)
    torch.testing.assert_close(model(noise(21, 27))["logits"], model(full)["logits"][..., :21, :27])


@torch.no_grad()
def test_a_copy_is_one_of_its_own() -> None:
    """As a moving average is: no hook is left behind that listens to the first."""
    model = build({"stem": "stem"}).eval()
    copy = deepcopy(model)
    for parameter in copy.parameters():
        parameter.mul_(2)
    before = model(noise())
    assert not torch.equal(copy(noise())["stem"], before["stem"])
    assert torch.equal(model(noise())["stem"], before["stem"])
    assert not any(module._forward_hooks for module in model.modules())


@torch.inference_mode()
def test_in_inference_mode() -> None:
    """Whose tensors do not count how often they were written into."""
    with torch.inference_mode(False):
        model = build({"before": "deep.norm"}).eval()
    assert model(noise())["before"].min() < 0


def test_the_mode_is_left_as_it_was() -> None:
    assert build().training and all(module.training for module in build().modules())


@pytest.mark.parametrize("ending", ["safetensors", "pth", "wrapped.pth"])
def test_a_checkpoint(tmp_path: Path, ending: str) -> None:
    state, file = build(seed=1).network.state_dict(), tmp_path / f"file.{ending}"
    if ending == "safetensors":
        save_file(state, file)
    else:
        torch.save({"epoch": 3, "state_dict": state} if "wrapped" in ending else state, file)
    model = build(checkpoint=str(file))
    assert all(torch.equal(value, state[name]) for name, value in model.network.state_dict().items())
    assert model.brings_weights and build(trained=True).brings_weights and not build().brings_weights


def test_a_checkpoint_that_we_do_not_take(tmp_path: Path) -> None:
    state, file = build().network.state_dict(), tmp_path / "file.pth"

    def said(content: object) -> str:
        torch.save(content, file)
        return mistake(checkpoint=str(file)).replace(str(file), "FILE")

    assert said(Network(5)).startswith("checkpoint: FILE runs code when it is read (foreign_network.Network")
    assert said([1]) == (
        "checkpoint: FILE holds no state_dict, neither plain nor under state_dict, model_state_dict and model"
    )
    assert said({f"module.{name}": value for name, value in state.items()}).startswith(
        f"checkpoint: FILE: {len(state)} of the network's {len(state)} tensors are missing: stem.0.weight, stem.0.bias"
    )
    assert said(state | {"aux.weight": torch.zeros(1)}) == (
        "checkpoint: FILE: has 1 tensors that the network does not know: aux.weight"
    )
    file.write_bytes(b"nothing")
    assert mistake(checkpoint=str(file)).endswith("is neither safetensors nor what torch.save writes since torch 1.6")


@torch.no_grad()
def test_a_trained_one_is_loaded_without_its_checkpoint(tmp_path: Path) -> None:
    model = build({"stem": "stem"}).eval()
    said = {
        "module": "foreign_network:make",
        "taps": LOGITS | {"stem": "stem"},
        "checkpoint": str(tmp_path / "gone.pth"),
        "mean": [0.485, 0.456, 0.406],
        "multiple": 8,
    }
    file = tmp_path / "model.safetensors"
    save_weights(file, model, Card("hooked", said, ClassTable(tuple("abcde"), ((0, 0, 0),) * 5), None, 1, {}))
    again = load(file)
    assert list(again.stages) == ["logits", "stem"]
    torch.testing.assert_close(again(noise())["logits"], model(noise())["logits"], rtol=1e-4, atol=1e-5)


def test_it_teaches_by_its_checkpoint(tmp_path: Path) -> None:
    """Frozen, without `weights`: its stages are ends of edges, and its tensors those of the file."""
    torch.manual_seed(7)
    network = Network(19)
    save_file(network.state_dict(), tmp_path / "published.safetensors")
    teacher = {
        "kind": "hooked",
        "module": "foreign_network:make",
        "arguments": {"num_classes": 19},
        "taps": LOGITS | {"stem": "stem"},
        "checkpoint": str(tmp_path / "published.safetensors"),
        "frozen": True,
    }
    recipe = content(
        models={"student": {"kind": "unet", "width": 4, "depth": 2}, "teacher": teacher},
        losses={"soft_targets": {"student": "student", "target": "teacher"}},
    )
    found = assemble(parse(recipe)).frozen.models["teacher"].state_dict()
    assert all(torch.equal(found[f"network.{name}"], value) for name, value in network.state_dict().items())
    with pytest.raises(Mistake, match=r"a frozen model needs weights, or it would teach noise"):
        assemble(parse(override(recipe, ["models.teacher.checkpoint=null"])))


@pytest.mark.parametrize(
    ("tap", "said"),
    [
        ("stm", "the network has no submodule 'stm' (did you mean 'stem'?)"),
        (
            "backbone",
            "the network has no submodule 'backbone'; it has stem, deep, again, pool, classifier, up and idle",
        ),
        ("stem[", "expected a path as in backbone.layer3, head[0], out['aux'] or block@2, got 'stem['"),
        ("idle", "'idle' never fires; 'idle' is called 0 times"),
        ("stem@2", "'stem@2' never fires; 'stem' is called 1 times"),
        ("again", "'again' is called 2 times in a forward pass; say which, as in 'again@2'"),
        ("deep", "expected a tensor [b, c, h, w], 'deep' gives a tuple of 2"),
        ("deep[0]", "expected a tensor [b, c, h, w], 'deep[0]' gives a int"),
        ("deep[2]", "'deep[2]': there is no 2 in a tuple of 2"),
        ("deep[1]['x']", "'deep[1]['x']': there is no 'x' in a dict with 'features'"),
        ("stem['x']", "'stem['x']': there is no 'x' in a tensor [1, 6, 8, 12]"),
        ("", "expected a tensor [b, c, h, w], '' gives a dict with 'out'"),
        ("pool", "an image of 16×24 pixels gives 1×1 cells, no whole stride that divides multiple: 8"),
    ],
)
def test_a_wrong_tap(tap: str, said: str) -> None:
    assert mistake({"wrong": tap}) == f"taps.wrong: {said}"


def test_what_is_no_network() -> None:
    torch.manual_seed(0)
    for module, arguments, said in [
        ("foreign_network:no_network", None, "module: foreign_network:no_network gives a str, expected a torch module"),
        ("foreign_network:mak", None, "module: foreign_network has no 'mak' (did you mean 'make'?)"),
        ("foreign_network:make", {"classes": 5}, "arguments: foreign_network:make: got an unexpected keyword argument"),
        ("not_allowed:make", None, "module: 'not_allowed:make' is code of another package; --plugin not_allowed"),
    ]:
        with pytest.raises(Mistake) as caught:
            Hooked(module, LOGITS, arguments)
        assert str(caught.value).startswith(said)
    with pytest.raises(Mistake, match=r"^taps: expected logits among them, got stem$"):
        Hooked("foreign_network:make", {"stem": "stem"})
    assert mistake(std=(1.0, 0.0, 1.0)).startswith("std, scale and multiple: expected positive numbers")
