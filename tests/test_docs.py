"""The documents can be trusted: links lead somewhere, code is code, commands exist, and no path is of one machine."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    file
    for pattern in ("*.md", "docs/**/*.md", "recipes/**/*.md", "benchmarks/**/*.md", "examples/**/*.md")
    for file in ROOT.glob(pattern)
)
SETTINGS = sorted(
    file
    for pattern in ("Makefile", "*.toml", "*.cff", ".ci/*", ".*.yaml", "requirements/*.txt", "recipes/**/*.yaml")
    for file in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|<(?:img|a)\s[^>]*?(?:src|href)=\"([^\"]+)\"")
FENCE = re.compile(r"^( *)(`{3,})([^\n`]*)\n(.*?)^\1\2 *$", re.DOTALL | re.MULTILINE)
# Where somebody's own files lie. A path under /tmp is nobody's.
MACHINE = re.compile(r"(?<![\w.}\-])/(?:work|root|home|Users|opt|mnt|srv)/|\b[A-Z]:\\|file://|://(?:localhost|127\.)")
# Host names that are in no package's place to name: an index is the reader's choice.
INDEX = re.compile(r"--(?:extra-)?index-url|--find-links")


class Block(NamedTuple):
    """A fenced block of a document."""

    words: list[str]
    """What stands behind the fence: the language, then `test` when the block is to be run."""
    text: str


def in_the_tree(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=in_the_tree)


@every_document
def test_links_lead_somewhere(document: Path) -> None:
    broken = [link for link in links(document.read_text()) if not resolves(link, document)]
    assert not broken, f"{in_the_tree(document)}: {broken}"


@pytest.mark.parametrize("file", [*DOCUMENTS, *SETTINGS], ids=in_the_tree)
def test_no_path_or_address_is_of_one_machine(file: Path) -> None:
    lines = enumerate(file.read_text().splitlines(), 1)
    found = [
        f"{in_the_tree(file)}:{number}: {line}" for number, line in lines if MACHINE.search(line) or INDEX.search(line)
    ]
    assert not found, "\n".join(found)


@every_document
def test_code_is_code(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every python block can be read; those that say ```python test are run, in an empty folder, in their order."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(document.read_text()):
        if block.words[:1] == ["python"]:
            tree = ast.parse(block.text, in_the_tree(document))
            if "test" in block.words:
                exec(compile(tree, in_the_tree(document), "exec"), names)


@every_document
def test_make_knows_its_targets(document: Path) -> None:
    known = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    unknown = [name for name in targets(document.read_text()) if name not in known]
    assert not unknown, f"{in_the_tree(document)}: the Makefile has no {unknown}"


def links(text: str) -> Iterator[str]:
    """What a document points at, outside its code."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    for markdown, html in LINK.findall(prose):
        yield markdown or html


def resolves(link: str, document: Path) -> bool:
    """Whether a relative link names a file, and its #anchor a heading there. Other sites are not asked."""
    if re.match(r"[a-z]+:", link):
        return True
    path, _, anchor = link.partition("#")
    file = (document.parent / path) if path else document
    if not file.exists() or ROOT not in file.resolve().parents:
        return False
    return not anchor or file.suffix != ".md" or anchor in anchors(file.read_text())


def anchors(text: str) -> set[str]:
    """The names under which the headings of a document can be linked to."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(text: str) -> Iterator[Block]:
    for indent, _, words, body in FENCE.findall(text):
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        yield Block(words.split(), "\n".join(lines))


def targets(text: str) -> Iterator[str]:
    """`make x` in code; prose may make what it likes."""
    code = [block.text for block in blocks(text)] + re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for line in "\n".join(code).splitlines():
        yield from re.findall(r"^(?:\$ |.*&& )?make ([a-z]+)\b", line.strip())


# The tests above can fail.

DOCUMENT = """# One title: here
[good](#one-title-here) [bad](no/such.md) ![bad](no.png) [good](https://example.org) `[code](x.md)`
```python test
x = [1](2)
```
Run `make nothing`, or
```console
$ make nowhere
```
"""


def test_a_wrong_document_is_seen() -> None:
    assert [link for link in links(DOCUMENT) if not resolves(link, ROOT / "README.md")][-2:] == ["no/such.md", "no.png"]
    assert anchors(DOCUMENT) == {"one-title-here"}
    assert [block.words for block in blocks(DOCUMENT)] == [["python", "test"], ["console"]]
    assert list(targets(DOCUMENT)) == ["nowhere", "nothing"]


@pytest.mark.parametrize("text", ["cd /opt/thing", "see (/home/me/data)", "--root /root/data", "C:\\data", "file:///x"])
def test_a_path_of_one_machine_is_seen(text: str) -> None:
    assert MACHINE.search(text)


@pytest.mark.parametrize(
    "text", ["runs/work/x", "../shared/data", "https://a.org/home/page", "/tmp/x", "/path/to/data"]
)
def test_other_paths_are_fine(text: str) -> None:
    assert not MACHINE.search(text)
