"""The plots of online.md and the numbers in online/, from the folder that `segdistill compare` wrote.

.venv/bin/python docs/research/online_figures.py runs/online
"""

import csv
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from figures import save

from segdistill.run import Run

NUMBERS = Path(__file__).parent / "online"
NAMES = {
    "labels": "labels alone",
    "offline": "a finished teacher",
    "one_way": "a teacher that learns beside it",
    "mutual": "mutual",
    "turn_taking": "turns of teacher and student",
    "alternating_batches": "labels, teacher: by batch",
    "alternating_batches_shared": "the same, moments shared",
    "alternating_epochs": "labels, teacher: by epoch",
    "mean_teacher": "its own moving average",
    "self": "its own last stage",
    "quarter_labels": "a quarter of the labels",
    "quarter_frames": "… and a teacher on the other frames",
}
PULLED = ("offline", "alternating_batches", "alternating_batches_shared", "alternating_epochs", "one_way", "mutual")
Row = Mapping[str, str]
Curve = Sequence[tuple[int, float]]


def main(folder: Path) -> None:
    plt.rcParams |= {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 110}
    NUMBERS.mkdir(exist_ok=True)
    for name in ("comparison.csv", "runs.csv"):
        shutil.copyfile(folder / name, NUMBERS / name)
    with (folder / "runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    students(runs)
    cosines(folder, sorted({int(row["seed"]) for row in runs if not row["arm"].startswith("teachers/")}))
    phases(folder)


def students(runs: Sequence[Row]) -> None:
    """Every student's mIoU with its arm's mean, at equal updates and in equal time; a colour for each seed."""
    of_arm: dict[str, list[float]] = {}
    for row in runs:
        if row["network"] == "student":
            of_arm.setdefault(row["arm"], []).append(100 * float(row["mean_iou"]))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, sharex=True, layout="constrained")
    same = {"offline": "offline", "quarter_frames": "quarter_frames"}  # these set the time
    timed = {arm: f"clock_{arm}" for arm in NAMES if f"clock_{arm}" in of_arm} | same
    for axis, title, arms in (
        (axes[0], "400 updates of the student", {arm: arm for arm in NAMES}),
        (axes[1], "the time of 400 with a finished teacher", timed),
    ):
        for height, arm in enumerate(NAMES):
            if arm in arms:
                found = of_arm[arms[arm]]
                for place, value in enumerate(found):
                    axis.plot(value, height, "o", markersize=4, color=f"C{place}", alpha=0.7)
                axis.plot(statistics.fmean(found), height, "|", markersize=12, color="black")
        axis.axvline(statistics.fmean(of_arm[arms["labels"]]), color="0.7", linewidth=0.8)
        axis.set(title=title, xlabel="mIoU of the student on val, %")
    axes[0].set_yticks(range(len(NAMES)), list(NAMES.values()))
    axes[0].invert_yaxis()
    save(figure, "online-students")


def cosines(folder: Path, seeds: Sequence[int]) -> None:
    """How far what the teacher asks for agrees with what the labels ask for, on the run's first batch."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    lines: list[list[object]] = []
    for arm in PULLED:
        for edge in ("soft_targets", "from_student"):
            of_seed = [dict(logged(folder, arm, seed, f"cosine/{edge}")) for seed in seeds]
            steps = [step for step in of_seed[0] if all(step in each for each in of_seed)]
            means = [statistics.fmean(each[step] for each in of_seed) for step in steps]
            lines += [[arm, edge, step, *(each[step] for each in of_seed)] for step in steps]
            if steps:
                said = NAMES[arm] if edge == "soft_targets" else f"{NAMES[arm]}: the teacher's, from the student"
                style = "-" if edge == "soft_targets" else "--"
                axes[0].plot(steps, means, style, linewidth=1.2, label=said)
        pulls = [[dict(logged(folder, arm, s, f"pull/{e}")) for s in seeds] for e in ("soft_targets", "cross_entropy")]
        steps = [step for step in pulls[0][0] if all(step in each for both in pulls for each in both)]
        ratios = [statistics.fmean(a[step] / b[step] for a, b in zip(*pulls, strict=True)) for step in steps]
        axes[1].plot(steps, ratios, linewidth=1.2, label=NAMES[arm])
    axes[0].axhline(0, color="0.7", linewidth=0.8)
    axes[0].set(xlabel="step", ylabel="cosine of the two gradients")
    axes[1].set(xlabel="step", ylabel="teacher's gradient / labels' gradient", yscale="log")
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter("{x:g}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=7)
    with (NUMBERS / "cosines.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([["arm", "edge", "step", *(f"seed {seed}" for seed in seeds)], *lines])
    save(figure, "online-cosines")


def logged(folder: Path, arm: str, seed: int, key: str) -> Curve:
    return [(int(line["step"]), line[key]) for line in Run(folder / "arms" / f"{arm}-{seed}").log() if key in line]


def phases(folder: Path) -> None:
    """What a student is worth after each phase of an epoch, and its moving average."""
    run = Run(folder / "arms" / "alternating_epochs-0")
    found = [(step, each.numbers) for step, each in run.findings("measure")]
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    lines: list[list[object]] = []
    for network, label in (("student", "student"), ("average", "its moving average")):
        curve = [(step, 100 * numbers[f"{network}/mean_iou"]) for step, numbers in found]
        axis.plot(*zip(*curve, strict=True), linewidth=1, label=label)
        lines += [[network, step, value] for step, value in curve]
    for place, (kind, marker) in enumerate((("labels", "o"), ("teacher", "s"))):
        ends = [(s, 100 * n["student/mean_iou"]) for s, n in found if s < 380 and (s // 33) % 2 == 1 - place]
        axis.plot(*zip(*ends, strict=True), marker, markersize=4, color="C0", label=f"after an epoch of the {kind}")
    axis.set(xlabel="step", ylabel="mIoU on val, %")
    axis.legend(frameon=False, fontsize=8)
    with (NUMBERS / "phases.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["network", "step", "mIoU %"], *lines])
    save(figure, "online-phases")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
