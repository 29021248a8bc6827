"""Counting class maps against labels: two folders of PNG files, and the confusion matrix alone, beside its peers.

python benchmarks/evaluation.py       a minute or two on two cores; as much again for pip and scenes the first time

24 pairs of 1024×2048, drawn and kept in the folder for temporary files. cityscapesScripts runs its own evaluation on
the same files, on one thread as always: as pip installs it, and with a loop in C in place of the extension that its
package does not bring. Everything takes turns; medians.
"""

import contextlib
import ctypes
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peers import alternate, run_with, table
from PIL import Image

from segdistill.datasets.cityscapes import Cityscapes
from segdistill.evaluation import evaluate_files
from segdistill.make_data import make
from segdistill.metrics.confusion import Confusion, called
from segdistill.prediction_files import find
from segdistill.recipe import Recipe, parse
from segdistill.run import processor

COUNT, SIZE, CLASSES, ROUNDS = 24, (1024, 2048), 19, 7
FOLDER = Path(tempfile.gettempdir()) / "segdistill-benchmark-pairs"
LOOP = """
void count(const unsigned char *said, const unsigned char *truth, long n, unsigned long long *matrix, long width) {
    for (long i = 0; i < n; i++) matrix[truth[i] * width + said[i]]++;
}
"""


def main() -> None:
    run_with("cityscapesscripts", "torchmetrics")
    torch.set_num_threads(1)
    print(f"{processor()}, {cpu_count()} cores, torch {torch.__version__}, numpy {np.__version__}")
    dataset, predictions = scenes()
    files(dataset, predictions)
    updates(dataset, predictions)


def scenes() -> tuple[Cityscapes, Path]:
    """Labels, and predictions that are the labels moved by some pixels, as raw ids."""
    root, predictions = FOLDER / "data", FOLDER / "predictions"
    if not predictions.exists():
        shutil.rmtree(FOLDER, ignore_errors=True)
        make(root, "cityscapes", COUNT, SIZE)
        torn = FOLDER / "torn"
        torn.mkdir()
        for pair in Cityscapes(root, split="train").pairs:
            assert pair.labels is not None
            moved = np.roll(np.asarray(Image.open(pair.labels)), (3, 5), (0, 1))
            Image.fromarray(moved).save(torn / f"{pair.key}.png")
        torn.rename(predictions)
    return Cityscapes(root, split="train"), predictions


def files(dataset: Cityscapes, predictions: Path) -> None:
    """Whole folders, the time of each and its ratio to ours."""
    recipe: Recipe = parse(
        {
            "data": {"kind": "cityscapes", "root": str(FOLDER / "data")},
            "models": {"net": {"kind": "unet"}},
            "losses": {"cross_entropy": {"student": "net"}},
            "steps": 1,
        }
    )
    answers = find(predictions, dataset)
    pairs = [(pair.labels, answer) for pair, answer in zip(dataset.pairs, answers, strict=True) if pair.labels]
    ours = evaluate_files(predictions, recipe, "train", ids="raw").numbers["predictions/mean_iou"]

    def decode() -> None:
        with ThreadPoolExecutor(cpu_count()) as pool:
            list(pool.map(lambda pair: [np.asarray(Image.open(file)) for file in pair], pairs))

    works: dict[str, Callable[[], object]] = {
        "segdistill": lambda: evaluate_files(predictions, recipe, "train", ids="raw"),
        "decoding alone, on as many threads": decode,
    }
    for name, official in peers().items():
        theirs = official_scores(official, pairs)["averageScoreClasses"]
        assert abs(theirs - ours) < 1e-9, f"{name} says {theirs}, segdistill {ours}"
        works[name] = lambda official=official: official_scores(official, pairs)
    print(f"\n{COUNT} pairs of PNG files of {SIZE[0]}×{SIZE[1]}, mIoU {ours:.6f} in all, medians of {ROUNDS}\n")
    table(alternate(works, ROUNDS), COUNT)


def updates(dataset: Cityscapes, predictions: Path) -> None:
    """One image of two million pixels, everything in memory, one thread."""
    truth = torch.from_numpy(dataset.labels(0))
    moved = torch.from_numpy(np.roll(dataset.labels(0), (3, 5), (0, 1)).copy())
    moved[moved > 18] = 0
    wide, wide_moved = truth.long(), moved.long()
    ours = Confusion(num_classes=CLASSES)
    works: dict[str, Callable[[], object]] = {
        "segdistill": lambda: ours.add(moved[None], truth[None]),
        "segdistill, int64 class maps": lambda: ours.add(wide_moved[None], wide[None]),
    }
    image, label = (Image.open(file) for file in (find(predictions, dataset)[0], dataset.pairs[0].labels))
    image.load(), label.load()
    for name, official in peers().items():
        works[f"{name}, images in memory"] = lambda official=official: in_memory(official, image, label)
    try:
        from torchmetrics.classification import MulticlassConfusionMatrix
    except ImportError:
        print("\ntorchmetrics is not here")
    else:
        for check in (False, True):
            metric = MulticlassConfusionMatrix(CLASSES, ignore_index=255, validate_args=check)
            metric.update(wide_moved, wide)
            ours.add(moved[None], truth[None])
            assert torch.equal(metric.confmat, ours.counts), "torchmetrics counts something else"
            ours = Confusion(num_classes=CLASSES)
            name = "torchmetrics" + (", arguments checked (its default)" if check else "")
            works[name] = lambda metric=metric: metric.update(wide_moved, wide)
    print(f"\nOne update with {SIZE[0]}×{SIZE[1]} pixels, {CLASSES} classes, one thread, medians of {3 * ROUNDS}\n")
    table(alternate(works, 3 * ROUNDS), 1)
    logits = torch.randn(1, CLASSES, *SIZE)
    last = logits.contiguous(memory_format=torch.channels_last)
    print("\nThe class of every pixel from its logits\n")
    table(
        alternate(
            {
                "segdistill": lambda: called(logits),
                "torch: max(1)": lambda: logits.max(1),
                "torch: argmax(1)": lambda: logits.argmax(1),
                "segdistill, channels last": lambda: called(last),
                "torch: argmax(1), channels last": lambda: last.argmax(1),
            },
            3,
        ),
        1,
    )


def peers() -> dict[str, Any]:
    """The official evaluation, as it is and with a compiled loop; what is not here is left out."""
    try:
        from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
    except ImportError:
        print("\ncityscapesscripts is not here")
        return {}
    official.args.evalInstLevelScore = False  # its code does not run with numpy 2.4
    official.args.evalPixelAccuracy = official.args.JSONOutput = False
    official.args.quiet = True
    name = "cityscapesScripts, as installed" + (" (compiled)" if official.CSUPPORT else " (numpy)")
    compiled = extension()
    return {name: (official, None)} | ({"cityscapesScripts, a compiled loop": (official, compiled)} if compiled else {})


class Extension:
    """What the official evaluation asks of its extension."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def cEvaluatePair(self, said: np.ndarray, truth: np.ndarray, matrix: np.ndarray, _: object) -> np.ndarray:
        where = [each.ctypes.data_as(ctypes.c_void_p) for each in (said, truth, matrix)]
        self.library.count(where[0], where[1], ctypes.c_long(said.size), where[2], ctypes.c_long(len(matrix)))
        return matrix


def extension() -> Extension | None:
    if shutil.which("cc") is None:
        return None
    source, library = FOLDER / "loop.c", FOLDER / "loop.so"
    source.write_text(LOOP)
    subprocess.run(["cc", "-O3", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return Extension(ctypes.CDLL(str(library)))


@contextlib.contextmanager
def _chosen(peer: Any) -> Any:
    """The official module with its own way of counting, or ours in C; silent."""
    official, compiled = peer
    before = official.CSUPPORT
    if compiled is not None:
        official.CSUPPORT, official.addToConfusionMatrix = True, compiled
    with contextlib.redirect_stdout(io.StringIO()):
        yield official
    official.CSUPPORT = before


def official_scores(peer: Any, pairs: list[tuple[Path, Path]]) -> dict[str, Any]:
    with _chosen(peer) as official:
        return official.evaluateImgLists([str(a) for _, a in pairs], [str(t) for t, _ in pairs], official.args)


def in_memory(peer: Any, image: Image.Image, label: Image.Image) -> None:
    """One pair without decoding: files are names of images that are there already."""

    class Opened:
        open = {"image": image, "label": label}.get

    with _chosen(peer) as official:
        pillow, official.Image = official.Image, Opened
        official.evaluatePair("image", "label", official.generateMatrix(official.args), {}, {}, official.args)
        official.Image = pillow


if __name__ == "__main__":
    main()
