"""The label tables that several files share: Cityscapes (also KITTI's and BDD100K's classes) and CamVid.

Tables: cityscapesScripts (Cordts et al. 2016, https://arxiv.org/abs/1604.01685) and CamVid (Brostow et al. 2009) with
the usual grouping of its 32 colours to 11 classes, as in SegNet (https://arxiv.org/abs/1511.00561).
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from segdistill.types import IGNORE, ClassTable, Colour


class Label(NamedTuple):
    """One row of a label table: the raw id in the files, and the train id it becomes (IGNORE: void)."""

    id: int
    name: str
    train_id: int
    colour: Colour


class Coding(NamedTuple):
    """What the values of label files mean: train id by raw id, and by colour where the files are colour pictures."""

    ids: Mapping[int, int]
    colours: Mapping[Colour, int] = {}
    unknown: Literal["refuse", "ignore"] = "refuse"
    """What a value outside the table is: a mistake, or void with a warning that counts the pixels."""


CITYSCAPES = (
    Label(0, "unlabeled", IGNORE, (0, 0, 0)),
    Label(1, "ego vehicle", IGNORE, (0, 0, 0)),
    Label(2, "rectification border", IGNORE, (0, 0, 0)),
    Label(3, "out of roi", IGNORE, (0, 0, 0)),
    Label(4, "static", IGNORE, (0, 0, 0)),
    Label(5, "dynamic", IGNORE, (111, 74, 0)),
    Label(6, "ground", IGNORE, (81, 0, 81)),
    Label(7, "road", 0, (128, 64, 128)),
    Label(8, "sidewalk", 1, (244, 35, 232)),
    Label(9, "parking", IGNORE, (250, 170, 160)),
    Label(10, "rail track", IGNORE, (230, 150, 140)),
    Label(11, "building", 2, (70, 70, 70)),
    Label(12, "wall", 3, (102, 102, 156)),
    Label(13, "fence", 4, (190, 153, 153)),
    Label(14, "guard rail", IGNORE, (180, 165, 180)),
    Label(15, "bridge", IGNORE, (150, 100, 100)),
    Label(16, "tunnel", IGNORE, (150, 120, 90)),
    Label(17, "pole", 5, (153, 153, 153)),
    Label(18, "polegroup", IGNORE, (153, 153, 153)),
    Label(19, "traffic light", 6, (250, 170, 30)),
    Label(20, "traffic sign", 7, (220, 220, 0)),
    Label(21, "vegetation", 8, (107, 142, 35)),
    Label(22, "terrain", 9, (152, 251, 152)),
    Label(23, "sky", 10, (70, 130, 180)),
    Label(24, "person", 11, (220, 20, 60)),
    Label(25, "rider", 12, (255, 0, 0)),
    Label(26, "car", 13, (0, 0, 142)),
    Label(27, "truck", 14, (0, 0, 70)),
    Label(28, "bus", 15, (0, 60, 100)),
    Label(29, "caravan", IGNORE, (0, 0, 90)),
    Label(30, "trailer", IGNORE, (0, 0, 110)),
    Label(31, "train", 16, (0, 80, 100)),
    Label(32, "motorcycle", 17, (0, 0, 230)),
    Label(33, "bicycle", 18, (119, 11, 32)),
    Label(-1, "license plate", IGNORE, (0, 0, 142)),  # only in polygons: no mask holds it
)

CAMVID = (
    Label(0, "Animal", 9, (64, 128, 64)),
    Label(1, "Archway", 1, (192, 0, 128)),
    Label(2, "Bicyclist", 10, (0, 128, 192)),
    Label(3, "Bridge", 1, (0, 128, 64)),
    Label(4, "Building", 1, (128, 0, 0)),
    Label(5, "Car", 8, (64, 0, 128)),
    Label(6, "CartLuggagePram", 9, (64, 0, 192)),
    Label(7, "Child", 9, (192, 128, 64)),
    Label(8, "Column_Pole", 2, (192, 192, 128)),
    Label(9, "Fence", 7, (64, 64, 128)),
    Label(10, "LaneMkgsDriv", 3, (128, 0, 192)),
    Label(11, "LaneMkgsNonDriv", 3, (192, 0, 64)),
    Label(12, "Misc_Text", 6, (128, 128, 64)),
    Label(13, "MotorcycleScooter", 10, (192, 0, 192)),
    Label(14, "OtherMoving", 8, (128, 64, 64)),
    Label(15, "ParkingBlock", 4, (64, 192, 128)),
    Label(16, "Pedestrian", 9, (64, 64, 0)),
    Label(17, "Road", 3, (128, 64, 128)),
    Label(18, "RoadShoulder", 4, (128, 128, 192)),
    Label(19, "Sidewalk", 4, (0, 0, 192)),
    Label(20, "SignSymbol", 6, (192, 128, 128)),
    Label(21, "Sky", 0, (128, 128, 128)),
    Label(22, "SUVPickupTruck", 8, (64, 128, 192)),
    Label(23, "TrafficCone", 2, (0, 0, 64)),
    Label(24, "TrafficLight", 6, (0, 64, 64)),
    Label(25, "Train", 8, (192, 64, 128)),
    Label(26, "Tree", 5, (128, 128, 0)),
    Label(27, "Truck_Bus", 8, (192, 128, 192)),
    Label(28, "Tunnel", 1, (64, 0, 64)),
    Label(29, "VegetationMisc", 5, (192, 192, 0)),
    Label(30, "Void", IGNORE, (0, 0, 0)),
    Label(31, "Wall", 1, (64, 192, 0)),
)

_EVALUATED = sorted((label for label in CITYSCAPES if label.train_id != IGNORE), key=lambda label: label.train_id)

CITYSCAPES_19 = ClassTable(
    names=tuple(label.name for label in _EVALUATED),
    colours=tuple(label.colour for label in _EVALUATED),
)

CAMVID_11 = ClassTable(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    colours=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)

TABLES = {"cityscapes": CITYSCAPES_19, "bdd100k": CITYSCAPES_19, "camvid": CAMVID_11}
"""Class tables that a recipe may name."""

CLASS_MAPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cityscapes_to_camvid": {
        "sky": ("sky",),
        "building": ("building",),
        "wall": ("building",),
        "pole": ("pole",),
        "road": ("road",),
        "sidewalk": ("pavement",),
        "vegetation": ("tree",),
        "traffic light": ("sign symbol",),
        "traffic sign": ("sign symbol",),
        "fence": ("fence",),
        "car": ("car",),
        "truck": ("car",),
        "bus": ("car",),
        "train": ("car",),
        "person": ("pedestrian",),
        "rider": ("bicyclist",),
        "bicycle": ("bicyclist",),
        "motorcycle": ("bicyclist",),
    },
    "camvid_to_cityscapes": {
        "sky": ("sky",),
        "building": ("building", "wall"),
        "pole": ("pole",),
        "road": ("road",),
        "pavement": ("sidewalk",),
        "tree": ("vegetation",),
        "sign symbol": ("traffic light", "traffic sign"),
        "fence": ("fence",),
        "car": ("car", "truck", "bus", "train"),
        "pedestrian": ("person",),
        "bicyclist": ("rider", "bicycle", "motorcycle"),
    },
}
"""What a teacher's classes are called in the student's table: their class -> ours. BDD100K's table is Cityscapes'.

CamVid's 11 groups follow its 32 colours (Wall and Bridge are building, Truck_Bus and Train are car); Cityscapes'
terrain has no place in them (CamVid paints grass as tree or as pavement).
"""

CITYSCAPES_LABEL_IDS = Coding({label.id: label.train_id for label in CITYSCAPES if label.id >= 0})
"""labelIds. 255 is refused: it never occurs in them, so a file that has it holds train ids."""

CITYSCAPES_TRAIN_IDS = Coding({**{k: k for k in range(19)}, IGNORE: IGNORE})
"""labelTrainIds, and the masks of BDD100K."""

CAMVID_IDS = Coding({**{k: k for k in range(11)}, 11: IGNORE, IGNORE: IGNORE})
"""SegNet's ids, void 11; other editions have void 255."""

CAMVID_COLOURS = Coding({}, {label.colour: label.train_id for label in CAMVID}, unknown="ignore")
"""The original's 32 colours; a few of its pixels have others, interpolated along edges."""

_LABEL_ID = np.zeros(256, np.uint8)
_LABEL_ID[: len(_EVALUATED)] = [label.id for label in _EVALUATED]


def to_label_ids(train_ids: np.ndarray) -> np.ndarray:
    """The Cityscapes label ids of uint8 train ids, as its server wants them; void becomes 0 (unlabeled)."""
    return _LABEL_ID[train_ids]
