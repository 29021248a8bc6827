"""Files that were written to do harm, or that a disk has damaged: refused in a sentence, and nothing in them runs.

Every test writes its own. What a payload would do is to create the file CAUGHT.
"""

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save
from torch import Tensor, nn

from segdistill.assemble import assemble, load, resolve
from segdistill.checkpoint import MANIFEST, Card, read_card, save_weights
from segdistill.mistakes import Mistake
from segdistill.models._files import fill, read_tensors
from segdistill.models.unet import UNet
from segdistill.recipe import DEEPEST, LARGEST, LONGEST, override, parse, read
from segdistill.run import Run
from segdistill.training import train
from segdistill.types import ClassTable
from small import content, small

CAUGHT = "caught"


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Payloads create a file in the folder that the test is in."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(CAUGHT).exists(), "code of a file was run"


def refused(work: Callable[[], object], *words: str) -> str:
    """The one sentence that the work ends with; it holds the words."""
    with pytest.raises(Mistake) as caught:
        work()
    sentence = str(caught.value)
    assert sentence.isprintable() and "Traceback" not in sentence and len(sentence) < 4000, sentence
    assert all(word in sentence for word in words), sentence
    return sentence


# .pth: pickles


class Payload:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.said = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.said


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


STATE: Mapping[str, Tensor] = network().state_dict()
PAYLOADS = {
    "os.system": lambda: Payload(os.system, f"touch {CAUGHT}"),
    "open": lambda: Payload(open, CAUGHT, "w"),
    "eval": lambda: Payload(eval, f"open('{CAUGHT}', 'w')"),
    "exec": lambda: Payload(exec, f"open('{CAUGHT}', 'w')"),
    "getattr": lambda: Payload(getattr, Path(CAUGHT), "touch"),
    "Path.touch": lambda: Payload(Path.touch, Path(CAUGHT)),
    "torch.save": lambda: Payload(torch.save, 1, CAUGHT),
    "nn.Module": network,
}


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {**STATE, "x": x}, lambda x: {"state_dict": STATE, "x": [x]}])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_pickle_with_code(payload: str, wrap: Callable[[object], object]) -> None:
    torch.save(wrap(PAYLOADS[payload]()), "x.pth")
    refused(lambda: read_tensors(Path("x.pth"), "checkpoint"), "checkpoint: x.pth runs code when it is read")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_is_no_archive(protocol: int) -> None:
    Path("x.pth").write_bytes(pickle.dumps(Payload(os.system, f"touch {CAUGHT}"), protocol))
    refused(lambda: read_tensors(Path("x.pth"), "checkpoint"), "checkpoint: x.pth is neither safetensors nor")


def test_the_old_format_of_torch() -> None:
    torch.save({"x": PAYLOADS["os.system"]()}, "x.pth", _use_new_zipfile_serialization=False)
    refused(lambda: read_tensors(Path("x.pth"), "checkpoint"), "checkpoint: x.pth is neither safetensors nor")
    with zipfile.ZipFile("x.pth", "a") as archive:  # a pickle to whom reads its beginning, a zip file to others
        archive.writestr("x/data.pkl", b"")
    refused(lambda: read_tensors(Path("x.pth"), "checkpoint"), "checkpoint: x.pth is neither safetensors nor")


# .pth: archives


def entries() -> dict[str, bytes]:
    """What torch.save puts into an archive."""
    torch.save(dict(STATE), "good.pth")
    with zipfile.ZipFile("good.pth") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(content: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile("x.pth", "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return Path("x.pth")


def test_an_archive_written_anew_is_read() -> None:
    """So that what is refused below is refused for what was changed."""
    found = read_tensors(rewritten(entries()), "checkpoint")
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_an_archive_that_unpacks_to_more(tmp_path: Path) -> None:
    bomb = {**entries(), "good/data/0": bytes(100_000_000)}
    refused(
        lambda: read_tensors(rewritten(bomb, zipfile.ZIP_DEFLATED), "checkpoint"), "checkpoint: x.pth", "compressed"
    )
    assert Path("x.pth").stat().st_size < 200_000
    rewritten(entries())
    claimed = Path("x.pth").read_bytes()
    at = claimed.index(b"PK\1\2")
    Path("x.pth").write_bytes(claimed[: at + 20] + struct.pack("<II", 2**31, 2**31) + claimed[at + 28 :])
    refused(lambda: read_tensors(Path("x.pth"), "checkpoint"), "checkpoint: x.pth", "claims to hold more bytes")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "good/../../x", "other/x", "x"])
def test_an_archive_that_reaches_out(name: str) -> None:
    refused(
        lambda: read_tensors(rewritten(entries() | {name: b"x"}), "checkpoint"),
        "checkpoint: x.pth",
        "more than one folder",
    )


def test_an_archive_that_torch_did_not_write() -> None:
    refused(lambda: read_tensors(rewritten({"a/readme.txt": b"x"}), "checkpoint"), "checkpoint: x.pth is damaged")
    refused(lambda: read_tensors(rewritten({}), "checkpoint"), "checkpoint: x.pth")
    refused(lambda: read_tensors(rewritten(entries() | {"good/constants.pkl": b""}), "checkpoint"), "checkpoint: x.pth")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_entries_of_a_name() -> None:
    rewritten(entries())
    with zipfile.ZipFile("x.pth", "a") as archive:
        archive.writestr("good/data.pkl", pickle.dumps(Payload(os.system, f"touch {CAUGHT}"), 2))
    refused(lambda: read_tensors(Path("x.pth"), "checkpoint"), "checkpoint: x.pth", "one name")


@pytest.mark.parametrize("size", [b"J\x00\x00\x00\x40", b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f"])
def test_a_tensor_larger_than_its_storage(size: bytes) -> None:
    """4 GiB in a file of 3 kB; a negative size; 2^63 bytes."""
    content = entries()
    changed = content["good/data.pkl"].replace(b"Kl", size)  # 108 numbers of the first convolution
    assert changed != content["good/data.pkl"]
    refused(
        lambda: read_tensors(rewritten(content | {"good/data.pkl": changed}), "checkpoint"),
        "checkpoint: x.pth is damaged",
    )


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros(4).to_sparse(),
        torch.zeros(4, device="meta"),
    ],
    ids=["complex", "sparse", "meta"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_that_is_none_of_numbers(tensor: Tensor) -> None:
    torch.save({**STATE, "0.bias": tensor}, "x.pth")
    refused(lambda: read_tensors(Path("x.pth"), "checkpoint"), "checkpoint: x.pth: '0.bias' is no dense tensor")


def test_whole_numbers_where_the_network_has_others() -> None:
    torch.save({**STATE, "0.bias": torch.zeros(4, dtype=torch.int64)}, "x.pth")
    found = read_tensors(Path("x.pth"), "checkpoint")
    refused(lambda: fill(network(), found, "checkpoint"), "checkpoint: 0.bias is torch.int64 there and torch.float32")


@pytest.mark.parametrize("seed", range(150))
def test_a_damaged_pth_is_refused_or_right(seed: int) -> None:
    """Bits flipped, bytes replaced, the end cut off; checksums cover what torch reads without looking at them."""
    torch.save(dict(STATE), "x.pth")
    file, random = Path("x.pth"), Random(seed)
    damaged = bytearray(file.read_bytes())
    if seed % 3 == 0:
        del damaged[random.randrange(len(damaged)) :]
    for _ in range(seed % 3):
        place = random.randrange(len(damaged))
        damaged[place] = random.choice([damaged[place] ^ 1 << random.randrange(8), random.randrange(256)])
    file.write_bytes(damaged)
    read_or_refused(file)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_directory_of_a_pth_is_refused_or_right(seed: int) -> None:
    """The end of an archive says where everything is; torch takes what has a folder's flag there for zeros."""
    torch.save(dict(STATE), "x.pth")
    file, random = Path("x.pth"), Random(seed)
    damaged = bytearray(file.read_bytes())
    damaged[random.randrange(damaged.index(b"PK\1\2"), len(damaged))] ^= 1 << random.randrange(8)
    file.write_bytes(damaged)
    read_or_refused(file)


def test_an_entry_that_is_flagged_as_a_folder() -> None:
    torch.save(dict(STATE), "x.pth")
    damaged = bytearray(Path("x.pth").read_bytes())
    damaged[damaged.index(b"PK\1\2") + 38] ^= 0x10
    Path("x.pth").write_bytes(damaged)
    refused(lambda: read_tensors(Path("x.pth"), "checkpoint"), "checkpoint: x.pth", "folders")


def read_or_refused(file: Path) -> None:
    other = network()
    try:
        fill(other, read_tensors(file, "checkpoint"), "checkpoint")
    except Mistake as mistake:
        assert str(mistake).startswith("checkpoint: ") and "\n" not in str(mistake)
        return
    assert all(torch.equal(value, STATE[name]) for name, value in other.state_dict().items())


# Safetensors

CARD: dict[str, Any] = {
    "kind": "unet",
    "parameters": {"width": 4, "depth": 1},
    "classes": {"names": ["road", "car"], "colours": [[0, 0, 0], [1, 1, 1]]},
    "size": None,
    "step": 1,
    "numbers": {},
}


def safetensors(header: bytes, body: bytes = b"") -> Path:
    Path("x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + body)
    return Path("x.safetensors")


def described(shape: object = (2,), offsets: object = (0, 8), dtype: str = "F32") -> bytes:
    return json.dumps({"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "write",
    [
        lambda: Path("x.safetensors").write_bytes(struct.pack("<Q", 2**63) + b"{}"),
        lambda: Path("x.safetensors").write_bytes(struct.pack("<Q", 2**64 - 1) + b"{}"),
        lambda: Path("x.safetensors").write_bytes(b""),
        lambda: safetensors(b"not JSON"),
        lambda: safetensors(b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        lambda: safetensors(described(shape=[-2]), bytes(8)),
        lambda: safetensors(described(shape=[2**62, 4]), bytes(8)),
        lambda: safetensors(described(offsets=[0, 2**40]), bytes(8)),
        lambda: safetensors(described(offsets=[8, 0]), bytes(8)),
        lambda: safetensors(described(dtype="PICKLE"), bytes(8)),
        lambda: safetensors(described(), bytes(4)),
        lambda: safetensors(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
            bytes(12),
        ),
    ],
)
def test_safetensors_that_are_none(write: Callable[[], object]) -> None:
    write()
    refused(lambda: read_tensors(Path("x.safetensors"), "checkpoint"), "checkpoint: x.safetensors is not a safetensors")
    refused(lambda: read_card(Path("x.safetensors")), "x.safetensors: not a safetensors file")
    refused(lambda: load("x.safetensors"), "x.safetensors: not a safetensors file")


def carded(card: object, tensors: Mapping[str, Tensor] | None = None) -> Path:
    """A weights file with whatever card."""
    metadata = {"segdistill": card if isinstance(card, str) else json.dumps(card)}
    Path("x.safetensors").write_bytes(save(dict(tensors or {"w": torch.zeros(1)}), metadata))
    return Path("x.safetensors")


def test_safetensors_that_are_not_ours() -> None:
    Path("x.safetensors").write_bytes(save({"w": torch.zeros(1)}))
    refused(lambda: load("x.safetensors"), "x.safetensors", "without the card")


@pytest.mark.parametrize(
    "card",
    [
        *("", "not JSON", "[]", "null", "3", '"x"', "[" * 100_000, "{}", '{"kind": NaN}'),
        *({key: value for key, value in CARD.items() if key != missing} for missing in CARD),
        *(CARD | {key: junk} for key in CARD for junk in ([1, {"a": None}], "x", -1.5) if (key, junk) != ("kind", "x")),
        CARD | {"classes": {"names": ["road", "car"], "colours": "xy"}},
        CARD | {"classes": {"names": 3, "colours": []}},
        CARD | {"size": [1]},
        CARD | {"numbers": {"x": "y"}},
    ],
    ids=lambda card: str(card)[:40],
)
def test_a_card_of_another_form(card: object) -> None:
    carded(card)
    refused(lambda: read_card(Path("x.safetensors")), "x.safetensors")
    refused(lambda: load("x.safetensors"), "x.safetensors")


@pytest.mark.parametrize(
    "kind", ["os:system", "hostile.part:Net", "../unet", "unet\n", "", "_blocks", "__init__", "x" * 9999]
)
def test_a_card_whose_kind_is_code(kind: str) -> None:
    """A package that lies where the program runs; importing it would be enough."""
    Path("hostile").mkdir()
    Path("hostile/__init__.py").write_text(f"open('{CAUGHT}', 'w')")
    Path("hostile/part.py").write_text("Net = 1")
    carded(CARD | {"kind": kind})
    sentence = refused(lambda: load("x.safetensors"), "x.safetensors")
    assert "--plugin" in sentence or "there is no model" in sentence


@pytest.mark.parametrize(
    "parameters",
    [
        *(
            {"width": 10**9},
            {"width": 10**30},
            {"depth": 10**9},
            {"width": 8192, "depth": 6},
            {"width": -1},
            {"width": 0},
        ),
        *({"width": "os:system"}, {"width": None}, {"width": [4]}, {"__class__": 1}, {"num_classes": 4}, {"self": 1}),
    ],
    ids=str,
)
def test_a_card_with_absurd_parameters(parameters: dict[str, object]) -> None:
    carded(CARD | {"parameters": parameters})
    refused(lambda: load("x.safetensors"))


def test_a_card_of_another_network() -> None:
    carded(CARD)
    refused(lambda: load("x.safetensors"), "x.safetensors")


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_weights_file_is_refused_or_right(seed: int) -> None:
    torch.manual_seed(0)
    model, file, random = UNet(4, 1, num_classes=2), Path("model.safetensors"), Random(seed)
    classes = ClassTable(("road", "car"), ((0, 0, 0), (1, 1, 1)))
    save_weights(file, model, Card("unet", {"width": 4, "depth": 1}, classes, None, 1, {}))
    damaged = bytearray(file.read_bytes())
    if seed % 4 == 0:
        del damaged[random.randrange(len(damaged)) :]
    else:
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    file.write_bytes(damaged)
    try:
        found = load(file)
    except Mistake as mistake:
        assert "model.safetensors" in str(mistake) and "\n" not in str(mistake)
        return
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in found.state_dict().items())


# Recipes

GOOD = yaml.safe_dump(content())


def recipe(text: str | bytes) -> Path:
    Path("recipe.yaml").write_bytes(text if isinstance(text, bytes) else text.encode("utf8", "surrogatepass"))
    return Path("recipe.yaml")


@pytest.mark.parametrize(
    "tag",
    [
        f"!!python/object/apply:os.system ['touch {CAUGHT}']",
        f"!!python/object/new:os.system ['touch {CAUGHT}']",
        "!!python/object/apply:eval ['1']",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/tuple [1, 2]",
        "!import_call {path: os.system}",
        "!<tag:yaml.org,2002:python/name:os.system>",
        "!!binary AAAA",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!timestamp 2026-01-01",
        "!!int abc",
        "!!bool perhaps",
        "! 3",
    ],
)
def test_a_tag(tag: str) -> None:
    refused(lambda: read(recipe(f"{GOOD}seed: {tag}\n")), "recipe.yaml: not YAML: a recipe has no tags such as", "line")
    refused(lambda: override({}, [f"seed={tag}"]), "--set seed")


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "more than 100000 values, with what aliases stand for"),
        (LAUGHS.replace("[", "{<<: [").replace("]", "]}"), "recipe.yaml"),
        ("a: &a [*a]", "the alias *a stands inside of what it means"),
        ("a: &a {b: {c: *a}}", "the alias *a stands inside of what it means"),
        (
            "x: &b0 [1]\n" + "".join(f"y{n}: &b{n + 1} [*b{n}]\n" for n in range(400)),
            f"nested more than {DEEPEST} deep",
        ),
        ("x: &b0 {k: 1}\n" + "".join(f"y{n}: &b{n + 1} {{<<: *b{n}}}\n" for n in range(400)), "recipe.yaml"),
        ("[" * 100_000, f"nested more than {DEEPEST} deep"),
        ("{a: " * 100_000, f"nested more than {DEEPEST} deep"),
        ("- " * 100_000, f"nested more than {DEEPEST} deep"),
        (f"a: {'[' * (DEEPEST + 1)}{']' * (DEEPEST + 1)}", f"nested more than {DEEPEST} deep"),
        ("steps: 1\nsteps: 2", "the key 'steps' stands twice"),
        ("1: 2\n0x1: 3", "the key '1' stands twice"),
        ("1: 2", "1: unknown key"),
        ("null: 2", "a key is a word or a whole number"),
        ("true: 2", "a key is a word or a whole number"),
        ("1.5: 2", "a key is a word or a whole number"),
        ("[a]: 2", "a key is a word or a whole number"),
        ("{a: 1}: 2", "a key is a word or a whole number"),
        ("[a, b]", "a recipe is a mapping"),
        ("word", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
        ("# nothing", "a recipe is a mapping"),
        ("--- {a: 1}\n--- {a: 2}", "expected a single document"),
        ("*unknown", "undefined alias"),
        ("a: 0b_", "a value cannot be read"),
        (f"a: {'9' * 5000}", "a value cannot be read"),
        ("a\0b: 1", "recipe.yaml: not YAML"),
        ("a: \x1b[31m", "recipe.yaml: not YAML"),
        (b"a: \xff", "recipe.yaml: not YAML"),
        (b"\xff\xfea\0", "recipe.yaml: not YAML"),
        ('"\\0": 1', "cannot be seen"),
        (f"? {'k' * 5000}\n: 1", f"5000 characters, accepted are {LONGEST}"),
        (f"{GOOD}seed: {2**64}", "seed: expected a number of at most 63 bits"),
        (f"{GOOD}seed: .nan", "seed: expected a finite number, got nan"),
        (f'{GOOD}precision: "a\\nb"', "precision: holds a line break"),
        (f'{GOOD}precision: "\\ud800"', "precision: holds a line break or another character that cannot be seen"),
        (f'{GOOD}precision: "\\u202ebf16"', "precision: holds a line break or another character that cannot be seen"),
        (f"{GOOD}precision: {'x' * 5000}", f"precision: 5000 characters, accepted are {LONGEST}"),
        ("#" * LARGEST + "\n", f"recipe.yaml: {LARGEST + 1} bytes; a recipe has at most {LARGEST}"),
    ],
    ids=lambda value: str(value)[:30].replace("\0", "0"),
)
def test_yaml_that_is_no_recipe(text: str | bytes, words: str) -> None:
    recipe(text)
    refused(lambda: read("recipe.yaml"), words)


def test_what_yaml_may_do() -> None:
    """Anchors and merged mappings in reason, a byte order mark, a date as a word."""
    text = GOOD.replace("steps: 6", "steps: &n 6\nseed: *n") + "probes: {measure: {<<: {every: 3}}}\n"
    found = read(recipe("\ufeff" + text))
    assert (found.steps, found.seed, found.probes["measure"].every) == (6, 6, 3)


def test_a_recipe_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("folder.yaml").mkdir()
    os.mkfifo("pipe.yaml")  # reading it would wait for ever
    for name in ("folder.yaml", "pipe.yaml", "a\0b", "none.yaml"):
        with pytest.raises(Mistake, match="no such recipe"):
            read(name)
    recipe(GOOD)

    def unreadable(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", unreadable)
    refused(lambda: read("recipe.yaml"), "recipe.yaml: cannot be read (Permission denied)")


@pytest.mark.parametrize(
    "setting",
    [
        *("", "=", "=1", ".=1", "a.=1", ".a=1", "a..b=1", "data.batch", "data..batch=1"),
        *("phases.7.steps=1", "phases.-1.steps=1", "phases.1_0=1", "phases.٣=1", "phases.0.0=1", "phases.x=1"),
        *("steps.x=1", "seed.0=1", "data.crop.2=1", "data.crop.-1=1"),
        *("__class__=1", "data.__class__.__init__=1", "models.student.__dict__=1", "data.model_config=1"),
        *("optim.__pydantic_extra__=1", "losses.cross_entropy.parameters=1", "data.model_extra={a: 1}"),
        *(f"seed={'[' * 5000}", "seed=&a [*a]", "seed=1\n---\n2", "seed=\0", "seed=*x", "seed={1: 2, 1: 3}"),
        *(f"{'a.' * 5000}a=1", f"{'k' * 5000}=1", "seed=.nan", f"seed={'9' * 5000}", "data.\x1b[31m=1"),
    ],
    ids=lambda setting: ascii(setting)[:40],
)
def test_a_setting_with_a_trick(setting: str) -> None:
    whole = content(phases=[{"steps": 1, "losses": ["cross_entropy"]}])
    before = json.dumps(whole)
    with pytest.raises(Mistake) as caught:
        resolve(parse(override(whole, [setting])))
    assert "Traceback" not in str(caught.value)
    assert json.dumps(whole) == before


# Names that become files


NAMES = [
    "a/b",
    "../x",
    "..",
    ".",
    "/etc/passwd",
    "a\\b",
    "a\0b",
    "a b",
    "a.b",
    "a:b",
    "",
    "x" * 65,
    "ü",
    "a\n",
    "labels",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_no_name_of_a_file(name: str) -> None:
    models = {"models": {name: {"kind": "unet"}}, "losses": {"cross_entropy": {"student": name}}}
    refused(lambda: parse(content(**models)), "models")
    refused(lambda: parse(content(losses={name: {"kind": "cross_entropy", "student": "student"}})), "losses")
    refused(lambda: resolve(parse(content(probes={name: {}}))), "probes")


@pytest.mark.parametrize("shelf", ["models", "losses"])
def test_names_that_some_disks_take_for_one(shelf: str) -> None:
    models: dict[str, Any] = {"student": {"kind": "unet"}, "Student": {"kind": "unet"}}
    losses = {
        "a": {"kind": "cross_entropy", "student": "student"},
        "A": {"kind": "cross_entropy", "student": "student"},
    }
    said = {"models": models, "losses": losses} if shelf == "models" else {"losses": losses}
    refused(lambda: parse(content(**said)), f"{shelf}.", "differs from", "only by capitals")


@pytest.mark.parametrize(
    "kind", ["../unet", "/etc/passwd", "_blocks", "__init__", "os:system", "unet.py", "x" * 500, ":", "a:"]
)
def test_a_kind_that_is_a_path(kind: str) -> None:
    """Of a part on every shelf."""
    refused(lambda: resolve(parse(content(models={"student": {"kind": kind}}))), "models.student.kind")
    losses = {"edge": {"kind": kind, "student": "student"}}
    refused(lambda: resolve(parse(content(losses=losses))), "losses.edge.kind")
    refused(lambda: resolve(parse(content(data={"kind": kind}))), "data.kind")
    refused(lambda: resolve(parse(content(probes={kind: {}}))), "probes.")


# The run directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with two checkpoints and findings."""
    path = tmp_path_factory.mktemp("trained") / "run"
    train(small(), path)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    """A copy, to do harm to."""
    shutil.copytree(trained, tmp_path / "run")
    return Run("run")


def resumed(*settings: str) -> Run:
    return train(small("steps=8", *settings), "run", resume=True, allow_change=["steps"])


@pytest.mark.parametrize(
    "place", ["checkpoints", "findings", "best", "last", "log.jsonl", "recipe.yaml", "run.json", ".lock"]
)
def test_a_link_out_of_the_run(run: Run, tmp_path: Path, place: str) -> None:
    """What lies there would be read as ours, written over or deleted."""
    (run.path / place).rename(tmp_path / "outside")
    if place == ".lock":
        (tmp_path / "outside").write_text("kept")
    (run.path / place).symlink_to(tmp_path / "outside")

    def files() -> list[tuple[Path, int]]:
        return sorted((file, file.lstat().st_mtime_ns) for file in tmp_path.rglob("[!.]*") if file.is_file())

    before = files()
    for work in (run.require, resumed):
        refused(work, f"run/{place}: a link that leads out of the run directory")
    assert files() == before


def test_a_link_deeper_in_the_run(run: Run) -> None:
    folder = next(run.checkpoints.glob("step-*"))
    (folder / "state.json").unlink()
    (folder / "state.json").symlink_to("/etc/passwd")
    refused(run.require, "state.json: a link that leads out of the run directory")


def test_links_that_stay(run: Run) -> None:
    """Inside of a run; and a run that is reached by one."""
    (run.path / "newest").symlink_to(next(run.checkpoints.glob("step-*")).relative_to("run"))
    Path("elsewhere").symlink_to("run")
    assert Run("elsewhere").require().last_findings("measure") == run.require().last_findings("measure")


@pytest.mark.parametrize("damage", ["other names", "fewer", "more", "no table", "no JSON", "another step"])
def test_a_manifest_that_lies(run: Run, damage: str) -> None:
    """Every checkpoint's: no whole one is left, and what it names elsewhere is not looked at."""
    for folder in run.checkpoints.glob("step-*"):
        said = json.loads((folder / MANIFEST).read_text())
        digests = said["sha256"]
        changed: object = {
            "other names": {**said, "sha256": {"../../../etc/passwd": "0" * 64}},
            "fewer": {**said, "sha256": dict(list(digests.items())[:1])},
            "more": {**said, "sha256": {**digests, "../../recipe.yaml": "0" * 64}},
            "no table": {**said, "sha256": [1]},
            "no JSON": None,
            "another step": {**said, "step": 10**9},
        }[damage]
        (folder / MANIFEST).write_text("{" if changed is None else json.dumps(changed))
    refused(resumed, "checkpoints", "no whole checkpoint is left")


@pytest.mark.parametrize("png", ["../../../../secret.png", "/etc/passwd", "..", "a/b.png", "none.png", 3, None])
def test_findings_that_point_elsewhere(run: Run, png: object) -> None:
    file = max(run.path.glob("findings/measure/*/findings.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "images": {"x": png}}))
    refused(lambda: run.last_findings("measure"), str(file))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "[" * 100_000, '{"numbers": 3}', '{"images": [], "tables": []}']
)
def test_findings_of_another_form(run: Run, text: str) -> None:
    file = max(run.path.glob("findings/measure/*/findings.json"))
    file.write_text(text)
    refused(lambda: run.last_findings("measure"), str(file))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "3",
            "null",
            "NaN",
            "[" * 100_000,
            '{"splits": []}',
            '{"splits": {"train": 3}}',
            '{"other": 1}',
        ),
        '{"splits": {"train": {"fingerprint": NaN, "samples": {}}}}',
        '{"splits": {"train": {"fingerprint": "x", "samples": {"a": [1]}}}}',
        '{"splits": {"train": {"fingerprint": "x", "samples": ["../../x"]}}}',
    ],
    ids=lambda text: text[:50],
)
def test_a_quarantine_of_another_form(text: str) -> None:
    Path("bad.json").write_text(text)
    refused(lambda: assemble(small("data.quarantine=bad.json")), "data.quarantine: bad.json")


def test_a_recipe_in_a_run_is_read_with_the_same_care(run: Run) -> None:
    run.recipe_file.write_text(f"seed: !!python/object/apply:os.system ['touch {CAUGHT}']")
    refused(lambda: read(run.recipe_file), "a recipe has no tags")
    refused(resumed, "a recipe has no tags")
