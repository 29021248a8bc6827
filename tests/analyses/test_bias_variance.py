"""Bias and variance are what the identities say, what loops over pixels give, and right for few runs too."""

import csv
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.analyses import Subject, _ensembles
from segdistill.analyses._arms import arms_of
from segdistill.analyses._decompositions import (
    BODY,
    BOUNDARY,
    COLUMNS,
    LOSSES,
    REGIONS,
    Sums,
    corrected,
    decompose,
    pseudo,
)
from segdistill.analyses.bias_variance import BiasVariance
from segdistill.analysing import analyse
from segdistill.assemble import load
from segdistill.cli import main
from segdistill.datasets.streets import Streets
from segdistill.mistakes import Mistake
from segdistill.prediction import predict
from segdistill.recipe import DataSpec
from segdistill.run import Run
from segdistill.training import train
from segdistill.types import ClassTable
from small import content, small

K = 5
FIXTURE = [[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.6, 0.1, 0.3]]


def drawn(runs: int, count: int, seed: int = 0, scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits float64 [R, K, n], classes int64 [n] of which 3 never occurs, and whether a pixel is near a boundary."""
    random = np.random.default_rng(seed)
    labels = random.choice([0, 1, 2, 4], count)
    shared = random.normal(0, scale, (K, count)) + 2 * (np.arange(K)[:, None] == labels)
    logits = shared + random.normal(0, 1, (runs, K, count))
    return torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(random.random(count) < 0.3)


def summed(logits: Tensor, labels: Tensor, near: Tensor) -> Sums:
    sums = Sums.nothing(len(logits), K)
    sums.update(logits, labels, near)
    return sums


def pixel(p: list[list[float]], label: int) -> dict[tuple[str, str], np.ndarray]:
    """Of one pixel, by column: [1 + R]."""
    found = decompose(torch.tensor(p, dtype=torch.float64).log()[..., None], torch.tensor([label]))
    return dict(zip(COLUMNS, found[..., 0].T.numpy(), strict=True))


def test_the_fixture_of_cross_entropy() -> None:
    found = pixel(FIXTURE, 0)
    assert found["cross_entropy", "bias"][0] == pytest.approx(0.477117, abs=5e-7)
    assert found["cross_entropy", "variance"][0] == pytest.approx(0.043099, abs=5e-7)
    mean = -np.log([0.7, 0.5, 0.6]).mean()
    assert mean == pytest.approx(0.520216, abs=5e-7)
    assert found["cross_entropy", "bias"][0] + found["cross_entropy", "variance"][0] == pytest.approx(mean, abs=1e-12)


def test_the_fixture_of_a_soft_target() -> None:
    """The bias of a one-hot label is −ln p̄_y, and p̄ tells the rest: H(q) + KL(q ‖ p̄) + variance is the mean CE."""
    log_mean = -np.array([pixel(FIXTURE, label)["cross_entropy", "bias"][0] for label in range(3)])
    variance = pixel(FIXTURE, 0)["cross_entropy", "variance"][0]
    np.testing.assert_allclose(np.exp(log_mean), [0.620570, 0.189715, 0.189715], atol=5e-7)
    assert np.exp(-variance) == pytest.approx(0.957816, abs=5e-7)
    q = np.array([0.8, 0.15, 0.05])
    entropy, divergence = -(q * np.log(q)).sum(), (q * (np.log(q) - log_mean)).sum()
    assert entropy == pytest.approx(0.612869, abs=5e-7)
    assert divergence == pytest.approx(0.101270, abs=5e-7)
    total = entropy + divergence + variance
    assert total == pytest.approx(0.757239, abs=1e-6)
    assert total == pytest.approx(-(q * np.log(FIXTURE)).sum(1).mean(), abs=1e-12)


def test_the_fixture_of_brier() -> None:
    found = pixel(FIXTURE, 0)
    bias, variance = found["brier", "bias"], found["brier", "variance"]
    assert bias[0] == pytest.approx(0.24)
    assert variance[0] == pytest.approx(0.02)
    assert corrected(variance) == pytest.approx(0.03)
    assert corrected(bias) == pytest.approx(0.23)
    halves = pixel(FIXTURE[:2], 0)["brier", "variance"]
    assert corrected(halves) == pytest.approx(0.5 * (0.2**2 + 0.1**2 + 0.1**2))


@pytest.mark.parametrize(
    ("label", "bias", "net", "unbiased", "biased"), [(0, 0, 0.4, 0.4, 0), (1, 1, -0.5 * 0.4, 0, 0.4)]
)
def test_the_fixture_of_the_zero_one_loss(label: int, bias: float, net: float, unbiased: float, biased: float) -> None:
    p = [[0.8 if k == call else 0.1 for k in range(3)] for call in (0, 0, 1, 2, 0)]
    found = {part: values[0] for (loss, part), values in pixel(p, label).items() if loss == "zero_one"}
    assert found == pytest.approx({"bias": bias, "variance": net, "unbiased": unbiased, "biased": biased})
    assert found["bias"] + found["variance"] == pytest.approx([0.4, 0.8][label])


def test_of_ties_the_lowest_class_is_called() -> None:
    calls = [[0.1, 0.1, 0.8], [0.1, 0.8, 0.1]]
    assert pixel(calls, 1)["zero_one", "bias"][0] == 0
    assert pixel(calls[::-1], 2)["zero_one", "bias"][0] == 1


@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
def test_the_identities_by_class(scale: float) -> None:
    logits, labels, near = drawn(4, 3000, scale=scale)
    sums = summed(logits, labels, near)
    log_p = logits.log_softmax(1).numpy()
    p, one_hot = np.exp(log_p), np.eye(K)[labels].T
    ce = -np.take_along_axis(log_p, labels.numpy()[None, None], 1)[:, 0]
    losses = {"cross_entropy": ce, "brier": ((p - one_hot) ** 2).sum(1), "zero_one": log_p.argmax(1) != labels.numpy()}
    for k, values in enumerate(sums.by_class()):
        inside = labels.numpy() == k
        assert np.isnan(values).all() == (not inside.any())
        for loss, each in losses.items() if inside.any() else ():
            total = values[:, COLUMNS.index((loss, "bias"))] + values[:, COLUMNS.index((loss, "variance"))]
            assert total[0] == pytest.approx(each[:, inside].mean(), abs=1e-6)
            for run in range(4):
                assert total[1 + run] == pytest.approx(np.delete(each, run, 0)[:, inside].mean(), abs=1e-6)
            np.testing.assert_allclose(pseudo(total), each[:, inside].mean(1), atol=1e-6)


def test_sums_are_what_loops_over_pixels_give() -> None:
    """Straight from the definitions, without one run too."""
    logits, labels, near = drawn(3, 60)
    values = summed(logits, labels, near)
    everything = logits.softmax(1).numpy()
    for place, left in enumerate([[0, 1, 2], [1, 2], [0, 2], [0, 1]]):
        rows = {region: [] for region in (BODY, BOUNDARY)}
        for i, y in enumerate(labels.tolist()):
            p = everything[left, :, i]
            geometric = np.exp(np.log(p).mean(0))
            geometric /= geometric.sum()
            divergence = np.mean([(geometric * np.log(geometric / q)).sum() for q in p])
            arithmetic, hot = p.mean(0), np.eye(K)[y]
            spread = ((p - arithmetic) ** 2).sum(1).mean()
            calls = p.argmax(1)
            mode = min(range(K), key=lambda k, calls=calls: (-(calls == k).sum(), k))
            v, bias = (calls != mode).mean(), float(mode != y)
            c = 1.0 if mode == y else -((calls == y).sum() / (calls != mode).sum() if v else 0)
            rows[int(near[i])].append([
                -np.log(geometric[y]), divergence, ((arithmetic - hot) ** 2).sum(), spread, bias, c * v,
                v * (1 - bias), v * bias,
            ])  # fmt: skip
        for region, found in rows.items():
            np.testing.assert_allclose(values.over_pixels([region])[place], np.mean(found, 0), atol=1e-12)
        np.testing.assert_allclose(values.over_pixels()[place], np.mean(rows[BODY] + rows[BOUNDARY], 0), atol=1e-12)


@pytest.mark.parametrize("runs", range(2, 12))
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_identical_runs_have_no_variance(runs: int, count: int) -> None:
    """To the last bit, corrected or not, also where they are nearly certain."""
    for scale in (0.1, 3.0, 60.0):
        logits, labels, near = drawn(1, count, seed=runs, scale=scale)
        values = summed(logits.float().expand(runs, K, count), labels, near).over_pixels()
        for column, found in zip(COLUMNS, values.T, strict=True):
            if column[1] != "bias":
                assert (found == 0).all(), column
                assert corrected(found) == 0
            else:
                np.testing.assert_allclose(found, found[0], rtol=1e-12, atol=1e-12)


def test_the_order_of_the_runs_does_not_matter() -> None:
    logits, labels, near = drawn(4, 500)
    whole = summed(logits, labels, near)
    for order in itertools.permutations(range(4)):
        other = summed(logits[list(order)], labels, near)
        np.testing.assert_allclose(other.sums[0], whole.sums[0], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(other.sums[1:], whole.sums[1:][list(order)], rtol=1e-9, atol=1e-9)


def test_streaming_is_batch() -> None:
    logits, labels, near = drawn(3, 40_000)
    whole = summed(logits, labels, near)
    cuts = [summed(logits[..., a:b], labels[a:b], near[a:b]) for a, b in ((0, 7), (7, 20_000), (20_000, 40_000))]
    for order in itertools.permutations(cuts):
        merged = order[0] + order[1] + order[2]
        np.testing.assert_array_equal(merged.pixels, whole.pixels)
        np.testing.assert_allclose(merged.sums, whole.sums, rtol=1e-9, atol=1e-9)
    assert whole.pixels.shape == (REGIONS, K)
    assert whole.pixels.sum() == 40_000


def test_extreme_logits_are_finite() -> None:
    logits = torch.tensor([[[2000.0], [-2000.0], [0.0]], [[-2000.0], [2000.0], [0.0]]], dtype=torch.float64)
    for label in range(3):
        found = decompose(logits.log_softmax(1), torch.tensor([label]))
        assert found.isfinite().all()
        assert (found[:, COLUMNS.index(("cross_entropy", "variance"))] >= 0).all()


@pytest.mark.parametrize(("runs", "plug_in"), [(2, 0.139), (3, 0.185), (5, 0.227), (10, 0.254)])
def test_few_runs_are_corrected(runs: int, plug_in: float) -> None:
    """5 classes, logits of unit variance: the truth is what infinitely many runs would say, E lse(z) − lse(E z)."""
    random = np.random.default_rng(0)
    mean = np.array([2, 0.5, 0.5, 0, -1])
    size = float(np.log(np.exp(mean).sum()))
    truth = float(np.log(np.exp(mean + random.normal(size=(400_000, K))).sum(1)).mean()) - size
    assert truth == pytest.approx(0.281, abs=0.003)
    logits = torch.from_numpy(mean[:, None] + random.normal(size=(runs, K, 60_000)))
    labels = torch.zeros(60_000, dtype=torch.int64)
    values = summed(logits, labels, labels > 0).over_pixels()
    variance, bias = (values[:, COLUMNS.index(("cross_entropy", part))] for part in ("variance", "bias"))
    assert variance[0] == pytest.approx(plug_in, abs=0.005)
    assert corrected(variance) == pytest.approx(truth, rel=0.03)
    assert bias[0] - (size - mean[0]) > 0.02, "as much too high"
    assert corrected(bias) == pytest.approx(size - mean[0], abs=0.012)


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_the_correction_of_brier_is_exact(runs: int) -> None:
    random = np.random.default_rng(1)
    p = np.exp(random.normal(size=(200_000, K)))
    p /= p.sum(1, keepdims=True)
    truth = p.var(0).sum()
    logits = torch.from_numpy(random.normal(size=(runs, K, 60_000)))
    labels = torch.zeros(60_000, dtype=torch.int64)
    values = summed(logits, labels, labels > 0).over_pixels()[:, COLUMNS.index(("brier", "variance"))]
    assert values[0] == pytest.approx(truth * (runs - 1) / runs, rel=0.01)
    assert corrected(values) == pytest.approx(values[0] * runs / (runs - 1), rel=1e-12)


# End to end


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A teacher, three seeds of a student of it and three on labels alone; scenes of 48×64 pixels."""
    folder = tmp_path_factory.mktemp("runs")
    found: list[Path] = []

    def make(name: str, *settings: str, **more: Any) -> None:
        quick = small("data.count=6", "data.val_count=3", "checkpoint.every=2", *settings, **more, steps=2)
        train(quick, folder / name)
        found.append(folder / name)

    make("teacher-0", models={"student": {"kind": "unet", "width": 6, "depth": 2}})
    soft = content()["losses"] | {"soft_targets": {"student": "student", "target": "teacher", "temperature": 2}}
    teacher = {"weights": str(folder / "teacher-0"), "frozen": True}
    for seed in (2, 0, 1):
        make(f"soft-{seed}", f"seed={seed}", models=content()["models"] | {"teacher": teacher}, losses=soft)
        make(f"plain-{seed}", f"seed={seed}")
    return found


SETTINGS = ["analysis.stride=2", "analysis.pictures=2"]


def rows_of(found: Any, table: str) -> list[dict[str, Any]]:
    return [dict(zip(found.tables[table].columns, row, strict=True)) for row in found.tables[table].rows]


def asked(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """Every run's logits [R, K, n] and the labels [n] of the pixels that a stride of 2 looks at."""
    split = Streets(6, (48, 64), val_count=3, split="val")
    grid = slice(1, None, 2)
    logits = [
        torch.cat([predict(load(path, which="last"), split[i].image)[:, grid, grid].flatten(1) for i in range(3)], 1)
        for path in paths
    ]
    labels = torch.cat([split[i].labels[grid, grid].flatten().long() for i in range(3)])
    return torch.stack(logits).double(), labels


def test_the_verb(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    call = ["analyse", "bias_variance", *map(str, runs), "--out", str(out)]
    call += [word for setting in SETTINGS for word in ("--set", setting)]
    with pytest.raises(SystemExit) as done:
        main(call)
    assert done.value.code in (0, None)
    told = capsys.readouterr()
    assert "against plain, 3 paired seeds, in nats of cross-entropy a pixel" in " ".join(told.out.split())
    assert "soft: 3 images, 3 runs" in told.err
    found = Run(out).last_findings("bias_variance")
    assert found is not None
    assert [list(row[:5]) for row in found.tables["arms"].rows] == [
        ["soft", "student", 3, "0 1 2", "soft-0 soft-1 soft-2"],
        ["plain", "student", 3, "0 1 2", "plain-0 plain-1 plain-2"],
    ], "a single teacher is no arm"

    loss: dict[str, np.ndarray] = {}
    for arm in ("soft", "plain"):
        logits, labels = asked([runs[0].with_name(f"{arm}-{seed}") for seed in range(3)])
        known = labels != 255
        logits, labels = logits[..., known], labels[known]
        values = decompose(logits.log_softmax(1), labels).mean(2).numpy()
        loss[arm] = torch.stack([torch.nn.functional.cross_entropy(z.T, labels) for z in logits]).numpy()
        for row in rows_of(found, "decomposition"):
            if row["arm"] == arm and row["over"] == "pixels":
                assert row["pixels"] == len(labels)
                for part in ("bias", "variance"):
                    want = values[:, COLUMNS.index((row["loss"], part))]
                    assert row[part] == pytest.approx(corrected(want), abs=1e-9)
                    assert found.numbers[f"{arm}/{row['loss']}/{part}"] == row[part]
                assert row["mean"] == pytest.approx(row["bias"] + row["variance"])
                assert row["plug_in"] == pytest.approx(want[0], abs=1e-9)
    sums = [row for row in rows_of(found, "decomposition") if row["arm"] == "soft" and row["loss"] == "brier"]
    whole, body, boundary = (next(r for r in sums if r["over"] == o) for o in ("pixels", "body", "boundary"))
    assert whole["pixels"] == body["pixels"] + boundary["pixels"]
    together = sum(row["pixels"] * row["variance"] for row in (body, boundary)) / whole["pixels"]
    assert whole["variance"] == pytest.approx(together)
    by_class = [row for row in rows_of(found, "by_class/soft") if row["pixels"]]
    mean = next(row for row in sums if row["over"] == "classes")
    assert mean["variance"] == pytest.approx(np.mean([row["brier_variance"] for row in by_class]))
    rare = next(row for row in sums if row["over"] == "rare")
    chosen = [row["brier_bias"] for row in by_class if row["share"] <= 0.01]
    assert rare["bias"] == pytest.approx(np.mean(chosen))
    assert 0 < len(chosen) < len(by_class)

    change = {(row["loss"], row["over"]): row for row in rows_of(found, "change")}
    assert set(change) == {(loss, row["over"]) for loss in LOSSES for row in sums}
    row, each = change["cross_entropy", "pixels"], loss["soft"] - loss["plain"]
    assert (row["arm"], row["baseline"], row["seeds"]) == ("soft", "plain", 3)
    assert row["mean"] == pytest.approx(each.mean(), abs=1e-6)
    assert row["mean_high"] - row["mean"] == pytest.approx(4.303 * each.std(ddof=1) / np.sqrt(3), rel=1e-4)
    assert row["mean"] == pytest.approx(row["bias"] + row["variance"])
    assert row["variance_low"] < row["variance"] < row["variance_high"]
    assert len(found.tables["change/soft"].rows) == 3 * len(found.tables["classes"].rows)
    assert set(found.images) == {
        f"maps/{key}/{what}"
        for key in {name.split("/")[1] for name in found.images}
        for what in ("image", *(f"{arm} {part}" for arm in ("soft", "plain") for part in ("bias", "variance")))
    }
    assert len(found.images) == 2 * 5
    assert {picture.pixels.shape for picture in found.images.values()} == {(48, 64, 3)}
    with (out / "tables" / "change_soft.csv").open(newline="") as lines:
        assert next(csv.reader(lines))[:3] == ["class", "loss", "share"]

    with pytest.raises(SystemExit):
        main([*call, "--json"])
    again = capsys.readouterr()
    assert "images" not in again.err, "nobody is asked twice"
    assert json.loads(again.out)["numbers"] == dict(found.numbers)
    page = (out / "bias_variance.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page links to nothing outside it"
    assert "<script" not in page
    assert page.count("<svg") == 2
    assert "soft against plain" in page


def test_the_order_of_the_runs_changes_nothing(runs: list[Path], tmp_path: Path) -> None:
    one = analyse("bias_variance", runs, tmp_path / "one", SETTINGS).findings
    other = analyse("bias_variance", [runs[0], *runs[:0:-1]], tmp_path / "other", SETTINGS).findings
    assert other.numbers == one.numbers
    assert sorted(map(list, other.tables["change"].rows)) == sorted(map(list, one.tables["change"].rows))


def test_asking_goes_on_where_it_was_stopped(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = analyse("bias_variance", runs, tmp_path / "whole", SETTINGS).findings
    real, calls = _ensembles.predict, 0

    def stopping(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3 * 3 + 5:  # in the second arm's second image
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(_ensembles, "predict", stopping)
    with pytest.raises(KeyboardInterrupt):
        analyse("bias_variance", runs, tmp_path / "out", SETTINGS)
    monkeypatch.setattr(_ensembles, "predict", real)
    capsys.readouterr()
    found = analyse("bias_variance", runs, tmp_path / "out", SETTINGS).findings
    assert "plain: 2 images (going on after 1), 3 runs" in capsys.readouterr().err
    assert found.numbers == whole.numbers
    assert found.tables == whole.tables
    for name, picture in whole.images.items():
        np.testing.assert_array_equal(found.images[name].pixels, picture.pixels)


def test_copies_of_a_run_have_no_variance(runs: list[Path], tmp_path: Path) -> None:
    """The same weights under other seeds' names."""
    names = ["copy-0", "copy-1", "copy-2"]
    for seed, name in enumerate(names):
        shutil.copytree(runs[2], tmp_path / name)
        recipe = tmp_path / name / "recipe.yaml"
        recipe.write_text(re.sub(r"^seed: \d+", f"seed: {seed}", recipe.read_text(), flags=re.MULTILINE))
    found = analyse("bias_variance", [tmp_path / name for name in names], tmp_path / "out", SETTINGS).findings
    for row in rows_of(found, "decomposition"):
        assert (row["variance"], row["variance_low"], row["variance_high"], row["plug_in"]) == (0, 0, 0, 0)
        assert row["bias"] == pytest.approx(row["mean"])
    assert [row[0] for row in found.tables["advice"].rows] == ["no comparison", "copy"]
    assert all((picture.pixels == picture.pixels[0, 0]).all()
               for name, picture in found.images.items() if name.endswith("variance"))  # fmt: skip


def test_two_runs_tell_no_interval_and_no_mode(runs: list[Path], tmp_path: Path) -> None:
    two = [path for path in runs[1:] if path.name[-1] in "01"]
    found = analyse("bias_variance", two, tmp_path / "out", [*SETTINGS, "analysis.images=1"]).findings
    for row in rows_of(found, "decomposition"):
        assert row["variance_low"] is None
        assert (row["variance"] is None) == (row["loss"] == "zero_one")
        assert row["mean"] is not None
        if row["loss"] != "zero_one":
            assert row["variance"] == pytest.approx(2 * row["plug_in"])
    assert "undecided" in str(found.tables["advice"].rows[0][1])
    assert found.numbers["images"] == 1


def test_a_baseline_by_name(runs: list[Path], tmp_path: Path) -> None:
    found = analyse("bias_variance", runs, tmp_path / "o", [*SETTINGS, "analysis.baseline=soft"]).findings
    assert [row[:2] for row in found.tables["change"].rows][:1] == [["plain", "soft"]]
    with pytest.raises(Mistake, match=r"baseline: there is no arm 'sofd'; there is soft and plain \(did you mean"):
        analyse("bias_variance", runs, tmp_path / "p", [*SETTINGS, "analysis.baseline=sofd"])
    apart = [path for path in runs if path.name in ("soft-0", "soft-2", "plain-1")]
    shutil.copytree(runs[2], tmp_path / "plain-7")
    recipe = tmp_path / "plain-7" / "recipe.yaml"
    recipe.write_text(re.sub(r"^seed: \d+", "seed: 7", recipe.read_text(), flags=re.MULTILINE))
    with pytest.raises(Mistake, match="soft and its baseline plain have no seed in common"):
        analyse("bias_variance", [*apart, tmp_path / "plain-7"], tmp_path / "q", [*SETTINGS, "analysis.baseline=plain"])


def test_what_is_no_arm_is_a_sentence(runs: list[Path], tmp_path: Path) -> None:
    def copied(name: str, source: Path, pattern: str, text: str) -> Path:
        shutil.copytree(source, tmp_path / name)
        recipe = tmp_path / name / "recipe.yaml"
        changed = re.sub(pattern, text, recipe.read_text(), flags=re.MULTILINE)
        assert changed != recipe.read_text()
        recipe.write_text(changed)
        return tmp_path / name

    soft = sorted(path for path in runs if path.name.startswith("soft"))
    plain = sorted(path for path in runs if path.name.startswith("plain"))
    with pytest.raises(Mistake, match="expected at least 2 runs of every arm, whose recipes differ in the seed alone, "
                                      "got one of plain-0"):  # fmt: skip
        analyse("bias_variance", [*soft, plain[0]], tmp_path / "out")
    shutil.copytree(plain[0], tmp_path / "plain-again")
    with pytest.raises(Mistake, match="another seed for every run of an arm, plain-0 and plain-again have both 0"):
        analyse("bias_variance", [*plain, tmp_path / "plain-again"], tmp_path / "out")
    elsewhere = copied("plain-8", plain[0], r"^seed: 0", "seed: 8")
    info = json.loads((elsewhere / "run.json").read_text())
    info["fingerprints"]["val"] = "other"
    (elsewhere / "run.json").write_text(json.dumps(info))
    with pytest.raises(Mistake, match="plain-0 and plain-8 were not validated on the same images"):
        analyse("bias_variance", [*plain, elsewhere], tmp_path / "out")
    others = [copied(f"half-{seed}", plain[seed], r"^data:\n", "data:\n  size: [24, 32]\n") for seed in (0, 1)]
    with pytest.raises(Mistake, match=r"images at one data\.size, got plain-0 the images' own and half-0 24×32"):
        analyse("bias_variance", [*plain, *others], tmp_path / "out")
    with pytest.raises(Mistake, match="plain-0 knows other classes than the data: it has 19 classes and the data 1"):
        arms_of([Run(path) for path in plain], ClassTable(("road",), ((0, 0, 0),)), "bias_variance")
    with pytest.raises(Mistake, match="expected at least two run directories"):
        BiasVariance().analyse(Subject(DataSpec(kind="streets"), {}))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images": 0}, "expected images >= 1"),
        ({"stride": 0}, "1 <= stride <= 16"),
        ({"pictures": -1}, "pictures >= 0"),
        ({"boundary": 0.7}, "boundary: expected"),
    ],
)
def test_mistakes_are_sentences(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence):
        BiasVariance(**settings)
