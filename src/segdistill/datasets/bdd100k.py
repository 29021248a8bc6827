"""BDD100K semantic segmentation, Yu et al. 2020, https://arxiv.org/abs/1805.04687: Cityscapes' 19 classes, 1280x720."""

from pathlib import Path
from typing import final

from segdistill.datasets import FileDataset, folders_in, images_in, need_folder, need_split, paired
from segdistill.labels import CITYSCAPES_19, CITYSCAPES_TRAIN_IDS
from segdistill.mistakes import Mistake


@final
class Bdd100k(FileDataset):
    """`images/10k/<split>/<id>.jpg` with `labels/sem_seg/masks/<split>/<id>.png`, or the 2018 pack.

    The 2018 pack is `seg/images/<split>/<id>.jpg` with `seg/labels/<split>/<id>_train_id.png`. `root` is the folder
    that holds these, or its parent when it is called `bdd100k`. A split without a label folder (test) is all void.
    """

    def __init__(self, root: Path, *, split: str) -> None:
        new = "images/10k/<split>/<id>.jpg and labels/sem_seg/masks/<split>/<id>.png"
        old = "seg/images/<split>/<id>.jpg and seg/labels/<split>/<id>_train_id.png"
        need_folder(root, f"{new}, or {old}")
        layouts = [
            (base / image_folder, base / label_folder, ending, expected)
            for base in (root, root / "bdd100k")
            for image_folder, label_folder, ending, expected in (
                ("images/10k", "labels/sem_seg/masks", "", new),
                ("seg/images", "seg/labels", "_train_id", old),
            )
            if (base / image_folder).is_dir()
        ]
        if not layouts:
            raise Mistake(f"{root}: no BDD100K layout here; expected {new}, or {old}")
        image_folder, label_folder, ending, expected = layouts[0]
        need_split(image_folder, split, folders_in(image_folder))
        if split != "test":
            need_folder(label_folder / split, expected)
        labels = images_in(label_folder / split, ending) or (None if split == "test" else {})
        pairs = paired(images_in(image_folder / split), labels, image_folder / split, split, expected)
        super().__init__(pairs, CITYSCAPES_19, CITYSCAPES_TRAIN_IDS)
