"""Which stages of two models of a run say alike what their pixels are: linear CKA, while one learns from the other.

Kornblith et al. 2019, https://arxiv.org/abs/1905.00414; where we differ stands in the machine `alignment`.
"""

from collections.abc import Mapping
from typing import final

from segdistill.alignment import Alignments, End
from segdistill.data import readable
from segdistill.datasets import Dataset
from segdistill.heat_map import heat_map
from segdistill.mistakes import Mistake, nearest, one_of
from segdistill.models import Model
from segdistill.prediction import answer
from segdistill.probes import Probe
from segdistill.types import Findings, Table


@final
class Alignment(Probe):
    """`<stage>/<stage>`, CKA (0 to 1) of the student's and the teacher's stages of one name, logits among them.

    Tables, student stages down and teacher stages across: `cka` of every pair, which the picture `cka` shows, and
    `by_chance`, what it would be if one side's pixels were shuffled. A stage that is constant, or not finite, has no
    number. Pixels are those of `images` whole images, spread evenly over the split; unreadable ones are left out.

    Args:
        student: a model of the run.
        teacher: another; frozen, learning or following.
        images: to look at.
    """

    teachers = True

    def __init__(
        self,
        student: str = "student",
        teacher: str = "teacher",
        images: int = 16,
        *,
        models: tuple[str, ...],
        input_size: tuple[int, int] | None,
    ) -> None:
        if images < 1:
            raise Mistake(f"probes.alignment.images: expected at least 1, got {images}")
        for role, name in (("student", student), ("teacher", teacher)):
            if name not in models:
                there = f"there is {one_of(models)}{nearest(name, models)}"
                raise Mistake(f"probes.alignment.{role}: the run has no model '{name}'; {there}")
        if student == teacher:
            raise Mistake(f"probes.alignment: expected two models, got '{student}' as student and teacher")
        self.student, self.teacher, self.images, self.size = student, teacher, images, input_size
        self.named: set[str] = set()

    def __call__(self, models: Mapping[str, Model], dataset: Dataset) -> Findings:
        two = {name: models[name] for name in (self.student, self.teacher)}
        rows, columns = (list(model.stages) for model in two.values())
        pairs = [[(End(self.student, row), End(self.teacher, column)) for column in columns] for row in rows]
        found = Alignments(
            (pair for line in pairs for pair in line), {name: model.stages for name, model in two.items()}
        )
        total, count = len(dataset), min(self.images, len(dataset))
        chosen = [(2 * place + 1) * total // (2 * count) for place in range(count)]
        for sample in readable(dataset, chosen, {}, self.named):
            found.update({name: answer(model, sample.image, self.size) for name, model in two.items()})
        values = [[found.cka(*pair) for pair in line] for line in pairs]
        chances = [[found.by_chance(*pair) for pair in line] for line in pairs]
        shared = [(row, columns.index(name), name) for row, name in enumerate(rows) if name in columns]
        numbers = {f"{name}/{name}": value for row, at, name in shared if (value := values[row][at]) is not None}
        tables = {
            name: Table(("stage", *columns), [[row, *line] for row, line in zip(rows, cells, strict=True)])
            for name, cells in (("cka", values), ("by_chance", chances))
        }
        picture = heat_map(values, rows, columns, (0, 1), (self.student, self.teacher))
        return Findings(numbers, {"cka": picture}, tables)
