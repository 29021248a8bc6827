"""Cityscapes, Cordts et al. 2016, https://arxiv.org/abs/1604.01685: 19 classes, 2048x1024."""

from pathlib import Path
from typing import Literal, final

from segdistill.datasets import FileDataset, folders_in, images_in, need_folder, need_split, paired
from segdistill.labels import CITYSCAPES_19, CITYSCAPES_LABEL_IDS, CITYSCAPES_TRAIN_IDS


@final
class Cityscapes(FileDataset):
    """`leftImg8bit/<split>/<city>/*_leftImg8bit.png` with `gtFine/<split>/<city>/*_gtFine_labelIds.png`.

    Without any labelIds in a split its labelTrainIds are read. Where both are, labelIds win: they are as shipped, while
    labelTrainIds were made by the user, perhaps with another table. Images of `test` without a label file are all void
    (the files that the test split ships hold no class either).
    """

    def __init__(self, root: Path, label_type: Literal["gtFine", "gtCoarse"] = "gtFine", *, split: str) -> None:
        expected = (
            f"leftImg8bit/<split>/<city>/*_leftImg8bit.png and {label_type}/<split>/<city>/*_{label_type}_labelIds.png"
        )
        need_folder(root, expected)
        folder = need_folder(root / "leftImg8bit", f"{expected} in {root}")
        need_split(folder, split, folders_in(folder))
        images = images_in(folder / split, "_leftImg8bit")
        label_folder = root / label_type / split
        if split != "test":
            need_folder(label_folder, f"{expected} in {root}")
        labels = images_in(label_folder, f"_{label_type}_labelIds")
        coding = CITYSCAPES_LABEL_IDS
        if not labels:
            labels = images_in(label_folder, f"_{label_type}_labelTrainIds")
            coding = CITYSCAPES_TRAIN_IDS
        unlabelled = split == "test" and not labels
        pairs = paired(images, None if unlabelled else labels, folder / split, split, expected)
        super().__init__([pair._replace(key=pair.key.rsplit("/")[-1]) for pair in pairs], CITYSCAPES_19, coding)
