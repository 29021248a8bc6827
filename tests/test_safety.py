"""Nothing in the package runs code from a file, hides a failure, or changes numbers behind the recipe's back."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "segdistill"

# Modules that run what they read, functions that run what they are given, and why a name is dangerous anywhere.
MODULES = {
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"),
    *("builtins", "runpy", "code", "codeop", "torch.package", "torch.hub", "torch.utils.model_zoo"),
}
RUNNERS = {"eval", "exec", "compile", "__import__", "__builtins__"}
NAMES = {
    "yaml.load": "yaml.load can build any object; use yaml.safe_load",
    "yaml.load_all": "yaml.load_all can build any object; use yaml.safe_load_all",
    "yaml.full_load": "yaml.full_load builds more than plain data; use yaml.safe_load",
    "yaml.full_load_all": "yaml.full_load_all builds more than plain data; use yaml.safe_load_all",
    "yaml.unsafe_load": "yaml.unsafe_load can build any object; use yaml.safe_load",
    "yaml.unsafe_load_all": "yaml.unsafe_load_all can build any object; use yaml.safe_load_all",
    **{
        f"yaml.{c}{name}Loader": "only yaml.SafeLoader builds nothing but plain data"
        for c in ("", "C")
        for name in ("", "Full", "Unsafe")
    },
    "os.system": "os.system runs a shell; use subprocess.run with a list",
    "os.popen": "os.popen runs a shell; use subprocess.run with a list",
    "subprocess.getoutput": "subprocess.getoutput runs a shell; use subprocess.run with a list",
    "subprocess.getstatusoutput": "subprocess.getstatusoutput runs a shell; use subprocess.run with a list",
    "os.putenv": "os.putenv changes the environment; put the value into the recipe",
    "torch.jit.load": "a scripted network is code; save its weights",
    "torch.package": "torch.package runs code from files; use safetensors",
    "torch.hub": "torch.hub runs code from the network; use safetensors",
    "torch.serialization.load": "say torch.load, so that this test can see its use",
    "shutil.unpack_archive": "an archive may write anywhere; read its entries one by one",
}
UNPACKING = {"extractall", "extract", "read_pickle"}
"""Methods of archives, which write wherever the archive says, and of tables."""
IN_FULL = {"torch", "torch.serialization", "torch.jit", "yaml", "os", "subprocess", "importlib", "builtins"}
"""Modules that go by no other name, so that this test can see their use."""
WRITES = {"setdefault", "update", "pop", "clear", "popitem"}
# What the package may set in the environment: names that change no number.
HARMLESS = {"HF_HUB_OFFLINE", "MPLBACKEND", "WANDB_DIR", "WANDB_ERROR_REPORTING", "WANDB_MODE", "WANDB_SILENT"}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_file_does_nothing_dangerous(file: Path) -> None:
    found = [f"{file.name}:{line}: {why}" for line, why in dangers(file.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "accelerator.load_state(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.unsafe_load(text)",
        "from yaml import load",
        "eval('1')",
        "exec(text)",
        "import pickle",
        "def f():\n    from pickle import loads",
        "import dill as d",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept Exception:\n    pass",
        "try:\n    f()\nexcept (OSError, BaseException) as error:\n    pass",
        "with contextlib.suppress(Exception):\n    f()",
        "os.environ['OMP_NUM_THREADS'] = '1'",
        "os.environ[name] = '1'",
        "os.environ |= {'OMP_NUM_THREADS': '1'}",
        "os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')",
        "os.environ.update(settings)",
        "del os.environ['PYTHONHASHSEED']",
        "from os import environ",
        "torch.load(path, **options)",
        "torch.load(path, weights_only=True, **options)",
        "torch.load(path, **{'weights_only': False})",
        "options = {'weights_only': False}",
        "options = dict(weights_only=False)",
        "functools.partial(torch.load, weights_only=True)",
        "read = torch.load",
        "from torch import load",
        "from torch import load as read",
        "from torch import *",
        "from torch.serialization import load",
        "torch.serialization.load(path, weights_only=True)",
        "import torch as t",
        "import yaml as y",
        "torch.jit.load(path)",
        "torch.hub.load('a/b', 'c')",
        "import torch.hub",
        "from torch import hub",
        "from torch.hub import load_state_dict_from_url",
        "torch.package.PackageImporter(path)",
        "from torch.package import PackageImporter",
        "np.load(path, allow_pickle=flag)",
        "np.load(path, None, True)",
        "yaml.load(text, yaml.SafeLoader)",
        "class Own(yaml.Loader): ...",
        "class Own(yaml.UnsafeLoader): ...",
        "class Own(yaml.CFullLoader): ...",
        "read(text, yaml.FullLoader)",
        "from yaml import UnsafeLoader",
        "read = yaml.unsafe_load",
        "import shelve",
        "import builtins",
        "from builtins import eval as safe",
        "importlib.import_module('pickle')",
        "import_module('pickle')",
        "import_module('dill._dill')",
        "__import__('pickle')",
        "getattr(thing, 'eval')",
        "getattr(os, 'system')",
        "getattr(torch, 'load')",
        "__builtins__['eval']",
        "run = exec",
        "list(map(eval, words))",
        "import runpy",
        "subprocess.run(command, shell=flag)",
        "subprocess.getoutput('ls')",
        "os.popen('ls')",
        "from os import system",
        "pandas.read_pickle(path)",
        "tarfile.open(path).extractall()",
        "archive.extract(name)",
        "zipfile.ZipFile(path).extractall(folder)",
        "shutil.unpack_archive(path)",
    ],
)
def test_a_danger_is_seen(source: str) -> None:
    assert list(dangers(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path)",
        "yaml.safe_load(text)",
        "model.eval()",
        "torch.compile(model)",
        "re.compile('x')",
        "try:\n    f()\nexcept (OSError, ValueError):\n    pass",
        "os.environ['WANDB_MODE'] = 'offline'",
        "os.environ.setdefault('MPLBACKEND', 'Agg')",
        "world = os.environ['WORLD_SIZE'] + os.environ.get('RANK', '0')",
        "subprocess.run(['git', 'rev-parse', 'HEAD'], check=False)",
        "subprocess.run(['git'], shell=False)",
        "class Own(yaml.SafeLoader): ...",
        "import_module(f'segdistill.{shelf}')",
        "zipfile.ZipFile(path).testzip()",
        "getattr(module, name)",
        "np.load(path, allow_pickle=False)",
    ],
)
def test_what_is_harmless_passes(source: str) -> None:
    assert list(dangers(source)) == []


def dangers(source: str) -> Iterator[tuple[int, str]]:
    """(line, sentence) for everything that this page forbids."""
    tree = ast.parse(source)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        match node:
            case ast.Call():
                yield from ((node.lineno, why) for why in dangers_of_call(node))
            case ast.Import(names=names):
                for alias in names:
                    if runs_files(alias.name):
                        yield node.lineno, f"{alias.name} runs code from files; use safetensors or JSON"
                    elif alias.asname and alias.name in IN_FULL:
                        yield node.lineno, f"say {alias.name} in full, so that this test can see its use"
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    if runs_files(module) or runs_files(f"{module}.{alias.name}"):
                        yield node.lineno, f"{module} runs code from files; use safetensors or JSON"
                    elif f"{module}.{alias.name}" in {*NAMES, "os.environ", "torch.load"} or alias.name == "*":
                        yield node.lineno, f"say {module}.{alias.name} in full, so that this test can see its use"
            case ast.Name(id=name) if name in RUNNERS:
                yield node.lineno, f"{name} runs text as code"
            case ast.Attribute() if ast.unparse(node) in NAMES:
                yield node.lineno, NAMES[ast.unparse(node)]
            case ast.Attribute() if ast.unparse(node) == "torch.load" and id(node) not in called:
                yield node.lineno, "call torch.load where it is named, so that this test can see how"
            case ast.Dict(keys=keys) if any(isinstance(key, ast.Constant) and key.value in HIDDEN for key in keys):
                yield node.lineno, "say weights_only and allow_pickle in the call, so that this test can see them"
            case ast.ExceptHandler(type=kind):
                if kind is None or catches_everything(kind):
                    yield node.lineno, "an except for everything hides our own mistakes; name what can happen"
            case ast.Subscript(value=value, slice=key, ctx=ast.Store() | ast.Del()) if is_environment(value):
                if not is_harmless(key):
                    yield node.lineno, "the environment must not change numbers; put the value into the recipe"
            case ast.AugAssign(target=target) if is_environment(target):
                yield node.lineno, "the environment must not change numbers; put the value into the recipe"
            case _:
                pass


HIDDEN = {"weights_only", "allow_pickle"}


def dangers_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {word.arg: word.value for word in call.keywords if word.arg}
    unread = any(word.arg is None for word in call.keywords)
    words = [word.value for word in call.args if isinstance(word, ast.Constant)]
    if is_constant(given.get("weights_only"), False) or (
        name == "torch.load" and (unread or not is_constant(given.get("weights_only"), True))
    ):
        yield "a .pth file can run code; say torch.load(..., weights_only=True)"
    if ("allow_pickle" in given and not is_constant(given["allow_pickle"], False)) or (
        name in ("np.load", "numpy.load") and len(call.args) > 1
    ):
        yield "a pickled array can run code; save plain arrays"
    if "shell" in given and not is_constant(given["shell"], False):
        yield "shell=True runs text as code; pass a list"
    if name.endswith("import_module") and any(runs_files(str(word)) for word in words):
        yield f"{words[0]} runs code from files; use safetensors or JSON"
    if name == "getattr" and {"load", *RUNNERS, *(known.rpartition(".")[2] for known in NAMES)} & set(words):
        yield f"say {words[-1]} in full, so that this test can see its use"
    if isinstance(call.func, ast.Attribute) and call.func.attr in UNPACKING:
        yield f"{call.func.attr} writes or runs what a file says; read its entries one by one"
    if name.endswith("suppress") and any(catches_everything(kind) for kind in call.args):
        yield "suppressing everything hides our own mistakes; name what can happen"
    writes = isinstance(call.func, ast.Attribute) and is_environment(call.func.value) and call.func.attr in WRITES
    if writes and not (call.args and is_harmless(call.args[0])):
        yield "the environment must not change numbers; put the value into the recipe"


def runs_files(module: str) -> bool:
    """Whether it is one of those modules, or below one."""
    return any(module == name or module.startswith(f"{name}.") for name in MODULES)


def catches_everything(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(ast.unparse(each).removeprefix("builtins.") in {"Exception", "BaseException"} for each in kinds)


def is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) == "os.environ"


def is_harmless(key: ast.expr) -> bool:
    return isinstance(key, ast.Constant) and key.value in HARMLESS


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
