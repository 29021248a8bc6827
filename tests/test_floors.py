"""The house stands: imports point down its floors, parts do not know each other, nothing goes round in circles.

A lazy import is an import, and so is one for type checkers only. CONTRIBUTING.md explains the floors.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "src"
HOUSE = "segdistill"

# From the ground up. `x/*` is a shelf: a page that says what its parts have in common, and the parts. Any other name is
# a machine: a file, or a folder of files.
FLOORS = [
    "mistakes types labels parts recipe study run intervals allocator timing",
    "datasets/* models/* losses/* metrics/*",
    (
        "class_map crops data decoded sampling quarantine disjoint frames layouts system teacher_cache gradients "
        "sharding optim prediction prediction_files checkpoint track gains alignment heat_map"
    ),
    "assemble",
    "probes/* analyses/*",
    (
        "diagnosis stopping resuming training replaying evaluation calibrating analysing comparing standings tuning "
        "watching planning demonstration make_data extracting checking reporting export shrink profile play testing"
    ),
    "cli __init__ __main__",
]
FLOOR_OF = {name.removesuffix("/*"): floor for floor, names in enumerate(FLOORS) for name in names.split()}
SHELVES = {name.removesuffix("/*") for names in FLOORS for name in names.split() if name.endswith("/*")}

# Who may import by name: the registry, which finds parts, and the front door, from which everything is below.
BY_NAME = {f"{HOUSE}.parts", HOUSE}


class Module(NamedTuple):
    """A file of the package: `segdistill.losses.dist` is the part `dist` on the shelf `losses`."""

    name: str
    source: str

    @property
    def room(self) -> str:
        """The name in FLOORS that the file belongs to."""
        words = self.name.split(".")
        return words[1] if len(words) > 1 else "__init__"

    @property
    def part(self) -> str:
        """Its name on a shelf; empty for a shelf's own page and for machines."""
        words = self.name.split(".")
        return words[2] if self.room in SHELVES and len(words) > 2 else ""

    @property
    def is_helper(self) -> bool:
        return self.part.startswith("_")


def read(source: Path) -> dict[str, Module]:
    """Every file of the package by its dotted name."""
    modules: dict[str, Module] = {}
    for file in sorted((source / HOUSE).rglob("*.py")):
        words = file.relative_to(source).with_suffix("").parts
        name = ".".join(words[:-1] if words[-1] == "__init__" else words)
        modules[name] = Module(name, file.read_text())
    return modules


MODULES = read(SOURCE)
every_file = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)


@every_file
def test_a_file_has_a_floor(module: Module) -> None:
    assert module.room in FLOOR_OF, missing_floor(module)


@every_file
def test_imports_point_down(module: Module) -> None:
    if module.room in FLOOR_OF:
        wrong = list(wrong_imports(module, MODULES))
        assert not wrong, "\n".join(wrong)


@every_file
def test_a_part_is_one_class_with_a_plain_constructor(module: Module) -> None:
    wrong = list(wrong_shape(module)) if module.part and not module.is_helper else []
    assert not wrong, "\n".join(wrong)


def test_nothing_goes_round_in_circles() -> None:
    assert circle(MODULES) == []


def test_the_recipe_knows_no_torch() -> None:
    """By reading it, and by importing it: what a recipe says can be checked, and --help printed, in no time."""
    assert path_to("torch", f"{HOUSE}.recipe", MODULES) == []
    program = f"import sys, {HOUSE}.recipe; print('torch' in sys.modules)"
    python = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert python.stdout == "False\n", f"importing {HOUSE}.recipe imports torch"


def test_no_public_name_is_also_a_file() -> None:
    """Importing segdistill.x puts the file in the place of a function x, for everyone, from then on."""
    assert shadowed(MODULES) == []


def missing_floor(module: Module) -> str:
    return f"{module.name}: give '{module.room}' a floor in FLOORS of tests/test_floors.py (and in the docs)"


def wrong_imports(module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    """A sentence for every import of ours that a file must not make."""
    here = FLOOR_OF[module.room]
    for name, line in ours(module, modules):
        target = modules[name]
        where = f"{module.name}:{line}: imports {name}"
        if target.room not in FLOOR_OF:
            yield missing_floor(target)
        elif FLOOR_OF[target.room] > here:
            yield f"{where}, up from floor {here} to floor {FLOOR_OF[target.room]}"
        elif target.is_helper and target.room != module.room:
            yield f"{where}, a private helper of another shelf"
        elif FLOOR_OF[target.room] < here or (module.room, module.part) == (target.room, target.part):
            continue
        elif target.part and not target.is_helper:
            yield f"{where}, a part on its own floor; parts are found by name, see parts.py"
        elif module.room in SHELVES and target.room != module.room:
            yield f"{where}, which is not below it; a shelf knows itself and the floors below"
    if module.name not in BY_NAME:
        for node in ast.walk(ast.parse(module.source)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
                yield f"{module.name}:{node.lineno}: imports by name; only parts.py and __init__.py may"


def wrong_shape(part: Module) -> Iterator[str]:
    """A sentence for everything that keeps a part from being found and built by parts.py."""
    public = [
        node for node in ast.parse(part.source).body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    if len(public) != 1:
        yield f"{part.name}: a part has one public class, this has {[node.name for node in public]}"
        return
    for node in public[0].body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            given = node.args
            if given.vararg or given.kwarg or given.posonlyargs:
                yield f"{part.name}:{node.lineno}: parameters are positional (a recipe's) or keyword-only (ours)"
            for parameter in [*given.args[1:], *given.kwonlyargs]:
                if parameter.annotation is None:
                    yield f"{part.name}:{node.lineno}: '{parameter.arg}' has no type to check a recipe against"


def shadowed(modules: Mapping[str, Module]) -> list[str]:
    """The names in the front door's __all__ that are files too."""
    door = ast.parse(modules[HOUSE].source) if HOUSE in modules else ast.Module([], [])
    public = [
        name
        for node in door.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for name in ast.literal_eval(node.value)
    ]
    return [name for name in public if f"{HOUSE}.{name}" in modules]


def circle(modules: Mapping[str, Module]) -> list[str]:
    """The modules of an import cycle; none: empty."""
    graph = {
        name: {target for target, _ in ours(module, modules) if target != name} for name, module in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def path_to(foreign: str, start: str, modules: Mapping[str, Module]) -> list[str]:
    """The shortest chain of our modules from `start` to one that imports the package `foreign`; none: empty."""
    chains = [[start]]
    seen = {start}
    for chain in chains:
        module = modules[chain[-1]]
        if any(name.partition(".")[0] == foreign for name, _ in imports(module, modules)):
            return [*chain, foreign]
        for name, _ in ours(module, modules):
            if name not in seen:
                seen.add(name)
                chains.append([*chain, name])
    return []


def ours(module: Module, modules: Mapping[str, Module]) -> Iterator[tuple[str, int]]:
    """(module, line) for each import of a file of the package."""
    for name, line in imports(module, modules):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        if name:
            yield name, line


def imports(module: Module, modules: Mapping[str, Module]) -> Iterator[tuple[str, int]]:
    """(dotted name, line) for each import anywhere in a file; `from a import b` names a.b."""
    is_package = any(name.startswith(f"{module.name}.") for name in modules)
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = resolve_name(relative, module.name if is_package else module.name.rpartition(".")[0])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


# The tests above can fail: small houses that are wrong in one way each.

PART = "class Part:\n    def __init__(self, weight: float = 1.0, *, num_classes: int) -> None: ...\n"
LAZY = "def f():\n    from segdistill.{} import x\n"
CHECKED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from segdistill.{} import x\n"


def house(folder: Path, files: Mapping[str, str]) -> dict[str, Module]:
    for name, source in files.items():
        file = folder / HOUSE / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    return read(folder)


@pytest.mark.parametrize(
    ("importer", "source", "imported"),
    [
        ("types.py", "import segdistill.training", "training.py"),
        ("types.py", "from segdistill import training", "training.py"),
        ("types.py", "from . import training", "training.py"),
        ("data.py", LAZY.format("assemble"), "assemble.py"),
        ("losses/dist.py", CHECKED.format("system"), "system.py"),
        ("losses/dist.py", LAZY.format("losses.pairwise"), "losses/pairwise.py"),
        ("losses/dist.py", "from .pairwise import x", "losses/pairwise.py"),
        ("losses/dist.py", "from segdistill.models import unet", "models/unet.py"),
        ("losses/dist.py", "from segdistill.metrics import Metric", "metrics/__init__.py"),
        ("losses/__init__.py", "from segdistill.losses.dist import x", "losses/dist.py"),
        ("metrics/boundary.py", "from segdistill.losses._helpers import x", "losses/_helpers.py"),
        ("system.py", "from segdistill.losses._helpers import x", "losses/_helpers.py"),
        ("probes/measure.py", "from segdistill.training import x", "training.py"),
        ("probes/measure.py", "from segdistill.analyses import Analysis", "analyses/__init__.py"),
        ("assemble.py", "from segdistill.probes import Probe", "probes/__init__.py"),
        ("training.py", "from segdistill import training as x\nimport segdistill", "__init__.py"),
        ("system.py", "from importlib import import_module\nimport_module('segdistill.training')", "training.py"),
        ("system.py", "from segdistill.surprise import x", "surprise.py"),
    ],
)
def test_a_wrong_import_is_seen(tmp_path: Path, importer: str, source: str, imported: str) -> None:
    modules = house(tmp_path, {imported: "x = 1\n", importer: source})
    name = ".".join([HOUSE, *Path(importer).with_suffix("").parts]).removesuffix(".__init__")
    assert len(list(wrong_imports(modules[name], modules))) == 1


def test_a_right_house_stands(tmp_path: Path) -> None:
    files = {
        "types.py": "import torch",
        "recipe.py": "import yaml",
        "losses/__init__.py": "from segdistill.types import x",
        "losses/_helpers.py": "from segdistill.losses import x",
        "losses/dist.py": f"from segdistill.losses import x\nfrom segdistill.losses._helpers import y\n{PART}",
        "data.py": "from segdistill.types import x",
        "system.py": "from segdistill import data, losses",
        "probes/__init__.py": "from segdistill.types import x",
        "probes/measure.py": f"import segdistill.probes\nfrom segdistill.data import x\n{PART}",
        "training.py": "from segdistill.probes import Probe\nfrom segdistill.recipe import x",
        "reporting/__init__.py": "from segdistill.reporting.page import x",
        "reporting/page.py": "from segdistill.training import x",
        "cli.py": "def f():\n    from segdistill.training import x",
        "__main__.py": "from segdistill.cli import main",
    }
    modules = house(tmp_path, files)
    assert [wrong for module in modules.values() for wrong in wrong_imports(module, modules)] == []
    assert circle(modules) == []
    assert path_to("torch", f"{HOUSE}.recipe", modules) == []
    assert list(wrong_shape(modules[f"{HOUSE}.losses.dist"])) == []


def test_a_circle_is_seen(tmp_path: Path) -> None:
    modules = house(tmp_path, {"data.py": "import segdistill.system", "system.py": LAZY.format("data")})
    assert set(circle(modules)) == {f"{HOUSE}.data", f"{HOUSE}.system"}


def test_a_hidden_torch_is_seen(tmp_path: Path) -> None:
    files = {
        "recipe.py": LAZY.format("parts"),
        "parts.py": "import segdistill.types",
        "types.py": "from torch import Tensor",
    }
    chain = path_to("torch", f"{HOUSE}.recipe", house(tmp_path, files))
    assert chain == [f"{HOUSE}.recipe", f"{HOUSE}.parts", f"{HOUSE}.types", "torch"]


@pytest.mark.parametrize(
    "source",
    [
        "x = 1\n",
        f"{PART}class Another: ...\n",
        "class _Private: ...\n",
        "class Part:\n    def __init__(self, **anything: int) -> None: ...\n",
        "class Part:\n    def __init__(self, *several: int) -> None: ...\n",
        "class Part:\n    def __init__(self, weight=1.0) -> None: ...\n",
    ],
)
def test_a_wrong_part_is_seen(source: str) -> None:
    assert len(list(wrong_shape(Module(f"{HOUSE}.losses.part", source)))) == 1


def test_a_shadowed_name_is_seen(tmp_path: Path) -> None:
    modules = house(tmp_path, {"__init__.py": "__all__ = ['load', 'plan']", "plan.py": "", "planning.py": ""})
    assert shadowed(modules) == ["plan"]


def test_a_file_without_a_floor_is_seen() -> None:
    assert Module(f"{HOUSE}.surprise", "").room not in FLOOR_OF
