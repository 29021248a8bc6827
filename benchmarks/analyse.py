"""What `data analyse` costs: images a second against a plain loop over classes, and memory against images.

.venv/bin/python benchmarks/analyse.py          two to three minutes on two cores; --quick for a look

The plain loop has a mask per class, and no objects: numpy cannot find them. Decoding is left out: the label maps are
drawn beforehand. Both take turns; the ratio is that of medians.
"""

import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import torch

from segdistill.analyses._look import GRID, look
from segdistill.analyses._tally import nothing, tally
from segdistill.datasets import Dataset
from segdistill.labels import CITYSCAPES_19
from segdistill.run import processor
from segdistill.types import IGNORE, Sample

SIZE, SMALL, CLASSES, DISTANCE = (1024, 2048), (64, 128), 19, 11


class Drawn(Dataset):
    """Scenes of rectangles; a few are drawn, and shown again and again."""

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.count, self.classes = count, CITYSCAPES_19
        self.scenes = [scene(size, seed) for seed in range(4)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return self.scenes[index % len(self.scenes)]._replace(key=str(index))

    def fingerprint(self) -> str:
        return str(self.count)


def scene(size: tuple[int, int], seed: int) -> Sample:
    """400 rectangles of all classes with ragged edges, and noise for an image."""
    random = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint8)
    for _ in range(400):
        y, x = (int(random.integers(0, side)) for side in size)
        tall, wide = (max(1, int(side * 0.5 ** random.uniform(1, 8))) for side in size)
        labels[y : y + tall, x : x + wide] = random.choice([*range(CLASSES), IGNORE])
    shift = random.integers(-2, 3, size[0])
    labels = np.stack([np.roll(row, by) for row, by in zip(labels, shift, strict=True)])
    image = torch.from_numpy(random.integers(0, 256, (3, *size), np.uint8))
    return Sample(image, torch.from_numpy(labels), "")


def plain(sample: Sample) -> None:
    """Pixels, places and boundary by class, channels and luminance: one mask after the other."""
    labels, image = sample.labels.numpy(), sample.image.numpy()
    height, width = labels.shape
    near = np.zeros(labels.shape, bool)
    for k in range(CLASSES):
        mask = labels == k
        mask.sum()
        mask.reshape(GRID[0], height // GRID[0], GRID[1], width // GRID[1]).sum((1, 3))
        inside = mask
        for _ in range(DISTANCE):  # erode by 3×3
            inside = inside[:-2] & inside[1:-1] & inside[2:]
            inside = inside[:, :-2] & inside[:, 1:-1] & inside[:, 2:]
        near[DISTANCE:-DISTANCE, DISTANCE:-DISTANCE] |= mask[DISTANCE:-DISTANCE, DISTANCE:-DISTANCE] & ~inside
        (mask & near).sum()
    grey = (image.astype(np.float32) * np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]).sum(0)
    grey.mean(), grey.std()
    for band in image:
        np.bincount(band.ravel(), minlength=256)


def speed(rounds: int, images: int) -> None:
    dataset = Drawn(images, SIZE)
    seconds: dict[str, list[float]] = {"plain loop": [], "one look": [], "tally, all cores": []}
    sums = nothing(rounds * 4 + 4, CLASSES)
    for count in range(rounds + 1):
        begin = time.perf_counter()
        plain(dataset[count])
        middle = time.perf_counter()
        sums.add(look(dataset[count], CLASSES, 0.005))
        looked = time.perf_counter()
        tally("tally", dataset, 0.005, None)
        end = time.perf_counter()
        if count:  # the first round allocates
            for name, taken in zip(seconds, (middle - begin, looked - middle, (end - looked) / images), strict=True):
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{SIZE[0]}×{SIZE[1]}, {CLASSES} classes, medians of {rounds}")
    for name, median in medians.items():
        times = medians["plain loop"] / median
        print(f"{name:18} {1000 * median:7.0f} ms an image {1 / median:7.1f} images/s   ×{times:.1f}")


def memory(images: int) -> None:
    tally("memory", Drawn(images, SMALL), 0.005, None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(words: list[str]) -> None:
    if words[:1] == ["--memory"]:
        memory(int(words[1]))
        return
    quick = "--quick" in words
    print(f"{processor()}, numpy {np.__version__}, {torch.get_num_threads()} threads of torch")
    speed(2 if quick else 7, 4 if quick else 16)
    print(f"peak memory of a process that looks at so many images of {SMALL[0]}×{SMALL[1]}")
    for images in (100, 500) if quick else (100, 1000, 5000):
        command = [sys.executable, __file__, "--memory", str(images)]
        peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"{images:6} {float(peak):8.0f} MiB")


if __name__ == "__main__":
    main(sys.argv[1:])
