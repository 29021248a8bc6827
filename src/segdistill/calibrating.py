"""Temperature scaling, Guo et al. 2017, https://arxiv.org/abs/1706.04599: what a network's logits are to be divided by.

The temperature with the least NLL per labelled pixel of a whole split. NLL is convex in 1 / temperature, so this is
Newton's method on sums over the split, which the network looks at once for every step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from segdistill.assemble import built
from segdistill.checkpoint import Temperature, save_temperature
from segdistill.data import need_readable, readable, watched
from segdistill.decoded import Ahead
from segdistill.evaluation import Subject, opened
from segdistill.metrics.calibration import Calibration, labelled
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.prediction import predict
from segdistill.types import Findings, Table

SHARPEST = 100.0
"""1 / temperature, at most; as a temperature, too. Beyond it a network is right everywhere, or nowhere."""
FACTOR = 4.0
"""By which one step changes it at most: where a network is too sure, NLL is nearly straight and Newton's step long."""
ENOUGH = 1e-3
"""Newton's error is squared by a step: when a step is so small a part, the next one would be a millionth."""


class Calibrated(NamedTuple):
    findings: Findings
    file: Path


def calibrate(
    run: Path | str,
    split: str | None = None,
    *,
    model: str | None = None,
    which: str = "best",
    settings: Sequence[str] = (),
) -> Calibrated:
    """Find the temperature of a run's network and write it beside its weights, as <model>.temperature.json.

    A recipe uses it with `models.X.temperature: calibrated`. Of a checkpoint it lies in the checkpoint's folder and
    goes with it. The arguments are those of `evaluate`.

    Returns:
        the numbers `temperature`, `nll_before`, `nll` (nats per labelled pixel), `ece_before`, `ece`, `pixels` and
        `looks` at the split; and the file.

    Raises:
        Mistake: what `evaluate` refuses; no labelled pixel; a network that no temperature makes calibrated.
    """
    subject = opened(run, split, model, which, settings)
    digest = subject.weights.digest()  # before the weights are read: a run that goes on may replace them
    network = built(subject.weights)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    look = _Look(network, subject)
    before = look.measured(1.0)
    temperature = 1 / sharpest(look.slope, str(subject.weights.file))
    after = look.measured(temperature)
    found = Temperature(
        temperature=temperature,
        weights=digest,
        split=subject.split,
        data=subject.dataset.fingerprint(),
        pixels=int(before.counts[:, 0].sum()),
        nll_before=_number(before, "nll"),
        nll=_number(after, "nll"),
        ece_before=_number(before, "ece"),
        ece=_number(after, "ece"),
    )
    save_temperature(subject.weights, found)
    names = ("temperature", "nll_before", "nll", "ece_before", "ece", "pixels")
    numbers = {name: float(found._asdict()[name]) for name in names} | {"looks": float(look.looks)}
    rows = [["as it is", 1.0, found.nll_before, found.ece_before], ["calibrated", temperature, found.nll, found.ece]]
    table = Table([subject.weights.model, "temperature", "nll", "ece"], rows)
    return Calibrated(Findings(numbers, {}, {"calibration": table}), subject.weights.temperature_file)


class Slope(NamedTuple):
    """Of the NLL of a split as a function of 1 / temperature: means over its labelled pixels."""

    first: float
    second: float


def sharpest(slope: Callable[[float], Slope], where: str = "the network") -> float:
    """1 / temperature where the NLL is least.

    Args:
        slope: its derivatives at 1 / temperature.

    Raises:
        Mistake: it is least at no temperature within the limits.
    """
    now, low, high = 1.0, 1 / SHARPEST, SHARPEST
    before = math.inf
    while True:  # each look that Newton's method does not help halves what is left
        at = slope(now)
        if not math.isfinite(at.first) or not math.isfinite(at.second):
            raise Mistake(f"{where}: its logits are not finite, and no temperature makes them so")
        low, high = (low, now) if at.first > 0 else (now, high)
        step = at.first / at.second if at.second > 0 else math.copysign(math.inf, at.first)
        new = min(max(now - step, now / FACTOR), now * FACTOR)
        if not low <= new <= high or abs(new - now) > before / 2:
            if low > 1 / SHARPEST and high < SHARPEST:
                new = math.sqrt(low * high)
            else:
                new = now / FACTOR if at.first > 0 else now * FACTOR
        if not 1 / SHARPEST < new < SHARPEST:
            extreme = f"above {SHARPEST:g}" if new < 1 else f"below {1 / SHARPEST:g}"
            why = "it says nothing of these labels" if new < 1 else "it is right at every labelled pixel"
            raise Mistake(f"{where}: its temperature would be {extreme}: {why}")
        if abs(new - now) <= ENOUGH * now:
            return new
        before, now = abs(new - now), new


class _Look:
    """A network that looks at a split, image after image, as often as it is asked to."""

    def __init__(self, network: Model, subject: Subject) -> None:
        self.network, self.subject = network, subject
        self.looks = 0
        self.named: set[str] = set()

    def slope(self, sharpness: float) -> Slope:
        total = torch.zeros(3, dtype=torch.float64)
        for logits, labels in self._images():
            for some, truth in labelled(logits, labels):
                total += _sums(some, truth, sharpness).cpu()
        return Slope(*(total[:2] / total[2]).tolist())

    def measured(self, temperature: float) -> Calibration:
        """Raises Mistake where there is no labelled pixel."""
        metric = Calibration(num_classes=len(self.subject.dataset.classes.names))
        for logits, labels in self._images():
            metric.update(logits / temperature, labels)
        if not metric.counts.any():
            raise Mistake(f"{self.subject.split}: no pixel has a label; a temperature is found by the labels")
        return metric

    def _images(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(logits [1, k, H, W], labels [1, H, W]) of every image that can be read."""
        dataset, spec = self.subject.dataset, self.subject.data
        self.looks += 1
        bad: dict[str, str] = {}
        indices = range(len(dataset))
        samples = readable(Ahead(dataset, indices), indices, bad, self.named)
        for sample in watched(samples, f"look {self.looks}", len(dataset)):
            logits = predict(self.network, sample.image, spec.size)[None]
            yield logits, sample.labels.to(logits.device)[None]
        need_readable("calibrate", bad, len(dataset), spec.bad_share)


def _sums(logits: Float64[Tensor, "k n"], labels: Int64[Tensor, " n"], sharpness: float) -> Float64[Tensor, "3"]:
    """Of NLL's first and second derivative, E_p z − z_y and Var_p z, and of the pixels."""
    z = (logits - logits.amax(0)).clamp(min=-1e6)  # one that is ruled out has p = 0, and 0 · ∞ would be NaN
    p = (z * sharpness).softmax(0)
    mean = (p * z).sum(0)
    first = mean - z.gather(0, labels[None])[0]
    second = (p * (z - mean).square()).sum(0)
    return torch.stack([first.sum(), second.sum(), first.new_tensor(len(labels))])


def _number(metric: Calibration, name: str) -> float:
    value = metric.result()[name]
    assert isinstance(value, float)
    return value
