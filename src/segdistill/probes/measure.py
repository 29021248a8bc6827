"""How good each model is: metrics of a whole split, every image once on however many processes."""

from collections.abc import Mapping
from typing import final

import numpy as np
import torch.distributed as dist

from segdistill import parts
from segdistill.data import need_readable, readable
from segdistill.datasets import Dataset
from segdistill.decoded import Ahead
from segdistill.metrics import Metric
from segdistill.metrics.confusion import Confusion
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.prediction import predict
from segdistill.probes import Probe
from segdistill.types import ClassTable, Findings, Table

CONFUSION = "confusion"
"""The metric that is always counted."""
THREADS = 2
"""That decode the next images while the networks look at one."""


@final
class Measure(Probe):
    """`<model>/mean_iou`, `/frequency_weighted_iou`, `/pixel_accuracy` (fractions) and a table per class.

    Other `metrics` of the shelf have their numbers beside these: calibration `<model>/nll`, `/ece` and so on.
    `unreadable` counts the samples that had to be left out, where there are any; with more than `bad_share` of the
    split it is a mistake.
    """

    everywhere = True

    def __init__(
        self,
        metrics: tuple[str, ...] = (CONFUSION,),
        *,
        classes: ClassTable,
        input_size: tuple[int, int] | None,
        bad_share: float = 0.0,
    ) -> None:
        if CONFUSION not in metrics:
            raise Mistake(
                f"probes.measure.metrics: expected {CONFUSION} among them, by which the best weights are kept"
            )
        self.metrics = {name: parts.find("metrics", name, "probes.measure.metrics") for name in metrics}
        self.classes, self.size, self.bad_share = classes, input_size, bad_share
        self.totals: dict[str, dict[str, Metric]] = {}
        """Of the latest count, by model and metric."""
        self.by_image: dict[str, np.ndarray] = {}
        """Of the latest count, by model: uint32 [images, 3, K] as `Confusion.margins`, in the order of the keys."""
        self.bad: dict[str, str] = {}
        """Of the latest count, on all processes: key -> why."""
        self.named: set[str] = set()

    def __call__(self, models: Mapping[str, Model], dataset: Dataset) -> Findings:
        found = scores(self.count(models, dataset), self.classes)
        numbers = dict(found.numbers)
        for model, totals in self.totals.items():
            results = [total.result().items() for kind, total in totals.items() if kind != CONFUSION]
            numbers |= {f"{model}/{key}": v for each in results for key, v in each if isinstance(v, float)}
        return found._replace(numbers=numbers | ({"unreadable": float(len(self.bad))} if self.bad else {}))

    def count(self, models: Mapping[str, Model], dataset: Dataset) -> dict[str, Confusion]:
        """One confusion matrix per model, summed over all processes; rank r of n takes every n-th image.

        Raises:
            Mistake: on every process, when too many samples cannot be read.
        """
        parallel = dist.is_initialized()
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if parallel else (0, 1)
        counts = {name: self._nothing() for name in models}
        images: dict[str, dict[str, np.ndarray]] = {name: {} for name in models}
        bad: dict[str, str] = {}
        mine = range(rank, len(dataset), ranks)
        for sample in readable(Ahead(dataset, mine, THREADS), mine, bad, self.named):
            for name, model in models.items():
                logits = predict(model, sample.image, self.size)
                labels = sample.labels.to(logits.device)[None]
                before = _confusion(counts[name][CONFUSION]).margins()
                for total in counts[name].values():
                    total.update(logits[None], labels)
                after = _confusion(counts[name][CONFUSION]).margins()
                images[name][sample.key] = (after - before).numpy()
        everybody = [(counts, images, bad)] * ranks
        if parallel:
            dist.all_gather_object(everybody, (counts, images, bad))
        self.bad = {key: why for _, _, theirs in everybody for key, why in theirs.items()}
        need_readable("measure", self.bad, len(dataset), self.bad_share)
        for name in models:
            rows = {key: row for _, theirs, _ in everybody for key, row in theirs[name].items()}
            self.by_image[name] = np.array([rows[key] for key in sorted(rows)], np.uint32).reshape(len(rows), 3, -1)
        first, *others = [each for each, _, _ in everybody]
        self.totals = {
            name: {kind: sum((each[name][kind] for each in others), total) for kind, total in totals.items()}
            for name, totals in first.items()
        }
        return {name: _confusion(totals[CONFUSION]) for name, totals in self.totals.items()}

    def _nothing(self) -> dict[str, Metric]:
        facts = {"num_classes": len(self.classes.names)}
        return {kind: parts.build(part, parts.settings(part, {}, kind), **facts) for kind, part in self.metrics.items()}


def _confusion(metric: Metric) -> Confusion:
    assert isinstance(metric, Confusion)
    return metric


def scores(totals: Mapping[str, Confusion], classes: ClassTable) -> Findings:
    """Of every confusion matrix the numbers and the table per class; a class that is nowhere has no IoU."""
    numbers: dict[str, float] = {}
    tables: dict[str, Table] = {}
    for name, total in totals.items():
        result = total.result()
        for key in ("mean_iou", "frequency_weighted_iou", "pixel_accuracy"):
            value = result[key]
            assert isinstance(value, float)
            numbers[f"{name}/{key}"] = value
        columns = [result["iou"], result["accuracy"], result["frequency"]]
        rows = [
            [label, *(None if value != value else value for value in values)]
            for label, *values in zip(classes.names, *columns, strict=True)
        ]
        tables[name] = Table(["class", "iou", "accuracy", "frequency"], rows)
        numbers[f"{name}/absent_classes"] = float(sum(row[1] is None for row in rows))
    return Findings(numbers, {}, tables)
