"""The shelf of analyses: one file looks at data, or across finished runs, in one way.

An analysis's constructor takes what `--set` may say. It trains nothing and changes no run; everything that a page about
it shows is in its findings.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from segdistill.datasets import Dataset
from segdistill.recipe import DataSpec
from segdistill.run import Run
from segdistill.types import Findings


class Subject(NamedTuple):
    """What there is to look at; an analysis takes what it needs of it."""

    data: DataSpec
    splits: Mapping[str, Dataset]
    """By name, the training split first."""
    runs: Sequence[Run] = ()
    folder: Path | None = None
    """Where long work keeps what it has so far, so that a second call goes on; None: nowhere."""


class Analysis(ABC):
    """Looks at data or at finished runs."""

    @abstractmethod
    def analyse(self, subject: Subject) -> Findings: ...
