"""The page says what the numbers say, also when distillation did not help, and needs nothing but itself."""

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segdistill import recipe as recipes
from segdistill.mistakes import Mistake
from segdistill.reporting import report
from segdistill.reporting.cast import cast, read
from segdistill.reporting.pictures import gallery
from segdistill.run import Run, append_json, write_json, write_text
from segdistill.types import Findings, Picture, Table

LABELS_ONLY = {"cross_entropy": {"student": "student"}}
FROM_TEACHER = LABELS_ONLY | {"soft_targets": {"student": "student", "target": "teacher"}}
COLOURS = Table(("class", "colour"), (("road", "#804080"), ("car", "#00008e"), ("train", "#005064")))


def fabricate(
    path: Path,
    ious: Mapping[str, float],
    models: Mapping[str, Any],
    losses: Mapping[str, Any] = LABELS_ONLY,
    steps: int = 100,
    reached: int | None = None,
    **more: Any,
) -> Run:
    """A run directory as training leaves it; `ious` is the mIoU of each model that was measured."""
    run = Run(path)
    content = {"data": {"kind": "camvid", "batch": 4}, "models": models, "losses": losses, "steps": steps}
    write_text(
        run.recipe_file, recipes.dump(recipes.parse(content | {k: v for k, v in more.items() if k in ("seed", "data")}))
    )
    info = {"command": f"segdistill train {path.name}.yaml", "commit": "abc123", "seed": more.get("seed", 0)}
    info |= {"date": "2026-01-02", "versions": {"torch": "2.13.0"}, "host": {"processor": "slow"}, "seconds": 61.0}
    write_json(run.info_file, info | more.get("info", {}))
    reached = steps if reached is None else reached
    for step in range(10, reached + 1, 10):
        numbers = {f"loss/{edge}": 1.0 / step for edge in losses}
        append_json(run.log_file, {"step": step, "loss": 2.0 / step, **numbers})
    if ious:
        measured = {f"measure/{model}/mean_iou": value for model, value in ious.items()}
        append_json(run.log_file, {"step": reached, **measured})
    run.write_findings("measure", reached, _measured(ious))
    widths = {name: spec.get("width", 64) for name, spec in models.items()}
    costs = {f"{name}/gmac": width**2 / 16 for name, width in widths.items()}
    costs |= {f"{name}/parameters": 8000.0 * width**2 for name, width in widths.items()}
    run.write_findings("speed", reached, Findings({"threads": 2.0, **costs}))
    run.write_findings("predictions", reached, _predictions(list(ious)))
    return run


def _measured(ious: Mapping[str, float]) -> Findings:
    numbers = {f"{model}/mean_iou": value for model, value in ious.items()}
    rows = {
        model: [["car", value - 0.1, value, 0.2], ["road", value + 0.1, value, 0.8], ["train", None, None, 0.0]]
        for model, value in ious.items()
    }
    tables = {model: Table(("class", "iou", "accuracy", "frequency"), table) for model, table in rows.items()}
    return Findings(numbers, {}, tables)


def _predictions(models: list[str]) -> Findings:
    grey = Picture(np.full((24, 32, 3), 99, np.uint8))
    images = {"town/1": grey, "town/1/image": grey, "town/1/labels": grey}
    images |= {f"town/1/{model}{suffix}": grey for model in models for suffix in ("", " errors")}
    wrong = Table(("sample", *models), (("town/1", *(0.125 for _ in models)),))
    return Findings({}, images, {"classes": COLOURS, "wrong": wrong})


def three(folder: Path, teacher: float = 0.6, baseline: float = 0.5, student: float = 0.55, **more: Any) -> list[Run]:
    """Teacher, baseline and distilled student, in an order that gives no hint."""
    from_teacher = {
        "teacher": {"kind": "unet", "width": 64, "weights": str(folder / "large"), "frozen": True},
        "student": {"kind": "unet", "width": 16},
    }
    return [
        fabricate(folder / "distilled", {"student": student, "teacher": teacher}, from_teacher, FROM_TEACHER, **more),
        fabricate(folder / "plain", {"student": baseline}, {"student": {"kind": "unet", "width": 16}}),
        fabricate(folder / "large", {"student": teacher}, {"student": {"kind": "unet", "width": 64}}),
    ]


def page(runs: list[Run], folder: Path) -> str:
    return report(runs, folder / "report.html").read_text()


def verdict(text: str) -> str:
    """The sentence and its reservation."""
    found = re.search(r"<h1>(.*?)</h1>(?:\s*<p class=\"reservation\">(.*?)</p>)?", text, re.DOTALL)
    assert found is not None
    return " ".join(filter(None, found.groups())).replace("\N{NO-BREAK SPACE}", " ").strip()


class Reader(HTMLParser):
    """Checks that elements close in order, and collects what matters."""

    VOID = ("meta", "img", "br", "use")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        self.ids += [str(values["id"])] if "id" in values else []
        self.sources += [str(values[name]) for name in ("src", "href", "xlink:href") if name in values]
        if tag == "img":
            assert values["alt"], "every picture says what it shows"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize(
    ("ious", "says"),
    [
        (
            (0.6, 0.5, 0.55),
            (
                "The distilled student reaches 55.0 % mIoU: +5.0 points over the same network without distillation, "
                "50 % of the gap to the teacher, at 1/16 of the teacher’s GMACs."
            ),
        ),
        (
            (0.6, 0.5, 0.62),
            (
                "The distilled student reaches 62.0 % mIoU: +12.0 points over the same network without distillation, "
                "120 % of the gap to the teacher, at 1/16 of the teacher’s GMACs."
            ),
        ),
        (
            (0.6, 0.5, 0.488),
            (
                "Distillation did not help: the distilled student reaches 48.8 % mIoU, 1.2 points less than the same "
                "network without distillation, at 1/16 of the teacher’s GMACs."
            ),
        ),
        (
            (0.6, 0.5, 0.5001),
            (
                "Distillation changed nothing: the student reaches 50.0 % mIoU with it and without it, at 1/16 of the "
                "teacher’s GMACs."
            ),
        ),
        (
            (0.5, 0.52, 0.53),
            (
                "The distilled student reaches 53.0 % mIoU: +1.0 points over the same network without distillation, "
                "which was already as good as the teacher (50.0 %), at 1/16 of the teacher’s GMACs."
            ),
        ),
    ],
)
def test_the_verdict(tmp_path: Path, ious: tuple[float, float, float], says: str) -> None:
    text = page(three(tmp_path, *ious), tmp_path)
    assert verdict(text) == f"{says} One seed: differences of one or two points are noise."


def test_the_verdict_without_a_baseline(tmp_path: Path) -> None:
    distilled, _, _ = three(tmp_path)
    said = verdict(page([distilled], tmp_path))
    assert said.startswith(
        "The distilled student reaches 55.0 % mIoU, 5.0 points below its teacher, at 1/16 of the teacher’s GMACs. "
        "What distillation added is unknown"
    )


def test_the_verdict_over_one_plain_run(tmp_path: Path) -> None:
    _, plain, large = three(tmp_path)
    assert verdict(page([plain], tmp_path)) == "plain reaches 50.0 % mIoU with 2.0 M parameters and 16 GMAC."
    both = verdict(page([plain, large], tmp_path))
    assert both.startswith("The best of 2 experiments, large, reaches 60.0 % mIoU")


def test_the_verdict_over_seeds(tmp_path: Path) -> None:
    gains = {True: (0.50, 0.56, 0.59), False: (0.54, 0.55, 0.56)}
    for wide, students in gains.items():
        runs: list[Run] = []
        for seed in range(3):
            folder = tmp_path / f"{wide}{seed}"
            baseline = (0.49, 0.55, 0.57)[seed] if wide else (0.50, 0.50, 0.51)[seed]
            teacher = {"kind": "unet", "width": 64, "weights": "elsewhere", "frozen": True}
            models = {"teacher": teacher, "student": {"kind": "unet", "width": 16}}
            distilled = fabricate(folder / "d", {"student": students[seed]}, models, FROM_TEACHER, seed=seed)
            plain = fabricate(folder / "p", {"student": baseline}, {"student": models["student"]}, seed=seed)
            runs += [distilled, plain]
        said = verdict(page(runs, tmp_path))
        assert "Means over 3 seeds; standard deviation" in said
        assert ("within two standard errors: noise" in said) == wide
        assert "d (3 seeds)" in (tmp_path / "report.html").read_text()


def test_nothing_measured(tmp_path: Path) -> None:
    run = fabricate(tmp_path / "young", {}, {"student": {"kind": "unet"}}, reached=40)
    text = page([run], tmp_path)
    assert verdict(text).startswith("Nothing has been measured yet.")
    assert "young stopped at step 40 of 100." in text
    assert "–" in text, "unknown numbers are dashes"


def test_a_run_cut_short_before_its_first_line(tmp_path: Path) -> None:
    run = Run(tmp_path / "empty")
    content = {"data": {"kind": "camvid"}, "models": {"student": {"kind": "unet"}}, "losses": LABELS_ONLY, "steps": 10}
    write_text(run.recipe_file, recipes.dump(recipes.parse(content)))
    assert "empty has not been measured." in page([run], tmp_path)


def test_no_run_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(Mistake, match="not a run directory"):
        report([Run(tmp_path)], tmp_path / "report.html")
    with pytest.raises(Mistake, match="at least one run"):
        report([], tmp_path / "report.html")


def test_the_page_stands_alone(tmp_path: Path) -> None:
    text = page(three(tmp_path), tmp_path)
    assert "http://" not in text and "https://" not in text and "url(//" not in text and "@import" not in text
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    assert len(reader.ids) == len(set(reader.ids)), "several plots on one page share no id"
    assert reader.sources and all(source.startswith(("data:image/webp;base64,", "#")) for source in reader.sources)
    assert all(source[1:] in reader.ids for source in reader.sources if source.startswith("#"))
    assert "script" not in reader.tags
    assert str(tmp_path) not in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL), "machine paths stay in recipes"


def test_the_page_is_the_same_twice(tmp_path: Path) -> None:
    runs = three(tmp_path)
    assert page(runs, tmp_path) == page(runs, tmp_path)


def test_classes_by_frequency_with_a_dash_for_the_absent(tmp_path: Path) -> None:
    text = page(three(tmp_path), tmp_path)
    table = text[text.index('<table class="classes">') :]
    table = table[: table.index("</table>")]
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in table.split("<tr>")[2:]]
    assert rows == [
        ["road", "80.0", "70.0", "60.0", "65.0", "+5.0"],
        ["car", "20.0", "50.0", "40.0", "45.0", "+5.0"],
        ["train", "0", "–", "–", "–", "–"],
    ]
    assert "#804080" in table
    assert "left out of the mean: train." in text


def test_a_loss_is_coloured_as_one(tmp_path: Path) -> None:
    text = page(three(tmp_path, student=0.45), tmp_path)
    assert '<td class="down">−5.0</td>' in text


def test_pictures_are_lined_up(tmp_path: Path) -> None:
    text = page(three(tmp_path), tmp_path)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert [caption.replace("\N{NO-BREAK SPACE}", " ") for caption in captions] == [
        "image", "labels", "large", "12.5 % wrong", "plain", "12.5 % wrong", "distilled", "12.5 % wrong",
    ]  # fmt: skip
    assert "What plain on town/1 predicts" in text


def test_too_many_pictures_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = three(tmp_path)[:1]
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    images = {f"{key}{panel}": Picture(noise) for key in "abc" for panel in ("", "/image", "/labels", "/student")}
    run.write_findings("predictions", 200, Findings(images=images))
    monkeypatch.setattr("segdistill.reporting.pictures.LARGEST", 100_000)
    found = gallery(cast([read(run)]))
    assert [sample.key for sample in found.samples] == ["a"] and found.left_out == 2
    assert "2 more images are in the run directories" in page([run], tmp_path)


def test_the_page_of_large_pictures_stays_small(tmp_path: Path) -> None:
    runs = three(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (256, 512, 3), np.uint8)
    for run in runs:
        panels = ("", "/image", "/labels", "/student", "/student errors")
        images = {f"{key}{panel}": Picture(noise) for key in "abcd" for panel in panels}
        run.write_findings("predictions", 200, Findings(images=images))
    assert report(runs, tmp_path / "report.html").stat().st_size < 15_000_000


def test_what_makes_a_comparison_unfair_is_said(tmp_path: Path) -> None:
    distilled, _, large = three(tmp_path)
    info = {"fingerprints": {"val": "other"}, "host": {"processor": "fast"}, "warnings": ["2 steps were skipped"]}
    student = {"student": {"kind": "unet", "width": 16}}
    short = fabricate(tmp_path / "short", {"student": 0.5}, student, steps=50, reached=40, info=info)
    text = page([distilled, short, large], tmp_path)
    assert "Not like for like: short and distilled differ beyond distillation (steps is 50 against 100)." in text
    assert "short stopped at step 40 of 50." in text
    assert "short: 2 steps were skipped" in text
    assert "different machines" in text


def test_frames_of_one_run_alone_are_said_apart(tmp_path: Path) -> None:
    distilled, _, large = three(tmp_path)
    data = {"kind": "camvid", "batch": 4, "frames": {"path": "videos"}}
    few = fabricate(tmp_path / "few", {"student": 0.5}, {"student": {"kind": "unet", "width": 16}}, data=data)
    text = page([distilled, few, large], tmp_path)
    assert "Of the crops of distilled 0 are frames without labels (few: 0.5), on which only teachers speak." in text
    assert "data.frames" not in text


def test_names_are_escaped(tmp_path: Path) -> None:
    info = {"command": "<script>alert(1)</script>", "warnings": ["<b>bold</b>"]}
    run = fabricate(tmp_path / "a&b", {"student": 0.5}, {"student": {"kind": "unet"}}, info=info)
    text = page([run], tmp_path)
    assert "<script>" not in text and "&lt;script&gt;" in text and "<b>bold" not in text and "a&amp;b" in text


@pytest.mark.parametrize(
    ("losses", "roles"),
    [
        (
            {"one": {"student": "a"}, "two": {"student": "b"}, "three": {"student": "b", "target": "a"}},
            {"a": "teacher", "b": "distilled"},
        ),
        (
            {
                "one": {"student": "a"},
                "two": {"student": "b"},
                "three": {"student": "b", "target": "a"},
                "four": {"student": "a", "target": "b"},
            },
            {"a": "distilled", "b": "distilled"},
        ),
        ({"one": {"student": "a"}, "two": {"student": "b"}}, {"a": "supervised", "b": "supervised"}),
        (
            {"one": {"student": "a"}, "two": {"student": "b"}, "self": {"student": "b.enc1", "target": "b.dec1"}},
            {"a": "baseline", "b": "distilled"},
        ),
    ],
)
def test_roles_within_a_run(tmp_path: Path, losses: Mapping[str, Any], roles: Mapping[str, str]) -> None:
    models = {"a": {"kind": "unet"}, "b": {"kind": "unet"}}
    run = fabricate(tmp_path / "pair", {"a": 0.5, "b": 0.4}, models, losses)
    assert {group.first.model: group.role for group in cast([read(run)])} == roles
    assert "pair · b" in page([run], tmp_path)


def test_a_moved_teacher_is_known_by_its_name(tmp_path: Path) -> None:
    runs = three(tmp_path)
    moved = tmp_path / "archive" / "large"
    runs[2].path.rename(tmp_path / "large.moved")
    moved.parent.mkdir()
    (tmp_path / "large.moved").rename(moved)
    groups = cast([read(run) for run in (*runs[:2], Run(moved))])
    assert [(group.role, group.name) for group in groups] == [
        ("teacher", "large"), ("baseline", "plain"), ("distilled", "distilled"),
    ]  # fmt: skip
