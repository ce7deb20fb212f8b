"""A file of words: the user's own classes, attributes, predicates and verbs, before anything is annotated.

The fields of `schema` in `meta/vine.json`, each of them optional:

    {"classes": ["cup", "saucer", "gripper"],
     "attributes": {"colour": ["red", "blue"], "height": []},
     "verbs": [{"name": "place", "arguments": ["cup", "saucer"], "template": "place {0} on {1}"}],
     "predicates": ["left_of", "near", "inside", "held"],
     "describing": ["colour"]}

An attribute without categories is a number. Predicates are chosen from those that VINE derives from boxes.
"""

from __future__ import annotations

from pathlib import Path
from string import Formatter

import msgspec

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema, Verb
from vine_vla.core.relations import PREDICATES
from vine_vla.storage.json import read_typed


class _Words(msgspec.Struct, forbid_unknown_fields=True):
    classes: tuple[str, ...] = ()
    attributes: dict[str, tuple[str, ...]] = {}
    predicates: tuple[str, ...] = ()
    verbs: tuple[Verb, ...] = ()
    describing: tuple[str, ...] = ()


def read_words(path: Path, known: Schema) -> Schema:
    """The vocabulary in a file of words; what it leaves out is empty.

    Args:
        known: of the dataset; its cameras hold, and verbs may take its classes.

    Raises:
        VineError: the file cannot be read, or a word is malformed or unknown.
    """
    where = str(path)
    words = read_typed(path, _Words, hint=f"fields: {', '.join(_Words.__struct_fields__)}")
    classes = (*words.classes, *(c for c in known.classes if c not in words.classes))
    try:
        schema = Schema(
            classes, words.attributes, words.predicates, words.verbs, known.cameras, words.describing
        )
    except VineError as error:
        raise VineError(error.what, where=where, hint=error.hint) from error
    for name in schema.predicates:
        if name not in PREDICATES:
            raise VineError(
                f"unknown predicate {name}",
                where=f"{where}, field predicates",
                hint=f"VINE derives {', '.join(PREDICATES)}; anything else can be an attribute",
            )
    for name in schema.describing:
        if name not in {**known.attributes, **schema.attributes}:
            raise VineError(f"{name} is no attribute", where=f"{where}, field describing")
    for verb in schema.verbs:
        _check_template(verb, f"{where}, verb {verb.name}")
    return schema


def _check_template(verb: Verb, where: str) -> None:
    """A template has a slot for every argument: another would end in an error when a subgoal is described."""
    try:
        slots = {field for _, field, _, _ in Formatter().parse(verb.template) if field is not None}
    except ValueError as error:
        raise VineError(f"malformed template: {error}", where=where) from error
    if slots != {str(i) for i in range(len(verb.arguments))}:
        wanted = " ".join(f"{{{i}}}" for i in range(len(verb.arguments)))
        raise VineError(
            f"template {verb.template!r} does not fit {len(verb.arguments)} arguments",
            where=where,
            hint=f"use the slots {wanted}" if wanted else "use no slots",
        )
