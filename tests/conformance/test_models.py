"""Every model on the shelf keeps the protocol; what that is stands in segdistill.testing."""

from typing import Any

import pytest

from segdistill import parts
from segdistill.testing import ModelSuite

pytestmark = pytest.mark.extras
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"width": 4, "depth": 3},
    "timm": {"encoder": "test_efficientnet", "width": 4},
    "smp": {"options": {"decoder_channels": [32, 16, 8, 8, 4]}},
    "hooked": {
        "module": "foreign_network:make",
        "arguments": {"num_classes": 5},
        "taps": {"stem": "stem", "deep": "deep[1]['features']", "logits": "['out']"},
        "multiple": 8,
    },
}
"""Settings of the models whose defaults are large, or that have none."""
parts.allow_plugin("foreign_network")


class TestModels(ModelSuite):
    kinds = parts.names("models")
    settings = SMALL
