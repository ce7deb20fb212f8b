"""A registry of named things: this package's own, and what installed packages bring by entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from vine_vla.core.errors import VineError


class Registry[T]:
    """Things of one type by name; nothing is imported before it is asked for.

    Args:
        kind: what they are, in a word (`task`).
        type_: their class; each has a `name`.
        group: the entry points of other packages.
        built_in: name -> module of this package, which holds the thing as `KIND` in capitals.
    """

    def __init__(self, kind: str, type_: type[T], group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.type, self.group, self.built_in = kind, type_, group, built_in
        self._load = cache(self._load_once)

    def names(self) -> tuple[str, ...]:
        """All names, this package's first."""
        return (*self.built_in, *sorted(set(self._points()) - set(self.built_in)))

    def find(self, name: str) -> T:
        """The thing called `name`.

        Raises:
            VineError: there is none, or the package that brings it does not work.
        """
        return self._load(name)

    def _points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def _load_once(self, name: str) -> T:
        if name in self.built_in:
            found = getattr(import_module(self.built_in[name]), self.kind.upper())
        else:
            point = self._points().get(name)
            if point is None:
                raise VineError(
                    f"unknown {self.kind} {name!r}", hint=f"known {self.kind}s: {', '.join(self.names())}"
                )
            try:
                found = point.load()
            except Exception as error:  # somebody else's package: whatever it raises is bad input to us
                raise VineError(
                    f"{self.kind} {name!r} cannot be loaded: {type(error).__name__}: {error}",
                    where=point.value,
                ) from error
        if not isinstance(found, self.type) or getattr(found, "name", None) != name:
            raise VineError(f"{self.kind} {name!r} is no `{self.type.__name__}` of that name")
        return found
