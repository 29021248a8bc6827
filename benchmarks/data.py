"""Images a second: decoding, and what a training crop goes through, beside torchvision v2 and albumentations.

python benchmarks/data.py          three minutes on two cores; two more for pip and the scenes the first time
.venv-extras/bin/python benchmarks/data.py          where torchvision fits torch

1024×2048 images -> 512×1024 crops: scale 0.5 to 2 (the same eight for all), crop, flip, brightness, contrast and
saturation by ± 30 %, then floats that are normalised: of images in memory as each peer wants them, and from their files
(where ours also turns raw ids into train ids, and checks them). One thread; everything takes turns; medians.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from _peers import alternate, run_with, table
from PIL import Image
from torch import Tensor

from segdistill.allocator import keep_memory
from segdistill.crops import augment
from segdistill.data import as_float, training_batches
from segdistill.datasets.cityscapes import Cityscapes
from segdistill.decoded import Decoded
from segdistill.losses.cross_entropy import CrossEntropy
from segdistill.make_data import make
from segdistill.models.unet import UNet
from segdistill.recipe import AugmentSpec, DataSpec
from segdistill.run import processor
from segdistill.types import Sample

COUNT, SIZE, CROP, ROUNDS = 24, (1024, 2048), (512, 1024), 9
FOLDER = Path(tempfile.gettempdir()) / "segdistill-benchmark-scenes"
SCALES = np.exp(np.linspace(np.log(0.5), np.log(2), 8)).tolist()
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pipeline(NamedTuple):
    """From the number of an image to what the peer wants, and from that and a scale to a crop."""

    read: Callable[[int], Any]
    crop: Callable[[Any, float], Tensor]


def main() -> None:
    run_with("albumentations")
    torch.set_num_threads(1)
    versions = f"torch {torch.__version__}, numpy {np.__version__}, OpenCV {cv2.__version__}"
    print(f"{processor()}, one thread, {versions}, memory: {keep_memory()}")
    if not FOLDER.exists():
        torn = FOLDER.with_suffix(".torn")
        shutil.rmtree(torn, ignore_errors=True)
        make(torn, "cityscapes", COUNT, SIZE)
        torn.rename(FOLDER)
    dataset = Cityscapes(FOLDER, split="train")
    disk = Decoded(dataset, "train")
    augmenting(dataset, disk)
    decoding(dataset, disk)
    feeding(dataset, disk)


def augmenting(dataset: Cityscapes, disk: Decoded) -> None:
    """Eight scales a round: of one image in memory, and of one after the other from their files."""
    pipelines = {"segdistill": Pipeline(dataset.__getitem__, ours())}
    pipelines["segdistill, bytes as the loader hands them over"] = Pipeline(dataset.__getitem__, as_bytes())
    for peer in (torchvision_pipelines, albumentations_pipelines):
        pipelines |= peer(dataset)
    memory: dict[str, Callable[[], object]] = {}
    files: dict[str, Callable[[], object]] = {}
    for name, (read, crop) in pipelines.items():
        kept = read(0)
        shape = tuple(crop(kept, 0.7).shape)
        assert shape == (3, *CROP), f"{name} gives {shape}"
        memory[name] = lambda crop=crop, kept=kept: [crop(kept, scale) for scale in SCALES]
        files[name] = lambda crop=crop, read=read: [crop(read(k % len(dataset)), s) for k, s in enumerate(SCALES)]
    print(f"\nA crop of {CROP[0]}×{CROP[1]} from a decoded image, medians of {ROUNDS} rounds of {len(SCALES)} scales\n")
    table(alternate(memory, ROUNDS), len(SCALES))
    crop = pipelines["segdistill"].crop
    files["segdistill, cache: disk"] = lambda: [crop(disk[k % len(disk)], s) for k, s in enumerate(SCALES)]
    print("\nThe same from PNG files\n")
    table(alternate(files, 3), len(SCALES))


def ours() -> Callable[[Sample, float], Tensor]:
    mean, factor = (255 * torch.tensor(MEAN)).view(3, 1, 1), (1 / (255 * torch.tensor(DEVIATION))).view(3, 1, 1)
    crop = as_bytes()
    return lambda sample, scale: crop(sample, scale).float().sub_(mean).mul_(factor)  # in training the network does it


def as_bytes() -> Callable[[Sample, float], Tensor]:
    random = np.random.default_rng(0)

    def crop(sample: Sample, scale: float) -> Tensor:
        return augment(sample, None, CROP, AugmentSpec(scale=(scale, scale), jitter=0.3), random).image

    return crop


def torchvision_pipelines(dataset: Cityscapes) -> dict[str, Pipeline]:
    try:
        import torchvision
        from torchvision import tv_tensors
        from torchvision.io import ImageReadMode, decode_image
        from torchvision.transforms import v2
    except (ImportError, RuntimeError) as error:  # its compiled part does not fit this torch
        print(f"\ntorchvision is left out: {str(error).splitlines()[0]}")
        return {}

    def read(index: int) -> tuple[Tensor, Tensor]:
        pair = dataset.pairs[index]
        image, labels = decode_image(str(pair.image), ImageReadMode.RGB), decode_image(str(pair.labels))
        return tv_tensors.Image(image), tv_tensors.Mask(labels[0])

    rest = [
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.3, 0.3, 0.3),
        v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
        v2.Normalize(MEAN, DEVIATION),
    ]
    fill = {tv_tensors.Image: 0, tv_tensors.Mask: 255}
    jitter = {
        s: v2.Compose(
            [v2.ScaleJitter(SIZE, (s, s)), v2.RandomCrop(CROP, pad_if_needed=True, fill=fill), *rest]  # pyright: ignore
        )
        for s in [*SCALES, 0.7]
    }
    first = {
        s: v2.Compose([v2.RandomResizedCrop(CROP, (min(1, 0.25 / s**2),) * 2, (2.0, 2.0)), *rest])
        for s in [*SCALES, 0.7]
    }
    name = f"torchvision {torchvision.__version__} v2"
    return {
        f"{name}: ScaleJitter, RandomCrop": Pipeline(read, lambda pair, s: jitter[s](*pair)[0]),
        f"{name}: RandomResizedCrop": Pipeline(read, lambda pair, s: first[s](*pair)[0]),
    }


def albumentations_pipelines(dataset: Cityscapes) -> dict[str, Pipeline]:
    try:
        import albumentations as A
        from albumentations.pytorch import ToTensorV2
    except ImportError as error:
        print(f"\nalbumentations is left out: {error}")
        return {}

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        pair = dataset.pairs[index]
        image, labels = cv2.imread(str(pair.image), cv2.IMREAD_COLOR_RGB), cv2.imread(str(pair.labels), 0)
        assert image is not None and labels is not None
        return image, labels

    rest: list[Any] = [
        A.HorizontalFlip(),
        A.ColorJitter(brightness=(0.7, 1.3), contrast=(0.7, 1.3), saturation=(0.7, 1.3), hue=(0, 0), p=1),
        A.Normalize(MEAN, DEVIATION),
        ToTensorV2(),
    ]

    def crop(s: float) -> list[Any]:
        return [
            A.RandomScale((s - 1, s - 1), p=1),
            A.PadIfNeeded(*CROP, fill=0, fill_mask=255),
            A.RandomCrop(*CROP),
        ]

    def first(s: float) -> list[Any]:
        height = round(CROP[0] / s)
        return [A.RandomSizedCrop((height, height), CROP, w2h_ratio=2.0)]

    jitter = {s: A.Compose([*crop(s), *rest]) for s in [*SCALES, 0.7]}
    sized = {s: A.Compose([*first(s), *rest]) for s in [*SCALES, 0.7]}
    name = f"albumentations {A.__version__}"

    def pipeline(of: dict[float, Any]) -> Pipeline:
        return Pipeline(read, lambda pair, s: of[s](image=pair[0], mask=pair[1])["image"])

    return {
        f"{name}: RandomScale, RandomCrop": pipeline(jitter),
        f"{name}: RandomSizedCrop": pipeline(sized),
    }


def decoding(dataset: Cityscapes, disk: Decoded) -> None:
    """An image and its labels as tensors; the crop is counted above."""
    places = iter(range(10**9))

    def index() -> int:
        return next(places) % COUNT

    def pillow() -> None:
        pair = dataset.pairs[index()]
        np.asarray(Image.open(pair.image)), np.asarray(Image.open(pair.labels))  # pyright: ignore

    def opencv() -> None:
        pair = dataset.pairs[index()]
        cv2.imread(str(pair.image)), cv2.imread(str(pair.labels), cv2.IMREAD_GRAYSCALE)

    works: dict[str, Callable[[], object]] = {
        "segdistill, PNG files": lambda: dataset[index()],
        "Pillow, PNG files": pillow,
        "segdistill, cache: disk": lambda: disk[index()],
        "OpenCV, PNG files": opencv,
    }
    print(f"\nDecoding an image with its labels, medians of {2 * ROUNDS}\n")
    table(alternate(works, 2 * ROUNDS), 1)


def feeding(dataset: Cityscapes, disk: Decoded) -> None:
    """Whole batches in this process, against the training step that waits for them."""
    spec = DataSpec(kind="cityscapes", crop=CROP, batch=4)
    loaders = {
        name: training_batches(each, spec, 0, start=0, batch=4, rank=0, ranks=1)
        for name, each in (("files decoded each time", dataset), ("cache: disk", disk))
    }
    model = UNet(8, num_classes=19).to(memory_format=torch.channels_last)
    loss = CrossEntropy(num_classes=19, class_pixels=[1] * 19)

    def step() -> None:
        batch = next(loaders["cache: disk"])
        logits = model(as_float(batch.image))["logits"]
        every = torch.ones(batch.labels.shape, dtype=torch.bool)
        loss(logits, None, batch.labels, every).backward()
        model.zero_grad()

    works: dict[str, Callable[[], object]] = {name: lambda each=each: next(each) for name, each in loaders.items()}
    works["a step of a UNet of width 8 on labels, cache: disk"] = step
    print("\nBatches of 4 crops, no worker process, medians of 3\n")
    table(alternate(works, 3), 4)


if __name__ == "__main__":
    main()
