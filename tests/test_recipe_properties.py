"""Any valid recipe survives being written; any one change of it is taken as it was meant, or refused in a sentence."""

import copy
import datetime
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from segdistill import parts
from segdistill.assemble import resolve
from segdistill.mistakes import Mistake
from segdistill.recipe import Recipe, differences, dump, override, parse, take

EXAMPLES = 2000
"""At least so many recipes, over the tests of this file; the last one counts."""
COUNTED: Counter[str] = Counter()

steady = settings(deadline=None, derandomize=True, database=None)
"""The same examples every time, so that a red test is about the change at hand."""

# Any valid recipe. Drawing is what costs: the settings of one place are drawn at once, out of a pool that begins with
# the plainest, so that a failing recipe shrinks to plain ones.

POOL = 40
WORDS = ["runs/a", "x", "train", "2024-01-01", "1e-3", "off", "null", "0x1f", "müller", "a: b", "- c", "#", "~", "{"]
NAMES = st.sampled_from(["student", "teacher", "a", "B", "c-3", "d_4", "average", "x" * 64, "1", "on", "null", "dice"])
STAGES = ["logits", "enc1", "dec1", "bottleneck"]
LOSSES = {kind: parts.find("losses", kind, "") for kind in parts.names("losses")}
OWN = [{"name": "road", "colour": [1, 2, 3]}, {"name": "car", "colour": [0, 0, 142]}]
SPECIAL: dict[tuple[str, str], list[Any]] = {
    ("unet", "width"): [4, 16, 64],
    ("unet", "depth"): [1, 4, 6],
    ("hooked", "taps"): [{"logits": "['out']", "deep": "backbone.layer4"}],
    ("hooked", "module"): ["torchvision.models:resnet18"],
    ("hooked", "arguments"): [{"weights_backbone": None, "num_classes": 19, "deep": [1, {"er": None}]}, {}],
    ("smp", "options"): [{"decoder_channels": [64, 32]}, None],
    ("folder", "classes"): [OWN],
    ("folder", "remap"): [{7: "road", "26": "car", "#00008e": "car"}, None],
    ("archive", "classes"): [OWN],
    ("archive", "remap"): [{7: "road", "26": "car", "#00008e": "car"}, None],
}
"""Settings whose type does not say what is sound."""
FED: dict[str, list[Any]] = {
    "batch": [8, 1, 16],
    "size": [None, [256, 512]],
    "crop": [None, [64, 64]],
    "augment": [{}, {"scale": [0.5, 1]}, {"flip": False, "jitter": 0}, {"scale": ["1e-1", 2], "jitter": 0.5}],
    "sampling": [
        {"kind": "uniform"},
        {"kind": "rare_class"},
        {"kind": "rare_class", "share": 0.25, "min_share": 1e-4, "temperature": 1},
        {"kind": "class_uniform", "share": 1},
    ],
    "workers": [0, 4],
    "cache": [False, True],
    "train": ["train", "held_out", "1e-3"],
    "validate_on": ["val", "off"],
    "quarantine": [None, "bad.json"],
    "parts": [None, {"of": 2}, {"of": 5, "by": "sequence"}],
    "withhold": [0.75, "0.5"],
    "frames": [None, {"path": "data/videos"}, {"path": "x", "rate": 0}, {"path": "1e-3", "rate": "1e-1"}],
    "bad_share": [0.01, 0, "1e-2"],
}
OPTIM: dict[str, list[Any]] = {
    "kind": ["adamw", "sgd"],
    "lr": [0.1, 1, 1e-4, "1e-3"],
    "weight_decay": [0, 0.1],
    "momentum": [0, 0.99],
    "schedule": ["poly", "cosine", "constant"],
    "power": [0.9, 2],
    "warmup": [0, 1000],
    "clip": [None, 1],
    "accumulate": [1, 4],
}
EDGE: dict[str, list[Any]] = {
    "weight": [1, 0, 2.5, "1e-3"],
    "ramp": [0, 100],
    "distill_on": ["real", "all", "labelled"],
    "distill_stride": [1, 2, 4, 8],
}
REST: dict[str, list[Any]] = {
    "seed": [0, 2**31],
    "precision": ["fp32", "bf16", "fp16"],
    "checkpoint": [{}, {"every": 7, "keep": 1}],
    "log": [{}, {"wandb": "off"}, {"wandb": False, "every": 5}],
}


def of_type(wanted: Any, random: Random) -> Any:
    """A value that a recipe may say where a constructor has this type."""
    inner = get_args(wanted)
    if get_origin(wanted) in (Union, UnionType):
        return of_type(random.choice(inner), random)
    if get_origin(wanted) is Literal:
        return random.choice(inner)
    if get_origin(wanted) is tuple and inner[-1] is not Ellipsis:
        return [of_type(each, random) for each in inner]
    if get_origin(wanted) in (list, tuple):
        return [of_type(inner[0], random) for _ in range(random.randint(1, 3))]
    plain: dict[Any, Sequence[Any]] = {
        bool: (False, True),
        int: (1, 2, 64),
        float: (1, 0.5, 7.25, 1e-5, "1e-3"),
        str: WORDS,
        Path: WORDS,
        NoneType: (None,),
    }
    return random.choice(plain[wanted])


def some(choices: Mapping[str, Sequence[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the keys with one of their values each, or none."""
    random = Random(str(choices))
    pool = [
        {key: random.choice(values) for key, values in choices.items() if random.random() < share}
        for share in [0.4] * (POOL - 1) + [1.0]
    ]
    return st.sampled_from([{}, *pool])


@cache
def of_part(shelf: str, kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Settings of a part: all that it requires, some of what it has a default for."""
    part = parts.find(shelf, kind, "")
    hints, accepted, random = get_type_hints(part.__init__), parts.signature(part), Random(kind)
    pool: list[dict[str, Any]] = []
    for share in [0.0] + [0.4] * POOL + [1.0]:
        names = [name for name, p in accepted.items() if p.default is p.empty or random.random() < share]
        pool.append(
            {
                n: random.choice(SPECIAL.get((kind, n), [])) if (kind, n) in SPECIAL else of_type(hints[n], random)
                for n in names
            }
        )
    return st.sampled_from(pool)


SOME_FED, SOME_OPTIM, SOME_EDGE, SOME_REST = some(FED), some(OPTIM), some(EDGE), some(REST)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, Any]:
    """A mapping that is a valid recipe: one to three models, one of them learns, and one to five edges."""
    kind = draw(st.sampled_from(["streets", *parts.names("datasets")]))
    data = {"kind": kind, **draw(of_part("datasets", kind)), **draw(SOME_FED)}
    student, *others = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    models: dict[str, Any] = {student: {"kind": "unet", **draw(of_part("models", "unet"))}}
    learning = [student]
    for name in others:
        role = draw(
            st.sampled_from(["unet", "segformer", "timm", "smp", "frozen segformer", "frozen hooked", "follows"])
        )
        kind = role.removeprefix("frozen ")
        if role == "follows":
            models[name] = {"follows": student, "decay": 0.99}
            continue
        models[name] = {"kind": kind, **draw(of_part("models", kind))}
        if role == kind:
            learning.append(name)
        else:  # no weights: those are looked up on the disk, where a name of 300 letters is an OSError
            connected = {"class_map": {"car": ["car", "bus"], "road": "x"}, "classes": ["road", "car"]}
            models[name] |= {"frozen": True} | (connected if draw(st.booleans()) else {})
    losses: dict[str, Any] = {}
    for index, name in enumerate([*learning, *draw(st.lists(st.sampled_from(learning), max_size=2))]):
        kind = draw(st.sampled_from(["cross_entropy", *LOSSES]))
        edge = draw(edges(kind, name, list(models)))
        losses[kind if kind not in losses else f"edge{index}"] = edge if kind not in losses else edge | {"kind": kind}
    content = {"data": data, "models": models, "losses": losses, "steps": draw(st.sampled_from([1, 10**6]))}
    content |= draw(SOME_REST)
    if draw(st.booleans()):
        content["optim"] = draw(SOME_OPTIM)
        content["probes"] = {
            kind: draw(of_part("probes", kind)) | {"every": 3} for kind in parts.names("probes") if draw(st.booleans())
        }
    if draw(st.booleans()):
        lengths = st.sampled_from([{"steps": 5}, {"epochs": 1}, {"epochs": 0.5}])
        acting = [list(losses), *draw(st.lists(st.sampled_from([[name] for name in losses]), max_size=2))]
        content["phases"] = [draw(lengths) | {"losses": names} for names in acting]
    return content


@st.composite
def edges(draw: st.DrawFn, kind: str, student: str, nodes: Sequence[str]) -> dict[str, Any]:
    """An edge: to the labels, to a model, to one stage or to several of one model."""
    edge = {"student": student, **draw(of_part("losses", kind)), **draw(SOME_EDGE)}
    if LOSSES[kind].needs_target:
        edge["target"] = draw(st.sampled_from(nodes))
        for end in ("student", "target"):
            stages = draw(st.sampled_from([[], STAGES[:1], STAGES[1:2], STAGES[1:], STAGES]))
            paths = [f"{edge[end]}.{stage}" for stage in stages]
            edge[end] = paths if len(paths) > 1 else next(iter(paths), edge[end])
    return edge


def recipes() -> st.SearchStrategy[Recipe]:
    return contents().map(parse)


# What is said survives


@settings(steady, max_examples=250)
@given(recipes())
def test_a_recipe_survives_being_written(recipe: Recipe) -> None:
    COUNTED["written"] += 1
    text = dump(recipe)
    again = parse(yaml.safe_load(text))
    assert again == recipe and dump(again) == text
    assert list(again.models) == list(recipe.models) and list(again.losses) == list(recipe.losses)
    assert not differences(recipe, again) and not differences(recipe, recipe)
    assert take(recipe, ["seed=7"]).seed == 7 and take(recipe, ["seed=7"]).models == recipe.models


@settings(steady, max_examples=250)
@given(contents())
def test_nothing_set_changes_nothing(content: dict[str, Any]) -> None:
    COUNTED["overridden"] += 1
    assert parse(override(content, [])) == parse(content)
    assert parse(override(content, ["steps=5"])) == parse(content | {"steps": 5})


@settings(steady, max_examples=200)
@given(recipes())
def test_a_resolved_recipe_is_resolved(recipe: Recipe) -> None:
    """And survives being written as well: the run directory holds this one."""
    COUNTED["resolved"] += 1
    found = resolve(recipe)
    assert resolve(found) == found
    written = parse(yaml.safe_load(dump(found)))
    assert resolve(written) == found
    assert not differences(written, found) and not differences(resolve(written), found)
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


# One change of a recipe


class Change(NamedTuple):
    """A recipe with one place changed."""

    content: dict[str, Any]
    path: list[str | int]
    """Of the place, in the recipe as it was."""
    new: list[str | int]
    """Of the place, in the recipe as it is; differs when the key was changed."""
    about: str
    original: dict[str, Any]


JUNK: list[Any] = [
    *(None, True, False, -1, 0, 3, 1e308, 5e-324, 2**63, 10**400, float("nan"), float("inf"), "", " ", "x", [], {}),
    *(
        [1, 2, 3],
        ["x", None],
        "y" * 5000,
        "z" * 300,
        "Ünï✓",
        "\u202e",
        "a\nb",
        "\0",
        "\x1b[31m",
        "../../x",
        "__class__",
    ),
    *(datetime.date(2026, 1, 1), b"\xff", {"a": {"b": [{"c": [[[]]]}]}}, {1: 2}, {None: 1}, {"kind": "x"}, {"": 1}),
    *("labels", "unet", "uniform", "student.dec1", "os:system", "!!python/name:os.system", "[", "{}", "a.b.c", object),
]
"""What stands where something else should; of any type."""


def places(content: Any, path: Sequence[str | int] = ()) -> Iterator[list[str | int]]:
    """Of every key and list item, the outer ones first."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in items:
        yield [*path, name]
        yield from places(value, [*path, name])


def at(content: Any, path: Sequence[str | int]) -> Any:
    for name in path:
        content = content[name]
    return content


def is_in(content: Any, path: Sequence[str | int]) -> bool:
    return [*path] in list(places(content))


def typo(key: str) -> str:
    """Two letters in the wrong order, or one too many."""
    swapped = key[:1] + key[2:3] + key[1:2] + key[3:]
    return swapped if swapped != key else f"{key}{key[-1]}"


@st.composite
def changes(draw: st.DrawFn) -> Change:
    content: dict[str, Any] = draw(recipes()).model_dump(mode="json", exclude_none=True)
    original = copy.deepcopy(content)
    everywhere = list(places(content))
    path = everywhere[draw(st.integers(0, len(everywhere) - 1))]
    parent, key = at(content, path[:-1]), path[-1]
    kinds = ["value", "value", "value", "borrowed", "gone"]
    kinds += ["typo", "case", "extra", "swapped"] if isinstance(parent, dict) else []
    kind = draw(st.sampled_from(kinds))
    about = f"{kind} at {'.'.join(map(str, path))}"
    if kind == "value":
        parent[key] = draw(st.sampled_from(JUNK))
        about += f": {parent[key]!r:.80}"
    elif kind == "borrowed":  # a value that is sound somewhere else
        other = everywhere[draw(st.integers(0, len(everywhere) - 1))]
        parent[key] = copy.deepcopy(at(content, other))
        about += f" from {'.'.join(map(str, other))}"
    elif kind == "gone":
        del parent[key]
    elif kind == "extra":
        path = [*path[:-1], "surplus"]
        parent["surplus"] = 1
    elif kind == "swapped":
        other = draw(st.sampled_from(list(parent)))
        parent[key], parent[other] = parent[other], parent[key]
        return Change(content, path, [*path[:-1], other], about, original)
    else:
        renamed = typo(str(key)) if kind == "typo" else str(key).swapcase()
        items = [(renamed if name == key else name, value) for name, value in parent.items()]
        parent.clear()
        parent.update(items)
        return Change(content, path, [*path[:-1], renamed], about, original)
    return Change(content, path, path, about, original)


UNSAID = re.compile(r"Traceback|pydantic|https?://|<class|object at 0x|BaseModel|Spec\b|Error\b")
"""What a sentence for a user does not hold."""


def named(change: Change) -> set[str]:
    """What a sentence about a change may call it by: the place, what it is in, its key, or a name that stood there."""
    paths = [path[:end] for path in (change.path, change.new) for end in (-2, -1, None) if path[:end]]
    old = [at(change.original, path) for path in (change.path, change.new) if is_in(change.original, path)]
    inside = [at(old, path) for path in places(old)]
    names = [change.path[-1], change.new[-1], *inside]
    keys = {f"'{key}'" for key in (*change.path, *change.new)}
    return (
        keys
        | {".".join(map(str, path)) for path in paths}
        | {said for n in names if isinstance(n, str) for said in ([n] if len(n) > 2 else [f"'{n}'", f".{n}:"])}
    )


def check(before: Recipe, change: Change, taken: Callable[[], Recipe]) -> bool:
    """The change is nothing, or is just what was changed, or is refused in one sentence that names it; if so."""
    try:
        after = taken()
        resolve(after)
    except Mistake as mistake:
        sentence = str(mistake)
        assert sentence.isprintable() and len(sentence) < 4000 and not UNSAID.search(sentence), (change.about, sentence)
        assert any(word in sentence for word in named(change)), (change.about, sentence)
        # resolve's list of what data accepts leaves out kind
        if change.about.startswith("typo") and "unknown key" in sentence and change.path != ["data", "kind"]:
            assert f"(did you mean '{change.path[-1]}'?)" in sentence, (change.about, sentence)
        return True
    changed = differences(before, after)
    assert (after == before) or changed, change.about
    places = [".".join(map(str, path)) for path in (change.path, change.new)]
    for key in changed:
        assert any(key == p or key.startswith(f"{p}.") or p.startswith(f"{key}.") or not p for p in places), (
            change.about,
            key,
        )
    return False


@settings(steady, max_examples=1100)
@given(changes())
def test_one_change_is_taken_or_refused_in_a_sentence(change: Change) -> None:
    COUNTED["changed"] += 1
    COUNTED["refused"] += check(parse(change.original), change, lambda: parse(change.content))


@settings(steady, max_examples=700)
@given(changes())
def test_one_setting_is_taken_or_refused_in_a_sentence(change: Change) -> None:
    """The same through `--set`, which adds and replaces but takes nothing away."""
    COUNTED["set"] += 1
    value = at(change.content, change.new) if is_in(change.content, change.new) else None
    try:
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n")
    except yaml.YAMLError:
        text = "!own"
    setting = f"{'.'.join(map(str, change.new))}={text}"
    COUNTED["refused"] += check(parse(change.original), change, lambda: parse(override(change.original, [setting])))


def test_there_were_enough() -> None:
    """Of examples, and of both outcomes; where only some of the tests were asked for there is nothing to count."""
    tests = ("written", "overridden", "resolved", "changed", "set")
    if not all(COUNTED[name] for name in tests):
        pytest.skip("not all of this file ran")
    assert sum(COUNTED[name] for name in tests) >= EXAMPLES
    assert 0.1 < COUNTED["refused"] / (COUNTED["changed"] + COUNTED["set"]) < 0.95
