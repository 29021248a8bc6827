"""What benchmarks print and documents repeat: the fixtures of the losses hold, and no loss is missing."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from segdistill import parts


@pytest.fixture(scope="module")
def properties() -> ModuleType:
    file = Path(__file__).parents[1] / "benchmarks" / "loss_properties.py"
    spec = importlib.util.spec_from_file_location("loss_properties", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
