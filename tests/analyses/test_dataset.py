"""Every number of the analysis `dataset` is what counting pixel by pixel gives, however the images come."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.analyses import Subject, _look, _tally
from segdistill.analyses._advice import chances, class_weights, held, quantile
from segdistill.analyses._attributes import CHUNK, attributes, frames
from segdistill.analyses._shift import interval, shares
from segdistill.analyses._tally import Tally, tally
from segdistill.analyses._twins import across, nearest
from segdistill.analyses.dataset import DatasetAnalysis, places
from segdistill.datasets import Dataset
from segdistill.datasets.bdd100k import Bdd100k
from segdistill.datasets.camvid import Camvid
from segdistill.losses._class_weights import by_name
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec
from segdistill.types import IGNORE, ClassTable, Findings, Sample

K = 4
CLASSES = ClassTable(("road", "car", "pole", "train"), ((128, 64, 128), (0, 0, 142), (153, 153, 153), (0, 80, 100)))


class Handmade(Dataset):
    """Label maps given, with a photograph drawn for each; `bad` is the place of one that cannot be read."""

    def __init__(self, maps: Sequence[np.ndarray], name: str = "x", bad: int | None = None) -> None:
        self.maps, self.name, self.bad, self.classes = maps, name, bad, CLASSES
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.maps)

    def __getitem__(self, index: int) -> Sample:
        self.read.append(index)
        if index == self.bad:
            raise Mistake(f"{self.name}/{index}.png: damaged")
        labels = self.maps[index]
        image = np.random.default_rng([index, len(self.name)]).integers(0, 256, (3, *labels.shape), np.uint8)
        return Sample(torch.from_numpy(image), torch.from_numpy(labels), f"{self.name}-{index}")

    def fingerprint(self) -> str:
        return f"{self.name}-{len(self.maps)}"


def blobs(count: int, seed: int, size: tuple[int, int] = (34, 66), top: int = 3) -> list[np.ndarray]:
    """Label maps with pieces of all sizes, and void."""
    random = np.random.default_rng(seed)
    maps: list[np.ndarray] = []
    for _ in range(count):
        labels = np.zeros(size, np.uint8)
        for _ in range(12):
            y, x = random.integers(0, size[0]), random.integers(0, size[1])
            value = random.choice([*range(top), IGNORE])
            labels[y : y + random.integers(1, 14), x : x + random.integers(1, 20)] = value
        specks = random.random(size) < 0.02
        labels[specks] = random.integers(0, top, specks.sum())
        maps.append(labels)
    return maps


def flooded(labels: np.ndarray) -> list[tuple[int, int, int]]:
    """(class, pixels, per cent needed) of every piece, pixel by pixel."""
    height, width = labels.shape
    seen = np.zeros(labels.shape, bool)
    found: list[tuple[int, int, int]] = []
    for y0, x0 in np.ndindex(*labels.shape):
        if seen[y0, x0] or labels[y0, x0] == IGNORE:
            continue
        value, stack, pixels = labels[y0, x0], [(y0, x0)], []
        seen[y0, x0] = True
        while stack:
            y, x = stack.pop()
            pixels.append((y, x))
            for i, j in ((y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)):
                if 0 <= i < height and 0 <= j < width and not seen[i, j] and labels[i, j] == value:
                    seen[i, j] = True
                    stack.append((i, j))
        tall, wide = (max(p[a] for p in pixels) - min(p[a] for p in pixels) + 1 for a in (0, 1))
        found.append((int(value), len(pixels), max(math.ceil(100 * tall / height), math.ceil(100 * wide / width))))
    return sorted(found)


def nearby(labels: np.ndarray, distance: int) -> np.ndarray:
    """bool [H, W]: whether another value is within the square, pixel by pixel."""
    found = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(*labels.shape):
        window = labels[max(0, y - distance) : y + distance + 1, max(0, x - distance) : x + distance + 1]
        found[y, x] = (window != labels[y, x]).any()
    return found


def naive(samples: Sequence[Sample], classes: int, boundary: float) -> Tally:
    """The same sums by loops over classes and pixels."""
    down, across_ = _look.GRID
    sums = _tally.nothing(len(samples), classes)
    for index, (image, truth, key) in enumerate(samples):
        labels = truth.numpy()
        height, width = labels.shape
        red, green, blue = (band.astype(np.int64) for band in image.numpy())
        grey = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
        sums.keys.append(key)
        sums.light[index] = grey.mean(), grey.std()
        sums.shapes[index] = height, width
        small = np.asarray(Image.fromarray(grey.astype(np.uint8)).resize((9, 8), Image.Resampling.BOX))
        bits = "".join(str(int(small[y, x + 1] > small[y, x])) for y in range(8) for x in range(8))
        sums.hashes[index] = int(bits, 2)
        close = nearby(labels, max(1, round(boundary * math.sqrt(height**2 + width**2))))
        values = [*range(classes), IGNORE]
        for place, value in enumerate(values):
            sums.pixels[index, place] = (labels == value).sum()
            for y, x in np.argwhere(labels == value):
                sums.cells[place, y * down // height, x * across_ // width] += 1
            if value != IGNORE:
                sums.near[place] += ((labels == value) & close).sum()
        for value, pixels, needed in flooded(labels):
            side = math.isqrt(pixels)
            sums.sides[value, side] += 1
            sums.side_pixels[value, side] += pixels
            sums.needed_pixels[value, needed] += pixels
        for channel, band in enumerate(image.numpy()):
            sums.channels[channel] += np.array([(band == value).sum() for value in range(256)])
        sums.seen += 1
    return sums


def assert_same(one: Tally, other: Tally) -> None:
    assert (one.seen, one.keys) == (other.seen, other.keys)
    for name, array in one.arrays().items():
        np.testing.assert_allclose(array, other.arrays()[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("size", [(34, 66), (5, 7), (1, 1), (33, 64)])
@pytest.mark.parametrize("boundary", [0.005, 0.06])
def test_the_sums_are_a_naive_count(size: tuple[int, int], boundary: float) -> None:
    dataset = Handmade([*blobs(3, 1, size), np.full(size, IGNORE, np.uint8)])
    found = tally("train", dataset, boundary, None)
    assert_same(found, naive([dataset[i] for i in range(4)], K, boundary))
    assert found.pixels.sum() == 4 * size[0] * size[1]


def test_noise_of_single_pixels_is_joined_rightly() -> None:
    """The worst case of joining runs: hardly a run is longer than a pixel."""
    labels = np.random.default_rng(0).integers(0, 3, (40, 50)).astype(np.uint8)
    found = _look.objects(labels)
    assert sorted(zip(*(column.tolist() for column in found), strict=True)) == flooded(labels)


def test_a_spiral_is_one_object() -> None:
    labels = np.zeros((16, 16), np.uint8)
    for ring in range(0, 8, 2):
        labels[ring : 16 - ring, ring : 16 - ring] = 1
        labels[ring + 1 : 15 - ring, ring + 1 : 15 - ring] = 0
        labels[ring + 1, ring : ring + 2] = 0  # the way into the next ring
        labels[ring + 2, ring + 1] = 1
    found = _look.objects(labels)
    assert sorted(zip(*(column.tolist() for column in found), strict=True)) == flooded(labels)


def test_images_of_several_sizes_add_up() -> None:
    dataset = Handmade([blobs(1, 0, (20, 40))[0], blobs(1, 1, (30, 30))[0]])
    assert_same(tally("train", dataset, 0.01, None), naive([dataset[0], dataset[1]], K, 0.01))


@pytest.mark.parametrize("kind", ["camvid", "bdd100k"])
def test_the_sums_on_real_samples(real_data: Path, kind: str) -> None:
    """Reduced to a few thousand pixels, which the naive count can bear."""
    whole = (
        Camvid(real_data / "camvid", split="val") if kind == "camvid" else Bdd100k(real_data / "bdd100k", split="val")
    )
    classes = len(whole.classes.names)
    samples = [
        Sample(image[:, ::8, ::8].contiguous(), labels[::8, ::8].contiguous(), key)
        for image, labels, key in (whole[0], whole[3])
    ]
    sums = _tally.nothing(2, classes)
    for sample in samples:
        sums.add(_look.look(sample, classes, 0.005))
    assert_same(sums, naive(samples, classes, 0.005))


def test_real_frequencies_are_those_counted_elsewhere(real_data: Path) -> None:
    """The shares of all pixels that the sample's README has; CamVid's validation split."""
    found = tally("val", Camvid(real_data / "camvid", split="val"), 0.005, None)
    told = [0.09177, 0.25962, 0.00564, 0.28953, 0.08719, 0.16336, 0.00892, 0.03078, 0.01746, 0.00651, 0.02217, 0.01703]
    np.testing.assert_allclose(found.pixels.sum(0) / found.pixels.sum(), told, atol=6e-6)


def test_two_splits_are_one_larger_split() -> None:
    maps = blobs(5, 2)
    whole = tally("all", Handmade(maps), 0.01, None)
    parts = [Handmade(maps), Handmade(maps)]
    halves = [_tally.nothing(2, K), _tally.nothing(3, K)]
    for index in range(5):
        halves[index >= 2].add(_look.look(parts[0][index], K, 0.01))
    assert_same(whole, halves[0] + halves[1])


def test_a_stopped_count_goes_on_with_the_same_sums(tmp_path: Path) -> None:
    maps = blobs(12, 3)
    with pytest.raises(Mistake, match=r"x/7\.png"):
        tally("train", Handmade(maps, bad=7), 0.01, tmp_path)
    (file,) = tmp_path.iterdir()
    assert _tally.load(file).seen == 7
    mended = Handmade(maps)
    resumed = tally("train", mended, 0.01, tmp_path)
    assert sorted(mended.read) == [7, 8, 9, 10, 11]
    assert_same(resumed, tally("train", Handmade(maps), 0.01, None))
    again = Handmade(maps)
    assert_same(resumed, tally("train", again, 0.01, tmp_path))
    assert again.read == []


def test_other_data_or_settings_start_anew(tmp_path: Path) -> None:
    tally("train", Handmade(blobs(3, 0)), 0.01, tmp_path)
    for dataset, boundary in ((Handmade(blobs(3, 0), "other"), 0.01), (Handmade(blobs(3, 0)), 0.02)):
        tally("train", dataset, boundary, tmp_path)
        assert sorted(dataset.read) == [0, 1, 2]


def test_a_key_interrupt_keeps_what_was_counted(tmp_path: Path) -> None:
    class Interrupted(Handmade):
        def __getitem__(self, index: int) -> Sample:
            if index == 4:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        tally("train", Interrupted(blobs(6, 0)), 0.01, tmp_path)
    assert _tally.load(next(tmp_path.iterdir())).seen == 4


def test_what_is_kept_does_not_grow_but_for_rows() -> None:
    """Sums have one size; a row of an image is some hundred bytes."""
    few, many = _tally.nothing(1, 19).arrays(), _tally.nothing(1001, 19).arrays()
    rows = {name: many[name].nbytes - few[name].nbytes for name in few}
    assert {name for name, more in rows.items() if more} == set(_tally.PER_IMAGE)
    assert sum(rows.values()) / 1000 == 4 * 20 + 16 + 8 + 4


# What is made of the sums


def analysed(*splits: Dataset, **settings: float) -> Findings:
    data = DataSpec(kind="handmade", size=(17, 33), crop=(8, 16))
    return DatasetAnalysis(**settings).analyse(Subject(data, dict(zip(("train", "val"), splits, strict=False))))  # pyright: ignore


def column(found: Findings, table: str, name: str) -> list[float]:
    place = list(found.tables[table].columns).index(name)
    return [row[place] for row in found.tables[table].rows]  # pyright: ignore


def test_the_tables_are_a_naive_count() -> None:
    train, val = blobs(6, 4), blobs(4, 5)
    found = analysed(Handmade(train), Handmade(val, "yy"))
    for split, maps in (("train", train), ("val", val), ("all", train + val)):
        stacked = np.stack(maps)
        totals = np.array([(stacked == k).sum() for k in range(K)])
        there = np.array([[(m == k).any() for k in range(K)] for m in maps])
        assert column(found, "frequency", f"{split} pixels") == totals.tolist()
        np.testing.assert_allclose(column(found, "frequency", f"{split} share"), totals / totals.sum())
        np.testing.assert_allclose(column(found, "frequency", f"{split} images"), there.mean(0))
        assert found.numbers[f"{split}/void_share"] == pytest.approx((stacked == IGNORE).mean())
        near = np.stack([nearby(m, 1) for m in maps])
        assert found.numbers[f"{split}/boundary_share"] == pytest.approx(near[stacked != IGNORE].mean())
        assert column(found, "boundary", split)[1] == pytest.approx(near[stacked == 1].mean())
        for k, row in enumerate(found.tables[f"together/{split}"].rows):
            both = [there[there[:, k], j].mean() if there[:, k].any() else None for j in range(K)]
            assert list(row[1:]) == both
        pieces = [piece for m in maps for piece in flooded(m) if piece[0] == 2]
        sides = np.repeat([math.isqrt(p) for _, p, _ in pieces], [p for _, p, _ in pieces])
        row = found.tables[f"objects/{split}"].rows[2]
        assert row[1:4] == [len(pieces), len(pieces) / len(maps), np.mean([p < 16 for _, p, _ in pieces])]
        assert row[4:7] == [np.quantile(sides, q, method="inverted_cdf") for q in (0.1, 0.5, 0.9)]
        assert row[7] == pytest.approx(row[5] / 2)  # pyright: ignore[reportOptionalOperand]  # 34×66 at 17×33


def test_a_split_alone_and_one_without_labels() -> None:
    alone = analysed(Handmade(blobs(3, 0)))
    assert [row[0] for row in alone.tables["splits"].rows] == ["train"]
    void = [np.full((9, 9), IGNORE, np.uint8)] * 2
    found = analysed(Handmade(void), Handmade(void, "yy"))
    assert found.numbers["train/void_share"] == 1.0
    assert found.tables["shift/val"].rows == []


def test_the_map_of_a_class_that_fills_the_right_half() -> None:
    labels = np.zeros((64, 128), np.uint8)
    labels[:, 64:] = 1
    labels[:32, :64] = IGNORE
    share = places(tally("train", Handmade([labels] * 2), 0.01, None))
    assert share.shape == (K, 32, 64)
    np.testing.assert_array_equal(share[1], np.broadcast_to(np.arange(64) >= 32, (32, 64)))
    np.testing.assert_array_equal(share[0], np.outer(np.arange(32) >= 16, np.arange(64) < 32))
    where = analysed(Handmade([labels])).tables["where"].rows
    assert where[1] == ["car", 1.0, 0.5, 0.75]
    assert where[0] == ["road", 1.0, 0.75, 0.25]
    assert where[3] == ["train", 0.0, None, None]


def test_weights_are_the_published_ones() -> None:
    """ENet's check of METHODS: f = (.5, .3, .2) gives 2.3883, 3.6019 and 5.0289."""
    pixels = np.array([[50, 30, 20, 0, 7]], np.uint32)
    found = class_weights(pixels)
    np.testing.assert_allclose(found["enet"][:3], [2.3883, 3.6019, 5.0289], atol=5e-5)
    np.testing.assert_allclose(found["erfnet"][:3], 1 / np.log(1.1 + np.array([0.5, 0.3, 0.2])))
    np.testing.assert_allclose(found["inverse"][:3], np.array([2, 10 / 3, 5]) / (31 / 9))
    np.testing.assert_allclose(found["median_frequency"][:3], [0.6, 1, 1.5])
    assert all(np.isnan(weights[3]) for weights in found.values())
    two = class_weights(np.array([[60, 40, 0, 0, 0], [100, 0, 0, 0, 0]], np.uint32))
    np.testing.assert_allclose(two["median_frequency"][:2], [0.6 / 0.8, 0.6 / 0.4])  # 40 of the 100 in one image


def test_weights_are_those_that_the_losses_take() -> None:
    pixels = tally("train", Handmade(blobs(5, 8)), 0.01, None).pixels.astype(np.int64)
    totals = pixels[:, :-1].sum(0)
    with_it = [int(pixels[pixels[:, k] > 0, :-1].sum()) for k in range(K)]
    for name, weights in class_weights(pixels).items():
        taken = by_name(name, totals.tolist(), with_it).numpy()
        np.testing.assert_allclose(weights[totals > 0], taken[totals > 0], rtol=1e-9, err_msg=name)


def test_chances_of_rare_class_are_the_published_ones() -> None:
    """RCS: exp((1 − f) / T), here of METHODS' Cityscapes frequencies with T = 0.01."""
    share = [36.90, 6.09, 22.81, 0.656, 0.878, 1.228, 0.208, 0.553, 15.91, 1.16, 4.01, 1.22, 0.135, 7.00, 0.268, 0.236,
             0.233, 0.099, 0.414]  # fmt: skip
    found = chances(np.array([[*(round(1000 * s) for s in share), 0]], np.uint32))
    np.testing.assert_allclose(found[[17, 12, 6, 16, 18, 9]], [0.113, 0.109, 0.101, 0.099, 0.082, 0.039], atol=1e-3)
    assert found.sum() == pytest.approx(1)


def test_held_and_quantile() -> None:
    needed = np.zeros((2, 101), np.int64)
    needed[0, [10, 60]] = 3, 1
    assert held(needed)[0, [9, 10, 59, 60]].tolist() == [0, 0.75, 0.75, 1]
    assert np.isnan(held(needed)[1]).all()
    assert [quantile(np.array([0, 2, 0, 2]), q) for q in (0.1, 0.5, 0.51, 1)] == [1, 1, 3, 3]
    assert quantile(np.zeros(5, np.int64), 0.5) is None


def test_the_interval_covers_what_it_should() -> None:
    """Two splits drawn from one source: about 95 of 100 intervals hold zero; two sources a shift apart: none does."""
    random = np.random.default_rng(0)

    def draw(mean: float) -> np.ndarray:
        cars = random.normal(mean, 60, 80).clip(0, 1000).round()
        return np.stack([1000 - cars, cars, np.zeros(80)], 1).astype(np.uint32)

    hits = 0
    for _ in range(100):
        low, high = interval(draw(300), draw(300), 200, random)
        hits += int(low[1] <= 0 <= high[1])
    assert 88 <= hits <= 100
    one, two = draw(300), draw(400)
    low, high = interval(one, two, 500, random)
    difference = (shares(two) - shares(one))[1]
    assert 0 < low[1] < difference < high[1]
    half = 1.96 * math.sqrt(sum(x[:, 1].var(ddof=1) / 80 for x in (one, two))) / 1000  # for images of one size
    assert high[1] - low[1] == pytest.approx(2 * half, rel=0.15)


def test_few_images_have_no_interval() -> None:
    rows = analysed(Handmade(blobs(12, 0)), Handmade(blobs(9, 1), "yy")).tables["shift/val"].rows
    assert all(row[4] is None and row[5] is None for row in rows)
    rows = analysed(Handmade(blobs(12, 0)), Handmade(blobs(10, 1), "yy")).tables["shift/val"].rows
    assert all(low <= difference <= high for _, _, _, difference, low, high in rows)  # pyright: ignore


def test_the_advice_names_what_is_wrong() -> None:
    train = blobs(6, 4)
    said = dict(analysed(Handmade(train), Handmade(train)).tables["advice"].rows)
    assert "never in train, so that nothing can be learnt of them: train" in str(said["classes"])
    assert str(said["hold_out"]).startswith("whole sequences: 100\N{NO-BREAK SPACE}% of the images of val")
    half = np.zeros((200, 200), np.uint8)
    half[:100] = 1
    assert str(dict(analysed(Handmade([half])).tables["advice"].rows)["class_weights"]).startswith("not needed")
    rare = [half.copy() for _ in range(5)]
    rare[0][:10, :10] = 2
    said = dict(analysed(Handmade(rare)).tables["advice"].rows)
    assert "rare_class}: seldom seen are pole (0.05\N{NO-BREAK SPACE}% of the pixels, in 20.0" in str(said["sampling"])
    assert str(said["class_weights"]).startswith("erfnet or enet: road has 1,000 times pole’s")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"boundary": 0.0}, "boundary"), ({"duplicate_bits": 64}, "duplicate_bits"), ({"resamples": 10}, "resamples")],
)
def test_wrong_settings_are_mistakes(settings: dict[str, float], message: str) -> None:
    with pytest.raises(Mistake, match=message):
        DatasetAnalysis(**settings)  # pyright: ignore


# Near-duplicates


def test_pairs_are_those_of_a_naive_comparison() -> None:
    random = np.random.default_rng(0)
    base = random.integers(0, 1 << 63, 20, np.uint64)
    one = base ^ (np.uint64(1) << random.integers(0, 64, 20).astype(np.uint64))
    two = np.concatenate([base[:7], random.integers(0, 1 << 63, 30, np.uint64)])
    found = across(one, two, 4)
    apart = {(i, j): (int(a) ^ int(b)).bit_count() for i, a in enumerate(one) for j, b in enumerate(two)}
    close = {pair: bits for pair, bits in apart.items() if bits <= 4}
    got = dict(zip(zip(found.first.tolist(), found.second.tolist(), strict=True), found.bits.tolist(), strict=True))
    assert got == close
    assert len(got) >= 7
    assert (np.diff(found.bits) >= 0).all()
    wanted = [min((int(a) ^ int(b)).bit_count() for j, b in enumerate(two) if j != i) for i, a in enumerate(two)]
    assert nearest(two).tolist() == wanted
    assert nearest(two[:1]).tolist() == [65]
    assert len(across(one, two[:0], 4).bits) == 0


def test_a_hash_survives_light_and_noise_but_not_another_scene(real_data: Path) -> None:
    dataset = Camvid(real_data / "camvid", split="train")

    def digest(image: torch.Tensor) -> int:
        return _look.look(Sample(image, torch.zeros(image.shape[1:], dtype=torch.uint8), "x"), K, 0.01).hash

    image = dataset[0].image
    noise = torch.randint(-6, 7, image.shape, generator=torch.Generator().manual_seed(0))
    similar = (image.float() * 0.9 + 10 + noise).clamp(0, 255).byte()
    assert (digest(image) ^ digest(similar)).bit_count() <= 4
    assert (digest(image) ^ digest(image.flip(2))).bit_count() > 12
    assert (digest(image) ^ digest(dataset[200].image)).bit_count() > 12


# Weather and time of day


def scalabel(folder: Path, split: str, told: dict[str, str], wrapped: bool) -> None:
    frames_ = [
        {"name": f"{stem}.jpg", "labels": [{"attributes": {"occluded": True}}], "attributes": {"timeofday": time}}
        for stem, time in told.items()
    ]
    file = folder / "labels" / "sem_seg" / "polygons" / f"sem_seg_{split}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"frames": frames_, "groups": []} if wrapped else frames_, indent=2))


def bdd(folder: Path, split: str, maps: dict[str, np.ndarray]) -> Bdd100k:
    for stem, labels in maps.items():
        image = folder / "images" / "10k" / split / f"{stem}.jpg"
        mask = folder / "labels" / "sem_seg" / "masks" / split / f"{stem}.png"
        for file, pixels in ((image, np.zeros((*labels.shape, 3), np.uint8)), (mask, labels)):
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return Bdd100k(folder, split=split)


@pytest.mark.parametrize("wrapped", [True, False])
def test_attributes_come_from_the_label_files(tmp_path: Path, wrapped: bool) -> None:
    road, sky = np.zeros((8, 8), np.uint8), np.full((8, 8), 10, np.uint8)
    train = bdd(tmp_path, "train", {"a": road, "b": sky, "c": road})
    val = bdd(tmp_path, "val", {"d": road})
    scalabel(tmp_path, "train", {"a": "night", "b": "daytime", "z": "night"}, wrapped)
    scalabel(tmp_path, "val", {"d": "night"}, wrapped)
    assert attributes(train, "train") == {"a": {"timeofday": "night"}, "b": {"timeofday": "daytime"}}
    found = DatasetAnalysis().analyse(Subject(DataSpec(kind="bdd100k"), {"train": train, "val": val}))
    assert found.tables["attributes"].rows == [["timeofday", "daytime", 1, 0, 0.0], ["timeofday", "night", 1, 1, 0.0]]
    by_class = {row[0]: row[1:] for row in found.tables["attributes/timeofday"].rows}
    assert (by_class["road"], by_class["sky"]) == ([0.0, 1.0], [1.0, 0.0])


def test_frames_longer_than_what_is_held_are_read(tmp_path: Path) -> None:
    told = [{"name": str(i), "long": "x" * (CHUNK // 3 + i) if i % 3 else "y" * 3 * CHUNK} for i in range(5)]
    (tmp_path / "x.json").write_text(json.dumps({"frames": told, "config": {"a": [1]}}))
    assert list(frames(tmp_path / "x.json")) == told
    (tmp_path / "torn.json").write_text(json.dumps(told)[: 4 * CHUNK])
    with pytest.raises(Mistake, match=r"torn\.json: damaged JSON"):
        list(frames(tmp_path / "torn.json"))
