"""Promise 2 on damaged files: a truncated or flipped one is skipped or refused by its name, never loaded silently."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import segdistill
from segdistill.checkpoint import State, load_state, load_weights, read_card, save_state
from segdistill.mistakes import Mistake
from segdistill.run import Run
from segdistill.training import train
from small import online, small

FILES = ["state.safetensors", "state.json", "MANIFEST.json"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("damaged")
    return train(small("steps=6", "checkpoint.every=2", "checkpoint.keep=3", **online()), folder / "run")


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(trained.path, tmp_path / "run"))


def truncate(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])


def flip(content: bytes, bit: int) -> bytes:
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: truncate(file, 0.5),
    "one byte short": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "one byte long": lambda file: file.write_bytes(file.read_bytes() + b" "),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_skipped_and_named(run: Run, name: str, damage: str) -> None:
    DAMAGES[damage](run.checkpoints / "step-6" / name)
    found = load_state(run.checkpoints)
    assert found is not None
    state, (said,) = found
    assert state.step == 4
    assert str(run.checkpoints / "step-6") in said
    assert name in said


@pytest.mark.parametrize("name", FILES)
def test_no_flipped_bit_of_a_checkpoint_goes_unseen(run: Run, name: str) -> None:
    """Of the manifest and the others in so many places."""
    file = run.checkpoints / "step-6" / name
    whole = file.read_bytes()
    dice = random.Random(0)
    for bit in sorted(dice.sample(range(8 * len(whole)), 300 if name == "MANIFEST.json" else 60)):
        file.write_bytes(flip(whole, bit))
        found = load_state(run.checkpoints)
        assert found is not None
        assert found[0].step == 4, f"bit {bit} of {name}"
        assert "step-6: skipped" in found[1][0]


def test_a_run_goes_on_from_the_one_before_with_the_same_bits(
    run: Run, trained: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    truncate(run.checkpoints / "step-6" / "state.safetensors", 0.9)
    (run.path / "last" / "student.safetensors").unlink()
    train(small("steps=6", "checkpoint.every=2", "checkpoint.keep=3", **online()), run.path, resume=True)
    assert "step-6: skipped, state.safetensors is damaged" in capfd.readouterr().err
    one, other = load_state(run.checkpoints), load_state(trained.checkpoints)
    assert one is not None and other is not None and not one[1]
    assert all(torch.equal(value, other[0].tensors[name]) for name, value in one[0].tensors.items())
    log, before = (
        [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in each.log()]
        for each in (run, trained)
    )
    assert log == before
    for which in ("best", "last"):
        assert run.weights("student", which).read_bytes() == trained.weights("student", which).read_bytes()


def test_when_none_is_whole_it_does_not_begin_again_behind_the_users_back(run: Run) -> None:
    for folder in run.checkpoints.iterdir():
        truncate(folder / "state.safetensors", 0.5)
    with pytest.raises(Mistake, match=r"step-6: skipped.*step-4: skipped.*no whole checkpoint is left"):
        train(small("steps=6", "checkpoint.every=2", "checkpoint.keep=3", **online()), run.path, resume=True)


def test_a_finished_run_whose_checkpoints_are_gone_loses_nothing_more(run: Run) -> None:
    before = run.log_file.read_bytes()
    shutil.rmtree(run.checkpoints)
    with pytest.raises(Mistake, match="a finished run without a checkpoint cannot go on"):
        train(small("steps=6", "checkpoint.every=2", "checkpoint.keep=3", **online()), run.path, resume=True)
    assert run.log_file.read_bytes() == before and run.last_findings("measure") is not None


def test_a_damaged_checkpoint_never_outlives_a_whole_one(tmp_path: Path) -> None:
    for step in (2, 6):
        save_state(tmp_path, State(step, {"w": torch.ones(2)}, {}), keep=3)
    truncate(tmp_path / "step-6" / "state.json", 0.5)
    save_state(tmp_path, State(4, {"w": torch.ones(2)}, {}), keep=1)
    assert [place.name for place in tmp_path.iterdir()] == ["step-4"]


def test_a_manifest_that_names_other_files_is_damaged(run: Run) -> None:
    file = run.checkpoints / "step-6" / "MANIFEST.json"
    said = json.loads(file.read_text())
    said["sha256"] = {"../step-4/state.json": "0" * 64}
    file.write_text(json.dumps(said))
    found = load_state(run.checkpoints)
    assert found is not None and found[0].step == 4


@pytest.mark.parametrize("damage", [name for name in DAMAGES if name not in ("gone", "a folder")])
def test_damaged_weights_are_refused_by_name(run: Run, damage: str) -> None:
    DAMAGES[damage](run.weights("student"))
    with pytest.raises(Mistake, match=r"best/student\.safetensors"):
        segdistill.load(run.path, model="student")


def test_no_flipped_bit_of_weights_goes_unseen(run: Run) -> None:
    """Of the header with the card in 300 places, of the tensors in 100."""
    file = run.weights("student")
    whole, model, card = file.read_bytes(), segdistill.load(run.path, model="student"), read_card(file)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    header = 8 * (8 + int.from_bytes(whole[:8], "little"))
    dice = random.Random(0)
    refused = 0
    for bit in [*dice.sample(range(header), 300), *dice.sample(range(header, 8 * len(whole)), 100)]:
        file.write_bytes(flip(whole, bit))
        try:
            found = read_card(file)
            load_weights(file, model)
        except Mistake as mistake:
            assert str(file) in str(mistake)
            refused += 1
            continue
        assert found == card, f"bit {bit}"
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), f"bit {bit}"
    assert refused >= 395  # a flip may change nothing, as where an escape has two spellings


@pytest.mark.parametrize("name", ["run.json", "recipe.yaml", "log.jsonl"])
@pytest.mark.parametrize("damage", ["empty", "half", "zeros"])
def test_other_damaged_files_of_a_run_are_named(run: Run, name: str, damage: str) -> None:
    DAMAGES[damage](run.path / name)
    if name == "log.jsonl":  # a shorter log is one that a crash cut off: its whole lines are used
        with run.log_file.open("ab") as file:
            file.write(b"\0\0\n")
    with pytest.raises(Mistake, match=name):
        train(small("steps=6", "checkpoint.every=2", "checkpoint.keep=3", **online()), run.path, resume=True)


def test_damaged_findings_are_named(run: Run) -> None:
    file = sorted(run.path.glob("findings/measure/*/findings.json"))[-1]
    truncate(file, 0.5)
    with pytest.raises(Mistake, match=r"findings\.json"):
        run.last_findings("measure")
