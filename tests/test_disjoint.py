"""Parts of a training split: disjoint, all of it together, another partition each round, whole sequences."""

from pathlib import Path

import numpy as np
import pytest

from segdistill.assemble import assemble
from segdistill.disjoint import part_of
from segdistill.mistakes import Mistake
from segdistill.planning import plan
from segdistill.recipe import PartsSpec
from segdistill.training import train
from small import small


class Named:
    """Of a dataset what matters here."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]


IMAGES = Named([f"town_{index:03d}" for index in range(100)])
SIZES = {"a": 9, "b": 2, "c": 4, "d": 7, "e": 1, "f": 5, "g": 8}
CITIES = Named([f"{city}_{index}" for city, count in SIZES.items() for index in range(count)])


def test_parts_are_disjoint_and_all() -> None:
    spec = PartsSpec(of=3)
    for turn in range(4):
        parts = [part_of(IMAGES, spec, 3 * turn + place) for place in range(3)]
        assert sorted(index for part in parts for index in part) == list(range(100))
        assert sorted(map(len, parts)) == [33, 33, 34] and all(part == sorted(part) for part in parts)
    assert part_of(IMAGES, spec, 4) == part_of(IMAGES, spec, 4)


def test_every_round_has_another_partition_that_is_by_chance() -> None:
    """Of two parts of other rounds the images in common are as many as chance has."""
    spec = PartsSpec(of=2)
    both = [len(set(part_of(IMAGES, spec, 0)) & set(part_of(IMAGES, spec, 2 * turn))) for turn in range(1, 200)]
    assert np.mean(both) == pytest.approx(25, abs=1) and len(set(both)) > 5


def test_sequences_stay_whole() -> None:
    spec = PartsSpec(of=3, by="sequence")
    seen = set()
    for turn in range(8):
        parts = [{CITIES.key(index)[0] for index in part_of(CITIES, spec, 3 * turn + place)} for place in range(3)]
        assert sorted(city for part in parts for city in part) == list("abcdefg")
        images = [len(part_of(CITIES, spec, 3 * turn + place)) for place in range(3)]
        assert sum(images) == 36 and max(images) <= 12 + 9  # at most one sequence above its share
        seen.add(tuple(sorted(tuple(sorted(part)) for part in parts)))
    assert len(seen) > 4
    paths = Named(["aachen/x_1", "aachen/y_2", "bochum/x_1"])
    assert sorted(len(part_of(paths, PartsSpec(of=2, by="sequence"), seed)) for seed in (0, 1)) == [1, 2]


def test_more_parts_than_there_are_images() -> None:
    with pytest.raises(Mistake, match=r"data\.parts: 8 parts of 7 sequences; expected at most one part for each"):
        part_of(CITIES, PartsSpec(of=8, by="sequence"), 0)
    with pytest.raises(Mistake, match=r"data\.parts: 101 parts of 100 images"):
        part_of(IMAGES, PartsSpec(of=101), 0)
    with pytest.raises(Mistake, match=r"data\.parts\.of: .*greater than or equal to 2"):
        small("data.parts={of: 1}")


def test_a_run_sees_its_seed_s_part(tmp_path: Path) -> None:
    assemblies = [assemble(small("data.parts={of: 3}", f"seed={seed}")) for seed in (0, 1, 2, 3)]
    keys = [{each.train.key(index) for index in range(len(each.train))} for each in assemblies]
    assert [len(part) for part in keys] == [4, 4, 4, 4] and len(keys[0] | keys[1] | keys[2]) == 12
    assert len({each.fingerprints["train"] for each in assemblies}) == 4
    assert len({each.fingerprints["val"] for each in assemblies}) == 1
    withheld = assemble(small("data.parts={of: 3}", "data.withhold=0.5", "seed=1")).train
    assert {withheld.key(index) for index in range(len(withheld))} == keys[1]  # labels are withheld inside of a part
    said = plan(small("data.parts={of: 3}", "seed=1")).connections
    assert "part: 4 images, one of 3 disjoint parts of train, of seed 1" in said
    run = train(small("data.parts={of: 3}", "seed=1", "steps=2", "data.batch=4"), tmp_path / "run")
    assert run.info()["finished"] == 2
    assert run.info()["fingerprints"]["train"] == assemblies[1].fingerprints["train"]
