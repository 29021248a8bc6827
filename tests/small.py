"""A recipe that trains in seconds: tiny scenes, tiny networks, every kind of node."""

from typing import Any

from segdistill.recipe import Recipe, override, parse


def content(**more: Any) -> dict[str, Any]:
    """A student under labels; keys of `more` replace the recipe's."""
    return {
        "data": {
            "kind": "streets",
            "count": 12,
            "val_count": 4,
            "scene_size": [48, 64],
            "crop": [32, 48],
            "batch": 4,
            "cache": True,
        },
        "models": {"student": {"kind": "unet", "width": 4, "depth": 2}},
        "losses": {"cross_entropy": {"student": "student"}},
        "optim": {"lr": 0.01},
        "steps": 6,
        "log": {"every": 1, "wandb": "off"},
        "checkpoint": {"every": 3},
        **more,
    }


def small(*settings: str, **more: Any) -> Recipe:
    return parse(override(content(**more), settings))


def online() -> dict[str, Any]:
    """Two networks that learn from labels, one also from the other and from its own moving average, with an adapter."""
    return {
        "models": {
            "teacher": {"kind": "unet", "width": 6, "depth": 2},
            "student": {"kind": "unet", "width": 4, "depth": 2},
            "average": {"follows": "student", "decay": 0.9},
        },
        "losses": {
            "teach": {"kind": "cross_entropy", "student": "teacher", "label_smoothing": 0.1},
            "learn": {"kind": "cross_entropy", "student": "student", "class_weights": "erfnet"},
            "listen": {"kind": "soft_targets", "student": "student", "target": "teacher", "temperature": 2, "ramp": 4},
            "deep": {"kind": "soft_targets", "student": "student.dec2", "target": "teacher.dec2", "weight": 0.1},
            "steady": {"kind": "soft_targets", "student": "student", "target": "average", "weight": 0.5},
        },
    }
