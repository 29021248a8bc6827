"""SegFormer: the paper's sizes, what transformers itself computes, and checkpoints that fit or say why not."""

from pathlib import Path

import pytest
import torch
from transformers import SegformerConfig, SegformerForImageClassification, SegformerForSemanticSegmentation

from segdistill.assemble import load
from segdistill.checkpoint import Card, save_weights
from segdistill.mistakes import Mistake
from segdistill.models.segformer import Segformer, Variant
from segdistill.probes.speed import parameters
from segdistill.types import ClassTable

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as others publish it: b0 with five classes, and statistics that are not those of the start."""
    torch.manual_seed(7)
    network = SegformerForSemanticSegmentation(SegformerConfig(num_labels=5))
    network.train()(torch.rand(2, 3, 64, 64))
    folder = tmp_path_factory.mktemp("published")
    network.save_pretrained(folder)
    return folder


def build(variant: Variant = "b0", checkpoint: Path | None = None, num_classes: int = 5) -> Segformer:
    torch.manual_seed(0)
    return Segformer(variant, None if checkpoint is None else str(checkpoint), num_classes=num_classes)


def noise(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("variant", "millions"),
    [("b0", "3.8"), ("b1", "13.7"), ("b2", "27.5"), ("b3", "47.3"), ("b4", "64.1"), ("b5", "84.7")],
)
def test_parameters_of_the_paper(variant: Variant, millions: str) -> None:
    """Table 1, with the 150 classes of ADE20K."""
    with torch.device("meta"):
        assert f"{parameters(build(variant, num_classes=150)) / 1e6:.1f}" == millions


def test_stages() -> None:
    assert {name: tuple(stage) for name, stage in build("b1").stages.items()} == {
        "enc1": (64, 4),
        "enc2": (128, 8),
        "enc3": (320, 16),
        "enc4": (512, 32),
        "decoder": (256, 4),
        "logits": (5, 4),
    }


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (45, 83)])
def test_logits_are_those_of_transformers(published: Path, size: tuple[int, int]) -> None:
    theirs = SegformerForSemanticSegmentation.from_pretrained(published).eval()
    model, image = build(checkpoint=published).eval(), noise(*size)
    found = model(image)
    colours = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    expected = theirs(colours, output_hidden_states=True)
    torch.testing.assert_close(found["logits"], expected.logits, rtol=1e-4, atol=1e-5)
    for level, features in enumerate(expected.hidden_states, 1):
        torch.testing.assert_close(found[f"enc{level}"], features, rtol=1e-4, atol=1e-5)
    assert model.brings_weights and not build().brings_weights


@torch.no_grad()
def test_an_image_smaller_than_its_deepest_cell() -> None:
    assert build().eval()(noise(9, 50))["logits"].shape == (1, 5, 3, 13)


@torch.no_grad()
def test_the_encoder_alone(tmp_path: Path) -> None:
    """As of a network trained to classify images: the decoder keeps its own first weights."""
    torch.manual_seed(7)
    theirs = SegformerForImageClassification(SegformerConfig(num_labels=7))
    theirs.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = Segformer("b0", str(tmp_path), "encoder", num_classes=5)
    for name, value in theirs.segformer.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value), name
    assert not model.brings_weights
    with pytest.raises(Mistake, match=r"lacks 16 tensors, decode_head\.batch_norm\.bias among .* checkpoint_part: enc"):
        build(checkpoint=tmp_path)


def test_a_checkpoint_that_does_not_fit(published: Path, tmp_path: Path) -> None:
    with pytest.raises(
        Mistake, match=r"its hidden_sizes are \[32, 64, 160, 256\], those of b1 are \[64, 128, 320, 512"
    ):
        build("b1", published)
    with pytest.raises(Mistake, match=r"decode_head.classifier.weight is \[5, 256, 1, 1\] there and \[6, 256, 1, 1\]"):
        build(checkpoint=published, num_classes=6)
    with pytest.raises(Mistake, match=r"^checkpoint: .*nowhere"):
        build(checkpoint=tmp_path / "nowhere")
    with pytest.raises(Mistake, match=r"^checkpoint: nobody/nothing: "):
        Segformer("b0", "nobody/nothing", num_classes=5)


@torch.no_grad()
def test_a_trained_one_is_loaded_without_its_checkpoint(published: Path, tmp_path: Path) -> None:
    model = build(checkpoint=published).eval()
    classes = ClassTable(tuple("abcde"), ((0, 0, 0),) * 5)
    said = {"variant": "b0", "checkpoint": str(tmp_path / "gone"), "checkpoint_part": "all"}
    file = tmp_path / "model.safetensors"
    save_weights(file, model, Card("segformer", said, classes, None, 1, {}))
    torch.testing.assert_close(load(file)(noise())["logits"], model(noise())["logits"], rtol=1e-4, atol=1e-5)
