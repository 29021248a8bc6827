"""Sampling: the papers' probabilities, crops that show the class, and the same samples whoever asks and whenever."""

import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill.crops import Wish, augment
from segdistill.data import Augmented, Cached, Order, Place, class_counts, class_shares, training_batches
from segdistill.datasets import Dataset
from segdistill.datasets.camvid import Camvid
from segdistill.datasets.streets import Streets
from segdistill.labels import CITYSCAPES_19
from segdistill.mistakes import Mistake
from segdistill.recipe import AugmentSpec, ClassUniformSpec, DataSpec, RareClassSpec, parse
from segdistill.sampling import Sampling, cache_folder, class_probabilities, corner
from segdistill.types import IGNORE, Batch, ClassTable, Sample
from small import content

RARE = RareClassSpec(kind="rare_class")
UNIFORM = ClassUniformSpec(kind="class_uniform")
CITYSCAPES_PERCENT = {
    "road": 36.90, "sidewalk": 6.09, "building": 22.81, "wall": 0.656, "fence": 0.878, "pole": 1.228,
    "traffic light": 0.208, "traffic sign": 0.553, "vegetation": 15.91, "terrain": 1.16, "sky": 4.01, "person": 1.22,
    "rider": 0.135, "car": 7.00, "truck": 0.268, "bus": 0.236, "train": 0.233, "motorcycle": 0.099, "bicycle": 0.414,
}  # fmt: skip
"""Of the labelled pixels of Cityscapes' training split."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "segdistill" / "class-pixels"


class Spots(Dataset):
    """Class 0 with a square of class 1 in every fifth image, one of class 2 in the last; class 3 occurs nowhere."""

    classes = ClassTable(("ground", "spot", "speck", "nothing"), tuple((k, k, k) for k in range(4)))

    def __init__(self, count: int = 20) -> None:
        self.count = count
        self.reads = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        labels = np.zeros((40, 60), np.uint8)
        labels[:, :2] = IGNORE
        if index % 5 == 0:
            labels[30:36, 10 + index : 16 + index] = 1
        if index == self.count - 1:
            labels[0, 59] = 2
        image = np.stack([np.full_like(labels, 10 * index), labels, labels])
        return Sample(torch.from_numpy(image), torch.from_numpy(labels), f"spots-{index}")

    def fingerprint(self) -> str:
        return f"{self.count:016x}"


def spec(sampling: dict[str, Any], **more: Any) -> DataSpec:
    return DataSpec.model_validate(
        {"kind": "streets", "batch": 4, "crop": [16, 24], "workers": 0, "sampling": sampling, **more}
    )


KINDS = [{"kind": "rare_class", "temperature": 0.2}, {"kind": "class_uniform"}]


# Probabilities


def test_the_papers_formula() -> None:
    found = class_probabilities(np.array([500, 300, 200]), 0.1)
    assert found == pytest.approx([0.0351, 0.2595, 0.7054], abs=5e-5)
    naive = [np.exp((1 - f) / 0.1) for f in (0.5, 0.3, 0.2)]
    assert found == pytest.approx(np.array(naive) / sum(naive), abs=1e-12)


def test_cityscapes() -> None:
    percent = np.array([CITYSCAPES_PERCENT[name] for name in CITYSCAPES_19.names])
    found = dict(zip(CITYSCAPES_19.names, class_probabilities(percent * 1e6, 0.01), strict=True))
    expected = {
        "motorcycle": 0.113, "rider": 0.109, "traffic light": 0.101, "train": 0.099, "bus": 0.098, "truck": 0.095,
        "bicycle": 0.082, "traffic sign": 0.072, "wall": 0.065, "fence": 0.052, "terrain": 0.039, "person": 0.037,
        "pole": 0.036, "sky": 0.002,
    }  # fmt: skip
    for name, probability in found.items():
        assert probability == pytest.approx(expected.get(name, 0), abs=6e-4), name


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=30).filter(any), st.floats(1e-300, 1e6))
def test_probabilities_are_some(pixels: list[int], temperature: float) -> None:
    found = class_probabilities(np.array(pixels), temperature)
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1)
    assert not found[np.array(pixels) == 0].any(), "a class that occurs nowhere"
    order = np.argsort(pixels)
    present = [found[k] for k in order if pixels[k]]
    assert all(a >= b - 1e-12 for a, b in pairwise(present)), "the rarer the likelier"


# An epoch


def test_rare_class_draws_by_the_probabilities() -> None:
    counts = np.array([[500, 300, 200, 0, 9]] * 4000, np.uint32)
    drawn = Sampling(RareClassSpec(kind="rare_class", temperature=0.1, share=1), counts).drawn(0, 0)
    shares = np.bincount([each.label for each in drawn.values()], minlength=4) / 4000
    assert shares == pytest.approx([0.0351, 0.2595, 0.7054, 0], abs=0.02)
    assert len({each.sample for each in drawn.values()}) > 2000, "all over the images"


@pytest.mark.parametrize(("share", "number"), [(0.5, 10), (0.3, 6), (1.0, 20)])
@pytest.mark.parametrize("kind", [RARE, UNIFORM])
def test_a_share_of_an_epoch_is_drawn(kind: RareClassSpec | ClassUniformSpec, share: float, number: int) -> None:
    sampling = Sampling(kind.model_copy(update={"share": share}), class_counts(Spots()))
    order = Order(20, 20, 3, sampling)
    plain = next(iter(Order(20, 20, 3)))
    places = next(iter(order))
    assert [len(place) for place in places].count(4) == number
    assert all(place == usual for place, usual in zip(places, plain, strict=True) if len(place) == 2)


def test_class_uniform_gives_every_class_the_same() -> None:
    counts = class_counts(Spots(21))
    for share, numbers in ((1.0, [7, 7, 7, 0]), (0.5, [3, 3, 4, 0])):
        sampling = Sampling(ClassUniformSpec(kind="class_uniform", share=share), counts)
        extra: Counter[int] = Counter()
        for epoch in range(40):
            drawn = list(sampling.drawn(1, epoch).values())
            found = np.bincount([each.label for each in drawn], minlength=4)
            assert sorted(found[:3]) == numbers[:3] and found[3] == 0
            assert all(counts[each.sample, each.label] for each in drawn), "the image has the class"
            extra[int(found.argmax())] += 1
        assert share == 1 or min(extra[k] for k in range(3)) > 4, "what does not divide is not always the same class"


def test_an_image_has_to_hold_enough_of_the_class() -> None:
    """A thousandth of 1000 pixels is one, a hundredth ten; where no image has enough, any image with the class."""
    counts = np.array([[999, 1, 0], [990, 10, 0], [900, 100, 0], [1000, 0, 0]], np.uint32)
    for least, images in ((0.001, {0, 1, 2}), (0.01, {1, 2}), (0.1, {2}), (0.5, {0, 1, 2})):
        sampling = Sampling(RareClassSpec(kind="rare_class", min_share=least, share=1), counts)
        drawn = [each for epoch in range(30) for each in sampling.drawn(0, epoch).values()]
        assert {each.sample for each in drawn if each.label == 1} == images


def test_void_is_no_class_but_counts_for_the_size() -> None:
    counts = np.array([[10, 5, 985], [10, 0, 0]], np.uint32)
    sampling = Sampling(RareClassSpec(kind="rare_class", min_share=0.01, share=1, temperature=1), counts)
    labels = {each.label for epoch in range(50) for each in sampling.drawn(0, epoch).values()}
    assert labels == {0, 1}
    assert sampling.probabilities == pytest.approx(class_probabilities(np.array([20, 5]), 1))


def test_without_labels_nothing_can_be_drawn() -> None:
    unlabelled = np.array([[0, 0, 50]], np.uint32)
    with pytest.raises(Mistake, match=r"^data\.sampling: rare_class looks for classes, but no training image"):
        Sampling(RARE, unlabelled)


# Order


def places(kind: dict[str, Any], steps: int, batch: int = 6, **more: int) -> list[list[Place]]:
    sampling = Sampling(spec(kind).sampling, class_counts(Spots()))  # pyright: ignore[reportArgumentType]
    return list(islice(Order(20, batch, 5, sampling, **more), steps))


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_start_continues_the_same_sequence(kind: dict[str, Any]) -> None:
    whole = places(kind, 25)
    for start in (1, 3, 7, 20):  # within the first epoch, and several epochs later
        assert places(kind, 5, start=start) == whole[start : start + 5]
    assert whole[:3] != whole[10:13], "epochs differ"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_global_batch(kind: dict[str, Any], ranks: int) -> None:
    parts = [places(kind, 9, rank=rank, ranks=ranks) for rank in range(ranks)]
    for step, batch in enumerate(places(kind, 9)):
        assert [place for group in zip(*(part[step] for part in parts), strict=True) for place in group] == batch


# Crops


def shown(labels: np.ndarray, box: tuple[int, int], seen: tuple[int, int]) -> np.ndarray:
    return labels[box[0] : box[0] + seen[0], box[1] : box[1] + seen[1]]


def test_a_rare_class_fills_half_of_what_is_wanted() -> None:
    """36 of 2400 pixels, 1 % wanted: a crop shows more than 12 of them, but for those whose eleven tries all failed."""
    labels = Spots()[0].labels.numpy()
    some = RareClassSpec(kind="rare_class", min_share=0.01)
    corners = [corner(some, labels, 1, (40, 60), (20, 20), np.random.default_rng(k)) for k in range(1000)]
    found = np.array([(shown(labels, place, (20, 20)) == 1).sum() for place in corners])
    anywhere = np.array([(shown(labels, (y, x), (20, 20)) == 1).sum() for y in range(21) for x in range(41)])
    chance = (anywhere > 12).mean()
    assert 0.1 < chance < 0.2
    assert (found > 12).mean() == pytest.approx(1 - (1 - chance) ** 11, abs=0.03)
    assert len(set(corners)) > 80


def test_retries_stop_at_ten() -> None:
    labels = np.zeros((50, 50), np.uint8)
    labels[0, 0] = 1
    drawn: list[int] = []

    class Counted(np.random.Generator):
        def integers(self, *arguments: Any, **more: Any) -> Any:
            drawn.append(1)
            return 40

    random = Counted(np.random.PCG64(0))
    assert corner(RARE, labels, 1, (50, 50), (10, 10), random) == (40, 40)
    assert len(drawn) == 2 * 11


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scale=st.floats(0.3, 3.0),
    height=st.integers(1, 50),
    width=st.integers(1, 70),
)
def test_class_uniform_always_shows_its_class(seed: int, scale: float, height: int, width: int) -> None:
    labels = Spots()[5 * (seed % 4)].labels.numpy()
    scaled = (max(1, round(40 * scale)), max(1, round(60 * scale)))
    seen = (min(height, scaled[0]), min(width, scaled[1]))
    top, left = corner(UNIFORM, labels, 1, scaled, seen, np.random.default_rng(seed))
    assert 0 <= top <= scaled[0] - seen[0] and 0 <= left <= scaled[1] - seen[1]
    rows, columns = (labels == 1).nonzero()
    y, x = (rows + 0.5) * scaled[0] / 40, (columns + 0.5) * scaled[1] / 60
    assert ((y >= top) & (y <= top + seen[0]) & (x >= left) & (x <= left + seen[1])).any()


def test_class_uniform_shows_the_class_anywhere_in_the_crop() -> None:
    """A crop with the class always at its centre would teach where to look."""
    labels = np.zeros((100, 100), np.uint8)
    labels[50, 50] = 1
    corners = [corner(UNIFORM, labels, 1, (100, 100), (10, 10), np.random.default_rng(k)) for k in range(300)]
    assert {y for y, _ in corners} == {x for _, x in corners} == set(range(41, 51))


def test_an_image_drawn_twice_gives_two_crops() -> None:
    feed = Augmented(Spots(), spec(KINDS[1]), (16, 24), 0)
    one, again, other = feed[2, 5, 1, 3], feed[2, 5, 1, 3], feed[2, 5, 1, 8]
    assert not isinstance(one, Mistake) and not isinstance(again, Mistake) and not isinstance(other, Mistake)
    assert torch.equal(one.image, again.image) and not torch.equal(one.labels, other.labels)


def test_image_and_labels_stay_together() -> None:
    wish = Wish(UNIFORM, 1)
    crop = augment(Spots()[5], None, (16, 24), AugmentSpec(scale=(1, 1), jitter=0), np.random.default_rng(0), wish)
    assert torch.equal(crop.image[1][~crop.pad], crop.labels[~crop.pad]) and (crop.labels == 1).any()


# Batches


def equal(one: Batch, other: Batch) -> bool:
    return one.keys == other.keys and torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_depend_on_nothing_but_seed_and_step(kind: dict[str, Any]) -> None:
    def batches(steps: int, start: int = 0, rank: int = 0, ranks: int = 1, **more: Any) -> list[Batch]:
        feed = training_batches(Spots(), spec(kind, **more), 3, start=start, batch=4, rank=rank, ranks=ranks)
        return list(islice(feed, steps))

    whole = batches(12)
    assert all(map(equal, batches(12, workers=2), whole))
    assert all(map(equal, batches(4, start=7), whole[7:11]))
    for rank in (0, 1):
        for step, part in enumerate(batches(12, rank=rank, ranks=2)):
            assert part.keys == whole[step].keys[rank::2] and torch.equal(part.image, whole[step].image[rank::2])


def test_the_uniform_kind_is_what_was() -> None:
    plain = DataSpec.model_validate({"kind": "streets", "crop": [16, 24]})
    for one, other in zip(
        islice(training_batches(Spots(), plain, 3, start=0, batch=4, rank=0, ranks=1), 6),
        islice(training_batches(Spots(), spec({"kind": "uniform"}), 3, start=0, batch=4, rank=0, ranks=1), 6),
        strict=True,
    ):
        assert equal(one, other)


@pytest.mark.parametrize("kind", ["rare_class", "class_uniform"])
def test_rare_classes_of_streets_are_seen_more_often(kind: str) -> None:
    """In crops as the network gets them; and the table agrees with these crops."""
    scenes = Cached(Streets(24, (48, 96), split="train"))
    crop: dict[str, Any] = {"crop": [24, 32], "augment": {"scale": [0.8, 1.2]}}

    def seen(sampling: dict[str, Any]) -> np.ndarray:
        feed = training_batches(scenes, spec(sampling, **crop), 0, start=0, batch=16, rank=0, ranks=1)
        counts = np.sum([np.bincount(b.labels.numpy().ravel(), minlength=256) for b in islice(feed, 16)], 0)[:19]
        return counts / counts.sum()

    uniform, sampled = seen({"kind": "uniform"}), seen({"kind": kind, "share": 1.0})
    pixels = class_counts(scenes)[:, :19].sum(0, np.int64)
    shares = pixels / pixels.sum()
    rare = (shares > 0) & (shares < 0.004)
    assert rare.sum() >= 3 and sampled[rare].sum() > 1.5 * uniform[rare].sum()
    table = class_shares(scenes, spec({"kind": kind, "share": 1.0}, **crop), 0)
    assert [row[0] for row in table.rows] == list(CITYSCAPES_19.names)
    assert [row[1] for row in table.rows] == pytest.approx(shares)
    assert [row[2] for row in table.rows] == pytest.approx(sampled), "256 crops of the same run"


def test_rare_classes_of_camvid_are_seen_more_often(real_data: Path) -> None:
    train = Camvid(real_data / "camvid", split="train")
    shares: dict[str, dict[str, tuple[float, float]]] = {}
    for kind in ("uniform", "rare_class", "class_uniform"):
        said: dict[str, Any] = {"kind": kind} if kind == "uniform" else {"kind": kind, "share": 1.0}
        table = class_shares(train, spec(said, crop=[120, 160]), 0, 128)
        shares[kind] = {str(row[0]): (float(row[1] or 0), float(row[2] or 0)) for row in table.rows}
    for name, share in (("bicyclist", 0.00304), ("pedestrian", 0.00665)):
        in_data, usual = shares["uniform"][name]
        assert in_data == pytest.approx(share, abs=1e-4)
        assert all(shares[kind][name][1] > 1.3 * usual for kind in ("rare_class", "class_uniform")), shares


# Counts, and where they are kept


def test_counts_are_those_of_the_labels_and_are_kept(cache: Path) -> None:
    data = Spots()
    counts = class_counts(data)
    assert counts.dtype == np.uint32 and counts.shape == (20, 5) and data.reads == 20
    for index in range(20):
        usual = np.bincount(data.labels(index).ravel(), minlength=256)
        assert counts[index].tolist() == [*usual[:4], usual[255]]
    reads = data.reads
    assert np.array_equal(class_counts(data), counts) and data.reads == reads
    assert len(class_counts(Spots(10))) == 10, "other data"
    assert [file.suffix for file in cache.iterdir()] == [".json", ".json"]


@pytest.mark.parametrize(
    "damage",
    ["", "{", "{}", "[]", '{"rows": 3}', '{"rows": ["1 2"]}', '{"rows": [[1, 2, 3, 4, 5]]}', '{"rows": ["x"]}'],
)
def test_damaged_counts_are_counted_again(cache: Path, damage: str) -> None:
    data = Spots(3)
    counts = class_counts(data)
    file = next(cache.iterdir())
    file.write_text(damage)
    assert np.array_equal(class_counts(data), counts)
    assert len(json.loads(file.read_text())["rows"]) == 3


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(class_counts(Spots(3))) == 3


def test_the_cache_lies_where_the_system_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/segdistill")


# Recipes


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"kind": "rare"}, "data.sampling: .*'uniform', 'rare_class', 'class_uniform'"),
        ({"share": 0.5}, "data.sampling: .*'kind'"),
        ({"kind": "rare_class", "share": 1.5}, r"data.sampling.share: .* less than or equal to 1, got 1.5"),
        ({"kind": "rare_class", "share": 0}, "greater than 0"),
        ({"kind": "rare_class", "temperature": 0}, "greater than 0"),
        ({"kind": "rare_class", "min_share": 1.0}, "less than 1"),
        ({"kind": "rare_class", "temperatur": 1}, r"unknown key.*did you mean 'temperature'\?"),
        ({"kind": "class_uniform", "temperature": 1}, "unknown key; .* accepts kind and share"),
        ({"kind": "uniform", "share": 0.5}, "unknown key; .* accepts kind"),
    ],
)
def test_nonsense_is_a_mistake(said: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        parse({**content(), "data": {**content()["data"], "sampling": said}})
