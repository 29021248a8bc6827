"""The verbs write a page that needs nothing else, tables as CSV, and findings that can be read again."""

import csv
import json
import re
from pathlib import Path

import pytest

from segdistill.analysing import analyse, analyse_data
from segdistill.cli import main
from segdistill.mistakes import Mistake
from segdistill.recipe import dump, parse
from segdistill.run import Run, write_text
from segdistill.types import Findings, Table
from small import content


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    write_text(file, dump(parse(content())))
    return file


def test_data_analyse_writes_page_findings_and_tables(recipe: Path, tmp_path: Path) -> None:
    found, page = analyse_data(recipe, tmp_path / "out", ["data.val_count=3", "analysis.duplicate_bits=2"])
    assert found.numbers["val/images"] == 3
    assert found.numbers["duplicate_bits"] == 2
    text = page.read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", text), "the page links to nothing outside it"
    assert "<script" not in text
    assert text.count("<svg") >= 3
    again = Run(tmp_path / "out").last_findings("dataset")
    assert again is not None
    assert again.numbers == dict(found.numbers)
    assert set(again.images) == set(found.images)
    for name, table in found.tables.items():
        assert [list(row) for row in again.tables[name].rows] == [list(row) for row in table.rows]
        file = tmp_path / "out" / "tables" / f"{name.replace('/', '_')}.csv"
        with file.open(newline="") as lines:
            header, *rows = csv.reader(lines)
        assert header == list(table.columns)
        assert rows == [["" if cell is None else str(cell) for cell in row] for row in table.rows]


def test_a_second_call_reads_no_image_and_says_the_same(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = analyse_data(recipe, tmp_path / "out").findings
    assert "images/s" in capsys.readouterr().err
    second = analyse_data(recipe, tmp_path / "out").findings
    assert capsys.readouterr().err == ""
    assert second.numbers == first.numbers
    assert second.tables == first.tables


def test_the_verb_prints_the_advice_or_json(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["data", "analyse", str(recipe), "--out", str(tmp_path / "out")])
    assert done.value.code in (0, None)
    said = capsys.readouterr().out
    assert "class_weights" in said
    assert f"Open the page: {tmp_path / 'out' / 'dataset.html'}" in said.replace("\n", "")
    with pytest.raises(SystemExit):
        main(["data", "analyse", str(recipe), "--out", str(tmp_path / "out"), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["numbers"]["train/images"] == 12
    assert document["tables"]["splits"][1]["split"] == "val"


def test_analyse_joins_runs_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soft = {"soft_targets": {"student": "student", "target": "teacher"}}
    on_labels = content()
    taught = content(losses=on_labels["losses"] | soft)
    taught["models"] = on_labels["models"] | {"teacher": {"weights": "runs/large", "frozen": True, "kind": "unet"}}
    for name, said, iou in (("plain", on_labels, 0.5), ("soft", taught, 0.6)):
        run = Run(tmp_path / name)
        write_text(run.recipe_file, dump(parse(said)))
        table = Table(("class", "iou", "accuracy", "frequency"), [["road", iou, 0.9, 1.0]])
        run.write_findings("measure", 6, Findings({}, {}, {"student": table}))
    with pytest.raises(SystemExit):
        main(
            ["analyse", "class_results", str(tmp_path / "plain"), str(tmp_path / "soft"), "--out", str(tmp_path / "o")]
        )
    assert "every class is undecided" in " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "o" / "class_results.html").read_text()
    assert "soft: +10.0 points of mIoU" in page
    assert page.count("<svg") == 4


def test_mistakes_are_sentences(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(Mistake, match=r"analysis\.boundery: unknown key"):
        analyse_data(recipe, tmp_path / "out", ["analysis.boundery=1"])
    with pytest.raises(Mistake, match="expected at least one run"):
        analyse("class_results", [])
    run = Run(tmp_path / "plain")
    write_text(run.recipe_file, dump(parse(content())))
    with pytest.raises(Mistake, match="there is no analysis 'class_result'"):
        analyse("class_result", [run.path], tmp_path / "out")
    with pytest.raises(Mistake, match="steps=4: expected data"):
        analyse("class_results", [run.path], tmp_path / "out", ["steps=4"])
