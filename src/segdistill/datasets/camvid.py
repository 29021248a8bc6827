"""CamVid, Brostow et al. 2009, https://doi.org/10.1016/j.patrec.2008.04.005, in the 11 classes of SegNet
(https://arxiv.org/abs/1511.00561)."""

from pathlib import Path
from typing import final

from segdistill.datasets import FileDataset, Pair, images_in, need_folder, need_split, paired, without_held_out
from segdistill.labels import CAMVID_11, CAMVID_COLOURS, CAMVID_IDS
from segdistill.mistakes import Mistake

_COMPACT = "<split>/images/<stem>.jpg and <split>/labels/<stem>.png"
_SEGNET = "<split>/<stem>.png and <split>annot/<stem>.png"
_ORIGINAL = "<stem>.png and <stem>_L.png in any folders"
_SPLITS = ("train", "val", "test")


@final
class Camvid(FileDataset):
    """CamVid in one of three layouts, told apart by its folders.

    - compact: `{train,val}/images/<stem>.jpg` with `{train,val}/labels/<stem>.png`, ids with void 11 or 255
    - SegNet: `{train,val,test}/<stem>.png` with `{train,val,test}annot/<stem>.png`, the same ids
    - original: `<stem>.png` with `<stem>_L.png` in 32 colours, anywhere below `root`; unknown colours become void

    `hold_out` names whole sequences (0001TP, 0006R0, 0016E5, Seq05VD; quote them in YAML) that leave `train` and form
    the split `held_out`: the official `val` is 101 frames of one clip that `train` also shows, and flatters. The
    original has no split of its own: there `val` is `held_out`, and without `hold_out` all of it is `train`.
    """

    def __init__(self, root: Path, hold_out: tuple[str, ...] = (), *, split: str) -> None:
        need_folder(root, f"{_COMPACT}, or {_SEGNET}, or {_ORIGINAL}")
        folders = {name: found for name in _SPLITS if (found := _folders_of(root, name))}
        if folders:
            need_split(root, split, (*folders, "held_out") if hold_out and "train" in folders else list(folders))
            pairs = _pairs_of(folders["train" if split == "held_out" else split], split)
        else:
            pairs = _original_pairs(root, hold_out, split)
        if split in ("train", "held_out") or not folders:
            pairs = without_held_out(pairs, hold_out, root, split)
        super().__init__(pairs, CAMVID_11, CAMVID_IDS if folders else CAMVID_COLOURS)


def _folders_of(root: Path, split: str) -> tuple[Path, Path] | None:
    """The image folder and the label folder of a split, if `root` has one of the layouts with splits."""
    compact, segnet = root / split / "images", root / split
    if compact.is_dir():
        return compact, root / split / "labels"
    if segnet.is_dir() and (root / f"{split}annot").is_dir():
        return segnet, root / f"{split}annot"
    return None


def _pairs_of(folders: tuple[Path, Path], split: str) -> list[Pair]:
    image_folder, label_folder = folders
    expected = _COMPACT if image_folder.name == "images" else _SEGNET
    labels = images_in(need_folder(label_folder, expected))
    return paired(images_in(image_folder), labels, image_folder, split, expected)


def _original_pairs(root: Path, hold_out: tuple[str, ...], split: str) -> list[Pair]:
    """Every pair of the original, which has no splits but those that `hold_out` makes."""
    labels = {Path(stem).name: file for stem, file in images_in(root, "_L").items()}
    images = {Path(stem).name: file for stem, file in images_in(root).items() if not stem.endswith("_L")}
    if not labels:
        raise Mistake(f"{root}: no CamVid layout here; expected {_COMPACT}, or {_SEGNET}, or {_ORIGINAL}")
    if split == "val" and not hold_out:
        raise Mistake(
            f"{root}: there is no split 'val', the original CamVid has none of its own;"
            " expected the sequences of val in hold_out, such as ['Seq05VD']"
        )
    need_split(root, split, ("train", "val", "held_out") if hold_out else ("train",))
    return paired(dict(sorted(images.items())), labels, root, split, _ORIGINAL)
