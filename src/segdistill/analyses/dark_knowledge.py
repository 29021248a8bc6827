"""What teachers say beyond the label, and whether students of those who say more gain more.

Dark knowledge as in Hinton et al. 2015, https://arxiv.org/abs/1503.02531; a teacher's probabilities as in Menon et al.
2021, https://proceedings.mlr.press/v139/menon21a.html; why entropy by itself is not the goal: Müller et al. 2019,
https://arxiv.org/abs/1906.02629 (label smoothing raises it and erases what differs within a class). Where we differ:
everything is measured at pixels, on training crops as a student sees them and on whole validation images.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import final

import matplotlib as mpl
import numpy as np
from PIL import Image

from segdistill.analyses import Analysis, Subject
from segdistill.analyses._advice import Advice, listed
from segdistill.analyses._dark import Dark, Fidelity, off_diagonals, row_entropies, similarity
from segdistill.analyses._experiments import check_same_images, spearman
from segdistill.analyses._gains import FEWEST, POOLED, Best, correlation, fidelity, students, taught
from segdistill.analyses._listening import WIDEST, Heard, Pupil, Samples, Settings, Voice, crops, images, listen
from segdistill.analyses._voices import Lesson, pupils_of, voices_of
from segdistill.assemble import difference
from segdistill.mistakes import Mistake
from segdistill.recipe import read
from segdistill.types import Cell, ClassTable, Findings, Picture, Table

EVEN = 0.97
"""Of ln(K − 1): a row entropy above it tells no class from another."""
SURE = 0.995
"""Share of the pixels that the pictures' scale of entropies holds."""
SWEPT = ("entropy", "wrong_entropy", "dark", "nll", "ece")
BY_CLASS = ("entropy", "dark", "wrong_mass", "wrong_entropy", "variation", "row_entropy")


@final
class DarkKnowledge(Analysis):
    """Entropy and its parts, similarity of classes, calibration; fidelity and gain of students; which go together.

    The voices are the frozen teachers that the runs' students learnt from, each with its temperature; where nobody
    taught, every run's own best networks. Nats; shares are fractions; means are over labelled pixels.

    Tables: `voices`; `measures` by split and region (body, boundary, whole); `by_class/<voice>/<split>`;
    `similarity/<voice>/<split>`, Ŝ, where the probability of the wrong classes goes; `similar`, Ŝ of two voices by
    Spearman; `confused`, Ŝ and what is mistaken for what by the voice and by its students; `reliability/<voice>`;
    `sweep`, the same logits at other temperatures; `control`, which of them gives the plainest voice another's entropy,
    what any other way to raise it must beat; `fidelity`, `students`, `correlation`, `advice`. Pictures:
    `entropy/<image>/image` and `entropy/<image>/<voice>`, on one scale from 0 to the number `entropy_scale`.

    Args:
        crops: training crops, the first of a run with the first run's seed.
        images: validation images, spread evenly; default all.
        boundary: as in the analysis `dataset`.
        temperatures: of the sweep.
        pictures: validation images whose entropy is shown.
        everybody: whether the runs' own networks are voices too where there are teachers.
        permutations: of the test, where there are too many to try all.
        seed: of the permutations.
    """

    def __init__(
        self,
        crops: int = 256,
        images: int | None = None,
        boundary: float = 0.005,
        temperatures: tuple[float, ...] = (1.0, 2.0, 4.0),
        pictures: int = 3,
        everybody: bool = False,
        permutations: int = 10_000,
        seed: int = 0,
    ) -> None:
        if crops < 1 or (images is not None and images < 1) or pictures < 0:
            got = f"crops {crops}, images {images} and pictures {pictures}"
            raise Mistake(f"dark_knowledge: expected crops >= 1, images >= 1 and pictures >= 0, got {got}")
        if not 0 < boundary < 0.5:
            raise Mistake(f"boundary: expected 0 < share of the diagonal < 0.5, got {boundary}")
        if not temperatures or min(temperatures) <= 0:
            raise Mistake(f"temperatures: expected numbers above 0, got {list(temperatures)}")
        if permutations < 100:
            raise Mistake(f"permutations: expected at least 100, got {permutations}")
        self.crops, self.images, self.boundary, self.pictures = crops, images, boundary, pictures
        self.temperatures, self.everybody = tuple(sorted({1.0, *temperatures})), everybody
        self.permutations, self.seed = permutations, seed

    def analyse(self, subject: Subject) -> Findings:
        """What the voices say.

        Raises:
            Mistake: a network is missing or knows other classes than the data, a sample cannot be read, or students
                were not validated on the same images.
        """
        if not subject.runs:
            raise Mistake("dark_knowledge: expected at least one run directory")
        recipes = [read(run.recipe_file) for run in subject.runs]
        places = voices_of(subject.runs, recipes, self.everybody)
        voices, pupils = list(places.values()), pupils_of(subject.runs, recipes, places)
        if pupils:
            check_same_images(subject.runs, "dark_knowledge")
        first, last = next(iter(subject.splits)), list(subject.splits)[-1]
        classes = subject.splits[first].classes
        for one in (*voices, *pupils.values()):
            if one.weights.card.classes.names != classes.names:
                found = difference(one.weights.card.classes.names, classes)
                raise Mistake(f"dark_knowledge: {one.name} knows other classes than the data: {found}")
        settings = Settings(len(classes.names), self.boundary, tuple(t for t in self.temperatures if t != 1.0))
        seen = crops(subject.splits[first], subject.data, first, recipes[0].seed, self.crops)
        whole = images(subject.splits[last], subject.data, last, self.images, self.pictures)
        on_crops, _ = listen(seen, voices, (), settings, subject.folder)
        on_images, followed = listen(whole, voices, list(pupils.values()), settings, subject.folder)
        heard = {"train": on_crops, "val": on_images}
        following = {key: one.fidelity for key, one in zip(pupils, followed, strict=True)}
        sums = {split: {v.name: h.whole for v, h in zip(voices, found, strict=True)} for split, found in heard.items()}
        measures = {split: {name: dark.measures() for name, dark in found.items()} for split, found in sums.items()}

        tables = _about(classes, voices)
        tables["measures"] = _measures(voices, heard)
        tables |= _similarities(classes.names, voices, sums)
        tables |= {f"reliability/{name}": _reliability(dark) for name, dark in sums["val"].items()}
        tables["sweep"] = _sweep(sums, self.temperatures)
        tables["control"] = _control(tables["sweep"], measures["train"])
        tables["confused"] = _confused(sums, pupils, following)
        tables["fidelity"] = fidelity(pupils, following)
        lessons = list(taught(subject.runs, places))
        tables["students"] = students(lessons, following)
        tables["correlation"], best = correlation(lessons, measures, self.permutations, self.seed)
        said = _advice(measures["train"], tables, best.get(POOLED), len(classes.names))
        tables["advice"] = Table(("about", "finding"), list(said))
        pictures, top = _pictures(voices, on_images, whole)
        numbers = {f"{name}/{split}/{key}": value for split, found in measures.items() for name, values in found.items()
                   for key, value in values.items()}  # fmt: skip
        numbers |= {"crops": float(self.crops), "images": float(whole.length), "boundary": self.boundary}
        numbers |= {"entropy_scale": top}
        numbers |= {f"chance_of_best/{temperature}": one.chance for temperature, one in best.items()}
        return Findings(numbers, pictures, tables)


def _about(classes: ClassTable, voices: Sequence[Voice]) -> dict[str, Table]:
    legend = [(name, "#{:02x}{:02x}{:02x}".format(*colour)) for name, colour in zip(*classes, strict=True)]
    rows = [[v.name, str(v.weights.file), v.weights.model, v.temperature, v.digest[:16]] for v in voices]
    return {
        "classes": Table(("class", "colour"), legend),
        "voices": Table(("voice", "weights", "model", "temperature", "digest"), rows),
    }


def _measures(voices: Sequence[Voice], heard: Mapping[str, Sequence[Heard]]) -> Table:
    rows: list[list[Cell]] = []
    columns: list[str] = []
    for split, found in heard.items():
        for voice, one in zip(voices, found, strict=True):
            for region, dark in {"whole": one.whole, **one.regions}.items():
                measures = dark.measures()
                columns = list(measures)
                rows.append([voice.name, split, region, dark.count, *map(_known, measures.values())])
    return Table(("voice", "split", "region", "pixels", *columns), rows)


def _similarities(
    names: Sequence[str], voices: Sequence[Voice], sums: Mapping[str, Mapping[str, Dark]]
) -> dict[str, Table]:
    """By class, Ŝ, and the rank correlations of every two voices' Ŝ."""
    tables: dict[str, Table] = {}
    similar: list[list[Cell]] = []
    for split, found in sums.items():
        matrices = {name: similarity(dark.probabilities) for name, dark in found.items()}
        for name, dark in found.items():
            tables[f"by_class/{name}/{split}"] = _by_class(names, dark)
            rows = [[label, *row] for label, row in zip(names, matrices[name].tolist(), strict=True)]
            tables[f"similarity/{name}/{split}"] = Table(("class", *names), rows)
        for one, other in itertools.combinations(voices, 2):
            rho = spearman(off_diagonals(matrices[one.name], matrices[other.name]))
            seeds = "yes" if one.origin and one.origin == other.origin else "no"
            similar.append([one.name, other.name, split, rho, seeds])
    tables["similar"] = Table(("voice", "other", "split", "rank_correlation", "seeds_of_one"), similar)
    return tables


def _by_class(names: Sequence[str], dark: Dark) -> Table:
    """A class that never occurs has none."""
    found = dark.by_class() | {"row_entropy": row_entropies(similarity(dark.probabilities))}
    rows: list[list[Cell]] = [
        [name, int(found["pixels"][k]), *(float(found[c][k]) if found["pixels"][k] else None for c in BY_CLASS)]
        for k, name in enumerate(names)
    ]
    return Table(("class", "pixels", *BY_CLASS), rows)


def _reliability(dark: Dark) -> Table:
    """Bins that have pixels."""
    result = dark.calibration.result()
    columns = [value for key in ("confidence", "accuracy", "share") if isinstance(value := result[key], list)]
    return Table(("confidence", "accuracy", "share"), [row for row in zip(*columns, strict=True) if row[2] > 0])


def _sweep(sums: Mapping[str, Mapping[str, Dark]], temperatures: Sequence[float]) -> Table:
    rows: list[list[Cell]] = []
    for split, found in sums.items():
        for name, dark in found.items():
            others = iter(dark.sweep())
            for temperature in temperatures:
                values = dark.measures() if temperature == 1 else next(others)
                rows.append([name, split, temperature, *(_known(values[key]) for key in SWEPT)])
    return Table(("voice", "split", "temperature", *SWEPT), rows)


def _control(sweep: Table, measures: Mapping[str, Mapping[str, float]]) -> Table:
    """Of the voice with the least entropy on training crops: the temperature that gives it each other's.

    Between the temperatures of the sweep everything is taken for a straight line over their logarithm.
    """
    plainest = min(measures, key=lambda name: measures[name]["entropy"])
    curve = np.array([row[2:] for row in sweep.rows if row[0] == plainest and row[1] == "train"], np.float64)
    at, entropies = np.log(curve[:, 0]), curve[:, 1 + SWEPT.index("entropy")]
    rows: list[list[Cell]] = []
    for name, found in measures.items():
        entropy = found["entropy"]
        if name == plainest or not entropies[0] <= entropy <= entropies[-1] or (np.diff(entropies) <= 0).any():
            continue
        place = float(np.interp(entropy, entropies, at))
        dark, nll = (float(np.interp(place, at, curve[:, 1 + SWEPT.index(key)])) for key in ("dark", "nll"))
        rows.append([name, plainest, math.exp(place), entropy, found["dark"], dark, found["nll"], nll])
    columns = ("voice", "plainest", "temperature", "entropy", "dark", "dark_there", "nll", "nll_there")
    return Table(columns, rows)


def _confused(
    sums: Mapping[str, Mapping[str, Dark]], pupils: Mapping[Lesson, Pupil], following: Mapping[Lesson, Fidelity]
) -> Table:
    """Spearman over the off-diagonals of Ŝ and of what is mistaken for what, in rows that both have."""
    rows: list[list[Cell]] = []
    for split, found in sums.items():
        for name, dark in found.items():
            own = off_diagonals(similarity(dark.probabilities), similarity(dark.confusion))
            rows.append([name, "itself", split, spearman(own)])
    for lesson, pupil in pupils.items():
        voice, mistakes = sums["val"][pupil.voice.name].probabilities, following[lesson].confusion
        rho = spearman(off_diagonals(similarity(voice), similarity(mistakes)))
        rows.append([pupil.voice.name, pupil.name, "val", rho])
    return Table(("voice", "mistakes_of", "split", "rank_correlation"), rows)


def _pictures(voices: Sequence[Voice], heard: Sequence[Heard], samples: Samples) -> tuple[dict[str, Picture], float]:
    """Photographs and entropies, and what the scale ends at: the most uncertain pixels lie beyond it."""
    found: dict[str, Picture] = {}
    maps = [entropy.astype(np.float64) for one in heard for entropy in one.maps.values()]
    top = max(1e-3, float(np.quantile(np.concatenate([m.ravel() for m in maps]), SURE))) if maps else 0.0
    colours = mpl.colormaps["magma"]
    for place in samples.pictured:
        seen = next(samples.starting(place))
        image = Image.fromarray(seen.image.permute(1, 2, 0).contiguous().numpy())
        if image.width > WIDEST:
            image = image.resize((WIDEST, max(1, round(image.height * WIDEST / image.width))))
        found[f"entropy/{seen.key}/image"] = Picture(np.asarray(image))
        for voice, one in zip(voices, heard, strict=True):
            shade = colours(one.maps[seen.key].astype(np.float64) / top)[..., :3]
            found[f"entropy/{seen.key}/{voice.name}"] = Picture((255 * shade).round().astype(np.uint8))
    return found, top


def _advice(
    train: Mapping[str, Mapping[str, float]], tables: Mapping[str, Table], best: Best | None, classes: int
) -> Iterator[Advice]:
    """What may be said, and what may not."""
    yield Advice("gain", _on_gain(tables["students"], best))
    dark = sorted((found["dark"], name) for name, found in train.items())
    (least, poorest), (most, richest) = dark[0], dark[-1]
    said = f"on training crops {richest} gives {_three(most)} nats a pixel"
    also = f", the most; {poorest} the least, {_three(least)}" if len(dark) > 1 else ""
    yield Advice("dark knowledge", f"{said}{also}.")
    even = [name for name, found in train.items() if found["row_entropy"] > EVEN * math.log(max(2, classes - 1))]
    if even and classes > 2:
        yield Advice(
            "similarity",
            f"{listed(even)}: what is not the true class’s is spread evenly over the others (row entropy above"
            f" {EVEN:.0%} of ln(K − 1)): entropy that tells no class from another.",
        )
    for name, plainest, temperature, entropy, _, _, nll, there in tables["control"].rows:
        yield Advice(
            "control",
            f"{name} has on training crops the entropy ({_three(entropy)} nats) that {plainest} has at about"
            f" temperature {_three(temperature)}; its NLL is {_three(nll)}, there it is {_three(there)}.",
        )
    seeds = [float(row[3] or 0) for row in tables["similar"].rows if row[4] == "yes" and row[2] == "train"]
    if seeds:
        many = f"mean of {len(seeds)} pairs" if len(seeds) > 1 else "one pair"
        yield Advice(
            "repeatability",
            f"which classes are similar is said again by another seed of a teacher with rank correlation"
            f" {statistics.fmean(seeds):.2f} ({many}).",
        )


def _on_gain(found: Table, best: Best | None) -> str:
    if not found.rows:
        return (
            "no comparison: expected students of these voices, and runs of their network on labels alone of which some"
            " have the same seed."
        )
    if best is None:
        count = len({row[1] for row in found.rows})
        return (
            f"{count} voice{'s have' if count > 1 else ' has'} students with a baseline; of fewer than {FEWEST} nothing"
            " can be said about what makes a good teacher."
        )
    split, _, name = best.measure.partition(": ")
    where = "training crops" if split == "train" else "validation images"
    sure = abs(best.correlation) > best.chance + 1e-9
    verdict = "beyond chance here, and to be tried again with other voices" if sure else "nothing is established"
    said = (
        f"of {best.measures} measures of {best.voices} voices, {name.replace('_', ' ')} on {where} goes best with the"
        f" students’ gain: rank correlation {best.correlation:+.2f}, where the best of as many exceeds"
        f" {best.chance:.2f} in at most 5 % of permutations: {verdict}."
    )
    return said.replace("-", "−")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _three(cell: Cell) -> str:
    return f"{cell:.3g}" if isinstance(cell, int | float) else "–"
