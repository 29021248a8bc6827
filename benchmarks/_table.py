"""Rows of docs/results.md from finished runs: mean over seeds, 95 % interval (Student's t), and the paired gain.

.venv/bin/python benchmarks/_table.py [--split held_out --set data.root=…] runs/baseline-{0,1,2} -- runs/soft-{0,1,2}
Groups are parted by `--`; runs of two groups are paired in their order.
"""

import statistics
import sys

from segdistill.evaluation import evaluate
from segdistill.recipe import read
from segdistill.run import Run

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for a two-sided 95 % interval, by number of seeds."""


def main(words: list[str]) -> None:
    options = {"--split": "", "--set": ""}
    while words and words[0] in options:
        options[words[0]], words = words[1], words[2:]
    groups = [group.split() for group in " ".join(words).split(" -- ")]
    values = [[_measure(path, options["--split"], options["--set"]) for path in group] for group in groups]
    print("| runs | mIoU last % | mIoU best % | fwIoU last % | minutes |\n|---|---|---|---|---|")
    for group, rows in zip(groups, values, strict=True):
        cells = [_interval([row[i] for row in rows]) for i in range(3)]
        minutes = "/".join(f"{Run(path).info().get('seconds', 0) / 60:.1f}" for path in group)
        print(f"| {', '.join(group)} | {' | '.join(cells)} | {minutes} |")
    for group, rows in zip(groups[1:], values[1:], strict=True):
        if len(rows) == len(values[0]):
            gains = [
                _interval([b[i] - a[i] for a, b in zip(values[0], rows, strict=True)], sign=True) for i in range(3)
            ]
            print(f"| {group[0]} … minus {groups[0][0]} … | {' | '.join(gains)} | |")


def _measure(path: str, split: str, setting: str) -> tuple[float, float, float]:
    """Last and best mIoU and last fwIoU, in percent; from the run's own log, or measured again on another split."""
    name = read(Run(path).recipe_file).trained()[0]
    if not split:
        found = [findings.numbers for _, findings in Run(path).findings("measure")]
        best = max(numbers[f"{name}/mean_iou"] for numbers in found)
        return (
            100 * found[-1][f"{name}/mean_iou"],
            100 * best,
            100 * found[-1][f"{name}/frequency_weighted_iou"],
        )
    settings = [setting] if setting else []
    last, best = (evaluate(path, split, which=which, settings=settings).numbers for which in ("last", "best"))
    return (
        100 * last[f"{name}/mean_iou"],
        100 * best[f"{name}/mean_iou"],
        100 * last[f"{name}/frequency_weighted_iou"],
    )


def _interval(values: list[float], sign: bool = False) -> str:
    mean = statistics.mean(values)
    said = f"{mean:+.1f}" if sign else f"{mean:.1f}"
    if len(values) in T95:
        half = T95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
        said += f" ± {half:.1f} ({', '.join(f'{value:.1f}' for value in values)})"
    return said


if __name__ == "__main__":
    main(sys.argv[1:])
