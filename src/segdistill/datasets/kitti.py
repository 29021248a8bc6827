"""KITTI semantics, Abu Alhaija et al. 2018, https://arxiv.org/abs/1708.01566: 200 images with Cityscapes label ids."""

from pathlib import Path
from typing import final

from segdistill.datasets import FileDataset, images_in, need_folder, need_split, paired
from segdistill.labels import CITYSCAPES_19, CITYSCAPES_LABEL_IDS
from segdistill.mistakes import Mistake


@final
class Kitti(FileDataset):
    """`training/image_2/NNNNNN_10.png` with `training/semantic/NNNNNN_10.png`; `testing/image_2` is `test`, all void.

    KITTI has no validation split; here every `val_every`-th image by its number is `val` (with 5: 000004, 000009, …),
    whatever other files are present. Sizes vary from image to image, so batches need crops or padding.
    """

    def __init__(self, root: Path, val_every: int = 5, *, split: str) -> None:
        expected = "training/image_2/NNNNNN_10.png and training/semantic/NNNNNN_10.png"
        if val_every < 2:
            raise Mistake(f"val_every: {val_every} leaves nothing to train on; accepted are whole numbers from 2")
        need_folder(root, expected)
        need_split(root, split, ("train", "val", "test"))
        folder = need_folder(root / ("testing" if split == "test" else "training") / "image_2", f"{expected} in {root}")
        images = images_in(folder, "_10")
        labels = None
        if split != "test":
            labels = images_in(need_folder(root / "training" / "semantic", f"{expected} in {root}"), "_10")
        for number, file in images.items():
            if not number.isdecimal():
                raise Mistake(f"{file}: the name starts with no number; expected {expected}")
        pairs = [
            pair._replace(key=pair.image.stem)
            for pair in paired(images, labels, folder, split, expected)
            if split == "test" or (int(pair.key) % val_every == val_every - 1) == (split == "val")
        ]
        if not pairs:
            raise Mistake(
                f"{folder}: split '{split}' is empty, none of its {len(images)} images falls into it;"
                f" expected numbers of which every {val_every}th is for val"
            )
        super().__init__(pairs, CITYSCAPES_19, CITYSCAPES_LABEL_IDS)
