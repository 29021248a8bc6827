"""What a user did wrong, in one sentence; and the nearest thing to what they may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class Mistake(ValueError):
    """A mistake of the user's: its message is one sentence with the path, what we got and what we accept."""


class MissingExtra(Mistake):
    """A part was named whose optional packages are not installed here."""


def one_of(options: Iterable[str]) -> str:
    """`a, b and c`, in the order given."""
    names = list(options)
    if not names:
        return "nothing"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def nearest(name: str, options: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or nothing when no option is near."""
    names = list(options)
    folded = {option.lower(): option for option in names}
    close = get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return f" (did you mean '{folded[close[0]]}'?)" if close else ""
