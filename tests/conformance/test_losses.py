"""Every loss on the shelf keeps the protocol; what that is stands in segdistill.testing."""

from segdistill import parts
from segdistill.testing import LossSuite


def test_the_shelf_is_not_empty() -> None:
    assert {"cross_entropy", "soft_targets"} <= set(parts.names("losses"))


class TestLosses(LossSuite):
    kinds = parts.names("losses")
