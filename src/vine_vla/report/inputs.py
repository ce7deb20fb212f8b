"""What the report reads: one results directory as typed tables and traces.

    results/NAME/
      episodes.csv[.gz]      one row an episode (needed)
      feasibility.csv[.gz]   one row a probe or an executed option (optional)
      run.json               resolved configuration, revision, seeds, package versions (optional)
      explain.json           what `vine explain` found (optional)
      experiment.json        the named experiment that it belongs to (optional)
      repeated/feasibility.csv[.gz]   probes executed several times each (optional)
      traces/**/*.json[.gz]  recorded episodes with frames and decisions (optional, see `traces`)

Columns are those of DESIGN section 7. Extra columns are kept and ignored. Everything malformed raises
`VineError` with file, field and hint; nothing is guessed and no row is dropped in silence.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from vine_vla.core.errors import VineError
from vine_vla.report.explanation import check_explanation

EPISODE_TEXT = ("task", "split", "arm", "variant", "outcome", "reason")
EPISODE_NUMBERS = ("scene", "training_seed", "policy_seed", "steps", "subgoals", "replans", "model_calls")
EPISODE_MAYBE = ("plan_seconds", "plan_p", "plan_spread")
FEASIBILITY_TEXT = ("task", "split", "arm", "source", "subgoal")
FEASIBILITY_NUMBERS = ("scene", "training_seed", "position", "lookahead")
FEASIBILITY_MAYBE = ("spread", "q")

TRUE, FALSE = frozenset({"1", "true", "1.0"}), frozenset({"0", "false", "0.0"})


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
        explained: tables of `vine explain`; empty when there is no such file.
        run: what the run was, as the runner saved it, with `experiment` if it belongs to one; empty when
            there is no such file.
    """

    path: Path
    episodes: pd.DataFrame
    feasibility: pd.DataFrame
    repeated: pd.DataFrame
    run: Mapping[str, object] = field(default_factory=dict)
    explained: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def planned(self) -> list[int]:
        """Scenes that the run set out to score, by its schedule; empty if that is not known."""
        schedule = self.run.get("schedule")
        scenes = schedule.get("scenes") if isinstance(schedule, Mapping) else None
        return [int(s) for s in scenes] if isinstance(scenes, list) else []

    @property
    def labels(self) -> list[str]:
        """Arms in the order of the table of arms, weakest family first, `vine` and oracles last."""
        return sorted(self.episodes["label"].unique(), key=lambda label: (_rank(label), label))


ARM_ORDER = (
    *("act", "diffusion", "flat", "flat-all", "imitate", "imitate-all", "success-only", "best-of-K"),
    *(
        "greedy",
        "vine",
        "oracle-plan",
        "oracle-perception",
        "oracle-dynamics",
        "oracle-value",
        "oracle-skill",
    ),
)


def _rank(label: str) -> int:
    arm = label.split(" (")[0]
    return ARM_ORDER.index(arm) if arm in ARM_ORDER else len(ARM_ORDER)


def load_results(path: Path) -> Results:
    """Read `path`; raises VineError if it is no results directory or a table is malformed."""
    if not path.is_dir():
        raise VineError(
            "no such results directory", where=str(path), hint="give results/NAME of a finished run"
        )
    episodes_file = _either(path / "episodes.csv")
    if episodes_file is None:
        raise VineError(
            "no episodes.csv or episodes.csv.gz",
            where=str(path),
            hint="run `vine eval` or `vine experiment` first",
        )
    run: dict[str, object] = {}
    if (path / "run.json").is_file():
        run = read_json(path / "run.json")
    if (path / "experiment.json").is_file():
        run["experiment"] = read_json(path / "experiment.json")
    explained: dict[str, object] = {}
    if (path / "explain.json").is_file():
        explained = read_json(path / "explain.json")
        check_explanation(explained, str(path / "explain.json"))
    return Results(
        path=path,
        episodes=read_episodes(episodes_file),
        feasibility=_feasibility_in(path),
        repeated=_feasibility_in(path / "repeated"),
        run=run,
        explained=explained,
    )


def _feasibility_in(folder: Path) -> pd.DataFrame:
    file = _either(folder / "feasibility.csv")
    return read_feasibility(file) if file else _empty_feasibility()


def read_episodes(file: Path) -> pd.DataFrame:
    """`episodes.csv`, checked; raises VineError also when an arm ran the same scene and seeds twice."""
    table = _read_csv(file, (*EPISODE_TEXT, *EPISODE_NUMBERS, *EPISODE_MAYBE, "success"))
    if table.empty:
        raise VineError("no episodes", where=str(file), hint="the run has not finished an episode yet")
    for column in EPISODE_TEXT:
        table[column] = table[column].fillna("").astype(str)
    for column in EPISODE_NUMBERS:
        table[column] = _numbers(table, column, file, whole=True)
    for column in EPISODE_MAYBE:
        table[column] = _numbers(table, column, file, maybe=True)
    scored = table["success"].notna()
    table.loc[~scored, "success"] = "0"
    table["success"] = _flags(table, "success", file).astype(float).where(scored)
    _within(table, "plan_p", file)
    table["label"] = [label(a, v) for a, v in zip(table["arm"], table["variant"], strict=True)]
    keys = ["task", "split", "scene", "label", "training_seed", "policy_seed"]
    twice = table[table.duplicated(keys)]
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
    table = _read_csv(
        file, (*FEASIBILITY_TEXT, *FEASIBILITY_NUMBERS, *FEASIBILITY_MAYBE, "predicted", "pruned", "reached")
    )
    for column in FEASIBILITY_TEXT:
        table[column] = table[column].fillna("").astype(str)
    for column in FEASIBILITY_NUMBERS:
        table[column] = _numbers(table, column, file, whole=True)
    for column in FEASIBILITY_MAYBE:
        table[column] = _numbers(table, column, file, maybe=True)
    table["predicted"] = _numbers(table, "predicted", file)
    _within(table, "predicted", file)
    for column in ("pruned", "reached"):
        table[column] = _flags(table, column, file)
    table["verb"] = table["subgoal"].str.split("(").str[0]
    return table


def label(arm: str, variant: str) -> str:
    """How an arm is called in the report: `success-only (slips removed)`."""
    return f"{arm} ({variant})" if variant else arm


def read_json(file: Path) -> dict[str, object]:
    """A JSON object from a plain or gzipped file; VineError if it is none."""
    try:
        raw = file.read_bytes()
        data = json.loads(gzip.decompress(raw) if file.suffix == ".gz" else raw)
    except (OSError, EOFError, ValueError) as error:
        raise VineError(
            f"not readable as JSON: {error}", where=str(file), hint="write it anew or remove it"
        ) from error
    if not isinstance(data, dict):
        raise VineError("holds no JSON object", where=str(file), hint="write it anew or remove it")
    return data


def _either(file: Path) -> Path | None:
    """`file`, or `file` with .gz; two of them would leave open which one counts."""
    packed = file.with_name(file.name + ".gz")
    found = [candidate for candidate in (file, packed) if candidate.is_file()]
    if len(found) == 2:
        raise VineError(
            f"both {file.name} and {packed.name}", where=str(file.parent), hint="remove the older one"
        )
    return found[0] if found else None


def _empty_feasibility() -> pd.DataFrame:
    names = (
        *FEASIBILITY_TEXT,
        *FEASIBILITY_NUMBERS,
        *FEASIBILITY_MAYBE,
        "predicted",
        "pruned",
        "reached",
        "verb",
    )
    return pd.DataFrame({name: [] for name in names}).astype({"pruned": bool, "reached": bool})


def _read_csv(file: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""])
    except (OSError, EOFError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise VineError(
            f"not readable as CSV: {error}", where=str(file), hint="the file is cut or not a table; run again"
        ) from error
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise VineError(
            f"no column {', '.join(missing)}", where=str(file), hint=f"columns needed: {', '.join(needed)}"
        )
    return table


def _numbers(
    table: pd.DataFrame, column: str, file: Path, *, whole: bool = False, maybe: bool = False
) -> pd.Series:
    """The column as numbers; an empty cell is NaN if `maybe`, 0 in counts (an arm without a planner)."""
    values = pd.to_numeric(table[column], errors="coerce")
    blank = table[column].isna()
    bad = (values.isna() & ~blank & ~table[column].str.lower().isin(["nan"])) | np.isinf(values)
    if not maybe and column not in ("model_calls", "replans", "subgoals", "policy_seed", "training_seed"):
        bad |= values.isna()
    if whole:
        bad |= values.notna() & (values != np.floor(values))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        kind = "a whole number" if whole else "a number"
        raise VineError(
            f"{column} is {table[column].iloc[row]!r}, not {kind}",
            where=f"{file}, line {row + 2}",
            hint="mend the cell",
        )
    return values.fillna(0).astype(int) if whole else values.astype(float)


def _flags(table: pd.DataFrame, column: str, file: Path) -> pd.Series:
    text = table[column].fillna("").str.strip().str.lower()
    bad = ~text.isin(TRUE | FALSE)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise VineError(
            f"{column} is {text.iloc[row]!r}",
            where=f"{file}, line {row + 2}",
            hint="write 0 or 1 (true or false)",
        )
    return text.isin(TRUE)


def _within(table: pd.DataFrame, column: str, file: Path) -> None:
    bad = (table[column] < 0) | (table[column] > 1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise VineError(
            f"{column} is {table[column].iloc[row]}",
            where=f"{file}, line {row + 2}",
            hint="a probability lies in [0, 1]",
        )
