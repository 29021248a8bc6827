"""The shelf of probes: one file looks at models in one way, while they train or afterwards.

A probe's constructor takes what a recipe may say under `probes.<name>` (`every` is not its business), then keyword-only
facts. It is given models in evaluation mode and leaves them as it found them: same weights, same mode, same randomness.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from segdistill.datasets import Dataset
from segdistill.models import Model
from segdistill.types import Findings


class Probe(ABC):
    """Looks at models by name on the images of one split."""

    everywhere: bool = False
    """Whether every process calls it and has its share of the work; otherwise only the main process does."""
    teachers: bool = False
    """Whether it is given the frozen teachers too, beside the models that learn or follow."""

    @abstractmethod
    def __call__(self, models: Mapping[str, Model], dataset: Dataset) -> Findings: ...
