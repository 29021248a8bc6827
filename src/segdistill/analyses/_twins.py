"""Pictures that are nearly the same: pairs whose difference hashes differ in few of 64 bits."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 1 << 22
"""Pairs compared at once."""


class Twins(NamedTuple):
    """Pairs, the nearest first."""

    first: np.ndarray
    second: np.ndarray
    bits: np.ndarray


def across(first: np.ndarray, second: np.ndarray, bits: int) -> Twins:
    """The pairs of two sets of uint64 hashes that differ in at most so many bits."""
    ones, others, apart = ([np.empty(0, np.int64)] for _ in range(3))
    for begin, distance in _blocks(first, second):
        one, other = np.nonzero(distance <= bits)
        ones.append(one + begin)
        others.append(other)
        apart.append(distance[one, other])
    one, other, distance = (np.concatenate(parts) for parts in (ones, others, apart))
    order = np.argsort(distance, kind="stable")
    return Twins(one[order], other[order], distance[order])


def nearest(hashes: np.ndarray) -> np.ndarray:
    """int64 [images]: in how many bits each one's nearest neighbour in the set differs; 65 where there is none."""
    found = np.full(len(hashes), 65)
    for begin, distance in _blocks(hashes, hashes):
        here = np.arange(len(distance))
        distance[here, begin + here] = 65
        found[begin : begin + len(distance)] = distance.min(1)
    return found


def _blocks(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, distances [rows, len(second)])."""
    rows = max(1, BLOCK // max(1, len(second)))
    for begin in range(0, len(first) if len(second) else 0, rows):
        yield begin, _ones(first[begin : begin + rows, None] ^ second[None])


def _ones(words: np.ndarray) -> np.ndarray:
    """How many bits of each uint64 are set: sums of pairs, of fours, of bytes, then of the word."""
    words = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    words = (words & np.uint64(0x3333333333333333)) + ((words >> np.uint64(2)) & np.uint64(0x3333333333333333))
    words = (words + (words >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((words * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.int64)
