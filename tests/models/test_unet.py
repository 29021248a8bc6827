"""The UNet: its published cost, what padding may not change, and activations that live through the depth."""

from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from segdistill import parts
from segdistill.assemble import assemble
from segdistill.mistakes import Mistake
from segdistill.models.unet import UNet
from segdistill.probes.speed import gmac, parameters
from segdistill.training import train
from small import small

SIZE = (512, 1024)


def build(
    width: int = 4,
    depth: int = 4,
    normalisation: Literal["batch", "group"] = "batch",
    separable: bool = False,
    num_classes: int = 19,
) -> UNet:
    torch.manual_seed(0)
    return UNet(width, depth, normalisation, separable, num_classes=num_classes)


def noise(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("width", "separable", "millions", "cost"),
    [
        (64, False, "31.04", "385.9"),
        (32, False, "7.76", "96.9"),
        (16, False, "1.94", "24.4"),
        (8, False, "0.487", "6.20"),
        (4, False, "0.122", "1.60"),
        (64, True, "5.99", "62.0"),
        (32, True, "1.51", "16.5"),
        (16, True, "0.387", "4.62"),
        (8, True, "0.101", "1.40"),
        (4, True, "0.027", "0.47"),
    ],
)
def test_cost(width: int, separable: bool, millions: str, cost: str) -> None:
    """To the last digit of the table."""
    model = build(width, separable=separable)
    assert f"{parameters(model) / 1e6:.{len(millions.partition('.')[2])}f}" == millions
    assert f"{gmac(model, SIZE):.{len(cost.partition('.')[2])}f}" == cost


def test_cost_as_on_openvinos_card() -> None:
    """UNet for CamVid at 368×480 with 12 outputs: 31.03 M parameters, 260.1 GFLOP, which is two per MAC."""
    model = build(64, num_classes=12)
    assert parameters(model) / 1e6 == pytest.approx(31.03, abs=0.01)
    assert 2 * gmac(model, (368, 480)) == pytest.approx(260.1, rel=1e-3)


def test_parameters_by_hand() -> None:
    """Width 4, depth 1, 2 classes: 3×3 without bias and two numbers per channel, 2×2 with bias, 1×1 with bias."""
    block = lambda before, after: 9 * before * after + 9 * after * after + 4 * after  # noqa: E731
    expected = block(3, 4) + block(4, 8) + (4 * 8 * 4 + 4) + block(8, 4) + (4 * 2 + 2)
    assert parameters(build(4, 1, num_classes=2)) == expected


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 3])
def test_padding_is_the_mean_colour(depth: int) -> None:
    """An odd image answers as the one that the mean colour completes, cropped back; a multiple is not padded at all."""
    model = build(depth=depth).eval()
    image = noise(1, 21, 27)
    multiple = 2**depth
    height, width = (-(-side // multiple) * multiple for side in (21, 27))
    whole = model.mean.expand(1, 3, height, width).clone()
    whole[..., :21, :27] = image
    odd, full = model(image), model(whole)
    for name, (_, stride) in model.stages.items():
        expected = full[name][..., : -(-21 // stride), : -(-27 // stride)]
        torch.testing.assert_close(odd[name], expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("separable", [False, True])
def test_a_shift_of_the_image_shifts_the_answer(separable: bool) -> None:
    """By a whole cell of the deepest stage, far from the border."""
    depth, shift, reach = 2, 4, 36
    model = build(depth=depth, separable=separable).eval()
    image = noise(1, 96, 112)
    whole, shifted = model(image)["logits"], model(image[..., shift:])["logits"]
    inside = slice(reach, -reach)
    torch.testing.assert_close(
        shifted[..., inside, inside], whole[..., inside, shift:][..., inside], rtol=1e-4, atol=1e-5
    )
    assert (whole[..., inside, shift:] - whole[..., inside, :-shift]).abs().max() > 0.1


@torch.no_grad()
def test_a_shift_by_16_pixels_at_depth_4() -> None:
    model = build().eval()
    image = noise(1, 16, 448)
    whole, shifted = model(image)["logits"], model(image[..., 16:])["logits"]
    inside = slice(160, -160)
    torch.testing.assert_close(shifted[..., inside], whole[..., 16:][..., inside], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("normalisation", ["batch", "group"])
@pytest.mark.parametrize("separable", [False, True])
def test_activations_neither_vanish_nor_explode(normalisation: Literal["batch", "group"], separable: bool) -> None:
    """At the start of training every stage has about unit size, and logits are no louder than tens of nats."""
    model = build(16, normalisation=normalisation, separable=separable).train()
    found = model(noise(2, 64, 96))
    for name, value in found.items():
        assert 0.3 < value.square().mean().sqrt() < 4, name
    dead = {name: (value.amax((0, 2, 3)) <= 0).float().mean() for name, value in found.items() if name != "logits"}
    assert max(dead.values()) < 0.1  # hardly a channel is silent everywhere


def test_gradients_neither_vanish_nor_explode() -> None:
    model = build(16).train()
    logits = model(noise(2, 64, 96))["logits"]
    labels = torch.randint(0, 19, (2, 64, 96), generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(logits, labels).backward()
    norms = [p.grad.norm() / p.norm() for p in model.parameters() if p.ndim > 1 and p.grad is not None]
    assert len(norms) == 23
    assert min(norms) > 1e-4 and max(norms) < 10


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("normalisation", ["batch", "group"])
def test_checkpointing_changes_no_bit(normalisation: Literal["batch", "group"], separable: bool) -> None:
    """Answers, gradients, and the statistics of batch normalisation, which see every batch once; and it keeps less."""
    found: list[list[torch.Tensor]] = []
    kept: list[int] = []
    for checkpointing in (False, True):
        model = build(8, 3, normalisation, separable).train()
        model.checkpointing = checkpointing
        saved: dict[int, int] = {}
        said: dict[str, torch.Tensor] = {}
        for _ in range(2):
            model.zero_grad()
            keep = partial(_count, saved)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                said = model(noise(2, 30, 44))
                (said["logits"].square().mean() + said["enc2"].mean()).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert len(gradients) == len(list(model.parameters()))
        found.append([*said.values(), *gradients, *model.buffers()])
        kept.append(sum(saved.values()))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert kept[1] < 0.5 * kept[0]


def _count(saved: dict[int, int], tensor: torch.Tensor) -> torch.Tensor:
    saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
    return tensor


def test_checkpointing_serves_two_backward_passes() -> None:
    """As of two losses whose gradients are taken one after the other; the statistics still see the batch once."""
    found: list[list[torch.Tensor]] = []
    for checkpointing in (False, True):
        model = build(4, 2).train()
        model.checkpointing = checkpointing
        said = model(noise(2, 16, 16))
        said["logits"].square().mean().backward(retain_graph=True)
        said["enc1"].mean().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([*gradients, *model.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_checkpointing_is_for_training_alone() -> None:
    """Without gradients nothing is kept anyway, and a model that is evaluated answers as ever."""
    model = build(4, 2).eval()
    plain = model(noise(1, 16, 16))["logits"]
    model.checkpointing = True
    assert torch.equal(model(noise(1, 16, 16))["logits"], plain)
    with torch.no_grad():
        assert torch.equal(model(noise(1, 16, 16))["logits"], plain)
    assert all(module.track_running_stats for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))


def test_a_run_with_checkpointing_is_the_same_run(tmp_path: Path) -> None:
    found: list[dict[str, torch.Tensor]] = []
    for number, also in enumerate([{}, {"checkpointing": True}]):
        recipe = small("steps=3", models={"student": {"kind": "unet", "width": 4, "depth": 2, **also}}, probes={})
        run = train(recipe, tmp_path / str(number))
        found.append(load_file(run.weights("student", "last")))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_checkpointing_is_refused_where_it_would_do_nothing() -> None:
    student = {"kind": "unet", "width": 4, "depth": 2}
    teacher = {"weights": "runs/none", "frozen": True, "checkpointing": True}
    with pytest.raises(Mistake, match=r"models.teacher.checkpointing: it does not learn, so it keeps no activations"):
        small(models={"student": student, "teacher": teacher})
    parts.allow_plugin("foreign_network")
    with pytest.raises(Mistake, match=r"models.student.checkpointing: a 'hooked' cannot; a 'unet' can"):
        taps = {"logits": "['out']"}
        hooked = {"kind": "hooked", "module": "foreign_network:make", "arguments": {"num_classes": 19}, "taps": taps}
        assemble(small(models={"student": {**hooked, "checkpointing": True}}))


@torch.no_grad()
def test_initialisation_is_he_normal() -> None:
    """Standard deviation √(2 / fan in), no biases."""
    model = build(32)
    weight = model.bottleneck[0].weight
    assert isinstance(weight, torch.Tensor)
    assert float(weight.std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert abs(float(weight.mean())) < 1e-4
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


@torch.no_grad()
def test_group_normalisation_is_independent_of_the_batch_in_training() -> None:
    model = build(8, depth=2, normalisation="group").train()
    images = noise(2, 32, 32)
    torch.testing.assert_close(model(images)["logits"][:1], model(images[:1])["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 6, 12, 20])
def test_any_width_has_groups(width: int) -> None:
    assert build(width, depth=1, normalisation="group").stages["enc1"].channels == width


def test_stages_in_the_order_of_the_forward_pass() -> None:
    model = build(8, depth=3)
    assert list(model.stages) == ["enc1", "enc2", "enc3", "bottleneck", "dec3", "dec2", "dec1", "logits"]
    assert [tuple(stage) for stage in model.stages.values()] == [
        *[(8, 1), (16, 2), (32, 4), (64, 8)],
        *[(32, 4), (16, 2), (8, 1), (19, 1)],
    ]


@pytest.mark.parametrize(("width", "depth"), [(0, 4), (8, 0), (8, 7)])
def test_out_of_range(width: int, depth: int) -> None:
    with pytest.raises(Mistake, match=f"^unet: expected width >= 1 .* got width {width} and depth {depth}$"):
        build(width, depth)
