"""Images a second: decoding, and what a training crop goes through, beside torchvision v2 and albumentations.

python benchmarks/data.py          three minutes on two cores; two more for pip and the scenes the first time
.venv-extras/bin/python benchmarks/data.py          where torchvision fits torch

1024×2048 images -> 512×1024 crops: scale 0.5 to 2 (the same eight for all), crop, flip, brightness, contrast and
saturation by ± 30 %, then floats that are normalised. Decoded images are in memory, as each peer wants them; decoding
is a table of its own. One thread; everything takes turns; medians.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peers import alternate, run_with, table
from PIL import Image
from torch import Tensor

from segdistill.data import as_float, augment, training_batches
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


def main() -> None:
    run_with("albumentations")
    torch.set_num_threads(1)
    print(f"{processor()}, one thread, torch {torch.__version__}, numpy {np.__version__}")
    if not FOLDER.exists():
        torn = FOLDER.with_suffix(".torn")
        shutil.rmtree(torn, ignore_errors=True)
        make(torn, "cityscapes", COUNT, SIZE)
        torn.rename(FOLDER)
    dataset = Cityscapes(FOLDER, split="train")
    disk = Decoded(dataset, "train")
    augmenting(dataset[0])
    decoding(dataset, disk)
    feeding(dataset, disk)


def augmenting(sample: Sample) -> None:
    """One image, eight scales a round."""
    pipelines: dict[str, Callable[[float], Tensor]] = {"segdistill": ours(sample)}
    for peer in (torchvision_pipelines, albumentations_pipelines):
        pipelines |= peer(sample)
    for name, pipeline in pipelines.items():
        shape = tuple(pipeline(0.7).shape)
        assert shape == (3, *CROP), f"{name} gives {shape}"
    print(f"\nA crop of {CROP[0]}×{CROP[1]} from a decoded image, medians of {ROUNDS} rounds of {len(SCALES)} scales\n")
    works = {name: lambda each=each: [each(scale) for scale in SCALES] for name, each in pipelines.items()}
    table(alternate(works, ROUNDS), len(SCALES))


def ours(sample: Sample) -> Callable[[float], Tensor]:
    random = np.random.default_rng(0)
    mean, factor = (255 * torch.tensor(MEAN)).view(3, 1, 1), (1 / (255 * torch.tensor(DEVIATION))).view(3, 1, 1)

    def pipeline(scale: float) -> Tensor:
        crop = augment(sample, None, CROP, AugmentSpec(scale=(scale, scale), jitter=0.3), random)
        return crop.image.float().sub_(mean).mul_(factor)  # in training the network does this to the whole batch

    return pipeline


def torchvision_pipelines(sample: Sample) -> dict[str, Callable[[float], Tensor]]:
    try:
        import torchvision
        from torchvision import tv_tensors
        from torchvision.transforms import v2
    except (ImportError, RuntimeError) as error:  # its compiled part does not fit this torch
        print(f"\ntorchvision is left out: {str(error).splitlines()[0]}")
        return {}
    image, labels = tv_tensors.Image(sample.image), tv_tensors.Mask(sample.labels)
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
        f"{name}: ScaleJitter, RandomCrop": lambda s: jitter[s](image, labels)[0],
        f"{name}: RandomResizedCrop": lambda s: first[s](image, labels)[0],
    }


def albumentations_pipelines(sample: Sample) -> dict[str, Callable[[float], Tensor]]:
    try:
        import albumentations as A
        import cv2
        from albumentations.pytorch import ToTensorV2
    except ImportError as error:
        print(f"\nalbumentations is left out: {error}")
        return {}
    cv2.setNumThreads(0)
    pixels, labels = sample.image.permute(1, 2, 0).contiguous().numpy(), sample.labels.numpy()
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
    return {
        f"{name}: RandomScale, RandomCrop": lambda s: jitter[s](image=pixels, mask=labels)["image"],
        f"{name}: RandomSizedCrop": lambda s: sized[s](image=pixels, mask=labels)["image"],
    }


def decoding(dataset: Cityscapes, disk: Decoded) -> None:
    """An image and its labels as tensors; the crop is counted above."""
    places = iter(range(10**9))

    def index() -> int:
        return next(places) % COUNT

    def pillow() -> None:
        pair = dataset.pairs[index()]
        np.asarray(Image.open(pair.image)), np.asarray(Image.open(pair.labels))  # pyright: ignore

    works: dict[str, Callable[[], object]] = {
        "segdistill, PNG files": lambda: dataset[index()],
        "Pillow, PNG files": pillow,
        "segdistill, cache: disk": lambda: disk[index()],
    }
    try:
        import cv2
    except ImportError:
        pass
    else:

        def opencv() -> None:
            pair = dataset.pairs[index()]
            cv2.imread(str(pair.image)), cv2.imread(str(pair.labels), cv2.IMREAD_GRAYSCALE)

        works["OpenCV, PNG files"] = opencv
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
