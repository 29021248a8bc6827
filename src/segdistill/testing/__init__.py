"""The shelves' protocols as pytest suites: what a part has to keep, for our parts and for those of your own package.

    from segdistill.testing import LossSuite

    class TestMyLosses(LossSuite):
        kinds = ["my_package.my_loss:MyLoss"]

A class of the suite's tests for every kind; `settings` says what a recipe says to it. Needs pytest.
"""

import pytest

# Before the first import of those modules: pytest then shows the two sides of an assertion that fails there.
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in ("datasets", "losses", "models")))

from segdistill.testing.datasets import DatasetSuite  # noqa: E402
from segdistill.testing.losses import LossSuite  # noqa: E402
from segdistill.testing.models import ModelSuite  # noqa: E402

__all__ = ["DatasetSuite", "LossSuite", "ModelSuite"]
