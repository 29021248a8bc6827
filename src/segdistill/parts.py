"""name -> class -> object: the files of a shelf are its registry, a constructor's signature is its schema.

Positional parameters are what a recipe may say; keyword-only ones are facts that the builder supplies. A part of a
user's own package is named `package.module:Class` and loaded only from packages that were allowed.
"""

import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, create_model, field_validator
from typing_extensions import is_typeddict  # of those that pydantic takes before Python 3.12

from segdistill.mistakes import MissingExtra, Mistake, nearest, one_of

SHELVES = {"datasets": "dataset", "models": "model", "losses": "loss", "metrics": "metric", "probes": "probe",
           "analyses": "analysis"}  # fmt: skip
"""The shelves, and what one part of each is called."""

_PLAIN = {"str", "int", "float", "bool"}
"""With list[…], literal[…] and their like, what pydantic calls the branches of a union in a path."""

_ALLOWED: set[str] = set()
"""Packages that a recipe may name code of."""


class Checked(BaseModel):
    """What a recipe says at one place."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """Where pydantic would read true as 1."""
        wanted = cls.model_fields[info.field_name or ""].annotation
        accepted = {wanted, *get_args(wanted)}
        if isinstance(value, bool) and accepted & {int, float} and bool not in accepted:
            raise ValueError("should be a number")
        return value


_WORDS = {
    r"a valid dictionary( or instance of \w+)?": "a mapping",
    "a valid tuple": "a valid list",
    "is not a valid path for .*": "should be a path",
}
"""What pydantic says in Python's words, and what a recipe calls it."""


class _Settings(Checked):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def allow_plugin(package: str) -> None:
    """Let recipes name parts of a package, as `package.module:Class`; naming a part runs the package's code.

    Raises:
        Mistake: there is no such package, or the name is not a package's.
    """
    if not all(word.isidentifier() for word in package.split(".")):
        raise Mistake(f"--plugin {package}: expected the name of a package, as in --plugin my_package")
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        raise Mistake(f"--plugin {package}: Python finds no module '{error.name}'; is it installed?") from error
    _ALLOWED.add(package)


def allowed_plugins() -> list[str]:
    """The packages that recipes may name."""
    return sorted(_ALLOWED)


def imported(path: str, where: str) -> Any:
    """What `package.module:name` names, of an allowed package.

    Raises:
        Mistake: the package is not allowed, or has no such name.
    """
    module, _, name = path.partition(":")
    if not any(module == package or module.startswith(f"{package}.") for package in _ALLOWED):
        root = module.split(".")[0]
        allows = f"--plugin {root} allows it to run" if root.isidentifier() else "and no package has such a name"
        raise Mistake(f"{where}: {short(path)} is code of another package; {allows}")
    try:
        home = import_module(module)
    except ModuleNotFoundError as error:
        raise Mistake(f"{where}: Python finds no module '{error.name}'") from error
    if not hasattr(home, name):  # not vars: some packages load their names when asked
        raise Mistake(f"{where}: {module} has no '{name}'{nearest(name, dir(home))}")
    return getattr(home, name)


def optional(module: str, extra: str, where: str) -> Any:
    """A module that only some parts need; it comes with an extra of ours.

    Raises:
        MissingExtra: it is not installed, or not with the torch that it was built for.
    """
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # torchvision's operators do not find another torch's
        how = f"needs the extra '{extra}': pip install 'segdistill[{extra}]'"
        raise MissingExtra(f"{where}: {how} ({' '.join(str(error).split())})") from error


def names(shelf: str) -> list[str]:
    """The parts on a shelf."""
    package = import_module(f"segdistill.{shelf}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def find(shelf: str, kind: str, where: str) -> type[Any]:
    """The one public class of the file `kind` on the shelf; `where` is the recipe path that a mistake is blamed on."""
    if ":" in kind:
        return _foreign(shelf, kind, where)
    known = names(shelf)
    if kind not in known:
        found = f"there is no {SHELVES[shelf]} {short(kind)}; there is {one_of(known)}{nearest(kind, known)}"
        raise Mistake(f"{where}: {found}")
    module = import_module(f"segdistill.{shelf}.{kind}")
    public = [
        value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    assert len(public) == 1, f"{module.__name__} must define one public class, it defines {public}"
    return public[0]


def _foreign(shelf: str, kind: str, where: str) -> type[Any]:
    part = imported(kind, where)
    protocol = SHELVES[shelf].capitalize()
    if not inspect.isclass(part) or not issubclass(part, vars(import_module(f"segdistill.{shelf}"))[protocol]):
        raise Mistake(f"{where}: {kind} is no {SHELVES[shelf]}: expected a subclass of segdistill.{shelf}.{protocol}")
    return part


def signature(part: type[Any]) -> dict[str, inspect.Parameter]:
    """What a recipe may say to a part."""
    parameters = inspect.signature(part).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD}


def facts(part: type[Any]) -> list[str]:
    """What the builder has to supply."""
    return [p.name for p in inspect.signature(part).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]


def settings(part: type[Any], given: Mapping[str, Any], where: str, also: Iterable[str] = ()) -> dict[str, Any]:
    """`given` checked against the part's signature and completed by its defaults.

    `also` names what else may stand at this place of a recipe; it only helps to find the nearest match.
    """
    accepted = signature(part)
    for name in given:
        if name not in accepted:
            known = [*accepted, *also]
            raise Mistake(f"{where}.{name}: unknown key; {where} accepts {one_of(known)}{nearest(name, known)}")
    try:
        checked = _schema(part)(**given)
    except ValidationError as error:
        hints = get_type_hints(part.__init__)
        raise Mistake(explain(error, where, lambda place: _keys(hints[str(place[0])]))) from error
    return {name: getattr(checked, name) for name in accepted}


@cache
def _schema(part: type[Any]) -> type[_Settings]:
    hints = get_type_hints(part.__init__)
    fields: dict[str, Any] = {
        p.name: (hints[p.name], ... if p.default is inspect.Parameter.empty else p.default)
        for p in signature(part).values()
    }
    return create_model(part.__name__, __base__=_Settings, **fields)


def _keys(hint: object) -> list[str]:
    """Of the mappings inside a type."""
    if is_typeddict(hint):
        return list(get_type_hints(hint))
    return [key for inner in get_args(hint) for key in _keys(inner)]


def build(part: type[Any], checked: Mapping[str, Any], **supplied: object) -> Any:
    """The object, from checked settings and those of the supplied facts that it asks for."""
    for name in facts(part):
        if name not in supplied:
            raise Mistake(f"{part.__name__}.{name}: no such fact; there is {one_of(supplied)}{nearest(name, supplied)}")
    return part(**checked, **{name: supplied[name] for name in facts(part)})


def explain(
    error: ValidationError,
    where: str,
    accepted: Callable[[Sequence[int | str]], Iterable[str]],
    chosen: Sequence[str] = (),
    *,
    what: str = "a recipe",
) -> str:
    """Pydantic's findings as one sentence that starts with the path in the recipe, or in `what`.

    `chosen` is the place of what its `kind` tells apart: pydantic puts the kind into the paths below, nobody else does.
    """
    sentences: list[str] = []
    unions: dict[str, tuple[list[str], Any]] = {}
    """Path -> what each branch of a union would have taken, and what it got."""
    for found in error.errors():
        steps = [str(step) for step in found["loc"]]
        if chosen and steps[: len(chosen)] == [*chosen]:
            del steps[len(chosen) : len(chosen) + 1]
        branch = next((i for i, step in enumerate(steps) if step in _PLAIN or "[" in step), len(steps))
        path = ".".join([part for part in [where, *steps[:branch]] if part])
        name = steps[-1] if steps else ""
        message = found["msg"].removeprefix("Value error, ").removeprefix("Input ")
        for theirs, ours in _WORDS.items():
            message = re.sub(theirs, ours, message)
        if found["type"] == "extra_forbidden":
            known = list(accepted(found["loc"][:-1]))
            parent = path.rpartition(".")[0] or what
            sentences.append(f"{path}: unknown key; {parent} accepts {one_of(known)}{nearest(name, known)}")
        elif found["type"] == "missing":
            typed = [str(key) for key in found["input"]] if isinstance(found["input"], Mapping) else []
            near = get_close_matches(name, typed, n=1, cutoff=0.75)
            sentences.append(f"{path}: missing" + (f"; there is '{near[0]}'" if near else ""))
        elif branch < len(steps):
            unions.setdefault(path, ([], found["input"]))[0].append(message.removeprefix("should be "))
        else:
            got = "" if isinstance(found["input"], Mapping) else _got(message, found["input"])
            sentences.append(f"{path}: {message}{got}" if path else f"{message}{got}")
    for path, (wanted, given) in unions.items():
        message = f"should be {', or '.join(dict.fromkeys(wanted))}"
        sentences.append(f"{path}: {message}{_got(message, given)}")
    return "; ".join(sentences)


def _got(message: str, given: object) -> str:
    """What was said, and the nearest of the words that the message quotes."""
    quoted = re.findall(r"'([^']*)'", message) if isinstance(given, str) else []
    return f", got {short(given)}{nearest(str(given), quoted)}"


def short(value: object) -> str:
    """A value as it is told in a sentence."""
    said = repr(value)
    return said if len(said) <= 80 else f"{said[:77]}…"
