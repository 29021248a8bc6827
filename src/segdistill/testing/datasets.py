"""What every dataset has to keep."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdistill import parts
from segdistill.data import Cached
from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake
from segdistill.recipe import DataSpec
from segdistill.testing._suite import Suite
from segdistill.types import IGNORE, Sample

Opened = Callable[[str], Dataset]
"""Split -> dataset."""


class DatasetSuite(Suite):
    """What a dataset has to keep, on splits `train` and `val` of a few small images.

    A dataset that reads files has them written by `write`, in a subclass.
    """

    shelf = "datasets"

    @classmethod
    def write(cls, kind: str, folder: Path) -> Mapping[str, Any]:
        """Write the files of both splits below an empty folder; what a recipe then says to the dataset."""
        return cls.settings.get(kind, {})

    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Opened:
        said = cls.write(kind, tmp_path_factory.mktemp("files"))
        return lambda split: cls.make(kind, said, split=split)

    def test_parameters_do_not_hide_what_the_recipe_says_about_feeding(self, kind: str) -> None:
        part = self.part(kind)
        assert not set(parts.signature(part)) & set(DataSpec.model_fields)
        assert parts.facts(part) == ["split"]

    def test_labels_that_are_withheld_are_void_and_nothing_else_changes(self, opened: Opened) -> None:
        dataset = opened("train")
        part = dataset.without_labels([0])
        assert len(part) == len(dataset) and part.classes == dataset.classes and part.key(0) == dataset.key(0)
        for i in range(len(dataset)):
            assert torch.equal(part[i].image, dataset[i].image) and part[i].labels.shape == dataset[i].labels.shape
            assert np.array_equal(part[i].labels.numpy(), part.labels(i)) and part[i].key == dataset[i].key
            assert np.array_equal(part.labels(i), np.full_like(part.labels(i), IGNORE) if i == 0 else dataset.labels(i))
        last = len(dataset) - 1
        turned = dataset.only(range(last, -1, -1)).without_labels([0])
        assert (turned.labels(0) == IGNORE).all()
        assert last == 0 or np.array_equal(turned.labels(last), dataset.labels(0))
        if (dataset.labels(0) != IGNORE).any():
            assert part.fingerprint() != dataset.fingerprint()

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_samples(self, opened: Opened, split: str) -> None:
        dataset = opened(split)
        accepted = {*range(len(dataset.classes.names)), IGNORE}
        seen: set[int] = set()
        assert len(dataset) >= 1
        for i in range(len(dataset)):
            sample = dataset[i]
            assert isinstance(sample, Sample) and isinstance(sample.key, str)
            assert sample.image.dtype == sample.labels.dtype == torch.uint8
            assert sample.image.shape == (3, *sample.labels.shape)
            assert sample.image.is_contiguous() and sample.labels.is_contiguous()
            assert sample.image.float().std() > 1
            values = set(sample.labels.unique().tolist())
            assert values <= accepted
            seen |= values
        assert len(seen) >= min(4, len(dataset.classes.names))

    def test_keys_are_unique_and_splits_apart(self, opened: Opened) -> None:
        keys = [[dataset[i].key for i in range(len(dataset))] for dataset in (opened("train"), opened("val"))]
        assert all(len(set(each)) == len(each) for each in keys)
        train, val = (opened(split)[0] for split in ("train", "val"))
        assert not torch.equal(train.image, val.image)

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_labels_alone_are_those_of_the_sample(self, opened: Opened, split: str) -> None:
        dataset = opened(split)
        for i in range(len(dataset)):
            labels = dataset.labels(i)
            assert isinstance(labels, np.ndarray) and labels.dtype == np.uint8
            assert np.array_equal(labels, dataset[i].labels.numpy())

    def test_the_same_every_time(self, opened: Opened) -> None:
        first, again = opened("train"), opened("train")
        assert len(first) == len(again)
        assert first.fingerprint() == again.fingerprint() == first.fingerprint()
        assert first.classes == again.classes
        for i in reversed(range(len(first))):
            one, other = first[i], again[i]
            assert (
                torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels) and one.key == other.key
            )

    def test_a_sample_is_the_readers_own(self, opened: Opened) -> None:
        """Writing into it changes no later one."""
        dataset = opened("val")
        sample = dataset[0]
        kept = sample.image.clone(), sample.labels.clone()
        sample.image.zero_()
        sample.labels.zero_()
        assert torch.equal(dataset[0].image, kept[0]) and torch.equal(dataset[0].labels, kept[1])

    def test_fingerprints_are_hexadecimal_and_tell_splits_apart(self, opened: Opened) -> None:
        prints = [opened(split).fingerprint() for split in ("train", "val")]
        assert prints[0] != prints[1]
        for each in prints:
            assert len(each) == 16 and int(each, 16) >= 0

    def test_the_class_table_fits(self, opened: Opened) -> None:
        classes = opened("train").classes
        assert len(classes.names) == len(classes.colours) == len(set(classes.names))
        assert opened("val").classes == classes

    def test_cached_is_the_same(self, opened: Opened) -> None:
        dataset = opened("train")
        cached = Cached(dataset)
        assert len(cached) == len(dataset)
        assert (cached.fingerprint(), cached.classes) == (dataset.fingerprint(), dataset.classes)
        for i in range(len(dataset)):
            one, other = dataset[i], cached[i]
            assert (
                torch.equal(one.image, other.image) and torch.equal(one.labels, other.labels) and one.key == other.key
            )
            assert np.array_equal(cached.labels(i), dataset.labels(i))

    def test_an_unknown_split_names_those_there_are(self, opened: Opened) -> None:
        with pytest.raises(Mistake) as caught:
            opened("trian")
        said = str(caught.value)
        assert "'trian'" in said and "train" in said.replace("trian", "") and "val" in said
        assert said.endswith("(did you mean 'train'?)")
        assert "\n" not in said

    def test_an_index_past_the_end(self, opened: Opened) -> None:
        """Else a loop `for sample in dataset` would never end."""
        dataset = opened("val")
        with pytest.raises(IndexError):
            dataset[len(dataset)]
