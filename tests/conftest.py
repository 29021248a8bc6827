"""What every test stands on: checked shapes, no network, few threads, and the real data where there is some."""

import os

# Set before torch and wandb are imported: they read them once.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"

from itertools import count
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Every annotated shape of these shelves is checked in every call, so it must happen before their first import.
install_import_hook(["segdistill.losses", "segdistill.metrics", "segdistill.models"], "beartype.beartype")
torch.set_num_threads(2)
NUMBERS = count()


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a test remembers is its own; the folder is made by who writes."""
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(NUMBERS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def no_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test has allowed is not."""
    monkeypatch.setattr("segdistill.parts._ALLOWED", set[str]())


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that pyproject.toml lies in."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data(repository: Path) -> Path:
    """The folder with samples of camvid, bdd100k and kitti; it lies beside the repository, not in it."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs real samples: no folder ../shared/data beside the repository")
    return folder
