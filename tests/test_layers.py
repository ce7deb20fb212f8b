"""The layers of the house: who may import whom. Read from the source with `ast`, nothing is imported.

`violations` takes a source tree, so that the rules themselves are tested on trees that break them.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "vine_vla"

# Each room, and the rooms it may import. Data flows one way: a room never imports one that imports it.
CORE, PLUMBING = {"core"}, {"core", "storage", "compute", "learning"}
MAY_IMPORT = {
    "core": set(),
    "storage": CORE,
    "search": CORE,
    "agent": {"core", "search"},
    "compute": {"core", "storage"},
    "learning": {"core", "storage", "compute"},
    "data": PLUMBING,
    "tasks": {*PLUMBING, "agent", "data"},
    "system1": {*PLUMBING, "data"},
    "system2": {*PLUMBING, "data"},
    "evaluation": {*PLUMBING, "search", "agent", "data", "tasks", "system1", "system2"},
    "serving": {*PLUMBING, "search", "agent", "data", "tasks", "system1", "system2"},
    "report": {*PLUMBING, "search", "agent", "data", "tasks", "system1", "system2", "evaluation"},
}
EVERYTHING = {*MAY_IMPORT, "cli"}
# Rooms that stay light, and what they may use besides the standard library; core has scipy for its assignment
# alone, a hundred times as fast as one written in NumPy.
LIBRARIES = {"core": {"numpy", "scipy"}, "search": {"numpy", "numba", "lazy_loader"}, "agent": {"numpy"}}
# Sub-packages that are reached by name, through a registry: nobody outside imports what is in them, but for
# the scripts that measure their parts.
CLOSED = {"system2.compact"}
MEASURE_INSIDES = {
    "benchmarks/planning_step.py",
    "studies/failures.py",
    "studies/gates.py",
    "studies/support.py",
}


def imports(tree: ast.AST, module: tuple[str, ...], is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything imported, also in functions and by `import_module`.

    `from a import b` gives `a.b`, since b may be a module.
    """
    package = (PACKAGE, *module) if is_package else (PACKAGE, *module[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            base += [node.module] if node.module else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, alias.name])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def violations(source: Path) -> list[str]:
    """Every import under `source` (the folder of the package) that crosses a layer the wrong way."""
    found = []
    for file in sorted(source.rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        room = parts[0] if len(parts) > 1 else "core"  # the package's own __init__ is held to what core is
        where = file.relative_to(source)
        if room not in EVERYTHING or parts[0] not in {*EVERYTHING, "__init__"}:
            found.append(f"{where}: the room {room} has no layer yet: give it one in this test")
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
        if parts == ("__init__",):
            # The package's front door may open higher rooms when asked (`vine_vla.load`), not on import.
            tree = ast.Module([n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.If)], [])
        module = parts[:-1] if is_package else parts
        for line, name in imports(tree, module, is_package):
            top, *rest = name.split(".")
            if top != PACKAGE:
                light = LIBRARIES.get(room)
                if light is not None and top not in light and top not in sys.stdlib_module_names:
                    found.append(
                        f"{where}:{line}: {room} imports {top}, allowed are {', '.join(sorted(light))}"
                    )
                continue
            found += _into_closed(where, line, module, rest)
            target = rest[0] if rest and rest[0] in EVERYTHING else "core"
            if room != "cli" and target != room and target not in MAY_IMPORT[room]:
                found.append(f"{where}:{line}: {room} imports {target}")
    return found


def _into_closed(where: Path, line: int, module: tuple[str, ...], rest: list[str]) -> list[str]:
    """A finding if the dotted name `rest`, the package's own left out, lies in a closed sub-package.

    What is in it, and the registry beside it, may import it.
    """
    for closed in CLOSED:
        parts = closed.split(".")
        inside = module[: len(parts)] == tuple(parts)
        by_registry = module == (parts[0], "registry") and rest == parts
        if rest[: len(parts)] == parts and not inside and not by_registry:
            return [f"{where}:{line}: {closed} is reached through {parts[0]}.registry alone"]
    return []


def test_the_layers_hold(repository: Path) -> None:
    assert violations(repository / "src" / PACKAGE) == []


def test_scripts_reach_backends_through_the_registry(repository: Path) -> None:
    reaching = set()
    for folder in ("benchmarks", "studies", "examples", "plugins"):
        for file in (repository / folder).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            names = [name.split(".")[1:] for _, name in imports(tree, ("script",), False)]
            if any(_into_closed(file, 0, (), name) for name in names):
                reaching.add(str(file.relative_to(repository)))
    assert reaching == MEASURE_INSIDES


def test_light_rooms_are_held_to_strict_types(repository: Path) -> None:
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"] is True
    assert {f"src/{PACKAGE}/core", f"src/{PACKAGE}/search"} <= set(settings["files"])


@pytest.mark.parametrize(
    ("file", "code", "finding"),
    [
        ("core/graph.py", "import torch", "core imports torch"),
        ("core/graph.py", "def late():\n    from sklearn import metrics", "core imports sklearn"),
        ("core/options.py", "from vine_vla.search import plan", "core imports search"),
        ("core/options.py", "from ..search.tree import plan", "core imports search"),
        ("core/options.py", "from vine_vla import agent", "core imports agent"),
        ("__init__.py", "from vine_vla.system2.load import load", "core imports system2"),
        ("search/tree.py", "import vine_vla.system2.value", "search imports system2"),
        ("search/tree.py", "import torch.nn", "search imports torch"),
        ("search/__init__.py", "from ..tasks import plug", "search imports tasks"),
        ("data/read.py", "from vine_vla.tasks.plug import Plug", "data imports tasks"),
        ("tasks/plug.py", "from vine_vla.system1 import policy", "tasks imports system1"),
        ("system1/policy.py", "from vine_vla.system2 import perceive", "system1 imports system2"),
        ("system1/policy.py", "from vine_vla.tasks import plug", "system1 imports tasks"),
        (
            "system1/policy.py",
            "from importlib import import_module as i\nimport_module('vine_vla.search.tree')",
            "search",
        ),
        ("system2/value.py", "from vine_vla.system1 import policy", "system2 imports system1"),
        ("system2/value.py", "def late():\n    import vine_vla.tasks", "system2 imports tasks"),
        ("system2/value.py", "from vine_vla.search import tree", "system2 imports search"),
        ("agent/loop.py", "from vine_vla.system1.policy import Policy", "agent imports system1"),
        ("agent/loop.py", "import torch", "agent imports torch"),
        ("evaluation/arms.py", "from vine_vla.report import html", "evaluation imports report"),
        ("evaluation/arms.py", "from vine_vla.cli import main", "evaluation imports cli"),
        ("gadgets/new.py", "import os", "has no layer yet"),
        ("cli/plan.py", "from vine_vla.system2.compact import model", "through system2.registry alone"),
        ("cli/plan.py", "import vine_vla.system2.compact.model as m", "through system2.registry alone"),
        ("system2/value.py", "from .compact.model import Net", "through system2.registry alone"),
        (
            "system2/value.py",
            "from importlib import import_module\nimport_module('vine_vla.system2.compact.nets')",
            "through system2.registry alone",
        ),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, code: str, finding: str) -> None:
    sound = {
        "__init__.py": "import vine_vla.core.graph\ndef load(p):\n    from vine_vla.system2 import x",
        "core/graph.py": "import numpy as np\nfrom dataclasses import dataclass",
        "core/options.py": "from .graph import SceneGraph",
        "agent/loop.py": "from vine_vla.search import tree\nfrom vine_vla.core import protocols",
        "search/__init__.py": "from .tree import plan",
        "search/tree.py": "import numba\nfrom ..core.graph import SceneGraph",
        "data/read.py": "import pyarrow\nfrom vine_vla.core.graph import SceneGraph",
        "tasks/plug.py": "import mujoco\nfrom vine_vla.data.record.recorder import Recorder",
        "system1/policy.py": "import torch\nfrom vine_vla.data import read\nfrom .blocks import Block",
        "system2/value.py": "import torch\nfrom vine_vla.core.graph import SceneGraph",
        "evaluation/arms.py": "from vine_vla.system1 import policy\nfrom vine_vla.tasks import plug",
        "report/html.py": "from vine_vla.evaluation import arms",
        "cli/plan.py": "from vine_vla.report import html\nfrom vine_vla.system2 import value",
    }
    for name, text in sound.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert violations(tmp_path) == []

    planted = tmp_path / file
    planted.parent.mkdir(exist_ok=True)
    planted.write_text(code)
    found = violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(file)
    assert finding in found[0]
