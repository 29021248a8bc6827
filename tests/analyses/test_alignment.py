"""What is aligned with a teacher is what the networks' stages say by hand, seed by seed."""

import itertools
import json
import re
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segdistill.analyses import Subject, _alignments
from segdistill.analyses.alignment import Alignment
from segdistill.analysing import analyse
from segdistill.assemble import load
from segdistill.cli import main
from segdistill.datasets.streets import Streets
from segdistill.mistakes import Mistake
from segdistill.models import Model
from segdistill.recipe import DataSpec
from segdistill.run import Run
from segdistill.training import train
from segdistill.types import Findings
from small import content, small

STAGES = ["enc1", "enc2", "bottleneck", "dec2", "dec1", "logits"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A deeper teacher, three seeds of a student of it and three on labels alone; scenes of 48×64 pixels."""
    folder = tmp_path_factory.mktemp("runs")
    found: list[Path] = []

    def make(name: str, *settings: str, **more: Any) -> None:
        quick = small("data.count=6", "data.val_count=3", "checkpoint.every=2", *settings, **more, steps=2)
        train(quick, folder / name)
        found.append(folder / name)

    make("teacher", models={"student": {"kind": "unet", "width": 6, "depth": 3}})
    soft = content()["losses"] | {"soft_targets": {"student": "student", "target": "teacher", "temperature": 2}}
    teacher = {"weights": str(folder / "teacher"), "frozen": True}
    for seed in (2, 0, 1):
        make(f"soft-{seed}", f"seed={seed}", models=content()["models"] | {"teacher": teacher}, losses=soft)
        make(f"plain-{seed}", f"seed={seed}")
    return found


@pytest.fixture(scope="module")
def whole(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return analyse("alignment", runs, tmp_path_factory.mktemp("whole")).findings


def rows_of(found: Any, table: str) -> list[dict[str, Any]]:
    return [dict(zip(found.tables[table].columns, row, strict=True)) for row in found.tables[table].rows]


def by_hand(one: Model, other: Model, stage: str, its: str) -> float:
    """Of all validation pixels at once; the strides divide the images."""
    split = Streets(6, (48, 64), val_count=3, split="val")
    stride = max(one.stages[stage].stride, other.stages[its].stride)
    flat: list[np.ndarray] = []
    for model, name in ((one, stage), (other, its)):
        with torch.no_grad():
            said = [model(split[i].image[None].float() / 255)[name].double() for i in range(3)]
        pooled = [torch.nn.functional.avg_pool2d(each, stride // model.stages[name].stride) for each in said]
        rows = torch.cat([each[0].flatten(1) for each in pooled], 1).numpy()
        flat.append(rows - rows.mean(1, keepdims=True))
    x, y = flat
    return float(((x @ y.T) ** 2).sum() / np.linalg.norm(x @ x.T) / np.linalg.norm(y @ y.T))


def networks(runs: list[Path]) -> Mapping[str, Model]:
    return {path.name: load(path, which="best" if path.name == "teacher" else "last") for path in runs}


def test_the_verb(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    call = ["analyse", "alignment", *map(str, runs), "--out", str(out)]
    with pytest.raises(SystemExit) as done:
        main(call)
    assert done.value.code in (0, None)
    told = capsys.readouterr()
    assert "against plain, 3 paired seeds: " in " ".join(told.out.split())
    assert "soft: 3 images, 3 runs" in told.err and "plain: 3 images, 3 runs" in told.err
    found = Run(out).last_findings("alignment")
    assert found is not None
    assert [row["arm"] for row in rows_of(found, "arms")] == ["soft", "plain"], "a single teacher is no arm"
    assert [row[0] for row in found.tables["teacher"].rows] == ["teacher"]

    nets = networks(runs)
    table = {(row["arm"], row["stage"], row["teacher_stage"]): row for row in rows_of(found, "alignment")}
    assert len(table) == 2 * 6 * 8
    for arm, stage, other in table:
        if (stage, other) not in (("enc1", "enc1"), ("bottleneck", "bottleneck"), ("dec2", "enc3"), ("logits", "dec1")):
            continue
        row = table[arm, stage, other]
        each = [by_hand(nets[f"{arm}-{seed}"], nets["teacher"], stage, other) for seed in range(3)]
        assert row["cka"] == pytest.approx(statistics.fmean(each), abs=1e-6)
        half = 4.3026527 * statistics.stdev(each) / 3**0.5
        assert row["low"] == pytest.approx(max(0, row["cka"] - half), abs=1e-5)
        assert row["high"] == pytest.approx(min(1, row["cka"] + half), abs=1e-5)
        assert row["seeds"] == 3 and 0 < row["by_chance"] < 0.2
        stride = max(nets["soft-0"].stages[stage].stride, nets["teacher"].stages[other].stride)
        assert row["pixels"] == 3 * 48 * 64 / stride**2
        if stage == other:
            assert found.numbers[f"{arm}/{stage}"] == row["cka"]

    change = {(row["stage"], row["teacher_stage"]): row for row in rows_of(found, "change")}
    assert len(change) == 6 * 8
    row = change["dec1", "dec1"]
    apart = [
        by_hand(nets[f"soft-{seed}"], nets["teacher"], "dec1", "dec1")
        - by_hand(nets[f"plain-{seed}"], nets["teacher"], "dec1", "dec1")
        for seed in range(3)
    ]
    assert (row["arm"], row["baseline"], row["seeds"]) == ("soft", "plain", 3)
    assert row["change"] == pytest.approx(statistics.fmean(apart), abs=1e-6)
    assert row["high"] - row["change"] == pytest.approx(4.3026527 * statistics.stdev(apart) / 3**0.5, abs=1e-6)
    for row in change.values():
        assert row["verdict"] == ("higher" if row["low"] > 0 else "lower" if row["high"] < 0 else "undecided")
    assert found.numbers["soft/change/dec1"] == change["dec1", "dec1"]["change"]
    assert found.numbers["change_scale"] == max(0.01, *(abs(row["change"]) for row in change.values()))

    between = {(row["arm"], row["stage"]): row for row in rows_of(found, "between_seeds")}
    assert list(between) == [(arm, stage) for arm in ("soft", "plain") for stage in STAGES]
    two = [by_hand(nets[f"soft-{a}"], nets[f"soft-{b}"], "dec2", "dec2") for a, b in ((0, 1), (0, 2), (1, 2))]
    row = between["soft", "dec2"]
    assert row["pairs"] == 3
    assert (row["cka"], row["least"], row["most"]) == pytest.approx((statistics.fmean(two), min(two), max(two)))
    assert found.numbers["soft/between_seeds/dec2"] == row["cka"]
    assert set(found.images) == {"cka/soft", "cka/plain", "change/soft"}

    with pytest.raises(SystemExit):
        main([*call, "--json"])
    again = capsys.readouterr()
    assert "images" not in again.err, "nobody is asked twice"
    assert json.loads(again.out)["numbers"] == dict(found.numbers)
    page = (out / "alignment.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page links to nothing outside it"
    assert "<script" not in page
    assert page.count("<img") == 3
    assert "soft against plain" in page


def test_the_order_of_the_runs_changes_nothing(runs: list[Path], whole: Findings, tmp_path: Path) -> None:
    other = analyse("alignment", [*runs[:0:-1], runs[0]], tmp_path / "other").findings
    assert dict(other.numbers) == pytest.approx(dict(whole.numbers), abs=1e-12)


def test_asking_goes_on_where_it_was_stopped(
    runs: list[Path],
    whole: Findings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, calls = _alignments.answer, 0

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4 * 3 + 6:  # in the second arm's second image
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(_alignments, "answer", stopping)
    with pytest.raises(KeyboardInterrupt):
        analyse("alignment", runs, tmp_path / "out")
    monkeypatch.setattr(_alignments, "answer", real)
    capsys.readouterr()
    found = analyse("alignment", runs, tmp_path / "out").findings
    assert "plain: 2 images (going on after 1), 3 runs" in capsys.readouterr().err
    assert found.numbers == whole.numbers
    assert found.tables == whole.tables


def reseeded(source: Path, to: Path, seed: int) -> Path:
    shutil.copytree(source, to)
    recipe = to / "recipe.yaml"
    recipe.write_text(re.sub(r"^seed: \d+", f"seed: {seed}", recipe.read_text(), flags=re.MULTILINE))
    return to


def test_copies_of_a_run_are_aligned(runs: list[Path], tmp_path: Path) -> None:
    """The same weights under other seeds' names: 1 between seeds, no spread, and no change against themselves."""
    plain = next(path for path in runs if path.name == "plain-0")
    soft = next(path for path in runs if path.name == "soft-0")
    copies = [reseeded(path, tmp_path / f"{path.name[:5]}copy-{seed}", seed)
              for path in (plain, soft) for seed in (0, 1)]  # fmt: skip
    for path in copies[2:]:
        shutil.copyfile(plain / "last" / "student.safetensors", path / "last" / "student.safetensors")
    found = analyse("alignment", [runs[0], *copies], tmp_path / "out").findings
    for row in rows_of(found, "between_seeds"):
        assert row["pairs"] == 1
        assert row["cka"] == row["least"] == row["most"] == pytest.approx(1, abs=1e-12)
    for row in rows_of(found, "change"):
        assert row["change"] == row["low"] == row["high"] == 0
        assert row["verdict"] == "undecided"
    assert "no stage is decided" in str(found.tables["advice"].rows[0][1])


def test_one_seed_tells_no_interval(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.analyses.alignment.FEW", 0.02)
    one = [path for path in runs if path.name.endswith("-1")]
    found = analyse("alignment", one, tmp_path / "out", ["analysis.images=1"]).findings
    assert found.numbers["images"] == 1
    assert found.tables["between_seeds"].rows == []
    assert {(row["low"], row["high"]) for row in rows_of(found, "alignment")} == {(None, None)}
    assert {row["verdict"] for row in rows_of(found, "change")} == {"undecided"}
    said = [str(row[1]) for row in found.tables["advice"].rows]
    assert "1 paired seed: undecided" in said[0]
    floor, pixels = max(
        (row["by_chance"], row["pixels"]) for row in rows_of(found, "alignment") if row["arm"] == "soft-1"
    )
    assert 0.02 < floor < 0.2
    assert f"shuffled pixels alone would give {floor:.2f} of {pixels:,} pixels); look at more images." in said[1]


def pairs_of(found: Findings) -> dict[tuple[str, str, str], float]:
    return {(row["arm"], row["stage"], row["teacher_stage"]): row["cka"] for row in rows_of(found, "alignment")}


def test_the_teacher_may_be_named(runs: list[Path], whole: Findings, tmp_path: Path) -> None:
    """By path, by the name of one of the runs, or as a weights file; then runs on labels alone will do."""
    plain = sorted(path for path in runs if path.name.startswith("plain"))
    expected = pairs_of(whole)
    file = runs[0] / "best" / "student.safetensors"
    for place, (others, teacher) in enumerate([([], runs[0]), ([runs[0]], "teacher"), ([], file)]):
        found = analyse("alignment", [*plain, *others], tmp_path / str(place), [f"analysis.teacher={teacher}"]).findings
        mine = pairs_of(found)
        assert {arm for arm, _, _ in mine} == {"plain"}
        for stages in itertools.product(STAGES, STAGES):
            assert mine["plain", *stages] == pytest.approx(expected["plain", *stages], abs=1e-12)
        assert str(found.tables["advice"].rows[0][0]) == "no comparison"
    found = analyse("alignment", runs, tmp_path / "soft", ["analysis.baseline=soft"]).findings
    assert {(row["arm"], row["baseline"]) for row in rows_of(found, "change")} == {("plain", "soft")}


def test_mistakes_are_sentences(runs: list[Path], tmp_path: Path) -> None:
    plain = sorted(path for path in runs if path.name.startswith("plain"))
    with pytest.raises(Mistake, match="expected runs with one teacher, none of them learnt from a frozen one; set tea"):
        analyse("alignment", plain, tmp_path / "out")
    with pytest.raises(Mistake, match="expected runs beside the teacher, got only teacher"):
        analyse("alignment", runs[:1], tmp_path / "out", [f"analysis.teacher={runs[0]}"])
    with pytest.raises(Mistake, match="nowhere: "):
        analyse("alignment", plain, tmp_path / "out", ["analysis.teacher=nowhere"])
    soft = next(path for path in runs if path.name == "soft-0")
    for name, weights, seed in (("other-9", str(plain[0]), 9), ("lost-9", "gone/gone", 9)):
        recipe = reseeded(soft, tmp_path / name, seed) / "recipe.yaml"
        recipe.write_text(re.sub(r"weights: .*", f"weights: {weights}", recipe.read_text()))
    with pytest.raises(Mistake, match="one teacher, they learnt from teacher and plain-0; set teacher to a run"):
        analyse("alignment", [soft, tmp_path / "other-9"], tmp_path / "out")
    with pytest.raises(Mistake, match=r"the teacher of lost-9 is not there \(gone/gone.*; set teacher"):
        analyse("alignment", [tmp_path / "lost-9"], tmp_path / "out")
    half = reseeded(plain[0], tmp_path / "half-0", 0)
    text = (half / "recipe.yaml").read_text()
    (half / "recipe.yaml").write_text(re.sub(r"^data:\n", "data:\n  size: [24, 32]\n", text, flags=re.MULTILINE))
    with pytest.raises(Mistake, match=r"images at one data\.size, got plain-0 the images' own and half-0 24×32"):
        analyse("alignment", [*plain, half], tmp_path / "out", [f"analysis.teacher={runs[0]}"])
    with pytest.raises(Mistake, match="images >= 1, got 0"):
        Alignment(images=0)
    with pytest.raises(Mistake, match="expected at least one run directory"):
        Alignment().analyse(Subject(DataSpec(kind="streets"), {}))
