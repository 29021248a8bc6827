"""How good each model is: the confusion matrix of a whole split, every image once on however many processes."""

from collections.abc import Mapping
from typing import final

import torch.distributed as dist

from segdistill.data import need_readable, readable
from segdistill.datasets import Dataset
from segdistill.decoded import Ahead
from segdistill.metrics.confusion import Confusion
from segdistill.models import Model
from segdistill.prediction import predict
from segdistill.probes import Probe
from segdistill.types import ClassTable, Findings, Table

THREADS = 2
"""That decode the next images while the networks look at one."""


@final
class Measure(Probe):
    """`<model>/mean_iou`, `/frequency_weighted_iou`, `/pixel_accuracy` (fractions) and a table per class.

    `unreadable` counts the samples that had to be left out, where there are any; with more than `bad_share` of the
    split it is a mistake.
    """

    everywhere = True

    def __init__(self, *, classes: ClassTable, input_size: tuple[int, int] | None, bad_share: float = 0.0) -> None:
        self.classes, self.size, self.bad_share = classes, input_size, bad_share
        self.bad: dict[str, str] = {}
        """Of the latest count, on all processes: key -> why."""
        self.named: set[str] = set()

    def __call__(self, models: Mapping[str, Model], dataset: Dataset) -> Findings:
        found = scores(self.count(models, dataset), self.classes)
        return found._replace(numbers={**found.numbers, "unreadable": float(len(self.bad))}) if self.bad else found

    def count(self, models: Mapping[str, Model], dataset: Dataset) -> dict[str, Confusion]:
        """One confusion matrix per model, summed over all processes; rank r of n takes every n-th image.

        Raises:
            Mistake: on every process, when too many samples cannot be read.
        """
        parallel = dist.is_initialized()
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if parallel else (0, 1)
        counts = {name: Confusion(num_classes=len(self.classes.names)) for name in models}
        bad: dict[str, str] = {}
        mine = range(rank, len(dataset), ranks)
        for sample in readable(Ahead(dataset, mine, THREADS), mine, bad, self.named):
            for name, model in models.items():
                logits = predict(model, sample.image, self.size)
                counts[name].update(logits[None], sample.labels.to(logits.device)[None])
        everybody = [(counts, bad)] * ranks
        if parallel:
            dist.all_gather_object(everybody, (counts, bad))
        self.bad = {key: why for _, theirs in everybody for key, why in theirs.items()}
        need_readable("measure", self.bad, len(dataset), self.bad_share)
        first, *others = [each for each, _ in everybody]
        return {name: sum((each[name] for each in others), first[name]) for name in models}


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
