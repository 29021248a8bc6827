"""The plots of dark-knowledge.md, from the folder that `segdistill analyse dark_knowledge` wrote.

.venv/bin/python docs/research/figures.py runs/teacher_entropy/dark_knowledge
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

IMAGES = Path(__file__).parents[1] / "images"
NAMES = {
    "ce": "cross entropy",
    "label_smoothing": "label smoothing 0.1",
    "confidence_penalty": "confidence penalty 0.1",
    "entropy_floor": "entropy floor 1.0",
    "focal": "focal, γ = 2",
    "ce@step-480": "stopped at step 480",
}
MATRICES = ("ce", "label_smoothing", "entropy_floor")
Row = Mapping[str, str]


def main(folder: Path) -> None:
    plt.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 110}
    entropy_maps(folder)
    similarity(folder)
    reliability(folder)
    gains(folder)


def rows(folder: Path, table: str) -> list[Row]:
    with (folder / "tables" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> list[str]:
    return [row["voice"] for row in rows(folder, "voices")]


def called(voice: str) -> str:
    name, _, temperature = voice.partition(" T=")
    return f"{NAMES.get(name, name)}, T fitted: {float(temperature):.2f}" if temperature else NAMES.get(name, name)


def entropy_maps(folder: Path) -> None:
    """One validation image, and how uncertain each teacher is at every pixel of it."""
    home = next((folder / "findings" / "dark_knowledge").iterdir())
    image = sorted(home.glob("entropy_*_image.png"))[0]
    stem = image.name.removesuffix("image.png")
    shown = [("image", image), *((called(voice), home / f"{stem}{voice}.png") for voice in names(folder))]
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.5), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, file) in zip(axes.flat, shown, strict=False):
        axis.imshow(np.asarray(Image.open(file)))
        axis.set_title(title, fontsize=9)
    save(figure, "dark-entropy")


def similarity(folder: Path) -> None:
    """Where the probability of the wrong classes goes, for every true class."""
    figure, axes = plt.subplots(1, len(MATRICES), figsize=(11, 4.2), sharey=True, layout="constrained")
    drawn = None
    for axis, voice in zip(axes, MATRICES, strict=True):
        found = rows(folder, f"similarity_{voice}_train")
        classes = [row["class"] for row in found]
        drawn = axis.imshow([[float(row[k]) for k in classes] for row in found], vmin=0, vmax=0.6, cmap="magma_r")
        axis.set_xticks(range(len(classes)), classes, rotation=90)
        axis.set_yticks(range(len(classes)), classes)
        axis.set_title(called(voice), fontsize=9)
    assert drawn is not None
    axes[0].set_ylabel("labelled class")
    figure.colorbar(drawn, ax=axes, label="share of the wrong classes' probability", shrink=0.8)
    save(figure, "dark-similarity")


def reliability(folder: Path) -> None:
    """How often a teacher is right against how sure it was; every bin with 0.1 % of the pixels or more."""
    figure, axis = plt.subplots(figsize=(5.2, 4.2), layout="constrained")
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    for voice in names(folder):
        kept = [row for row in rows(folder, f"reliability_{voice}") if float(row["share"]) >= 0.001]
        across, up = ([float(row[key]) for row in kept] for key in ("confidence", "accuracy"))
        axis.plot(across, up, marker="o", markersize=3, linewidth=1, label=called(voice))
    axis.set(xlabel="largest probability", ylabel="share that is right", xlim=(0.2, 1), ylim=(0.2, 1))
    axis.legend(frameon=False, fontsize=8)
    save(figure, "dark-reliability")


def gains(folder: Path) -> None:
    """What students gained against what their teacher says on training crops; bars are from seed to seed."""
    with (folder.parent / "runs.csv").open(newline="") as file:
        scores = {(row["arm"], row["seed"]): 100 * float(row["mean_iou"]) for row in csv.DictReader(file)}
    seeds = [seed for arm, seed in scores if arm == "labels"]
    measures = {(row["voice"], row["split"]): row for row in rows(folder, "measures") if row["region"] == "whole"}
    students = rows(folder, "students")
    temperatures = sorted({float(row["temperature"]) for row in students})
    shown = {
        "mean_iou": "mIoU of the teacher on val, %",
        "entropy": "entropy, nats",
        "dark": "dark knowledge D, nats",
        "nll": "NLL, nats",
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(11, 3.4), sharey=True, layout="constrained")
    for axis, (measure, label) in zip(axes, shown.items(), strict=True):
        unit, split = (100, "val") if measure == "mean_iou" else (1, "train")
        values = {voice: unit * float(measures[voice, split][measure]) for voice in names(folder)}
        step = 0.015 * (max(values.values()) - min(values.values()))
        for shift, temperature in enumerate(temperatures):
            of_it: Sequence[Row] = [row for row in students if float(row["temperature"]) == temperature]
            across = [values[row["voice"]] + (shift - 1) * step for row in of_it]
            gained = np.array([[scores[r["experiment"], s] - scores["labels", s] for s in seeds] for r in of_it])
            up = gained.mean(1)
            error = [up - gained.min(1), gained.max(1) - up]
            axis.errorbar(across, up, error, fmt="o", markersize=4, linewidth=0.6, label=f"T = {temperature:g}")
        axis.axhline(0, color="0.6", linewidth=0.8)
        axis.set_xlabel(label)
    axes[0].set_ylabel("gain of the student, points of mIoU")
    axes[0].legend(frameon=False, fontsize=8, loc="lower center", ncols=3, columnspacing=0.8, handletextpad=0)
    save(figure, "dark-gains")


def save(figure: plt.Figure, name: str) -> None:
    file = IMAGES / f"{name}.png"
    figure.savefig(file)
    with Image.open(file) as drawn:  # a palette is a third of the size
        drawn.convert("RGB").quantize(200).save(file, optimize=True)
    print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
