"""The shelf of metrics: counts over a whole split, merged over ranks by `+`."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from jaxtyping import Float, Int64
from torch import Tensor


class Metric(ABC):
    """Adds images up and answers once; the constructor takes keyword-only `num_classes`."""

    @abstractmethod
    def update(self, logits: Float[Tensor, "b k H W"], labels: Int64[Tensor, "b H W"]) -> None: ...

    @abstractmethod
    def __add__(self, other: "Metric") -> "Metric": ...

    @abstractmethod
    def result(self) -> Mapping[str, float | list[float]]: ...
