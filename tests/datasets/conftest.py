"""What a test of a reader writes may be a few pixels: what they say can be read off the page."""

import pytest

from segdistill import datasets


@pytest.fixture(autouse=True)
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "SMALLEST", 1)
