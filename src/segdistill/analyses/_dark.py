"""What a network says beyond the label, as sums over pixels that are merged by +; everything in float64 and nats.

The chain rule parts the entropy of a pixel's distribution p with the true class y: H(p) = H_b(p_y) + (1 − p_y)·H(p̂),
where H_b is the entropy of a coin and p̂ the distribution over the wrong classes. H(p̂) is what is dark about the
knowledge (Hinton et al. 2015, https://arxiv.org/abs/1503.02531), D = (1 − p_y)·H(p̂) as much of it as a student gets.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from segdistill.metrics.calibration import Calibration
from segdistill.types import IGNORE

PIXELS = 1 << 14
"""Looked at together: their planes of classes stay in the processor's cache."""
BINS = 15
"""Of the confidence, (l, u] of one width."""
SUMS = ("entropy", "binary", "wrong_entropy", "dark", "wrong_mass", "nll", "brier")
"""What is summed of every pixel, by its true class and by whether it was called right."""
SWEPT = ("entropy", "wrong_entropy", "dark", "nll")
TINIEST = 1e-300


class Said(NamedTuple):
    """Of n pixels what p says. K classes."""

    sums: Tensor
    """[len(SUMS), n]."""
    others: Tensor
    """[K, n]: p̂, 0 for the true class."""
    called: Tensor
    """int64 [n]."""
    shifted: Tensor
    """[K, n]: logits below their largest one."""


def said(logits: Tensor, labels: Tensor) -> Said:
    """Of logits float64 [K, n] and true classes int64 [n]; K > 1."""
    top, called = logits.max(0)
    shifted = logits - top
    found = _parts(shifted, labels)
    others = found.others.div_(found.wrong.clamp(min=TINIEST))
    missed = found.sums[SUMS.index("wrong_mass")]
    brier = missed.square() * (1 + others.square().sum(0))
    return Said(torch.stack([*found.sums, brier]), others, called, shifted)


class _Parts(NamedTuple):
    sums: list[Tensor]
    """SUMS but the last."""
    others: Tensor
    """[K, n]: exponentials, 0 for the true class."""
    wrong: Tensor
    """[n]: their sum."""
    confidence: Tensor
    """[n]."""


def _parts(shifted: Tensor, labels: Tensor) -> _Parts:
    """Of logits below their largest one, where that is 0.

    The wrong classes are summed for themselves: "all but the true one" would be noise where p_y is nearly 1.
    """
    place = labels[None]
    exponentials = shifted.exp()
    truth, below = exponentials.gather(0, place)[0], shifted.gather(0, place)[0]
    others = exponentials.scatter_(0, place, 0.0)
    wrong = others.sum(0)
    total = wrong + truth
    weighted = (others * shifted).sum(0)
    log_total, log_wrong = total.log(), wrong.clamp(min=TINIEST).log()
    entropy = log_total - (weighted + truth * below) / total
    wrong_entropy = torch.where(wrong > TINIEST, log_wrong - weighted / wrong.clamp(min=TINIEST), 0.0)
    missed, nll = wrong / total, log_total - below
    binary = truth / total * nll - missed * (log_wrong - log_total)
    sums = [entropy, binary, wrong_entropy, missed * wrong_entropy, missed, nll]
    return _Parts(sums, others, wrong, 1 / total)


@final
@dataclass
class Dark:
    """The sums of a network over pixels that were looked at. K classes, S temperatures of the sweep."""

    pixels: np.ndarray
    """int64 [K, 2]: by true class, and called wrong or right."""
    sums: np.ndarray
    """[K, 2, len(SUMS)]."""
    probabilities: np.ndarray
    """[K, K]: the sum of p by true class; 0 for that class itself."""
    others: np.ndarray
    """[K, K]: the sum of p̂."""
    squares: np.ndarray
    """[K]: the sum of |p̂|²."""
    confusion: np.ndarray
    """int64 [K, K]: by true class, and what it was called."""
    swept: np.ndarray
    """[S, len(SWEPT)]: sums at other temperatures."""
    bins: np.ndarray
    """[S, 2, BINS]: there, in each bin of the confidence, how often the true class was called, and the sum of the
    confidence."""
    calibration: Calibration

    @classmethod
    def nothing(cls, classes: int, sweeps: int = 0) -> "Dark":
        return cls(
            pixels=np.zeros((classes, 2), np.int64),
            sums=np.zeros((classes, 2, len(SUMS))),
            probabilities=np.zeros((classes, classes)),
            others=np.zeros((classes, classes)),
            squares=np.zeros(classes),
            confusion=np.zeros((classes, classes), np.int64),
            swept=np.zeros((sweeps, len(SWEPT))),
            bins=np.zeros((sweeps, 2, BINS)),
            calibration=Calibration(BINS, num_classes=classes),
        )

    def update(self, logits: Tensor, labels: Tensor, temperatures: Sequence[float] = ()) -> None:
        """More pixels.

        Args:
            logits: float [K, n].
            labels: int64 [n]; IGNORE counts nowhere.
            temperatures: of the sweep, as in `nothing`.
        """
        if not (labels != IGNORE).all():
            logits, labels = logits[:, labels != IGNORE], labels[labels != IGNORE]
        for begin in range(0, len(labels), PIXELS):
            here = slice(begin, begin + PIXELS)
            part = logits[:, here].double()
            self.calibration.update(part[None, :, None], labels[here][None, None])
            self._add(part, labels[here], temperatures)

    def _add(self, logits: Tensor, labels: Tensor, temperatures: Sequence[float]) -> None:
        classes = len(self.pixels)
        found = said(logits, labels)
        right = found.called == labels
        key = 2 * labels + right
        self.pixels += _counted(key, 2 * classes).reshape(-1, 2)
        self.confusion += _counted(classes * labels + found.called, classes**2).reshape(classes, classes)
        self.sums += np.stack([_summed(key, x, 2 * classes).reshape(-1, 2) for x in found.sums], -1)
        by_class = torch.zeros(classes, len(labels), dtype=torch.float64).scatter_(0, labels[None], 1.0)
        self.others += (by_class @ found.others.T).numpy()
        missed = found.sums[SUMS.index("wrong_mass")]
        self.probabilities += (by_class.mul_(missed) @ found.others.T).numpy()
        self.squares += _summed(labels, found.others.square_().sum(0), classes)
        for place, temperature in enumerate(temperatures):
            parts = _parts(found.shifted / temperature, labels)
            self.swept[place] += [float(parts.sums[SUMS.index(name)].sum()) for name in SWEPT]
            inside = (parts.confidence * BINS).ceil().long().clamp(1, BINS) - 1
            self.bins[place] += [_summed(inside, x, BINS) for x in (right.double(), parts.confidence)]

    def __add__(self, other: "Dark") -> "Dark":
        mine, its = self.arrays(), other.arrays()
        together = self.calibration + other.calibration
        return Dark(**{name: mine[name] + its[name] for name in mine}, calibration=together)

    def arrays(self) -> dict[str, np.ndarray]:
        return {f.name: value for f in fields(self) if isinstance(value := vars(self)[f.name], np.ndarray)}

    def state(self) -> dict[str, np.ndarray]:
        """What `restore` takes."""
        tensors = {name: value for name, value in vars(self.calibration).items() if isinstance(value, Tensor)}
        return self.arrays() | {f"calibration.{name}": value.numpy() for name, value in tensors.items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        for name, value in state.items():
            if name.startswith("calibration."):
                vars(self.calibration)[name.removeprefix("calibration.")] = torch.from_numpy(value)
            else:
                vars(self)[name] = value

    @property
    def count(self) -> int:
        return int(self.pixels.sum())

    def measures(self) -> dict[str, float]:
        """MEASURES by name."""
        there = self.pixels.sum(1) > 0
        by_class = self.by_class()
        total, (wrong, right) = max(1, self.count), np.maximum(1, self.pixels.sum(0))
        mean = dict(zip(SUMS, self.sums.sum((0, 1)) / total, strict=True))
        dark = self.sums[..., SUMS.index("dark")].sum(0)
        classes = len(self.pixels)
        calibrated = self.calibration.result() if self.count else {}
        similar = similarity(self.probabilities)
        hits, union = self.confusion.diagonal(), self.confusion.sum(0) + self.confusion.sum(1)
        iou = hits / np.maximum(1, union - hits)
        return {
            "mean_iou": float(iou[union > 0].mean()) if total else math.nan,
            "accuracy": float(hits.sum() / total),
            "entropy": mean["entropy"],
            "entropy_share": mean["entropy"] / math.log(classes),
            "entropy_by_class": float(by_class["entropy"][there].mean()),
            "binary": mean["binary"],
            "dark": mean["dark"],
            "dark_right": float(dark[1] / right),
            "dark_wrong": float(dark[0] / wrong),
            "wrong_mass": mean["wrong_mass"],
            "wrong_entropy": mean["wrong_entropy"],
            "wrong_entropy_share": mean["wrong_entropy"] / math.log(max(2, classes - 1)),
            "variation": float(by_class["variation"][there].mean()),
            "row_entropy": float(row_entropies(similar)[there].mean()),
            "mutual_information": mutual_information(similar),
            "nll": mean["nll"],
            "brier": mean["brier"],
        } | {name: _number(calibrated[name]) if calibrated else math.nan for name in CALIBRATED}

    def by_class(self) -> dict[str, np.ndarray]:
        """[K] each: means of SUMS over the pixels of a class, and how far p̂ varies among them (Σ_k Var p̂_k)."""
        count = self.pixels.sum(1)
        some = np.maximum(1, count)
        means = self.sums.sum(1) / some[:, None]
        mean_others = self.others / some[:, None]
        variation = np.maximum(0.0, self.squares / some - np.square(mean_others).sum(1))
        found = {name: means[:, place] for place, name in enumerate(SUMS)}
        return found | {"variation": variation, "pixels": count.astype(np.float64)}

    def sweep(self) -> list[dict[str, float]]:
        """At each other temperature: entropy, wrong_entropy, dark, nll and ece."""
        total = max(1, self.count)
        return [
            dict(zip(SWEPT, sums / total, strict=True)) | {"ece": float(np.abs(right - confidence).sum() / total)}
            for sums, (right, confidence) in zip(self.swept, self.bins, strict=True)
        ]


CALIBRATED = ("ece", "adaptive_ece", "classwise_ece")


@final
@dataclass
class Fidelity:
    """How a student follows its teacher, over pixels that were looked at."""

    sums: np.ndarray
    """[4]: KL(teacher ‖ student), pixels on which both call the same, the entropies of teacher and student."""
    confusion: np.ndarray
    """int64 [K, K]: the student's."""

    @classmethod
    def nothing(cls, classes: int) -> "Fidelity":
        return cls(np.zeros(4), np.zeros((classes, classes), np.int64))

    def update(self, teacher: Tensor, student: Tensor, labels: Tensor) -> None:
        """More pixels: logits float [K, n] of both, true classes int64 [n]; IGNORE counts nowhere."""
        if not (labels != IGNORE).all():
            known = labels != IGNORE
            teacher, student, labels = teacher[:, known], student[:, known], labels[known]
        classes = len(self.confusion)
        for begin in range(0, len(labels), PIXELS):
            here = slice(begin, begin + PIXELS)
            theirs, called_t, exponentials_t, total_t = _shares(teacher[:, here].double())
            own, called_s, exponentials_s, total_s = _shares(student[:, here].double())
            log_t, log_s = total_t.log(), total_s.log()
            far = (exponentials_t * (theirs - own)).sum(0) / total_t - log_t + log_s
            entropies = (
                log - (e * x).sum(0) / total
                for log, e, x, total in (
                    (log_t, exponentials_t, theirs, total_t),
                    (log_s, exponentials_s, own, total_s),
                )
            )
            self.sums += [float(x.sum()) for x in (far, called_t == called_s, *entropies)]
            key = classes * labels[here] + called_s
            self.confusion += _counted(key, classes**2).reshape(classes, classes)

    def __add__(self, other: "Fidelity") -> "Fidelity":
        return Fidelity(self.sums + other.sums, self.confusion + other.confusion)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"sums": self.sums, "confusion": self.confusion}

    def measures(self) -> dict[str, float]:
        """kl in nats, agreement as a share, and gap: the teacher's entropy less the student's."""
        far, same, teacher, student = (self.sums / max(1, int(self.confusion.sum()))).tolist()
        return {"kl": far, "agreement": same, "gap": teacher - student}


def similarity(probabilities: np.ndarray) -> np.ndarray:
    """Ŝ [K, K]: rows of the sums of p (or of a confusion matrix) without the true class, each with the sum 1, or 0."""
    others = probabilities.astype(np.float64) * (1 - np.eye(len(probabilities)))
    sums = others.sum(1, keepdims=True)
    return np.divide(others, sums, out=np.zeros_like(others), where=sums > 0)


def row_entropies(similar: np.ndarray) -> np.ndarray:
    """[K]: of Ŝ's rows in nats; ln(K − 1) is what a row says that tells no class from another."""
    return -np.where(similar > 0, similar * np.log(np.where(similar > 0, similar, 1.0)), 0.0).sum(1)


def mutual_information(similar: np.ndarray) -> float:
    """I(c; k̂) in nats, where c is one of the classes with a row of Ŝ, each as likely, and k̂ is drawn from its row.

    Not 0 but ln(K / (K − 1)) where all off-diagonals are equal: what k̂ is not, is known.
    """
    rows = similar[similar.sum(1) > 0]
    if not len(rows):
        return 0.0
    return float(row_entropies(rows.mean(0, keepdims=True))[0] - row_entropies(rows).mean())


def off_diagonals(one: np.ndarray, other: np.ndarray) -> list[tuple[float, float]]:
    """The pairs of off-diagonal elements of rows that both of two matrices Ŝ have."""
    rows = (one.sum(1) > 0) & (other.sum(1) > 0)
    apart = ~np.eye(len(one), dtype=bool) & rows[:, None]
    return list(zip(one[apart].tolist(), other[apart].tolist(), strict=True))


def entropy_map(logits: Tensor) -> Tensor:
    """H [H, W] of float logits [K, H, W]."""
    shifted, _, exponentials, total = _shares(logits.double())
    return total.log() - (exponentials * shifted).sum(0) / total


def _shares(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits below their largest one, where that is, their exponentials, and the sum of these."""
    top, called = logits.max(0)
    shifted = logits - top
    exponentials = shifted.exp()
    return shifted, called, exponentials, exponentials.sum(0)


def _counted(key: Tensor, length: int) -> np.ndarray:
    return torch.bincount(key, minlength=length).numpy()


def _summed(key: Tensor, values: Tensor, length: int) -> np.ndarray:
    return torch.bincount(key, values, length).numpy()


def _number(value: float | list[float]) -> float:
    assert isinstance(value, float)
    return value
