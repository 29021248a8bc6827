"""Samples set aside: a file that `data check --quarantine` writes, and a split without the samples that it names."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from segdistill.datasets import Dataset
from segdistill.mistakes import Mistake, nearest
from segdistill.run import write_json


class _Split(BaseModel):
    model_config = ConfigDict(extra="forbid")
    fingerprint: str
    samples: dict[str, str]
    """Key -> why."""


class _Quarantine(BaseModel):
    model_config = ConfigDict(extra="forbid")
    splits: dict[str, _Split]


def write(file: Path, datasets: Mapping[str, Dataset], bad: Mapping[str, Mapping[str, str]]) -> None:
    """Per split the data set's fingerprint, and why which samples (by their keys) are not to be used."""
    write_json(
        file,
        {
            "splits": {
                split: {"fingerprint": dataset.fingerprint(), "samples": dict(bad[split])}
                for split, dataset in datasets.items()
            }
        },
    )


def read(file: Path, dataset: Dataset, split: str) -> dict[str, str]:
    """The samples of a split that a file sets aside: key -> why.

    Raises:
        Mistake: no such file, not one of ours, of other data, or it names samples that the split does not have.
    """
    try:
        content = _Quarantine.model_validate(json.loads(file.read_text(encoding="utf8")))
    except FileNotFoundError as error:
        names = [path.name for path in file.parent.glob("*.json")]
        raise Mistake(f"data.quarantine: {file}: there is no such file{nearest(file.name, names)}") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValidationError) as error:
        raise Mistake(f"data.quarantine: {file}: expected a file that data check --quarantine wrote") from error
    if split not in content.splits:
        return {}
    said = content.splits[split]
    if said.fingerprint != dataset.fingerprint():
        raise Mistake(
            f"data.quarantine: {file}: it is of other data: '{split}' had the fingerprint {said.fingerprint}, now it "
            f"is {dataset.fingerprint()}; data check --quarantine writes it anew"
        )
    known = set(keys(dataset)) if said.samples else set[str]()
    for key in said.samples:
        if key not in known:
            raise Mistake(f"data.quarantine: {file}: '{split}' has no sample '{key}'{nearest(key, known)}")
    return said.samples


def without(dataset: Dataset, split: str, quarantine: str | None) -> Dataset:
    """The split without what the recipe's quarantine names, for training and for measuring alike; says how many.

    Raises:
        Mistake: as `read`, or nothing would be left.
    """
    bad = read(Path(quarantine), dataset, split) if quarantine is not None else {}
    if not bad:
        return dataset
    kept = [index for index, key in enumerate(keys(dataset)) if key not in bad]
    if not kept:
        raise Mistake(f"data.quarantine: {quarantine}: it sets every sample of '{split}' aside")
    if os.environ.get("RANK", "0") == "0":
        print(f"segdistill: {split}: {len(bad)} of {len(dataset)} samples set aside by {quarantine}", file=sys.stderr)
    return dataset.only(kept)


def keys(dataset: Dataset) -> list[str]:
    """Every sample's key; of files, without opening them."""
    return [dataset.key(index) for index in range(len(dataset))]
