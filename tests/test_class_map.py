"""Class maps: groups from names, probabilities that add up, labels in the groups' terms."""

import pytest
import torch

from segdistill.class_map import Translation, groups
from segdistill.labels import CAMVID_11, CITYSCAPES_19, CLASS_MAPS
from segdistill.losses.soft_targets import SoftTargets
from segdistill.mistakes import Mistake
from segdistill.types import IGNORE, ClassTable


def table(*names: str) -> ClassTable:
    return ClassTable(names, ((0, 0, 0),) * len(names))


def test_a_group_is_what_names_connect() -> None:
    """Also over a common name: wall and building both reach «built», so both are one group."""
    theirs, ours = table("road", "wall", "building", "sky", "boat"), table("way", "built", "house", "grass")
    found = groups({"building": ("built", "house"), "road": ("way",), "wall": ("built",)}, theirs, ours, "x")
    assert found.names == ("way", "built + house")
    assert found.theirs == ((0,), (1, 2))
    assert found.ours == ((0,), (1, 2))
    assert found.left_out == ("their sky", "their boat", "our grass")


def test_probabilities_add_up_among_the_classes_in_groups() -> None:
    theirs, ours = table("a", "b", "c", "d"), table("x", "y", "z")
    translation = Translation(groups({"a": ("y",), "c": ("y",), "b": ("x",)}, theirs, ours, "m"))
    student, target = torch.randn(2, 3, 4, 5).double(), torch.randn(2, 4, 4, 5).double()
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[0, 0] = IGNORE
    mine, other, named = translation(student, target, labels)
    p = target.softmax(1)
    expected = torch.stack([p[:, 1], p[:, 0] + p[:, 2]], 1) / (1 - p[:, 3:])
    torch.testing.assert_close(other.softmax(1), expected)
    q = student.softmax(1)
    torch.testing.assert_close(mine.softmax(1), q[:, :2] / (1 - q[:, 2:]))
    assert torch.equal(named, torch.where(labels == 2, IGNORE, labels))


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [("cityscapes_to_camvid", CITYSCAPES_19, CAMVID_11), ("camvid_to_cityscapes", CAMVID_11, CITYSCAPES_19)],
)
def test_the_maps_that_come_with_us(name: str, theirs: ClassTable, ours: ClassTable) -> None:
    found = groups(CLASS_MAPS[name], theirs, ours, name)
    assert len(found.names) == 11
    side = "their" if theirs is CITYSCAPES_19 else "our"
    assert found.left_out == (f"{side} terrain",)
    fine = found.theirs if theirs is CITYSCAPES_19 else found.ours
    built = next(group for group in fine if CITYSCAPES_19.names.index("wall") in group)
    assert {CITYSCAPES_19.names[i] for i in built} == {"building", "wall"}


def test_the_same_distribution_in_other_classes_is_at_no_distance() -> None:
    """A teacher of 19 classes whose truck and car the student of 11 calls car."""
    found = groups(CLASS_MAPS["cityscapes_to_camvid"], CITYSCAPES_19, CAMVID_11, "x")
    target = torch.randn(1, 19, 4, 4)
    student = torch.zeros(1, 11, 4, 4)
    for members, (own,) in zip(found.theirs, found.ours, strict=True):
        student[:, own] = target[:, list(members)].logsumexp(1)
    labels = torch.zeros(1, 4, 4, dtype=torch.int64)
    loss = SoftTargets()(*Translation(found)(student, target, labels), torch.ones(1, 4, 4, dtype=torch.bool))
    assert abs(loss) < 1e-6


def test_a_name_that_is_in_no_table_is_a_mistake() -> None:
    with pytest.raises(Mistake, match=r"m\.wal: the weights have no class 'wal'.*did you mean 'wall'"):
        groups({"wal": ("sky",)}, CITYSCAPES_19, CAMVID_11, "m")
    with pytest.raises(Mistake, match=r"m\.wall: the data have no class 'bilding'.*did you mean 'building'"):
        groups({"wall": ("bilding",)}, CITYSCAPES_19, CAMVID_11, "m")


def test_one_group_compares_nothing() -> None:
    with pytest.raises(Mistake, match="m: expected at least two groups of classes, got 1"):
        groups({"wall": ("building",), "building": ("building",)}, CITYSCAPES_19, CAMVID_11, "m")
