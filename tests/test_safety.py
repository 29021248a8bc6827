"""Nothing in the package runs code from a file, hides a failure, or changes numbers behind the recipe's back."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "segdistill"

# Modules that run what they read, functions that run what they are given, and why a call is dangerous.
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
RUNNERS = {"eval", "exec", "compile"}
CALLS = {
    "yaml.load": "yaml.load can build any object; use yaml.safe_load",
    "yaml.load_all": "yaml.load_all can build any object; use yaml.safe_load_all",
    "yaml.full_load": "yaml.full_load builds more than plain data; use yaml.safe_load",
    "yaml.unsafe_load": "yaml.unsafe_load can build any object; use yaml.safe_load",
    "os.system": "os.system runs a shell; use subprocess.run with a list",
    "os.putenv": "os.putenv changes the environment; put the value into the recipe",
}
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
    ],
)
def test_a_danger_is_seen(source: str) -> None:
    assert len(list(dangers(source))) == 1


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
    ],
)
def test_what_is_harmless_passes(source: str) -> None:
    assert list(dangers(source)) == []


def dangers(source: str) -> Iterator[tuple[int, str]]:
    """(line, sentence) for everything that this page forbids."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call():
                yield from ((node.lineno, why) for why in dangers_of_call(node))
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.partition(".")[0] in PICKLES:
                        yield node.lineno, f"{alias.name} runs code from files; use safetensors or JSON"
            case ast.ImportFrom(module=str(module), names=names):
                for alias in names:
                    if module.partition(".")[0] in PICKLES:
                        yield node.lineno, f"{module} runs code from files; use safetensors or JSON"
                    elif f"{module}.{alias.name}" in {*CALLS, "os.environ", "torch.load"}:
                        yield node.lineno, f"say {module}.{alias.name} in full, so that this test can see its use"
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


def dangers_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {word.arg: word.value for word in call.keywords if word.arg}
    if name in RUNNERS:
        yield f"{name} runs text as code"
    if name in CALLS:
        yield CALLS[name]
    if is_constant(given.get("weights_only"), False) or (
        name == "torch.load" and not is_constant(given.get("weights_only"), True)
    ):
        yield "a .pth file can run code; say torch.load(..., weights_only=True)"
    if is_constant(given.get("allow_pickle"), True):
        yield "a pickled array can run code; save plain arrays"
    if is_constant(given.get("shell"), True):
        yield "shell=True runs text as code; pass a list"
    if name.endswith("suppress") and any(catches_everything(kind) for kind in call.args):
        yield "suppressing everything hides our own mistakes; name what can happen"
    writes = isinstance(call.func, ast.Attribute) and is_environment(call.func.value) and call.func.attr in WRITES
    if writes and not (call.args and is_harmless(call.args[0])):
        yield "the environment must not change numbers; put the value into the recipe"


def catches_everything(kind: ast.expr) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(ast.unparse(each).removeprefix("builtins.") in {"Exception", "BaseException"} for each in kinds)


def is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) == "os.environ"


def is_harmless(key: ast.expr) -> bool:
    return isinstance(key, ast.Constant) and key.value in HARMLESS


def is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
