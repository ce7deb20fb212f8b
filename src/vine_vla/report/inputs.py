"""What the report reads: one results directory as checked tables.

    results/NAME/
      episodes.csv[.gz]      one row an episode (needed)
      feasibility.csv[.gz]   one row a probe or an executed option (optional)
      run.json               resolved configuration, revision, seeds, package versions (optional)
      explain.json           what `vine explain` found (optional)
      experiment.json        the named experiment that it belongs to (optional)
      repeated/feasibility.csv[.gz]   probes executed several times each (optional)
      traces/**/*.json[.gz]  recorded episodes with frames and decisions (optional, see `traces`)

Columns are those of DESIGN section 7; extra columns are kept and ignored. Everything malformed raises
`VineError` with file, field and hint; nothing is guessed and no row is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from vine_vla.core.errors import VineError
from vine_vla.evaluation.arms import ARMS, replaced_parts
from vine_vla.report.explanation import Explanation, read_explanation
from vine_vla.storage.json import read_json

COUNTS_THAT_MAY_BE_EMPTY = ("model_calls", "replans", "subgoals", "policy_seed", "training_seed")
"""Empty cells of these are 0: an arm without a planner counts no calls."""

TRUE, FALSE = frozenset({"1", "true", "1.0"}), frozenset({"0", "false", "0.0"})


@dataclass(frozen=True)
class Columns:
    """The columns of a table by kind: text, whole numbers, numbers or nothing, probabilities and flags."""

    text: tuple[str, ...]
    whole: tuple[str, ...]
    maybe: tuple[str, ...]
    probability: tuple[str, ...]
    flags: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.text, *self.whole, *self.maybe, *self.probability, *self.flags]))


EPISODES = Columns(
    text=("task", "split", "arm", "variant", "outcome", "reason"),
    whole=("scene", "training_seed", "policy_seed", "steps", "subgoals", "replans", "model_calls"),
    maybe=("plan_seconds", "plan_p", "plan_spread"),
    probability=("plan_p",),
    flags=("success",),
)
FEASIBILITY = Columns(
    text=("task", "split", "arm", "source", "subgoal"),
    whole=("scene", "training_seed", "position", "lookahead"),
    maybe=("spread", "q"),
    probability=("predicted",),
    flags=("pruned", "reached"),
)


@dataclass(frozen=True)
class Results:
    """A results directory, read and checked.

    Args:
        path: the directory.
        episodes: columns of DESIGN section 7 and `label` (arm with its variant); `success` is 1, 0, or NaN
            where the episode could not be scored; seconds and probabilities are NaN where an arm has none.
        feasibility: as the design has it, `predicted` in [0, 1], `pruned` and `reached` bool, plus
            `verb`; empty when there is no such file.
        repeated: probes that were executed several times each, as `feasibility`.
        run: what the run was, as the runner saved it, with `experiment` if it belongs to one; empty when
            there is no such file.
        explained: tables of `vine explain`; None when there is no such file.
    """

    path: Path
    episodes: pd.DataFrame
    feasibility: pd.DataFrame
    repeated: pd.DataFrame
    run: Mapping[str, object] = field(default_factory=dict)
    explained: Explanation | None = None

    @property
    def name(self) -> str:
        """Of the experiment, or else of the folder."""
        named = as_mapping(as_mapping(self.run.get("experiment")).get("experiment")).get("name")
        return named if isinstance(named, str) and named else self.path.resolve().name

    @property
    def planned(self) -> list[int]:
        """Scenes that the run set out to score, by its schedule; empty if that is not known."""
        scenes = as_mapping(self.run.get("schedule")).get("scenes")
        return [int(s) for s in scenes] if isinstance(scenes, list) else []

    @property
    def labels(self) -> list[str]:
        """Arms in the order of `evaluation.arms`, oracles last; names that are not known come first."""
        families = list(dict.fromkeys(arm.name for arm in ARMS.values()))
        known = {name: place for place, name in enumerate(families)}
        found = self.episodes["label"].unique()
        return sorted(found, key=lambda label: (known.get(label.split(" (")[0], -1), label))

    @property
    def stamp(self) -> Mapping[str, object]:
        """Revision, date and versions: of the end of the run, or of its beginning."""
        return as_mapping(self.run.get("finished")) or as_mapping(self.run.get("begun"))

    @property
    def configuration(self) -> dict[str, object]:
        """Resolved configuration, seeds and schedule."""
        return {name: value for name, value in self.run.items() if name != "finished"}

    @property
    def replaced(self) -> list[str]:
        """What the whole run had in place of something learned, a sentence each."""
        settings = as_mapping(self.run.get("settings"))
        return replaced_parts(settings.get("perception"), settings.get("skill"))

    @property
    def operator_success(self) -> float | None:
        """The operators' own success rate, if the run's description has it."""
        for part in (self.run, *(as_mapping(self.run.get(name)) for name in ("settings", "experiment"))):
            value = part.get("operators_success")
            if isinstance(value, list) and value:  # rate with its interval
                value = value[0]
            if isinstance(value, int | float) and 0 <= value <= 1:
                return float(value)
        return None


def load_results(path: Path) -> Results:
    """Read `path`; raises VineError if it is no results directory or a table is malformed."""
    if not path.is_dir():
        raise VineError(
            "no such results directory", where=str(path), hint="give results/NAME of a finished run"
        )
    episodes = _either(path / "episodes.csv")
    if episodes is None:
        hint = "run `vine eval` or `vine experiment` first"
        raise VineError("no episodes.csv or episodes.csv.gz", where=str(path), hint=hint)
    run: dict[str, object] = {}
    for file, key in ((path / "run.json", ""), (path / "experiment.json", "experiment")):
        if file.is_file():
            data = read_json(file, hint="write it anew or remove it")
            run |= {key: data} if key else data
    explain = path / "explain.json"
    return Results(
        path=path,
        episodes=read_episodes(episodes),
        feasibility=_feasibility_in(path),
        repeated=_feasibility_in(path / "repeated"),
        run=run,
        explained=read_explanation(explain) if explain.is_file() else None,
    )


def read_episodes(file: Path) -> pd.DataFrame:
    """`episodes.csv`, checked; raises VineError also when an arm ran the same scene and seeds twice."""
    table = _read_csv(file, EPISODES.all)
    if table.empty:
        raise VineError("no episodes", where=str(file), hint="the run has not finished an episode yet")
    scored = table["success"].notna()
    table = _checked(table.fillna({"success": "0"}), EPISODES, file)
    table["success"] = table["success"].astype(float).where(scored)
    table["label"] = [label(a, v) for a, v in zip(table["arm"], table["variant"], strict=True)]
    twice = table[table.duplicated(["task", "split", "scene", "label", "training_seed", "policy_seed"])]
    if not twice.empty:
        row = twice.iloc[0]
        raise VineError(
            f"{row['label']} ran scene {row['scene']} twice with the same seeds",
            where=f"{file}, line {twice.index[0] + 2}",
            hint="remove the repeated row; every pair of rows must be one scene",
        )
    return table


def read_feasibility(file: Path) -> pd.DataFrame:
    """`feasibility.csv`, checked."""
    table = _checked(_read_csv(file, FEASIBILITY.all), FEASIBILITY, file)
    table["verb"] = table["subgoal"].str.split("(").str[0]
    return table


def label(arm: str, variant: str) -> str:
    """How an arm is called in the report: `success-only (slips removed)`."""
    return f"{arm} ({variant})" if variant else arm


def as_mapping(value: object) -> Mapping[str, object]:
    """`value` if it is a mapping, else an empty one (for optional parts of `run.json`)."""
    return value if isinstance(value, Mapping) else {}


def _feasibility_in(folder: Path) -> pd.DataFrame:
    file = _either(folder / "feasibility.csv")
    if file:
        return read_feasibility(file)
    empty = pd.DataFrame({name: [] for name in (*FEASIBILITY.all, "verb")})
    return empty.astype(dict.fromkeys(FEASIBILITY.flags, bool))


def _either(file: Path) -> Path | None:
    """`file`, or `file` with .gz; two of them would leave open which one counts."""
    found = [name for name in (file, file.with_name(file.name + ".gz")) if name.is_file()]
    if len(found) == 2:
        said = f"both {found[0].name} and {found[1].name}"
        raise VineError(said, where=str(file.parent), hint="remove the older one")
    return found[0] if found else None


def _read_csv(file: Path, needed: Sequence[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    except (OSError, EOFError, ValueError) as error:  # pandas' parser errors are ValueErrors
        hint = "the file is cut or not a table; run again"
        raise VineError(f"not readable as CSV: {error}", where=str(file), hint=hint) from error
    missing = ", ".join(name for name in needed if name not in table.columns)
    if missing:
        raise VineError(f"no column {missing}", where=str(file), hint=f"columns needed: {', '.join(needed)}")
    return table


def _checked(table: pd.DataFrame, columns: Columns, file: Path) -> pd.DataFrame:
    """The table's columns in their types; VineError names line and column of the first bad cell."""
    for name in columns.text:
        table[name] = table[name].fillna("").astype(str)
    for name in dict.fromkeys([*columns.whole, *columns.maybe, *columns.probability]):
        whole = name in columns.whole
        values, blank = pd.to_numeric(table[name], errors="coerce"), table[name].isna()
        bad = (values.isna() & ~blank & (table[name].str.lower() != "nan")) | np.isinf(values)
        if name not in (*columns.maybe, *COUNTS_THAT_MAY_BE_EMPTY):
            bad |= values.isna()
        if whole:
            bad |= values.notna() & (values != np.floor(values))
        kind = "a whole number" if whole else "a number"
        _refuse(bad, table[name], file, f"not {kind}", "correct the cell")
        if name in columns.probability:
            _refuse((values < 0) | (values > 1), values, file, "", "a probability lies in [0, 1]")
        table[name] = values.fillna(0).astype(int) if whole else values.astype(float)
    for name in columns.flags:
        text = table[name].fillna("").str.strip().str.lower()
        _refuse(~text.isin(TRUE | FALSE), text, file, "", "write 0 or 1 (true or false)")
        table[name] = text.isin(TRUE)
    return table


def _refuse(bad: pd.Series, cells: pd.Series, file: Path, wanted: str, hint: str) -> None:
    """VineError about the first cell that is bad, if any."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        cell = cells.iloc[row]
        said = f"{cells.name} is {repr(cell) if isinstance(cell, str) else cell}" + (
            f", {wanted}" if wanted else ""
        )
        raise VineError(said, where=f"{file}, line {row + 2}", hint=hint)
