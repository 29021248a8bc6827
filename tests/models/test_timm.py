"""timm's encoders in our UNet: their own features, their own colours, and weight files that fit or say why not."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from segdistill import parts
from segdistill.assemble import load
from segdistill.checkpoint import Card, save_weights
from segdistill.mistakes import MissingExtra, Mistake
from segdistill.models.timm import Timm
from segdistill.types import ClassTable

pytestmark = pytest.mark.extras

# The whole pyramid from stride 2, and one that begins at 4 and whose features carry joined names.
SMALL, JOINED = "test_efficientnet", "test_convnext"


@pytest.fixture(scope="module")
def timm() -> Any:
    try:
        return parts.optional("timm", "smp", "test")
    except MissingExtra as missing:
        pytest.skip(str(missing))


def build(encoder: str = SMALL, weights: Path | str | None = None, width: int = 4) -> Timm:
    torch.manual_seed(0)
    return Timm(encoder, None if weights is None else str(weights), width, num_classes=5)


def noise(height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def whole(timm: Any, encoder: str) -> dict[str, torch.Tensor]:
    """All tensors of another network of the kind, the classifier's among them."""
    torch.manual_seed(7)
    return timm.create_model(encoder).state_dict()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"^timm: needs the extra 'smp': pip install 'segdistill\[smp\]'"):
        build()


@pytest.mark.usefixtures("timm")
def test_stages() -> None:
    assert [(name, *stage) for name, stage in build().stages.items()] == [
        *[("enc1", 16, 2), ("enc2", 24, 4), ("enc3", 32, 8), ("enc4", 48, 16), ("bottleneck", 64, 32)],
        *[("dec4", 32, 16), ("dec3", 16, 8), ("dec2", 8, 4), ("dec1", 4, 2), ("logits", 5, 1)],
    ]
    assert [(name, *stage) for name, stage in build(JOINED).stages.items()] == [
        *[("enc1", 24, 4), ("enc2", 32, 8), ("enc3", 48, 16), ("bottleneck", 64, 32)],
        *[("dec3", 16, 16), ("dec2", 8, 8), ("dec1", 4, 4), ("logits", 5, 1)],
    ]


@torch.no_grad()
@pytest.mark.parametrize("encoder", [SMALL, JOINED, "resnet18", "mobilenetv3_small_050", "regnetx_002"])
def test_features_are_those_of_timm(timm: Any, encoder: str, tmp_path: Path) -> None:
    """From a file of the whole network: nothing of the encoder is left as it was, the classifier is left out."""
    tensors = whole(timm, encoder)
    save_file(tensors, tmp_path / "whole.safetensors")
    model = build(encoder, tmp_path / "whole.safetensors").eval()
    theirs = timm.create_model(encoder)
    theirs.load_state_dict(tensors)
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = theirs.eval().forward_intermediates((noise() - mean) / std, intermediates_only=True)
    found = list(model(noise()).values())[: len(model.strides)]
    assert len(found) == len(expected)
    for ours, features in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, features, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.usefixtures("timm")
def test_padding_is_the_mean_colour() -> None:
    model = build().eval()
    image = noise(37, 51)
    full = model.mean.expand(1, 3, 64, 64).clone()
    full[..., :37, :51] = image
    odd, padded = model(image), model(full)
    for name, (_, stride) in model.stages.items():
        expected = padded[name][..., : -(-37 // stride), : -(-51 // stride)]
        torch.testing.assert_close(odd[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("timm")
def test_a_file_changes_the_encoder_only(tmp_path: Path) -> None:
    torch.manual_seed(7)
    other = Timm(SMALL, None, 4, num_classes=5)
    save_file(other.encoder.state_dict(), tmp_path / "features.safetensors")
    plain, filled = build().state_dict(), build(weights=tmp_path / "features.safetensors").state_dict()
    for name, value in filled.items():
        source = other.state_dict() if name.startswith("encoder.") else plain
        assert torch.equal(value, source[name]), name


def test_a_file_that_does_not_fit(timm: Any, tmp_path: Path) -> None:
    tensors = whole(timm, SMALL)
    file = tmp_path / "file.safetensors"

    def mistake(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, file)
        with pytest.raises(Mistake) as caught:
            build(weights=file)
        return str(caught.value).replace(str(file), "FILE")

    count = len(build().encoder.state_dict())
    lacking = {name: value for name, value in tensors.items() if name != "conv_stem.weight"}
    assert mistake(lacking) == (
        f"encoder_weights: FILE: 1 of the network's {count} tensors are missing: conv_stem.weight"
    )
    assert mistake({**tensors, "blocks.9.bias": torch.zeros(1)}) == (
        "encoder_weights: FILE: has 1 tensors that the network does not know: blocks.9.bias"
    )
    assert mistake({**tensors, "conv_stem.weight": torch.zeros(4, 3, 3, 3)}) == (
        "encoder_weights: FILE: conv_stem.weight is [4, 3, 3, 3] there and [24, 3, 3, 3] in the network"
    )
    file.write_bytes(b"no tensors")
    with pytest.raises(Mistake, match=r"not a safetensors file, or a truncated one"):
        build(weights=file)
    with pytest.raises(Mistake, match=r"^encoder_weights: no such file .*gone\.safetensors$"):
        build(weights=tmp_path / "gone.safetensors")


@pytest.mark.usefixtures("timm")
def test_the_hub_is_away() -> None:
    with pytest.raises(Mistake, match=r"^encoder_weights: the hub does not give us those of resnet18: "):
        build("resnet18", "hub")


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("encoder", "said"),
    [
        ("rasnet18", r"timm has no 'rasnet18' \(did you mean '.*resnet18.*'\?\)"),
        ("vit_tiny_patch16_224", "expected features whose strides double, .* has 16, 16 and 16"),
        ("swin_tiny_patch4_window7_224", "does not take an image of 64×64"),
    ],
)
def test_an_encoder_that_we_cannot_take(encoder: str, said: str) -> None:
    with pytest.raises(Mistake, match=f"^encoder: .*{said}"):
        build(encoder)


@torch.no_grad()
@pytest.mark.usefixtures("timm")
def test_a_trained_one_is_loaded_without_its_encoders_file(tmp_path: Path) -> None:
    model = build().eval()
    classes = ClassTable(tuple("abcde"), ((0, 0, 0),) * 5)
    said = {"encoder": SMALL, "encoder_weights": str(tmp_path / "gone.safetensors"), "width": 4}
    file = tmp_path / "model.safetensors"
    save_weights(file, model, Card("timm", said, classes, None, 1, {}))
    torch.testing.assert_close(load(file)(noise())["logits"], model(noise())["logits"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.usefixtures("timm")
def test_real_weights(repository: Path) -> None:
    """EfficientNet-Lite0 of ImageNet: every tensor of the file is in its place."""
    file = repository.parent / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"
    if not file.is_file():
        pytest.skip("needs real weights: no file ../shared/weights/tf_efficientnet_lite0.safetensors")
    model = build("tf_efficientnet_lite0", file).eval()
    for name, value in load_file(file).items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    assert [channels for channels, _ in model.stages.values()][:5] == [16, 24, 40, 112, 320]
