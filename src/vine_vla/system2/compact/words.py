"""Instruction text as numbers: a trained vocabulary, hashed leftovers, and the schema's own words in it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vine_vla.core.graph import Schema
from vine_vla.core.packing import attribute_width

_WORD = re.compile(r"[a-z0-9]+")
HASHED = 8
"""Buckets that share the words which training never saw."""


class Texts(NamedTuple):
    """B instructions as numbers.

    Args:
        bag: scaled bag of words, the last `HASHED` places for unknown words. float32 [B, W]
        classes: 1 where the text names the object class. float32 [B, C]
        categories: 1 where the text names the attribute's category. float32 [B, F]
    """

    bag: NDArray[np.float32]
    classes: NDArray[np.float32]
    categories: NDArray[np.float32]

    def select(self, index: object) -> Texts:
        return Texts(self.bag[index], self.classes[index], self.categories[index])  # type: ignore[index]


@dataclass(frozen=True)
class Vocabulary:
    """The words of the training instructions, sorted."""

    words: tuple[str, ...]

    @classmethod
    def of(cls, instructions: Iterable[str], least: int = 2) -> Vocabulary:
        """Words that stand in at least `least` of the instructions."""
        counts = Counter(word for text in instructions for word in set(split_words(text)))
        return cls(tuple(sorted(word for word, count in counts.items() if count >= least)))

    @property
    def width(self) -> int:
        return len(self.words) + HASHED

    def encode(self, instructions: Sequence[str], schema: Schema) -> Texts:
        """`instructions` as numbers; equal texts share one computation."""
        if not instructions:
            width = attribute_width(schema)
            return Texts(*(np.zeros((0, n), np.float32) for n in (self.width, len(schema.classes), width)))
        tables = [_tables(schema_key(schema))] * len(instructions)
        rows = [_encode(self, text, table) for text, table in zip(instructions, tables, strict=True)]
        return Texts(*(np.stack(column) for column in zip(*rows, strict=True)))


def split_words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


_Table = tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]


def schema_key(schema: Schema) -> tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """The part of a schema that texts can name, hashable."""
    return schema.classes, tuple(schema.attributes.items())


@lru_cache(maxsize=32)
def _tables(key: tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]) -> _Table:
    classes, attributes = key
    slots: list[tuple[str, ...]] = []
    for _, values in attributes:
        slots += [tuple(value.split("_")) for value in values] or [(), ()]
    return tuple(tuple(name.split("_")) for name in classes), tuple(slots)


@lru_cache(maxsize=4096)
def _encode(vocabulary: Vocabulary, text: str, table: _Table) -> tuple[NDArray[np.float32], ...]:
    words = split_words(text)
    bag = np.zeros(vocabulary.width, np.float32)
    place = {word: index for index, word in enumerate(vocabulary.words)}
    for word in words:
        digest = hashlib.blake2b(word.encode(), digest_size=4).digest()
        bag[place.get(word, len(place) + int.from_bytes(digest) % HASHED)] += 1.0
    bag /= max(np.sqrt(len(words)), 1.0)
    # Plurals count: "the cups" names the class `cup`.
    known = set(words) | {word.removesuffix("s") for word in words}
    named = [
        np.array([bool(parts) and all(p in known for p in parts) for parts in group], np.float32)
        for group in table
    ]
    return bag, named[0], named[1]
