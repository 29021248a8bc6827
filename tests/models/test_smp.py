"""segmentation_models_pytorch: every architecture answers as smp itself, with its stages named."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from segdistill import parts
from segdistill.mistakes import MissingExtra, Mistake
from segdistill.models.smp import Smp

pytestmark = pytest.mark.extras

ARCHITECTURES = [
    *["unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet"],
    *["deeplabv3", "deeplabv3plus", "pan", "upernet", "segformer"],
]


@pytest.fixture(scope="module", autouse=True)
def smp() -> Any:
    try:
        return parts.optional("segmentation_models_pytorch", "smp", "test")
    except MissingExtra as missing:
        pytest.skip(str(missing))


def build(architecture: str = "unet", encoder: str = "resnet18", weights: Path | str | None = None) -> Smp:
    torch.manual_seed(0)
    return Smp(architecture, encoder, None if weights is None else str(weights), num_classes=5)


def noise(height: int = 128, width: int = 160) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_answer_is_that_of_smp(smp: Any, architecture: str) -> None:
    """And at a size that no stride divides, every stage has the cells it promises."""
    model = build(architecture).eval()
    theirs = smp.create_model(architecture, "resnet18", None, 3, 5).eval()
    for part, ours in (("encoder", model.encoder), ("decoder", model.decoder), ("segmentation_head", model.head)):
        theirs.get_submodule(part).load_state_dict(ours.state_dict())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(model(noise())["logits"], theirs((noise() - mean) / std), rtol=1e-4, atol=1e-5)
    odd = model(noise(131, 157))
    for name, (channels, stride) in model.stages.items():
        assert odd[name].shape == (1, channels, -(-131 // stride), -(-157 // stride)), name


def test_stages() -> None:
    assert {name: tuple(stage) for name, stage in build("deeplabv3plus").stages.items()} == {
        "enc1": (64, 2),
        "enc2": (64, 4),
        "enc3": (128, 8),
        "enc4": (256, 16),
        "enc5": (512, 16),
        "decoder": (256, 4),
        "logits": (5, 1),
    }
    transformer = build("fpn", "mit_b0").stages  # has no features at stride 2
    assert [tuple(stage) for stage in transformer.values()][:4] == [(32, 4), (64, 8), (160, 16), (256, 32)]
    assert list(transformer) == ["enc1", "enc2", "enc3", "enc4", "decoder", "logits"]


def test_what_reaches_no_stage_does_not_learn() -> None:
    """Otherwise processes that train together wait for its gradient for ever."""
    model = Smp("unet", "resnet18", encoder_depth=3, options={"decoder_channels": [16, 8, 4]}, num_classes=5)
    model.train()(noise())["logits"].square().mean().backward()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and {name.split(".")[1] for name in frozen} == {"layer3", "layer4"}
    assert all((p.grad is None) == (name in frozen) for name, p in model.named_parameters())
    assert all(parameter.requires_grad for parameter in build().parameters())


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_convnext"])
def test_a_file_for_the_encoder(smp: Any, encoder: str, tmp_path: Path) -> None:
    """With the names of the encoder's own program, and with the classifier, which is left out."""
    torch.manual_seed(7)
    if encoder.startswith("tu-"):
        tensors = parts.optional("timm", "smp", "test").create_model(encoder.removeprefix("tu-")).state_dict()
    else:
        tensors = smp.encoders.get_encoder(encoder).state_dict() | {"fc.weight": torch.zeros(2, 2)}
    file = tmp_path / "encoder.safetensors"
    save_file(tensors, file)
    plain, filled = build(encoder=encoder).state_dict(), build(encoder=encoder, weights=file).state_dict()
    values = {value.double().sum().item() for value in tensors.values()}
    for name, value in filled.items():
        if name.startswith("encoder."):
            assert value.double().sum().item() in values, name
        else:
            assert torch.equal(value, plain[name]), name
    first = next(iter(tensors))
    save_file({name: value for name, value in tensors.items() if name != first}, file)
    with pytest.raises(Mistake, match=r"^encoder_weights: .* tensors are missing: "):
        build(encoder=encoder, weights=file)


def test_colours_of_timms_encoders(smp: Any) -> None:
    assert build(encoder="tu-tf_efficientnet_lite0").mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert build().mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


@pytest.mark.parametrize(
    ("architecture", "encoder", "weights", "said"),
    [
        ("unett", "resnet18", None, r"architecture: smp has no 'unett' for us \(did you mean 'unet'\?\)"),
        ("dpt", "resnet18", None, "architecture: smp has no 'dpt' for us"),
        ("unet", "resnet81", None, r"encoder: smp has no 'resnet81' \(did you mean 'resnet18'\?\); timm's"),
        ("unet", "tu-nothing", None, "unet with tu-nothing: .*nothing"),
        ("linknet", "mit_b0", None, "linknet with mit_b0: Encoder `mit_b0` is not supported for Linknet"),
        ("unet", "resnet18", "hub", "encoder_weights: the hub does not give us those of resnet18: "),
        ("unet", "resnet18", "gone.safetensors", "encoder_weights: no such file gone.safetensors"),
    ],
)  # fmt: skip
def test_what_smp_cannot_give(architecture: str, encoder: str, weights: str | None, said: str) -> None:
    with pytest.raises(Mistake, match=f"^{said}"):
        build(architecture, encoder, weights)


def test_a_wrong_option() -> None:
    with pytest.raises(
        Mistake, match=r"^options.decoder_chanels: unet accepts .* \(did you mean 'decoder_channels'\?\)$"
    ):
        Smp(options={"decoder_chanels": [1]}, num_classes=5)
