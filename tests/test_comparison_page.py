"""The page of a study: its numbers are those of the tables, it needs nothing but itself, and trusts no name."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from segdistill.reporting import comparison
from segdistill.run import write_text
from segdistill.standings import Standings, Told
from segdistill.study import Job
from test_standings import finished, todo

assert todo  # a fixture
pytestmark = pytest.mark.usefixtures("no_plugins")
VOID = {"meta", "br", "img", "path", "use"}


class Reader(HTMLParser):
    """The rows of every table as texts of their cells, links, ids, and elements that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.links: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [value for key, value in attrs if key == "id" and value]
        self.sources += [value for key, value in attrs if key in ("src", "xlink:href", "data", "action") and value]
        self.links += [found["href"] or ""] if tag == "a" and "href" in found else []
        if tag == "section":
            self.section = found.get("id") or ""
        if tag == "tr":
            self.tables.setdefault(self.section, []).append([])
        elif tag in ("td", "th"):
            self.tables[self.section][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.tables[self.section][-1][-1] += data + " "


def page(told: Told, folder: Path) -> str:
    return comparison.page(
        told, "study", folder, [("command", "segdistill compare study.yaml")], {"dark": "dark/x.html"}
    )


def text(value: object, digits: int = 2, sign: bool = False) -> str:
    assert isinstance(value, float)
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def test_the_numbers_are_those_of_the_tables(todo: list[Job], tmp_path: Path) -> None:
    told = finished(todo).told(tmp_path / "out")
    read = Reader(page(told, tmp_path / "out")).tables
    arms = {row[0].strip(): [cell.split() for cell in row] for row in read["arms"]}
    assert list(arms)[1:] == ["labels", "other", "late"]
    for row in told.arms.rows:
        found = dict(zip(told.arms.columns, row, strict=True))
        if found["arm"] == "late":
            low, high = (text(found[key], 0) for key in ("from %", "to %"))
            assert arms["late"][1:6] == [
                ["3"],
                [text(found["mIoU %"]), "±", text(found["±"])],
                [text(found["gain"], sign=True), "±", text(found["± gain"])],
                ["better"],
                [text(found["recovered %"], 0), low, "…", high],
            ]
            assert arms["late"][8:] == [[text(found["minutes"], 1)], [text(found["teacher %"], 0)]]
    assert arms["labels"][3:6] == [["–"], ["–"], ["–"]]
    classes = {(row[0], row[2]): dict(zip(told.classes.columns, row, strict=True)) for row in told.classes.rows}
    head, *rows = read["classes"]
    assert [cell.split()[0] for cell in head] == ["Arm", "road", "car", "train"]
    late = next(row for row in rows if row[0].strip() == "late")
    for place, label in ((1, "road"), (2, "car")):
        found = classes["late", label]
        assert late[place].split() == [text(found["gain"], 1, sign=True), "±", text(found["± gain"], 1)]
    assert late[3].split() == ["–"] and rows[0][0].strip() == "labels, IoU %"
    assert [row[0].strip() for row in read["teachers"]][1:] == ["teachers/big", "teachers/big2"]
    assert read["teachers"][2][-1].strip() == "late" and read["teachers"][1][-1].strip() == "–"
    assert len(read["runs"]) == 1 + len(told.runs.rows)
    assert read["runs"][-1][-1].split()[-1] in str(told.runs.rows[-1][-1])


def test_measures_are_paired_by_seed(todo: list[Job], tmp_path: Path) -> None:
    told = finished(todo).told(tmp_path / "out")
    rows = {(row[0], row[2]): dict(zip(told.measures.columns, row, strict=True)) for row in told.measures.rows}
    late, labels = rows["late", "ece"], rows["labels", "ece"]
    # 0.10, 0.11, 0.12 of the baseline; 0.05, 0.07, 0.09 of the arm: its gains are -0.05, -0.04, -0.03.
    assert (labels["value"], labels["gain"]) == (pytest.approx(0.11), None)
    assert (late["value"], late["gain"]) == (pytest.approx(0.07), pytest.approx(-0.04))
    assert late["±"] == pytest.approx(4.3027 * 0.02 / 3**0.5, rel=1e-4)
    assert late["± gain"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert ("late", "mean_iou") not in rows and ("late", "absent_classes") not in rows
    read = Reader(page(told, tmp_path / "out")).tables["measures"]
    assert [cell.split() for cell in read[0]] == [["Arm"], ["ECE", "less", "is", "better"]]
    shown = next(row for row in read if row[0].strip() == "late")[1].split()
    assert shown == ["0.0700", "±", text(late["±"], 4), "−0.0400", "±", text(late["± gain"], 4)]
    assert 'class="below up">0.0700' in page(told, tmp_path / "out")


def test_it_stands_alone(todo: list[Job], tmp_path: Path) -> None:
    out = tmp_path / "out"
    log = out / "logs" / "arms" / "late-0.log"
    told = finished(todo).told(out)
    write_text(log, "it went well\n")
    shown = page(told, out)
    reader = Reader(shown)
    assert "http" not in shown and "url(//" not in shown and "@import" not in shown and "<script" not in shown
    assert not reader.open and len(reader.ids) == len(set(reader.ids))
    assert all(source.startswith("#") for source in reader.sources)
    assert all(
        (link.startswith("#") and link[1:] in reader.ids) or not link.startswith(("/", "#")) for link in reader.links
    )
    assert {"logs/arms/late-0.log", "arms/late-0/log.jsonl", "comparison.csv", "dark/x.html"} <= set(reader.links)
    assert "logs/arms/late-1.log" not in reader.links, "it is not there"
    assert str(tmp_path) not in re.sub(r"<pre.*?</pre>", "", shown, flags=re.DOTALL)
    assert page(told, out) == shown


def test_names_are_only_names(todo: list[Job], tmp_path: Path) -> None:
    told = finished(todo).told(tmp_path / "out")
    nasty = '<img src=x onerror="alert(1)">$\\frac{$'

    def renamed(row: tuple[object, ...]) -> list[object]:
        return [nasty if cell in ("late", "road") else cell for cell in row]

    tables = {
        name: table._replace(rows=[renamed(tuple(row)) for row in table.rows])
        for name, table in (
            ("arms", told.arms),
            ("classes", told.classes),
            ("runs", told.runs),
            ("measures", told.measures),
        )
    }
    gains = [gain._replace(arm=nasty) if gain.arm == "late" else gain for gain in told.gains]
    shown = page(told._replace(**tables, gains=gains, sentences=[f"The best of all: {nasty}."]), tmp_path / "out")
    assert "<img" not in shown and shown.count("&lt;img src=x onerror=") > 5
    assert "img" not in Reader(shown).open


def test_without_a_baseline_there_are_no_gains(todo: list[Job], tmp_path: Path) -> None:
    finished(todo)
    shown = page(Standings(todo, None).told(tmp_path / "out"), tmp_path / "out")
    reader = Reader(shown)
    assert "gains" not in reader.ids and "No arm is ranked" in shown and "by chance alone, which" not in shown
    assert [row[0].strip() for row in reader.tables["classes"]][1] == "labels, IoU %"


def test_where_it_comes_from(todo: list[Job]) -> None:
    finished(todo)
    told = dict(comparison.facts(todo))
    assert (
        told["threads of the runs"] == "2"
        and told["runs"] == str(len(todo))
        and told["command"].startswith("segdistill")
    )
