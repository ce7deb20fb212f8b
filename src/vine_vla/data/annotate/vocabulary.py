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

import json
from pathlib import Path
from string import Formatter

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema, Verb
from vine_vla.core.relations import PREDICATES

FIELDS = ("classes", "attributes", "predicates", "verbs", "describing")


def read_words(path: Path, known: Schema) -> Schema:
    """The vocabulary in a file of words; what it leaves out is empty.

    Args:
        known: of the dataset; its cameras hold, and verbs may take its classes.

    Raises:
        VineError: the file cannot be read, or a word is malformed or unknown.
    """
    where = str(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VineError(f"cannot be read: {error}", where=where) from error
    if not isinstance(data, dict):
        raise VineError("no JSON object", where=where, hint=f"fields: {', '.join(FIELDS)}")
    if unknown := sorted(set(data) - set(FIELDS)):
        raise VineError(f"unknown field {unknown[0]}", where=where, hint=f"fields: {', '.join(FIELDS)}")
    blank = {"classes": [], "attributes": {}, "predicates": [], "verbs": [], "cameras": list(known.cameras)}
    classes = list(data.get("classes", []))
    data["classes"] = [*classes, *(c for c in known.classes if c not in classes)]
    try:
        found = Schema.from_json(blank | data, where=where)
    except VineError as error:
        raise VineError(error.what, where=where, hint=error.hint) from error
    for name in found.predicates:
        if name not in PREDICATES:
            raise VineError(
                f"unknown predicate {name}",
                where=f"{where}, field predicates",
                hint=f"VINE derives {', '.join(PREDICATES)}; anything else can be an attribute",
            )
    for name in found.describing:
        if name not in {**known.attributes, **found.attributes}:
            raise VineError(f"{name} is no attribute", where=f"{where}, field describing")
    for verb in found.verbs:
        _check_template(verb, f"{where}, verb {verb.name}")
    return found


def _check_template(verb: Verb, where: str) -> None:
    """A template has a slot for every argument: another would end in an error when something is said."""
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
