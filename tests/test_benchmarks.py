"""What benchmarks print and documents repeat: the fixtures of the losses hold, and no loss is missing."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from segdistill import parts


def benchmark(name: str) -> ModuleType:
    file = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def properties() -> ModuleType:
    return benchmark("loss_properties")


@pytest.mark.parametrize("name", parts.names("losses"))
def test_the_document_has_the_numbers_of_every_loss(name: str, properties: ModuleType, repository: Path) -> None:
    rows = [
        line for line in (repository / "docs/losses.md").read_text().splitlines() if line.startswith(f"| `{name}` ")
    ]
    assert rows, f"docs/losses.md lacks {name}: python benchmarks/loss_properties.py"
    what, expected, got = properties.fixture(name)
    assert [cell.strip() for cell in rows[0].split("|")[2:5]] == [what, expected, got]
    if expected:
        assert float(got) == pytest.approx(float(expected), abs=1.01e-6)


def test_our_step_and_the_plain_one_compute_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    """What benchmarks/step.py compares: the first loss is the same; so are, but for rounding, the next three."""
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))  # pyright: ignore[reportUnknownMemberType]
    step = benchmark("step")
    setting = step.Setting(str(tmp_path), (48, 64), 2, (4, 6), "fp32")
    step.write_weights(setting)
    ours, plain = step.build(setting, "live teacher"), step.build(setting, step.PLAIN)
    for network in (plain.student, plain.teacher):
        assert all(p.is_contiguous() for p in network.parameters())
    one, other = ([float(way.step()) for _ in range(4)] for way in (ours, plain))
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one == pytest.approx(other, rel=1e-2) and one[3] < one[0]
    parts = {part for way in (ours, plain) for part in way.stopwatch.read()}
    assert parts == set(step.PARTS)


def test_the_arithmetic_of_many_processes() -> None:
    """A ring of two sends what there is once each way; one of many, twice as much."""
    scaling = benchmark("scaling")
    latency = scaling.LATENCY
    assert scaling.all_reduce(10**9, 1, 1e9) == 0
    assert scaling.all_reduce(10**9, 2, 1e9) == pytest.approx(1 + 2 * latency)
    assert scaling.all_reduce(10**9, 64, 1e9) == pytest.approx(2 * 63 / 64 + 126 * latency)
