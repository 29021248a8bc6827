"""Any folder of images with a parallel folder of masks: an own data set without a line of Python."""

from pathlib import Path
from typing import Literal, final

from segdistill.datasets import (
    FileDataset,
    folders_in,
    images_in,
    need_folder,
    need_split,
    paired,
    without_held_out,
)
from segdistill.datasets._own_classes import OwnClass, coding_of, table_of
from segdistill.mistakes import Mistake


@final
class Folder(FileDataset):
    """Images and masks paired by their path below `images` and `labels`.

        data:
          kind: folder
          images: data/{split}/images          # {split} stands for train, val, …
          labels: data/{split}/masks           # null: no labels, only teachers teach
          classes:
            - {name: road, colour: [128, 64, 128]}
            - {name: car, colour: [0, 0, 142]}
          remap: {7: road, 26: car, 27: car, 0: ignore}

    Masks with one channel hold ids: without `remap` an id is the class's position, 255 is void. `remap` gives ids a
    class, so that they can be merged or ignored; an id that it does not name (but 255) is then unknown. RGB masks hold
    colours: the classes' own, and those in `remap` (`'#00008e': car`). Unknown values stop the run, or with `unknown:
    ignore` become void with a warning that counts them.

    `image_ending` and `label_ending` are what stems have besides: `_leftImg8bit`, `_gtFine_labelIds`. `hold_out` names
    sequences (the first folder, or what precedes an underscore) that leave `train` and form the split `held_out`, which
    is also `val` when the paths have no `{split}`.
    """

    def __init__(
        self,
        images: Path,
        classes: list[OwnClass],
        labels: Path | None = None,
        remap: dict[int | str, str] | None = None,
        unknown: Literal["refuse", "ignore"] = "refuse",
        image_ending: str = "",
        label_ending: str = "",
        hold_out: tuple[str, ...] = (),
        *,
        split: str,
    ) -> None:
        table = table_of(classes)
        coding = coding_of(table, remap or {}, unknown)
        has_splits = "{split}" in str(images)
        if labels is not None and has_splits != ("{split}" in str(labels)):
            raise Mistake(
                f"labels: only one of {images} and {labels} has {{split}}; expected both or neither to have it"
            )
        if has_splits:
            need_split(images, split, (*_splits(images), "held_out") if hold_out else _splits(images))
        elif split == "val" and not hold_out:
            raise Mistake(
                f"images: {images} has no split 'val'; expected {{split}} where the path names it,"
                " or the sequences of val in hold_out"
            )
        else:
            need_split(images, split, ("train", "val", "held_out") if hold_out else ("train",))
        source = "train" if split == "held_out" else split
        folder = need_folder(_fill(images, source), "a folder of images")
        expected = f"<stem>{image_ending}.png or .jpg in {folder}"
        label_files = None
        if labels is not None:
            label_folder = need_folder(_fill(labels, source), "a folder of masks")
            label_files = images_in(label_folder, label_ending)
            expected += f" and <stem>{label_ending}.png in {label_folder}"
        masks = set(label_files.values() if label_files else ())  # they may lie among the images
        image_files = {stem: file for stem, file in images_in(folder, image_ending).items() if file not in masks}
        pairs = paired(image_files, label_files, folder, split, expected)
        if split in ("train", "held_out") or not has_splits:
            pairs = without_held_out(pairs, hold_out, folder, split)
        super().__init__(pairs, table, coding)


def _splits(images: Path) -> list[str]:
    """What `{split}` can stand for: the folders at its place."""
    parts = images.parts
    place = next(i for i, part in enumerate(parts) if "{split}" in part)
    before, after = parts[place].split("{split}", 1)
    parent = need_folder(Path(*parts[:place]), f"the folder that holds '{parts[place]}'")
    return [
        name.removeprefix(before).removesuffix(after)
        for name in folders_in(parent)
        if name.startswith(before) and name.endswith(after)
    ]


def _fill(path: Path, split: str) -> Path:
    return Path(str(path).replace("{split}", split))
