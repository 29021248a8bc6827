"""Images without labels: how often they are shown, what is learned there, and what is refused."""

import json
import math
import shutil
from collections import Counter
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segdistill.analysing import analyse_data
from segdistill.assemble import assemble
from segdistill.checking import check
from segdistill.data import Order, count_pixels, training_batches
from segdistill.datasets import FileDataset
from segdistill.datasets.streets import Streets
from segdistill.frames import before, exact, is_of_share
from segdistill.gradients import pulls
from segdistill.make_data import make
from segdistill.mistakes import Mistake
from segdistill.planning import plan
from segdistill.recipe import Recipe, dump
from segdistill.run import Run
from segdistill.training import Work, train
from segdistill.types import IGNORE, Batch, Step
from small import small
from test_training import ranks, same, weights

COUNT = 10
"""Frames in the folder."""
rates = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.7, 0.9, 0.999])


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in folders, as frames of videos lie; they are no scenes of the training split."""
    folder = tmp_path_factory.mktemp("videos")
    scenes = Streets(1, (48, 64), val_count=COUNT, split="val")
    for index in range(COUNT):
        place = folder / f"clip{index % 2}" / f"{index:04d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(scenes[index].image.permute(1, 2, 0).numpy()).save(place)
    return folder


@pytest.fixture
def videos(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "videos"))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("steps=2", "probes={}"), tmp_path_factory.mktemp("teacher") / "run").path


def taught(teacher: Path, videos: Path, *more: str, **replaced: Any) -> Recipe:
    """A student under labels and a teacher, half of the crops frames."""
    models = {
        "student": {"kind": "unet", "width": 4, "depth": 2, "normalisation": "group"},
        "teacher": {"weights": str(teacher), "frozen": True},
    }
    losses = {"cross_entropy": {"student": "student"}, "soft_targets": {"student": "student", "target": "teacher"}}
    frames = [f"data.frames.path={videos}", "data.frames.rate=0.5"]
    return small(*frames, *more, **{"models": models, "losses": losses, **replaced})


def fed(recipe: Recipe, count: int, *, start: int = 0, rank: int = 0, of: int = 1) -> list[Batch]:
    found, batch = assemble(recipe), recipe.data.batch
    batches = training_batches(
        found.train, recipe.data, recipe.seed, start=start, batch=batch, rank=rank, ranks=of, frames=found.frames
    )
    return list(islice(batches, count))


def equal(one: Batch, other: Batch) -> bool:
    return one.keys == other.keys and all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def of_frames(batch: Batch) -> list[bool]:
    return [key.startswith("frames:") for key in batch.keys]


# How often


@given(position=st.integers(0, 10**9), share=rates)
def test_a_share_is_spread_evenly(position: int, share: float) -> None:
    """In any window of n there are n times the share, rounded up or down; a tenth is a tenth."""
    rate = exact(share)
    assert rate == Fraction(str(share))
    for length in (1, 7, 30):
        found = sum(is_of_share(each, rate) for each in range(position, position + length))
        assert found == before(position + length, rate) - before(position, rate)
        assert math.floor(length * rate) <= found <= math.ceil(length * rate)


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(1, 20),
    frames=st.integers(1, 20),
    batch=st.integers(1, 12),
    rate=rates,
    start=st.integers(0, 30),
    count=st.integers(1, 6),
)
def test_the_rate_is_exact_over_whole_batches(
    length: int, frames: int, batch: int, rate: float, start: int, count: int
) -> None:
    order = Order(length, batch, 3, start=start, frames=frames, rate=rate)
    shown = [place[1] >= length for places in islice(order, count) for place in places]
    wanted = exact(rate) * len(shown)
    assert math.floor(wanted) <= sum(shown) <= math.ceil(wanted)
    assert all(place[1] < length + frames for places in islice(order, count) for place in places)


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 20), frames=st.integers(1, 20), batch=st.integers(1, 12), rate=rates)
def test_each_source_is_shown_in_passes_and_the_labelled_as_without_frames(
    length: int, frames: int, batch: int, rate: float
) -> None:
    places = [place for places in islice(Order(length, batch, 3, frames=frames, rate=rate), 60) for place in places]
    labelled = [place for place in places if place[1] < length]
    alone = (place for places in Order(length, batch, 3) for place in places)
    assert labelled == list(islice(alone, len(labelled)))
    others = [(place[0], place[1] - length) for place in places if place[1] >= length]
    whole = len(others) // frames
    assert Counter(others[: whole * frames]) == Counter((epoch, i) for epoch in range(whole) for i in range(frames))


@settings(max_examples=40, deadline=None)
@given(share=st.integers(1, 4), of=st.integers(1, 4), rate=rates, start=st.integers(0, 9))
def test_ranks_share_the_batch_and_the_frames_in_it(share: int, of: int, rate: float, start: int) -> None:
    def order(rank: int, of: int) -> Order:
        return Order(7, share * len(parts), 5, start=start, rank=rank, ranks=of, frames=9, rate=rate)

    parts = range(of)
    for whole, *shares in zip(islice(order(0, 1), 5), *(islice(order(rank, of), 5) for rank in parts), strict=True):
        assert Counter(place for each in shares for place in each) == Counter(whole)
        many = [sum(place[1] >= 7 for place in each) for each in shares]
        assert max(many) - min(many) <= 1


def test_parts_of_a_batch_show_what_the_batch_shows() -> None:
    """Accumulation changes the order within an update alone."""
    whole = islice(Order(7, 8, 5, frames=9, rate=0.3), 6)
    parts = islice(Order(7, 2, 5, frames=9, rate=0.3), 24)
    assert [Counter(places) for places in whole] == [
        Counter(place for places in islice(parts, 4) for place in places) for _ in range(6)
    ]


# What a batch shows


def test_a_batch_holds_frames_that_are_void(teacher: Path, videos: Path) -> None:
    recipe = taught(teacher, videos, "data.crop=[40,56]", "data.augment.scale=[1,1]")
    found = assemble(recipe)
    assert found.frames is not None and len(found.frames) == COUNT and len(found.train) == 12
    for batch in fed(recipe, 5):
        assert of_frames(batch) == [False, False, True, True]
        assert (batch.labels[2:] == IGNORE).all() and not batch.pad.any()
        assert all((labels != IGNORE).any() for labels in batch.labels[:2])
    assert {key for batch in fed(recipe, 5) for key in batch.keys[2:]} == {
        f"frames:clip{index % 2}/{index:04d}" for index in range(COUNT)
    }


def test_workers_a_resume_and_ranks_change_nothing(teacher: Path, videos: Path) -> None:
    recipe = taught(teacher, videos, "data.frames.rate=0.3")
    whole = fed(recipe, 5)
    assert sum(sum(of_frames(batch)) for batch in whole) == 6
    helped = fed(taught(teacher, videos, "data.frames.rate=0.3", "data.workers=2"), 5)
    assert all(equal(one, other) for one, other in zip(whole, helped, strict=True))
    assert all(equal(one, other) for one, other in zip(whole[3:], fed(recipe, 2, start=3), strict=True))
    for rank in range(2):
        for one, part in zip(whole, fed(recipe, 5, rank=rank, of=2), strict=True):
            assert part.keys == one.keys[rank::2] and torch.equal(part.image, one.image[rank::2])


def test_no_rate_is_no_frames(teacher: Path, videos: Path) -> None:
    shown = fed(taught(teacher, videos, "data.frames.rate=0", "data.frames.path=gone"), 3)
    assert all(equal(*pair) for pair in zip(shown, fed(small(), 3), strict=True))


@pytest.mark.parametrize("cache", ["false", "disk"])
def test_frames_are_decoded_ahead_as_well(teacher: Path, videos: Path, cache: str, tmp_path: Path) -> None:
    kept, other = (fed(taught(teacher, videos, f"data.cache={each}"), 4) for each in (cache, "true"))
    assert all(equal(one, two) for one, two in zip(kept, other, strict=True))


def test_classes_are_looked_for_where_there_are_labels(teacher: Path, videos: Path) -> None:
    sampling = "data.sampling={kind: rare_class, share: 1, temperature: 0.1}"
    recipe, alone = taught(teacher, videos, sampling), small(sampling)
    assert assemble(recipe).class_pixels == assemble(alone).class_pixels
    labelled = [labels for batch in fed(recipe, 4) for labels in batch.labels[:2]]
    expected = [labels for batch in fed(alone, 2) for labels in batch.labels]
    assert all(torch.equal(*pair) for pair in zip(labelled, expected, strict=True))


# What is learned there


def test_labels_say_what_they_say_of_the_labelled_part_and_teachers_speak_everywhere(
    teacher: Path, videos: Path
) -> None:
    found = assemble(taught(teacher, videos))
    (batch,) = fed(taught(teacher, videos), 1)
    system = found.system

    def gradient(edge: str, part: slice) -> torch.Tensor:
        shown = Batch(*(tensor[part] for tensor in batch[:3]), batch.keys[part])
        said = system(shown, found.frozen(shown, system.listened_to(0)), 0)
        gradients = torch.autograd.grad(said.losses[edge], list(system.parameters()), materialize_grads=True)
        return torch.cat([each.flatten() for each in gradients])

    everything, labelled, frames = slice(0, 4), slice(0, 2), slice(2, 4)
    torch.testing.assert_close(gradient("cross_entropy", everything), gradient("cross_entropy", labelled))
    assert not gradient("cross_entropy", frames).any()
    assert gradient("soft_targets", frames).norm() > 0
    halves = gradient("soft_targets", labelled) + gradient("soft_targets", frames)
    torch.testing.assert_close(gradient("soft_targets", everything), halves / 2)  # no crop is padded


def test_batches_of_nothing_but_frames_are_no_nan(teacher: Path, videos: Path, tmp_path: Path) -> None:
    """Of one image each, every other one has labels."""
    run = train(taught(teacher, videos, "data.batch=1", "probes={}"), tmp_path / "run")
    lines = [line for line in run.log() if "loss" in line]
    values = [line["loss/cross_entropy"] for line in lines]
    assert [value > 0 for value in values] == [True, False] * 3 and values[1::2] == [0, 0, 0]
    assert all(math.isfinite(line["gradient_norm"]) and line["gradient_norm"] > 0 for line in lines)


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_with_frames_resumes_exactly(
    teacher: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    more = ["models.teacher.cache={stride: 1, dtype: fp32}"] if cached else []
    recipe = taught(teacher, videos, "data.frames.rate=0.7", "probes={}", *more)
    straight, update = train(recipe, tmp_path / "straight"), Work.update

    def interrupted(work: Work, batches: list[Batch], step: int) -> Step | None:
        if step == 4:
            raise RuntimeError("pulled the plug")
        return update(work, batches, step)

    monkeypatch.setattr(Work, "update", interrupted)
    with pytest.raises(RuntimeError, match="plug"):
        train(recipe, tmp_path / "resumed")
    monkeypatch.undo()
    assert same(weights(straight), weights(train(recipe, tmp_path / "resumed", resume=True)))


def test_a_remembered_teacher_knows_frames_from_the_training_split(teacher: Path, videos: Path) -> None:
    """Crops that are whole images, so that it says what it says live."""
    whole = {"data.crop": "[48,64]", "data.augment.scale": "[1,1]", "data.augment.jitter": "0"}
    plain = [f"{key}={value}" for key, value in whole.items()] + ["data.augment.flip=false"]
    recipe = taught(teacher, videos, *plain, "models.teacher.cache={stride: 1, dtype: fp32}")
    found = assemble(recipe)
    found.caches["teacher"].build(torch.device("cpu"))
    for batch in fed(recipe, 3):
        remembered = found.frozen(batch, {"teacher"})["teacher"]["logits"]
        found.frozen.remembered.clear()
        live = found.frozen(batch, {"teacher"})["teacher"]["logits"]
        found.frozen.remembered.update(found.caches)
        torch.testing.assert_close(remembered, live, rtol=1e-4, atol=1e-4)


def test_an_epoch_shows_the_training_split_once(teacher: Path, videos: Path) -> None:
    phases = [{"epochs": 1, "losses": ["cross_entropy", "soft_targets"]}, {"steps": 1, "losses": ["soft_targets"]}]
    assert assemble(taught(teacher, videos, phases=phases)).system.phases[0].steps == 6
    assert assemble(taught(teacher, videos, "data.frames.rate=0", phases=phases)).system.phases[0].steps == 3


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(teacher: Path, videos: Path, tmp_path: Path) -> None:
    recipe = taught(teacher, videos, "data.batch=6", "data.frames.rate=0.7")
    one, two = (ranks(count, recipe, tmp_path / str(count))[0] for count in (1, 2))
    whole, other = (torch.cat([g.flatten() for _, g in sorted(found.items())]) for found in (one, two))
    assert float((whole - other).norm() / whole.norm()) < 1e-5


# Labels that are withheld


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "bdd100k"
    make(root, "bdd100k", 8, (48, 64))
    return root


@pytest.fixture
def bdd(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bdd100k"))


def on(root: Path, *more: str, **replaced: Any) -> Recipe:
    data = {"kind": "bdd100k", "root": str(root), "crop": [32, 48], "batch": 4}
    return small(*more, **{"data": data, **replaced})


def labelled(recipe: Recipe) -> list[int]:
    dataset = assemble(recipe).train
    return [index for index in range(len(dataset)) if (dataset.labels(index) != IGNORE).any()]


def test_withheld_is_spread_evenly(bdd: Path) -> None:
    assert labelled(on(bdd)) == list(range(8))
    assert labelled(on(bdd, "data.withhold=0.5")) == [0, 2, 4, 6]
    assert labelled(on(bdd, "data.withhold=0.75", "seed=5")) == [0, 4]
    assert labelled(small("data.withhold=0.75")) == [0, 4, 8]  # of scenes that are drawn


def test_withheld_masks_are_not_read(bdd: Path, tmp_path: Path) -> None:
    before = assemble(on(bdd, "data.withhold=0.75"))
    dataset = assemble(on(bdd)).train
    assert isinstance(dataset, FileDataset)
    masks = [pair.labels for pair in dataset.pairs]
    for index in (1, 2, 3, 5, 6, 7):
        file = masks[index]
        assert file is not None
        file.write_bytes(b"no mask")
    run = train(on(bdd, "data.withhold=0.75", "steps=1", "probes={}"), tmp_path / "run")
    now = assemble(on(bdd, "data.withhold=0.75"))
    assert now.fingerprints["train"] == before.fingerprints["train"] and not now.set_aside["train"]
    half = assemble(on(bdd, "data.withhold=0.5", "data.bad_share=0.9"))
    assert now.fingerprints["train"] != half.fingerprints["train"]
    kept = count_pixels(now.train)
    assert [int(row.sum()) > 0 for row in kept.table] == [True, False, False, False] * 2
    assert run.info()["finished"] == 1


def test_what_is_withheld_may_be_the_frames(bdd: Path) -> None:
    """Then it leaves the training split, also where none of it is shown: labels alone, and few."""
    withheld = ["data.withhold=0.75", "data.frames={rate: 0.5}"]
    found = assemble(on(bdd, *withheld))
    assert found.frames is not None and (len(found.train), len(found.frames)) == (2, 6)
    names = [{dataset.key(i) for i in range(len(dataset))} for dataset in (found.train, found.frames)]
    whole = assemble(on(bdd)).train
    assert names[0] | names[1] == {whole.key(index) for index in range(8)} and not names[0] & names[1]
    batches = fed(on(bdd, *withheld), 3)
    for batch in batches:
        assert set(batch.keys[:2]) <= names[0] and set(batch.keys[2:]) <= names[1]
        assert (batch.labels[2:] == IGNORE).all() and (batch.labels[:2] != IGNORE).any()
    alone = assemble(on(bdd, *withheld, "data.frames.rate=0"))
    assert alone.frames is None and len(alone.train) == 2
    assert alone.class_pixels == found.class_pixels == assemble(on(bdd, "data.withhold=0.75")).class_pixels


def test_validation_keeps_its_labels(bdd: Path) -> None:
    found = assemble(on(bdd, "data.withhold=0.75", "data.validate_on=train"))
    assert all((found.val.labels(index) != IGNORE).any() for index in range(8))


# Frames that cannot be read


def test_a_bad_frame_is_named_and_another_takes_its_place(
    teacher: Path, videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (videos / "clip1" / "0003.png").write_bytes(b"no picture")
    recipe = taught(teacher, videos, "data.bad_share=0.1", "steps=8", "probes={}")
    assert all(of_frames(batch) == [False, False, True, True] for batch in fed(recipe, 8))
    run = train(recipe, tmp_path / "run")
    assert "segdistill: frames: another sample takes the place of frames:clip1/0003: " in capfd.readouterr().err
    bad = json.loads(run.bad_samples_file.read_text())
    assert list(bad["frames"]) == ["frames:clip1/0003"] and bad["train"] == {}
    with pytest.raises(Mistake, match=r"frames: 1 of 10 samples cannot be read \(10%, data.bad_share allows 5%\)"):
        train(taught(teacher, videos, "data.bad_share=0.05", "steps=8", "probes={}"), tmp_path / "strict")


def test_a_small_frame_is_bad(teacher: Path, videos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (7, 40)).save(videos / "clip0" / "0002.png")
    with pytest.raises(Mistake, match=r"0002.png: 7x40; expected at least 8 pixels a side"):
        train(taught(teacher, videos, "steps=8"), tmp_path / "run")


def test_data_check_reads_frames_and_a_quarantine_leaves_them_out(
    teacher: Path, videos: Path, bdd: Path, tmp_path: Path
) -> None:
    (videos / "clip1" / "0003.png").write_bytes(b"no picture")
    shown = next((bdd / "images" / "10k" / "val").iterdir())
    (videos / shown.name).write_bytes(shown.read_bytes())
    data = {"kind": "bdd100k", "root": str(bdd), "crop": [32, 48], "batch": 4, "withhold": 0.5}
    file, quarantine = tmp_path / "recipe.yaml", tmp_path / "bad.json"
    file.write_text(dump(taught(teacher, videos, data=data)))
    found = check(file, quarantine_to=quarantine)
    errors = {problem.key: problem.kind for problem in found.of("error")}
    assert errors == {"frames:clip1/0003": "image", f"frames:{shown.stem}": "leak"}
    assert found.classes.columns == ["class", "train pixels", "val pixels"]
    recipe = taught(teacher, videos, data={**data, "quarantine": str(quarantine)})
    frames = assemble(recipe).frames
    assert frames is not None and len(frames) == COUNT - 1
    assert not {frames.key(index) for index in range(len(frames))} & set(errors)


# What is refused


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("data.frames.path=gone", r"data\.frames\.path: gone: there is no such folder; expected a folder of images"),
        ("data.frames.rate=1", r"data\.frames\.rate: .*less than 1"),
        ("data.frames.rate=-0.1", r"data\.frames\.rate: .*greater than or equal to 0"),
        ("data.frames.rte=0.1", r"data\.frames\.rte: .*did you mean 'rate'"),
        ("data.frames={rate: 0.5}", r"data\.frames\.path: expected a folder, or `data\.withhold`"),
        ("data.withhold=1", r"data\.withhold: .*less than 1"),
        ("data.withhold=0.01", r"data\.withhold: 0\.01 of 12 images is none"),
        ("optim.accumulate=4", r"data\.frames\.rate: 0\.5 leaves some of the parts of 1 images"),
    ],
)
def test_a_mistake_is_one_sentence(teacher: Path, videos: Path, said: str, sentence: str) -> None:
    with pytest.raises(Mistake, match=sentence) as caught:
        assemble(taught(teacher, videos, said))
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_and_a_video_are_refused(teacher: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Mistake, match=r"data\.frames\.path: there is no image below .*empty, expected \.png or \.jpg"):
        assemble(taught(teacher, empty))
    video = empty / "a.mp4"
    video.write_bytes(b"")
    with pytest.raises(Mistake, match=r"but the video .*a\.mp4; `segdistill data frames .*a\.mp4 --out FOLDER`"):
        assemble(taught(teacher, empty))
    with pytest.raises(Mistake, match=r"a\.mp4 is a video; `segdistill data frames .*a\.mp4 --out FOLDER`"):
        assemble(taught(teacher, video))


def test_other_frames_or_another_rate_are_refused_by_name(teacher: Path, videos: Path, tmp_path: Path) -> None:
    def resume(*more: str, allow: tuple[str, ...] = ()) -> Run:
        return train(taught(teacher, videos, "probes={}", *more), tmp_path / "run", resume=True, allow_change=allow)

    resume("steps=3")
    with pytest.raises(Mistake, match=r"data\.frames\.rate: the run has 0\.5, this recipe has 0\.25"):
        resume("steps=3", "data.frames.rate=0.25")
    (videos / "clip0" / "0000.png").unlink()
    with pytest.raises(Mistake, match=r"fingerprints\.data\.frames: the run began with .*: other data"):
        resume("steps=3")
    assert resume("steps=4", allow=("fingerprints.data.frames", "steps")).info()["finished"] == 4
    gone = ("data.frames", "fingerprints.data.frames", "steps")
    assert resume("steps=5", "data.frames.rate=0", allow=gone).info()["finished"] == 5


# What a plan says


def test_a_plan_says_how_many_and_how_often(teacher: Path, videos: Path) -> None:
    found = plan(taught(teacher, videos, "steps=12"), steps=1)
    assert found.numbers["frames"] == COUNT and found.numbers["epochs"] == 12 * 2 / 12
    (said,) = (line for line in found.connections if line.startswith("frames:"))
    assert said == f"frames: 10 images without labels (below {videos}), 0.5 of the crops, 2.4 epochs of them"
    assert not [sentence for sentence in found.warnings if sentence.startswith("data.")]
    withheld = plan(small("data.withhold=0.75"), steps=1)
    assert "withheld: the labels of 0.75 of the images of train" in withheld.connections


def test_a_plan_warns_of_frames_that_nobody_looks_at(videos: Path, teacher: Path) -> None:
    losses = {
        "cross_entropy": {"student": "student"},
        "soft_targets": {"student": "student", "target": "teacher", "distill_on": "labelled"},
    }
    for recipe in (
        small(f"data.frames.path={videos}"),
        taught(teacher, videos, losses=losses),
    ):
        (said,) = (sentence for sentence in plan(recipe, steps=1).warnings if sentence.startswith("data."))
        assert said.startswith("data.frames: no edge learns from a model") and "0.5 of the crops teach nothing" in said
    (said,) = (each for each in plan(small("data.withhold=0.75"), steps=1).warnings if each.startswith("data."))
    assert said.endswith("`data.frames: {rate: 0}` leaves them out")


def test_a_plan_warns_of_frames_of_another_size(teacher: Path, videos: Path) -> None:
    Image.new("RGB", (90, 60)).save(videos / "clip0" / "0000.png")

    def warned(*more: str) -> list[str]:
        return [each for each in plan(taught(teacher, videos, *more), steps=1).warnings if each.startswith("data.")]

    said = "data.frames: they are 60×90 where the labelled are 48×64; `data.size` brings them to one scale"
    assert warned() == [said] and not warned("data.size=[48,64]")


def test_an_analysis_sees_the_labels_that_a_run_sees(videos: Path, bdd: Path, tmp_path: Path) -> None:
    """And needs no folder of frames."""
    file = tmp_path / "recipe.yaml"
    file.write_text(dump(on(bdd, "data.withhold=0.75")))
    for said, images, unlabelled in (("null", 8, 6), ("{rate: 0.5}", 2, 0), ("{path: gone}", 8, 6)):
        found, _ = analyse_data(file, tmp_path / f"{images}{len(said)}", [f"data.frames={said}"])
        (row,) = (row for row in found.tables["splits"].rows if row[0] == "train")
        assert row[1:3] == [images, unlabelled]


def test_edges_are_weighed_as_they_act(teacher: Path, videos: Path) -> None:
    """A batch of frames alone: the labels pull on nothing, the teacher does."""
    found = assemble(taught(teacher, videos))
    (batch,) = fed(taught(teacher, videos), 1)
    frames = Batch(*(tensor[2:] for tensor in batch[:3]), batch.keys[2:])
    pulled = pulls(found.system, found.frozen, frames)
    assert pulled["cross_entropy"].norm == 0 and pulled["soft_targets"].norm > 0
