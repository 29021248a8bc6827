"""What every model has to keep."""

from pathlib import Path

import pytest
import torch

from segdistill import parts
from segdistill.checkpoint import Card, load_weights, read_card, save_weights
from segdistill.mistakes import MissingExtra
from segdistill.models import Model
from segdistill.recipe import ModelSpec
from segdistill.testing._suite import Suite
from segdistill.types import ClassTable

K = 5
SIZES = [(33, 47), (64, 96), (40, 32)]


class ModelSuite(Suite):
    """What a model has to keep, with 5 classes; `settings` makes it small, so that the tests are fast.

    One whose optional packages are missing is skipped.
    """

    shelf = "models"

    @classmethod
    def build(cls, kind: str, seed: int = 0) -> Model:
        """The model with its settings, and weights of the seed."""
        torch.manual_seed(seed)
        try:
            model = cls.make(kind, cls.settings.get(kind, {}), num_classes=K)
        except MissingExtra as missing:
            pytest.skip(str(missing))
        assert isinstance(model, Model)
        return model

    def test_parameters_do_not_hide_what_a_node_says(self, kind: str) -> None:
        assert not set(parts.signature(self.part(kind))) & set(ModelSpec.model_fields)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("training", [True, False])
    def test_forward_gives_the_stages_as_promised(self, kind: str, size: tuple[int, int], training: bool) -> None:
        model = self.build(kind).train(training)
        count = 2 if training else 1  # batch statistics of one cell are none
        found = model(images(count, size))
        assert list(found) == list(model.stages)
        for name, (channels, stride) in model.stages.items():
            assert found[name].shape == (count, channels, -(-size[0] // stride), -(-size[1] // stride)), name
            assert found[name].isfinite().all(), name

    def test_logits_are_of_the_classes(self, kind: str) -> None:
        assert self.build(kind).stages["logits"].channels == K

    @torch.no_grad()
    def test_stages_differ_and_depend_on_the_image(self, kind: str) -> None:
        model = self.build(kind).eval()
        one, other = model(images(1, (64, 96))), model(images(1, (64, 96), seed=1))
        for name in model.stages:
            assert one[name].std() > 0, name
            assert (one[name] - other[name]).abs().max() > 1e-4, name

    @torch.no_grad()
    def test_evaluation_is_deterministic_and_independent_of_the_batch(self, kind: str) -> None:
        model = self.build(kind)
        model(images(4, (64, 96)))  # in training: some statistics
        model.eval()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        batch = images(3, (64, 96), seed=2)
        together, again, alone = model(batch), model(batch), model(batch[1:2])
        for name in model.stages:
            assert torch.equal(together[name], again[name]), name
            torch.testing.assert_close(together[name][1:2], alone[name], rtol=1e-4, atol=1e-5)
        for name, value in model.state_dict().items():
            assert torch.equal(value, state[name]), name

    @torch.no_grad()
    def test_weights_survive_a_file(self, kind: str, tmp_path: Path) -> None:
        model = self.build(kind)
        model(images(2, (64, 96)))
        classes = ClassTable(tuple("abcde"), tuple((i, i, i) for i in range(K)))
        card = Card(kind, self.settings.get(kind, {}), classes, (64, 96), 7, {"mean_iou": 0.5})
        file = tmp_path / "model.safetensors"
        same = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        save_weights(file, same, card)
        other = self.build(kind, seed=1)
        load_weights(file, other)
        assert read_card(file) == card
        for name, value in model.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
        image = images(1, (33, 47))
        assert torch.equal(self.build(kind).eval()(image)["logits"], self.build(kind).eval()(image)["logits"])
        torch.testing.assert_close(other.eval()(image)["logits"], model.eval()(image)["logits"], rtol=1e-4, atol=1e-5)

    def test_gradients_reach_every_parameter(self, kind: str) -> None:
        model = self.build(kind)
        logits = model(images(2, (64, 96)))["logits"]
        (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            assert parameter.grad is not None and parameter.grad.any(), name
            assert parameter.grad.isfinite().all(), name

    def test_the_image_is_left_as_it_was(self, kind: str) -> None:
        """And so are the stages: later layers do not write into what was handed out."""
        model, image = self.build(kind).eval(), images(1, (64, 96))
        before = image.clone()
        found = model(image)
        assert torch.equal(image, before)
        loss = torch.stack([value.square().mean() for value in found.values()]).sum()
        loss.backward()  # fails when a value needed here was overwritten

    def test_the_same_seed_gives_the_same_weights(self, kind: str) -> None:
        first, again, other = (
            self.build(kind).state_dict(),
            self.build(kind).state_dict(),
            self.build(kind, seed=1).state_dict(),
        )
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)


def images(count: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))
