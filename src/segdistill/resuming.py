"""Whether a run directory may be used: a new run finds none there, a resumed one the run that it was."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from segdistill.assemble import Assembly, difference
from segdistill.mistakes import Mistake, nearest
from segdistill.recipe import differences, flat, read
from segdistill.run import Run, provenance


def refuse_begun(directory: Run) -> None:
    """The mistake of beginning a run where one is."""
    if directory.begun():
        raise Mistake(f"{directory.path}: a run is there already; --resume goes on with it, --run names another")


def reopened(directory: Run, assembly: Assembly, allow_change: Sequence[str], processes: int) -> dict[str, Any]:
    """What run.json is to say, having seen that a run that is resumed is of the same recipe, data and teachers."""
    directory.sweep()
    now = provenance(assembly.recipe.seed)
    began: dict[str, Any] = {
        "processes": processes,
        "threads": torch.get_num_threads(),
        "classes": list(assembly.classes.names),
        "fingerprints": dict(assembly.fingerprints),
    }
    info: dict[str, Any] = {**now, **began}
    if directory.begun():
        info = directory.info()
        if not {"versions", "fingerprints"} <= info.keys():
            raise Mistake(f"{directory.info_file}: damaged; expected versions and fingerprints")
        _refuse_changes(directory, info, assembly, allow_change)
        for what, before, after in (
            *((name, info.get(name, began[name]), began[name]) for name in ("processes", "threads")),
            *((name, info["versions"].get(name), now["versions"][name]) for name in ("torch", "segdistill")),
        ):
            if before != after:
                said = f"{directory.path}: it began with {what} {before} and goes on with {after}"
                print(f"segdistill: {said}: the same samples in the same order, but not the same bits", file=sys.stderr)
        info |= began | {"resumed": [*info.get("resumed", []), now["date"]]}
    return info


def _refuse_changes(directory: Run, info: Mapping[str, Any], assembly: Assembly, allow_change: Sequence[str]) -> None:
    """A run goes on with the recipe, classes, data and teachers that it began with, or with what may differ.

    Raises:
        Mistake: it names what differs, and how it is permitted.
    """
    try:
        old = read(directory.recipe_file)
    except Mistake as mistake:
        raise Mistake(f"{directory.recipe_file}: damaged, or of another version: {mistake}") from mistake
    prints = {f"fingerprints.{name}" for name in (*info["fingerprints"], *assembly.fingerprints)}
    known = {*flat(old), *flat(assembly.recipe), "classes", *prints}
    for allowed in allow_change:
        if not any(key == allowed or key.startswith(allowed + ".") for key in known):
            raise Mistake(f"--allow-change {allowed}: the recipe has no such key{nearest(allowed, known)}")

    def permitted(key: str) -> bool:
        return any(key == allowed or key.startswith(allowed + ".") for allowed in allow_change)

    for key, (before, after) in differences(old, assembly.recipe).items():
        if not permitted(key):
            raise Mistake(f"{key}: the run has {before}, this recipe has {after}; --allow-change {key} permits it")
        if key == "optim.kind":
            raise Mistake(f"optim.kind: the run has {before}, whose moments mean nothing to {after}; begin another run")
    names = tuple(info.get("classes", assembly.classes.names))
    if names != assembly.classes.names and not permitted("classes"):
        found = difference(names, assembly.classes).replace("the weights", "the run")
        raise Mistake(f"classes: the run began with others than the data: {found}; --allow-change classes permits it")
    for name, before in info["fingerprints"].items():
        after = assembly.fingerprints.get(name)
        if after != before and not permitted(f"fingerprints.{name}"):
            raise Mistake(
                f"fingerprints.{name}: the run began with {before}, now it is {after}: other data or another "
                f"teacher; --allow-change fingerprints.{name} permits it"
            )
