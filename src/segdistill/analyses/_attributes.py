"""Weather, scene and time of day of each image, where BDD100K's label files tell them.

The files are Scalabel frames, `{"name", "attributes": {"weather", "scene", "timeofday"}, "labels": […]}`, in a list or
under "frames". They may hold gigabytes of outlines: frames are read one by one and only the attributes are kept.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segdistill.datasets import Dataset, FileDataset
from segdistill.mistakes import Mistake

NAMES = ("weather", "scene", "timeofday")
CHUNK = 1 << 20
BETWEEN = " \t\r\n,"


def attributes(dataset: Dataset, split: str) -> dict[str, Mapping[str, str]]:
    """Image stem -> attribute -> value, for the images that a JSON file of the split below `labels/` speaks of."""
    if not isinstance(dataset, FileDataset):
        return {}
    wanted = {pair.image.stem for pair in dataset.pairs}
    roots = [parent for parent in dataset.pairs[0].image.parents[:6] if (parent / "labels").is_dir()]
    found: dict[str, Mapping[str, str]] = {}
    for file in sorted((roots[0] / "labels").rglob(f"*_{split}.json")) if roots else []:
        if not _speaks_of_weather(file):
            continue
        for frame in frames(file):
            stem = Path(str(frame.get("name"))).stem
            told = frame.get("attributes")
            if stem in wanted and isinstance(told, dict):
                found[stem] = {name: str(told[name]) for name in NAMES if name in told}
    return found


def frames(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of the file's list, or of its list "frames", one after the other.

    Raises:
        Mistake: the file is not such JSON.
    """
    decoder = json.JSONDecoder()
    with file.open() as text:
        held = text.read(CHUNK)
        place = held.find("[", max(0, held.find('"frames"')) if held.lstrip().startswith("{") else 0) + 1
        more = True
        while True:
            while place < len(held) and held[place] in BETWEEN:
                place += 1
            if place < len(held) and held[place] != "{":
                return
            try:
                frame, place = decoder.raw_decode(held, place)
            except json.JSONDecodeError as error:
                if not more:
                    raise Mistake(f"{file}: damaged JSON ({error}); expected a list of frames") from error
                # The frame goes on: hold twice as much, so that a long one is not tried too often.
                piece = text.read(max(CHUNK, len(held) - place))
                held, place, more = held[place:] + piece, 0, bool(piece)
                continue
            yield frame


def _speaks_of_weather(file: Path) -> bool:
    with file.open() as text:
        return '"timeofday"' in text.read(CHUNK)
