"""Options are the library's own settings: none is declared twice, and each has a text."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import tyro

from vine_vla.cli import commands


def parts(hint: Any) -> tuple[Any, list[Any]]:
    """A type without its annotations, and the annotations."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        kind, more = parts(inner)
        return kind, [*more, *notes]
    return hint, []


def dataclass_of(hint: Any) -> type | None:
    kind = get_origin(hint) or hint
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def configs(name: str) -> list[Any]:
    """What a command can be given: a configuration, or one for each sub-command."""
    module = import_module(f"vine_vla.cli.{name.replace('-', '_')}")
    special = getattr(module, "config_type", None)
    found = special([]) if special else get_type_hints(module.run, include_extras=True)["config"]
    found, _ = parts(found)
    kinds = [found] if dataclass_of(found) else [parts(kind)[0] for kind in get_args(found)]
    return [kind for kind in kinds if dataclass_of(kind)]  # tyro adds None to a union of one sub-command


def documented(kind: type) -> set[str]:
    """Fields with a docstring of their own, those of the classes it extends among them."""
    found = set()
    for base in filter(is_dataclass, kind.__mro__):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for one, two in zip(body, body[1:], strict=False):
            text = isinstance(two, ast.Expr) and isinstance(two.value, ast.Constant)
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and text:
                found.add(one.target.id)
    return found


def options(config: Any) -> Iterator[tuple[type, str, bool]]:
    """Class, name and whether there is a text, of every option; those of embedded settings too."""
    kind = dataclass_of(config)
    assert kind is not None, config
    generic = dict(zip(getattr(kind, "__type_params__", ()), get_args(config), strict=False))
    names = {parameter.__name__: parameter for parameter in generic}
    hints, texts = get_type_hints(kind, localns=names, include_extras=True), documented(kind)
    for field in fields(kind):
        hint, notes = parts(hints[field.name])
        hint = generic.get(hint, hint)
        if tyro.conf.Suppress in notes or any("Suppress" in repr(note) for note in notes):
            continue
        if dataclass_of(hint):
            yield from options(hint)
        else:
            told = field.name in texts or any(getattr(note, "help", None) for note in notes)
            yield kind, field.name, told


def doubled(config: Any) -> list[str]:
    """Options that two of the embedded classes declare."""
    names = [name for _, name, _ in options(config)]
    return sorted({name for name in names if names.count(name) > 1})


@pytest.mark.parametrize("name", commands())
def test_no_option_is_declared_twice(name: str) -> None:
    assert {str(config): doubled(config) for config in configs(name) if doubled(config)} == {}


@pytest.mark.parametrize("name", commands())
def test_every_option_has_a_text(name: str) -> None:
    bare = [f"{kind.__name__}.{field}" for c in configs(name) for kind, field, told in options(c) if not told]
    assert bare == []


@dataclass(frozen=True)
class Settings:
    """Of a library."""

    steps: int = 1
    """Gradient steps."""
    seed: int = 0


@dataclass(frozen=True)
class Mirrored:
    """A command that repeats what it embeds."""

    settings: Annotated[Settings, tyro.conf.OmitArgPrefixes]
    steps: int = 2
    """Gradient steps."""


def test_both_rules_find_what_breaks_them() -> None:
    assert doubled(Mirrored) == ["steps"]
    assert [field for _, field, told in options(Mirrored) if not told] == ["seed"]
