"""Every number of the analysis is what loops over pixels give, in whatever order they come, and chance is called so."""

import csv
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.analyses import _listening
from segdistill.analyses._dark import (
    SUMS,
    Dark,
    Fidelity,
    entropy_map,
    mutual_information,
    off_diagonals,
    row_entropies,
    said,
    similarity,
)
from segdistill.analyses._experiments import Experiment, Result, comparisons, experiments, spearman
from segdistill.analyses._gains import COMPARED, POOLED, Taught, by_temperature, correlation, permuted
from segdistill.analyses._listening import BODY, BOUNDARY, Seen, _regions
from segdistill.analyses._voices import pupils_of, voices_of
from segdistill.analyses.dark_knowledge import DarkKnowledge, _control, _on_gain
from segdistill.analysing import analyse
from segdistill.cli import main
from segdistill.mistakes import Mistake
from segdistill.reporting import dark_knowledge
from segdistill.run import Run
from segdistill.training import train
from segdistill.types import IGNORE, Table
from small import content, small

K = 5


def drawn(count: int, seed: int = 0, scale: float = 4.0) -> tuple[Tensor, Tensor]:
    """Logits float64 [K, n] and labels int64 [n], some of them void; class 3 never occurs."""
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 2, 4, IGNORE], count)
    logits = random.normal(0, scale, (K, count)) + 2 * (np.arange(K)[:, None] == labels)
    return torch.from_numpy(logits), torch.from_numpy(labels)


def heard(logits: Tensor, labels: Tensor, temperatures: tuple[float, ...] = (2.0,)) -> Dark:
    dark = Dark.nothing(len(logits), len(temperatures))
    dark.update(logits, labels, temperatures)
    return dark


def parts(logits: list[float], label: int) -> dict[str, float]:
    found = said(torch.tensor(logits, dtype=torch.float64)[:, None], torch.tensor([label]))
    return dict(zip(SUMS, found.sums[:, 0].tolist(), strict=True))


def test_the_fixtures() -> None:
    assert parts([2, 0, -1], 0)["entropy"] == pytest.approx(0.524267, abs=5e-7)
    found = parts([math.log(p) for p in (0.7, 0.2, 0.1)], 0)
    assert found["entropy"] == pytest.approx(0.801819, abs=5e-7)
    assert found["wrong_entropy"] == pytest.approx(0.636514, abs=5e-7)
    assert found["wrong_entropy"] / math.log(2) == pytest.approx(0.918296, abs=5e-7)
    assert found["wrong_mass"] == pytest.approx(0.3)
    assert found["dark"] == pytest.approx(0.3 * 0.636514, abs=5e-7)
    assert found["nll"] == pytest.approx(-math.log(0.7))
    assert found["brier"] == pytest.approx(0.09 + 0.04 + 0.01)


@pytest.mark.parametrize("scale", [0.1, 4.0, 60.0])
def test_the_chain_rule(scale: float) -> None:
    logits, labels = drawn(500, scale=scale)
    known = labels != IGNORE
    found = dict(zip(SUMS, said(logits[:, known], labels[known]).sums, strict=True))
    torch.testing.assert_close(found["entropy"], found["binary"] + found["dark"], rtol=0, atol=1e-12)


def test_what_is_nearly_certain_keeps_its_dark_knowledge() -> None:
    """p_y is 1 to the last bit; what the others share is as it would be without the true class."""
    found = parts([60.0, math.log(0.5), math.log(0.3), math.log(0.2)], 0)
    want = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert found["wrong_entropy"] == pytest.approx(want, rel=1e-12)
    assert found["wrong_mass"] == pytest.approx(math.exp(-60), rel=1e-12)
    assert all(math.isfinite(value) for value in parts([2000.0, -2000.0, 0.0], 0).values())
    assert all(math.isfinite(value) for value in parts([2000.0, -2000.0, 0.0], 1).values())


def test_sums_are_what_loops_over_pixels_give() -> None:
    logits, labels = drawn(300)
    p = torch.softmax(logits, 0).numpy()
    rows: list[tuple[int, bool, float, float, float, float]] = []
    others: dict[int, list[np.ndarray]] = {}
    for i, y in enumerate(labels.tolist()):
        if y == IGNORE:
            continue
        hat = np.delete(p[:, i], y) / (1 - p[y, i])
        others.setdefault(y, []).append(np.insert(hat, y, 0))
        wrong_entropy = -float((hat * np.log(hat)).sum())
        entropy = -float((p[:, i] * np.log(p[:, i])).sum())
        rows.append((y, int(p[:, i].argmax()) == y, entropy, wrong_entropy, 1 - p[y, i], -math.log(p[y, i])))
    dark = heard(logits, labels)
    found = dark.measures()
    y, right, entropy, wrong_entropy, missed, nll = (np.array(column) for column in zip(*rows, strict=True))
    right = right.astype(bool)
    assert dark.count == len(rows)
    assert found["entropy"] == pytest.approx(entropy.mean())
    assert found["entropy_share"] == pytest.approx(entropy.mean() / math.log(K))
    assert found["entropy_by_class"] == pytest.approx(np.mean([entropy[y == k].mean() for k in (0, 1, 2, 4)]))
    assert found["wrong_entropy"] == pytest.approx(wrong_entropy.mean())
    assert found["wrong_entropy_share"] == pytest.approx(wrong_entropy.mean() / math.log(K - 1))
    assert found["dark"] == pytest.approx((missed * wrong_entropy).mean())
    assert found["dark_right"] == pytest.approx((missed * wrong_entropy)[right].mean())
    assert found["dark_wrong"] == pytest.approx((missed * wrong_entropy)[~right].mean())
    assert found["wrong_mass"] == pytest.approx(missed.mean())
    assert found["nll"] == pytest.approx(nll.mean())
    assert found["accuracy"] == pytest.approx(right.mean())
    variation = [np.var(np.stack(hats), 0).sum() for hats in others.values()]
    assert found["variation"] == pytest.approx(np.mean(variation))
    want = np.zeros((K, K))
    for k in (0, 1, 2, 4):
        row = p[:, labels.numpy() == k].mean(1)
        row[k] = 0
        want[k] = row / row.sum()
    np.testing.assert_allclose(similarity(dark.probabilities), want, atol=1e-12)
    assert found["row_entropy"] == pytest.approx(
        np.mean([-sum(x * math.log(x) for x in row if x > 0) for row in want if row.sum()])
    )


def test_a_class_that_never_occurs_counts_in_no_mean() -> None:
    logits, labels = drawn(300)
    dark = heard(logits, labels)
    assert dark.by_class()["pixels"][3] == 0
    assert similarity(dark.probabilities)[3].sum() == 0
    joint = [similarity(dark.probabilities)[k] / 4 for k in (0, 1, 2, 4)]
    marginal = np.sum(joint, 0)
    want = sum(float((j[j > 0] * np.log(j[j > 0] / (marginal[j > 0] / 4))).sum()) for j in joint)
    assert dark.measures()["mutual_information"] == pytest.approx(want)


def test_streaming_is_batch_and_the_order_of_merging_does_not_matter() -> None:
    logits, labels = drawn(40_000, seed=3)
    whole = heard(logits, labels)
    cuts = [heard(logits[:, a:b], labels[a:b]) for a, b in ((0, 7), (7, 20_000), (20_000, 40_000))]
    for order in itertools.permutations(cuts):
        merged = order[0] + order[1] + order[2]
        for name, value in whole.measures().items():
            assert merged.measures()[name] == pytest.approx(value, rel=1e-9), name
        assert merged.sweep() == [pytest.approx(values, rel=1e-9) for values in whole.sweep()]
        np.testing.assert_array_equal(merged.confusion, whole.confusion)


def test_what_is_kept_is_restored() -> None:
    logits, labels = drawn(500)
    dark = heard(logits, labels)
    again = Dark.nothing(K, 1)
    again.restore(dark.state())
    assert again.measures() == dark.measures()
    assert (again + dark).count == 2 * dark.count


def test_void_has_no_influence() -> None:
    logits, labels = drawn(400)
    others = torch.where(labels == IGNORE, 50 * logits.flip(0), logits)
    assert heard(others, labels).measures() == heard(logits, labels).measures()


def test_temperatures_of_the_sweep_are_divisors_of_the_logits() -> None:
    logits, labels = drawn(600)
    (swept,) = heard(logits, labels, (2.5,)).sweep()
    divided = heard(logits / 2.5, labels, ()).measures()
    for name, value in swept.items():
        assert value == pytest.approx(divided[name], rel=1e-6), name


def test_smoothing_by_chance_has_high_entropy_and_no_structure() -> None:
    """An oracle smoothed by ε: all it says beyond the label is the same for every class and pixel."""
    _, labels = drawn(200)
    labels = labels[labels != IGNORE]
    epsilon = 0.5
    p = torch.full((K, len(labels)), epsilon / K, dtype=torch.float64)
    p[labels, torch.arange(len(labels))] += 1 - epsilon
    found = heard(p.log(), labels).measures()
    assert found["entropy"] > 0.6 * math.log(K)
    assert found["row_entropy"] == pytest.approx(math.log(K - 1))
    assert found["wrong_entropy_share"] == pytest.approx(1)
    assert found["variation"] == pytest.approx(0, abs=1e-12)
    even = (np.ones((K, K)) - np.eye(K)) / (K - 1)
    np.testing.assert_allclose(row_entropies(even), math.log(K - 1))
    assert mutual_information(even) == pytest.approx(math.log(K / (K - 1)))
    assert mutual_information(np.roll(np.eye(K), 1, 1)) == pytest.approx(math.log(K)), "each class has its own twin"


def test_correlations_of_similarity_leave_the_diagonal_out() -> None:
    one = similarity(np.array([[9, 1, 2], [3, 9, 1], [0, 0, 0]]))
    other = similarity(np.array([[0, 1, 3], [1, 0, 4], [1, 2, 0]]))
    want = [(1 / 3, 1 / 4), (2 / 3, 3 / 4), (3 / 4, 1 / 5), (1 / 4, 4 / 5)]
    np.testing.assert_allclose(off_diagonals(one, other), want)
    assert spearman(off_diagonals(one, other)) == pytest.approx(-0.8)


def test_fidelity() -> None:
    teacher, labels = drawn(300)
    student = teacher + drawn(300, seed=5)[0] / 4
    known = labels != IGNORE
    p, q = torch.softmax(teacher, 0)[:, known], torch.softmax(student, 0)[:, known]
    follow = Fidelity.nothing(K)
    follow.update(teacher, student, labels)
    found = follow.measures()
    assert found["kl"] == pytest.approx(float((p * (p / q).log()).sum(0).mean()))
    assert found["agreement"] == pytest.approx(float((p.argmax(0) == q.argmax(0)).double().mean()))
    assert found["gap"] == pytest.approx(float((-(p * p.log()).sum(0) + (q * q.log()).sum(0)).mean()))
    half = Fidelity.nothing(K)
    half.update(teacher[:, :100], student[:, :100], labels[:100])
    rest = Fidelity.nothing(K)
    rest.update(teacher[:, 100:], student[:, 100:], labels[100:])
    assert (rest + half).measures() == pytest.approx(found)
    itself = Fidelity.nothing(K)
    itself.update(teacher, teacher, labels)
    assert itself.measures() == {"kl": pytest.approx(0, abs=1e-15), "agreement": 1, "gap": 0}


def test_a_map_of_the_entropy() -> None:
    logits = drawn(12)[0].view(K, 3, 4)
    p = torch.softmax(logits, 0)
    torch.testing.assert_close(entropy_map(logits), -(p * p.log()).sum(0))


def test_padding_makes_no_boundary() -> None:
    labels = np.full((8, 9), IGNORE, np.uint8)
    labels[2:, 3:] = 1
    labels[2:, 7:] = 2
    seen = Seen(torch.zeros(3, 8, 9, dtype=torch.uint8), labels, "x", (slice(2, 8), slice(3, 9)))
    regions = _regions(seen, 0.001)
    assert sorted(regions[BOUNDARY] % 9) == [6] * 6 + [7] * 6
    assert len(regions[BODY]) == 36 - 12


# Gains


def lesson(voice: str, gain: float, temperature: float | None = 1.0) -> Taught:
    return Taught(Experiment([]), voice, temperature, [gain - 0.01, gain + 0.01], 0.5)


def planted(count: int, seed: int = 0) -> tuple[list[Taught], dict[str, Any]]:
    """Gains that follow dark on training crops, and nothing else."""
    random = np.random.default_rng(seed)
    measures: dict[str, Any] = {split: {} for split in ("train", "val")}
    found: list[Taught] = []
    for place in range(count):
        for split in measures:
            measures[split][f"v{place}"] = {name: float(random.random()) for name in COMPARED}
        measures["train"][f"v{place}"]["dark"] = place / count
        found.append(lesson(f"v{place}", 0.02 + 0.01 * place**2))
    return found, measures


def test_a_planted_measure_is_found() -> None:
    found, measures = planted(12)
    table, best = correlation(found, measures, 2000, 0)
    assert best[POOLED].measure == "train: dark"
    assert best[POOLED].correlation == pytest.approx(1)
    assert 0.6 < best[POOLED].chance < 0.95
    row = next(row for row in table.rows if row[:3] == [POOLED, "train", "dark"])
    assert row[3:5] == [12, pytest.approx(1)]
    assert 0.5 < float(row[5] or 0) < 0.65  # two-sided 5 % of 12: 0.587
    assert row[6] == 0
    assert "beyond chance here" in _on_gain(Table((), [["e", "v"]]), best[POOLED])
    again, _ = correlation(found, measures, 2000, 0)
    assert again == table, "the permutations are seeded"


def test_few_voices_establish_nothing() -> None:
    found, measures = planted(4)
    table, best = correlation(found, measures, 2000, 0)
    row = next(row for row in table.rows if row[:3] == [POOLED, "train", "dark"])
    assert row[4] == pytest.approx(1)
    assert row[5] == pytest.approx(1), "2 of 24 orders are as good"
    assert row[6] == pytest.approx(2 / 24)
    assert "nothing is established" in _on_gain(Table((), [["e", "v"]]), best[POOLED])
    assert correlation(found[:2], measures, 2000, 0)[1] == {}
    assert "of fewer than 3" in _on_gain(Table((), [["e", "v0"], ["e", "v1"]]), None)


def test_permutations_keep_what_chance_would() -> None:
    """Gains without any relation are past the limit in 5 % of cases, the best of ten measures too."""
    random = np.random.default_rng(7)
    beyond, best = 0, 0
    for _ in range(400):
        rho, chance, _, most = permuted(random.random((10, 6)), random.random(6), 100, random)
        beyond += int((np.abs(rho) > chance + 1e-9).sum())
        best += bool(np.abs(rho).max() > most + 1e-9)
    assert 0.02 < beyond / 4000 < 0.06
    assert best / 400 < 0.08


def test_pooling_compares_voices_within_a_temperature() -> None:
    """At temperature 4 everybody gains more; that only two were tried there does not make them better."""
    found = [lesson("a", 0.01), lesson("b", 0.02), lesson("c", 0.03), lesson("a", 0.11, 4.0), lesson("b", 0.12, 4.0)]
    gains = by_temperature([*found, lesson("c", 0.05)])
    assert gains["1"] == pytest.approx({"a": 0.01, "b": 0.02, "c": 0.04})
    assert gains["4"] == pytest.approx({"a": 0.11, "b": 0.12})
    middle = (0.01 + 0.02 + 0.04) / 3
    assert gains[POOLED] == pytest.approx(
        {"a": (0.01 - middle - 0.005) / 2, "b": (0.02 - middle + 0.005) / 2, "c": 0.04 - middle}
    )


def test_the_control_finds_the_temperature_of_an_entropy() -> None:
    logits, labels = drawn(2000)
    temperatures = (1.0, 1.5, 2.0, 3.0)
    plain = heard(logits, labels, temperatures[1:])
    curve = [plain.measures(), *plain.sweep()]
    rows = [["plain", "train", t, *(v[key] for key in ("entropy", "wrong_entropy", "dark", "nll", "ece"))]
            for t, v in zip(temperatures, curve, strict=True)]  # fmt: skip
    warm = heard(logits / 2, labels, ()).measures()
    table = _control(Table((), rows), {"plain": plain.measures(), "warm": warm})
    ((name, plainest, temperature, *_, nll, there),) = table.rows
    assert (name, plainest) == ("warm", "plain")
    assert temperature == pytest.approx(2, abs=1e-6)
    assert nll == pytest.approx(there, abs=1e-9)


def test_a_baseline_learns_the_same_from_labels() -> None:
    """Of two without a teacher the one whose losses on labels are the student's, and never a frozen twin."""
    twin = {"kind": "unet", "width": 4, "depth": 2}
    soft = {"soft": {"kind": "soft_targets", "student": "student", "target": "teacher"}}

    def result(name: str, losses: dict[str, Any], model: str = "student", teacher: bool = False) -> Result:
        models: dict[str, Any] = {"student": twin}
        if teacher:
            models["teacher"] = {**twin, "weights": "runs/big", "frozen": True}
        return Result(Run(name), small(losses=losses, models=models), model, {"road": 0.5})

    dice = {"dice": {"student": "student"}}
    plain = {"cross_entropy": {"student": "student"}}
    taught_ = result("soft", plain | soft, teacher=True)
    everybody = [result("soft", plain | soft, "teacher", teacher=True), result("dice", dice), result("plain", plain)]
    ((_, baseline, _),) = comparisons(experiments([*everybody, taught_]))
    assert baseline.name == "plain"


# End to end


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two teachers, one baseline, and a student of each teacher, one of them at temperature 2."""
    folder = tmp_path_factory.mktemp("runs")
    found: list[Path] = []

    def make(name: str, *settings: str, **more: Any) -> None:
        train(
            small("data.count=6", "data.val_count=3", "checkpoint.every=2", *settings, **more, steps=2), folder / name
        )
        found.append(folder / name)

    big = {"student": {"kind": "unet", "width": 6, "depth": 2}}
    for seed in (0, 1):
        make(f"teacher-{seed}", f"seed={seed}", models=big)
    make("plain-0")
    student = content()["models"]["student"]
    soft = content()["losses"] | {"soft_targets": {"student": "student", "target": "teacher", "temperature": 2}}
    for seed in (0, 1):
        teacher: dict[str, Any] = {"weights": str(folder / f"teacher-{seed}"), "frozen": True}
        teacher |= {"temperature": 2.0} if seed else {}
        make(f"soft-{seed}", models={"student": student, "teacher": teacher}, losses=soft)
    return found


def test_the_verb(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    call = ["analyse", "dark_knowledge", *map(str, runs), "--out", str(out), "--set", "analysis.crops=5",
            "--set", "analysis.pictures=2", "--set", "analysis.temperatures=[1, 3]"]  # fmt: skip
    with pytest.raises(SystemExit) as done:
        main(call)
    assert done.value.code in (0, None)
    told = capsys.readouterr()
    assert "of fewer than 3 nothing" in " ".join(told.out.split())
    assert "train crops: 5 samples, 2 voices" in told.err.replace("train: 5", "train crops: 5")
    found = Run(out).last_findings("dark_knowledge")
    assert found is not None
    assert [row[0] for row in found.tables["voices"].rows] == ["teacher-0", "teacher-1 T=2"]
    measures = {(row[0], row[1], row[2]): dict(zip(found.tables["measures"].columns, row, strict=True))
                for row in found.tables["measures"].rows}  # fmt: skip
    for voice in ("teacher-0", "teacher-1 T=2"):
        for split in ("train", "val"):
            whole, body, boundary = (measures[voice, split, region] for region in ("whole", "body", "boundary"))
            assert whole["pixels"] == body["pixels"] + boundary["pixels"]
            together = body["pixels"] * body["entropy"] + boundary["pixels"] * boundary["entropy"]
            assert whole["entropy"] == pytest.approx(together / whole["pixels"])
            assert whole["entropy"] == pytest.approx(whole["binary"] + whole["dark"], abs=1e-12)
            assert found.numbers[f"{voice}/{split}/entropy"] == whole["entropy"]
    measured = Run(runs[0]).last_findings("measure")
    assert measured is not None
    students = [dict(zip(found.tables["students"].columns, row, strict=True)) for row in found.tables["students"].rows]
    assert {(row["voice"], row["temperature"]) for row in students} == {("teacher-0", 2.0), ("teacher-1 T=2", 2.0)}
    gain = next(row for row in students if row["voice"] == "teacher-0")["gain"]
    scores = {run.name: last.numbers["student/mean_iou"] for run in runs if (last := Run(run).last_findings("measure"))}
    assert gain == pytest.approx(scores["soft-0"] - scores["plain-0"])
    assert [row[0] for row in found.tables["fidelity"].rows] == ["soft-0", "soft-1"]
    assert all(float(row[2] or 0) > 0 and 0 < float(row[3] or 0) <= 1 for row in found.tables["fidelity"].rows)
    assert found.tables["similar"].rows[0][4] == "no", "another temperature is another teacher"
    assert {row[2] for row in found.tables["sweep"].rows} == {1, 3}
    assert len(found.images) == 2 * 3
    with (out / "tables" / "correlation.csv").open(newline="") as lines:
        assert len(list(csv.reader(lines))) == 1, "two voices are compared with nothing"

    with pytest.raises(SystemExit):
        main([*call, "--json"])
    again = capsys.readouterr()
    assert "samples" not in again.err, "nothing is heard twice"
    assert json.loads(again.out)["numbers"] == dict(found.numbers)

    page = (out / "dark_knowledge.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page links to nothing outside it"
    assert "<script" not in page
    assert page.count("<svg") == 5 + 2, "the sweep and two reliability diagrams"
    assert page.count('class="heat"') == 2
    assert "2 voices have students with a baseline" in page


def test_without_teachers_everybody_is_a_voice(runs: list[Path], tmp_path: Path) -> None:
    found = analyse("dark_knowledge", runs[:3], tmp_path / "out", ["analysis.crops=2", "analysis.images=2"]).findings
    assert [row[0] for row in found.tables["voices"].rows] == ["teacher-0", "teacher-1", "plain-0"]
    assert [row[4] for row in found.tables["similar"].rows[:3]] == ["yes", "no", "no"]
    assert any(row[0] == "repeatability" for row in found.tables["advice"].rows)
    assert "no comparison" in str(found.tables["advice"].rows[0][1])
    assert found.numbers["images"] == 2


def test_voices_are_found_and_named(runs: list[Path], tmp_path: Path) -> None:
    """By checkpoint, beside a run that was moved, by file; of one name by the folder too; and never twice."""
    folder, student = runs[0].parent, {"kind": "unet", "width": 4, "depth": 2}
    losses = {"soft": {"kind": "soft_targets", "student": "student", "target": "teacher"}}

    def of(*said: str) -> list[str]:
        recipes = [small(losses=losses, models={"student": student, "teacher": {"weights": path, "frozen": True}})
                   for path in said]  # fmt: skip
        return [voice.name for voice in voices_of([Run(folder / "soft-0")] * len(said), recipes, False).values()]

    last = f"{folder}/teacher-1/last/student.safetensors"
    assert of(f"{folder}/teacher-0@step-2", last) == ["teacher-0@step-2", "teacher-1 last"]
    assert of("elsewhere/teacher-0", f"{folder}/teacher-0") == ["teacher-0"]
    recipe = small(losses=losses, models={"student": student, "teacher": {"weights": str(runs[0]), "frozen": True}})
    (tmp_path / "soft-0").symlink_to(folder / "soft-0")
    students = [Run(folder / "soft-0"), Run(tmp_path / "soft-0")]
    assert len(pupils_of(students, [recipe] * 2, voices_of(students, [recipe] * 2, False))) == 2, "of one name"
    (tmp_path / "teacher-0").symlink_to(folder / "teacher-0")
    parent = f"{folder.name}:teacher-0", f"{tmp_path.name}:teacher-0"
    assert of(f"{folder}/teacher-0", f"{tmp_path}/teacher-0") == list(parent)
    with pytest.raises(Mistake, match="teacher-2"):
        of(f"{folder}/teacher-2")


def test_the_page_tells_what_goes_with_the_gain(runs: list[Path], tmp_path: Path) -> None:
    """Planted gains, one of them at another temperature; names and numbers stand on the page as they are."""
    settings = ["analysis.crops=2", "analysis.images=2", "analysis.temperatures=[1]", "analysis.pictures=0"]
    found = analyse("dark_knowledge", runs[:3], tmp_path / "out", settings).findings
    lessons = [lesson("teacher-0", 0.01), lesson("teacher-1", 0.02), lesson("plain-0", 0.03), lesson("plain-0", 0.3, 4)]
    measures = {split: {voice: {name: found.numbers[f"{voice}/{split}/{name}"] for name in COMPARED}
                        for voice in ("teacher-0", "teacher-1", "plain-0")} for split in ("train", "val")}  # fmt: skip
    table, best = correlation(lessons, measures, 100, 0)
    taught_rows = [
        ["<soft>", t.voice, t.temperature, 2, 0.5, 0.4, t.gains[0], -0.01, 0.04, 0.2, 0.9, -0.1] for t in lessons
    ]
    columns = found.tables["students"].columns
    said = _on_gain(Table(columns, taught_rows), best[POOLED])
    tables = {**found.tables, "correlation": table, "students": Table(columns, taught_rows)}
    tables["advice"] = Table(("about", "finding"), [["gain", said], *found.tables["advice"].rows[1:]])
    text = dark_knowledge.page(found._replace(tables=tables), "a & b", [("command", "x")])
    assert "nothing is established" in text
    assert "&lt;soft&gt;" in text
    assert "a &amp; b" in text
    assert text.count("<svg") == 3 + 4, "three reliability diagrams, four scatter plots"
    assert text.index("Distilled at all temperatures") < text.index("Distilled at temperature 1")
    assert "Distilled at temperature 4" not in text, "one voice is compared with nothing"
    assert "+29.0" in text


def test_hearing_goes_on_where_it_was_stopped(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["analysis.crops=4", "analysis.pictures=1", "analysis.temperatures=[1]"]
    whole = analyse("dark_knowledge", runs, tmp_path / "whole", settings).findings
    real, calls = _listening.predict, 0

    def stopping(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(_listening, "predict", stopping)
    with pytest.raises(KeyboardInterrupt):
        analyse("dark_knowledge", runs, tmp_path / "out", settings)
    monkeypatch.setattr(_listening, "predict", real)
    capsys.readouterr()
    found = analyse("dark_knowledge", runs, tmp_path / "out", settings).findings
    assert "going on after 2" in capsys.readouterr().err
    assert found.numbers == whole.numbers
    assert found.tables == whole.tables


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"crops": 0}, "expected crops >= 1"),
        ({"boundary": 0.7}, "boundary: expected"),
        ({"temperatures": (1.0, -2.0)}, "temperatures: expected numbers above 0"),
        ({"permutations": 5}, "permutations: expected at least 100"),
    ],
)
def test_mistakes_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        DarkKnowledge(**settings)
