"""Distil a large driving-scene segmentation network into one small enough for a car, and know that it worked.

The names below are loaded when they are first used, so that `segdistill --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segdistill.assemble import load
    from segdistill.calibrating import calibrate
    from segdistill.comparing import compare
    from segdistill.demonstration import demo
    from segdistill.evaluation import evaluate
    from segdistill.mistakes import Mistake
    from segdistill.parts import allow_plugin
    from segdistill.planning import plan
    from segdistill.prediction import predict
    from segdistill.recipe import Recipe, read
    from segdistill.replaying import replay
    from segdistill.reporting import report
    from segdistill.run import Run
    from segdistill.training import train

__version__ = "0.1.0"

_HOMES = {
    "calibrate": "calibrating",
    "compare": "comparing",
    "load": "assemble",
    "demo": "demonstration",
    "evaluate": "evaluation",
    "Mistake": "mistakes",
    "allow_plugin": "parts",
    "plan": "planning",
    "predict": "prediction",
    "Recipe": "recipe",
    "read": "recipe",
    "replay": "replaying",
    "report": "reporting",
    "Run": "run",
    "train": "training",
}

__all__ = [
    "Mistake",
    "Recipe",
    "Run",
    "allow_plugin",
    "calibrate",
    "compare",
    "demo",
    "evaluate",
    "load",
    "plan",
    "predict",
    "read",
    "replay",
    "report",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'segdistill' has no attribute '{name}'")
    return getattr(import_module(f"segdistill.{_HOMES[name]}"), name)
