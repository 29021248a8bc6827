"""The plan's warnings: each is raised where it should be, and a sound graph is left in peace."""

from collections.abc import Mapping
from typing import final

import pytest
import torch
from torch import Tensor

from segdistill.class_map import Translation, groups
from segdistill.diagnosis import warnings
from segdistill.gradients import prove, pulls
from segdistill.losses import Loss
from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.losses.entropy_floor import EntropyFloor
from segdistill.losses.soft_targets import SoftTargets
from segdistill.models import Model
from segdistill.models.unet import UNet
from segdistill.recipe import LABELS
from segdistill.system import Edge, Frozen, System, Tap
from segdistill.types import IGNORE, Batch, ClassTable, Stage

LOGITS = ("logits",)


@final
class Colours(Model):
    """Knows a pixel's class by its strongest colour; `order` says which channel means which class."""

    stages: Mapping[str, Stage] = {"logits": Stage(3, 1)}

    def __init__(self, order: tuple[int, ...] = (0, 1, 2), largest: float = 1.0) -> None:
        super().__init__()
        self.order, self.largest = list(order), largest

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        sure = 5 * image[:, self.order] / self.largest
        return {"logits": torch.where(image.amax(1, keepdim=True) > 0.6 * self.largest, sure, sure.flip(1))}


def batch() -> Batch:
    """Labels are the strongest of red, green and blue; green is rarer, some pixels are void."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 16, 24), generator=generator)
    image = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).mul(200).to(torch.uint8)
    labels[:, :2] = IGNORE
    return Batch(image, labels, torch.zeros_like(labels, dtype=torch.bool), ("a", "b"))


def warned(teacher: Model | None = None, weight: float = 1.0, **edges: Edge) -> list[str]:
    torch.manual_seed(0)
    student = UNet(4, 2, num_classes=3)
    taught = Edge(SoftTargets(), Tap("student", LOGITS), Tap("teacher", LOGITS), weight=weight)
    labels = Edge(CrossEntropy(num_classes=3, class_pixels=[1, 1, 1]), Tap("student", LOGITS), Tap(LABELS))
    system = System({"student": student}, {"labels": labels, "taught": taught, **edges}, [])
    frozen = Frozen({"teacher": teacher or Colours()}, {})
    return warnings(system, frozen, batch(), pulls(system, frozen, batch()), {})


def test_a_sound_graph_is_left_in_peace() -> None:
    assert warned() == []


@pytest.mark.parametrize(("weight", "words"), [(1e3, "times that of the labels; weight"), (1e-4, "in another unit")])
def test_a_weight_in_another_unit(weight: float, words: str) -> None:
    (sentence,) = warned(weight=weight)
    assert sentence.startswith("losses.taught: its gradient is ") and words in sentence


def test_the_weight_it_names_makes_them_equal() -> None:
    (sentence,) = warned(weight=1e3)
    even = float(sentence.split("; weight ")[1].split()[0])
    torch.manual_seed(0)
    edges = {
        "labels": Edge(CrossEntropy(num_classes=3, class_pixels=[1, 1, 1]), Tap("student", LOGITS), Tap(LABELS)),
        "taught": Edge(SoftTargets(), Tap("student", LOGITS), Tap("teacher", LOGITS), weight=even),
    }
    system, frozen = System({"student": UNet(4, 2, num_classes=3)}, edges, []), Frozen({"teacher": Colours()}, {})
    pulled = pulls(system, frozen, batch())["taught"]
    assert pulled.task is not None and pulled.norm == pytest.approx(pulled.task, rel=0.05)


def test_a_teacher_of_another_class_order() -> None:
    sentences = warned(Colours(order=(1, 2, 0)))
    assert any(s.startswith("models.teacher: right at 0% of the labelled pixels") for s in sentences)


def test_a_teacher_that_was_fed_blue_first() -> None:
    assert any("with red and blue swapped" in s for s in warned(Colours(order=(2, 1, 0))))


def test_a_teacher_that_was_fed_large_numbers() -> None:
    assert any("of an image in 0…255" in s for s in warned(Colours(largest=255.0)))


def test_a_teacher_without_statistics() -> None:
    torch.manual_seed(0)
    assert any("BatchNorm layers have no statistics yet" in s for s in warned(UNet(2, 2, num_classes=3)))


def test_an_edge_that_pulls_against_the_labels() -> None:
    assert any("points away from that of the labels" in s for s in warned(Colours(order=(1, 2, 0))))


def test_an_edge_that_teaches_nothing() -> None:
    class Silent(Loss):
        def forward(self, student: Tensor, target: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
            return student.sum() * 0

    silent = Edge(Silent(), Tap("student", LOGITS), Tap("teacher", LOGITS))
    assert warned(silent=silent) == [
        "losses.silent: its gradient is exactly zero with the first batch: it teaches nothing"
    ]


def test_an_adapter_larger_than_the_student() -> None:
    adapter = torch.nn.Sequential(torch.nn.Conv2d(3, 4000, 1), torch.nn.Conv2d(4000, 3, 1))
    edge = Edge(SoftTargets(), Tap("student", LOGITS), Tap("teacher", LOGITS), adapter=adapter)
    assert any("its own layers have 28,003 parameters" in s for s in warned(wide=edge))


def test_a_teacher_of_other_classes_is_judged_in_the_groups_terms() -> None:
    table = ClassTable(("red", "green", "blue"), ((0, 0, 0),) * 3)
    found = groups({"blue": ("red",), "green": ("green",), "red": ("blue",)}, table, table, "x")
    torch.manual_seed(0)
    taught = Edge(SoftTargets(), Tap("student", LOGITS), Tap("teacher", LOGITS), translation=Translation(found))
    system, frozen = System({"student": UNet(4, 2, num_classes=3)}, {"taught": taught}, []), Frozen(
        {"teacher": Colours(order=(2, 1, 0))}, {}
    )  # fmt: skip
    assert warnings(system, frozen, batch(), pulls(system, frozen, batch()), {"teacher": found}) == []


def test_a_hinge_that_nothing_crosses_yet_is_right_to_be_silent() -> None:
    """Nothing is known at first, so no entropy is below the floor; that is no reason to stop, nor to be looked at."""
    floor = Edge(EntropyFloor(1e-3, num_classes=3), Tap("student", LOGITS), Tap(LABELS))
    assert warned(floor=floor) == []
    torch.manual_seed(0)
    system, frozen = System({"student": UNet(4, 2, num_classes=3)}, {"floor": floor}, []), Frozen({}, {})
    assert pulls(system, frozen, batch())["floor"].norm == 0
    assert prove(system, frozen, batch(), 0, {"floor"}) == ({"floor"}, {})


def test_an_edge_from_a_network_that_learns_too_may_pull_anywhere() -> None:
    """It knows nothing yet."""
    torch.manual_seed(0)
    student, other = UNet(4, 2, num_classes=3), Colours(order=(1, 2, 0))
    taught = Edge(SoftTargets(), Tap("student", LOGITS), Tap("other", LOGITS))
    labels = Edge(CrossEntropy(num_classes=3, class_pixels=[1, 1, 1]), Tap("student", LOGITS), Tap(LABELS))
    system, frozen = (
        System({"student": student, "other": other}, {"labels": labels, "taught": taught}, []),
        Frozen({}, {}),
    )
    found = pulls(system, frozen, batch())
    assert found["taught"].cosine is not None and found["taught"].cosine < -0.1
    assert not any("points away" in s for s in warnings(system, frozen, batch(), found, {}))
