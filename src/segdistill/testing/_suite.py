"""What the suites have in common: a test class names the parts that it tries."""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from segdistill import parts
from segdistill.mistakes import Mistake, nearest, one_of


class Suite(ABC):
    """Tests of a shelf's protocol; a subclass `Test…` in a test file says of which parts."""

    shelf: ClassVar[str]

    kinds: ClassVar[Sequence[str]]
    """The parts, as a recipe names them: `hint`, or `my_package.my_loss:MyLoss`."""

    settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """By kind, what a recipe says to the part; its defaults where nothing is said."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every test once for every kind.

        Raises:
            Mistake: no kinds, which pytest would let pass, or settings of another kind.
        """
        here = type(self).__name__
        if isinstance(self.kinds, str) or not self.kinds:
            raise Mistake(f"{here}.kinds: expected a list of the {self.shelf} to test, got {self.kinds!r}")
        for kind in self.settings:
            if kind not in self.kinds:
                found = f"; they are {one_of(self.kinds)}{nearest(kind, self.kinds)}"
                raise Mistake(f"{here}.settings: '{kind}' is not among the kinds{found}")
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", self.kinds, scope="class")

    @classmethod
    def part(cls, kind: str) -> type[Any]:
        """The class that a recipe's `kind` means. A package named in a test is the author's own: it is allowed."""
        module, colon, _ = kind.partition(":")
        if colon:
            parts.allow_plugin(module.split(".")[0])
        return parts.find(cls.shelf, kind, kind)

    @classmethod
    def make(cls, kind: str, said: Mapping[str, Any], **supplied: object) -> Any:
        """The part from what a recipe says to it and the facts that it asks for."""
        part = cls.part(kind)
        return parts.build(part, parts.settings(part, said, kind), **supplied)
