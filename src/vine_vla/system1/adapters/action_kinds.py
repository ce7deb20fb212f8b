"""What the numbers of an action are: motions, positions or switches; told from the data."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from vine_vla.storage.parquet import read_columns, to_matrix

_ENDS, _AT_ENDS = 0.05, 0.9
"""An action of values within +-1 is a switch (gripper), left unscaled, if most of them (the second figure)
lie at its two ends (the first, as a share of its range); normalised joints fill the range between."""

_FOLLOWS = 0.25
"""The state follows an action that is, on average, this share of the state's deviation away from it."""


class ActionKinds(NamedTuple):
    """Of A action dimensions.

    Args:
        units: unit of the asinh scaling, 0 for a switch. [A]
        places: place of the state that follows it, -1 for none (a motion, or a switch). [A]
        motions: actions are motions, 0 stands still; otherwise positions.
        low, high: least and greatest value in the data. [A]
    """

    units: list[float]
    places: list[int]
    motions: bool
    low: list[float]
    high: list[float]

    @property
    def switches(self) -> tuple[int, ...]:
        """Dimensions that keep their value when the robot is held still; the last one if none is found."""
        return tuple(d for d, unit in enumerate(self.units) if unit == 0) or (-1,)


def action_kinds(states: np.ndarray | None, actions: np.ndarray) -> ActionKinds:
    """Kinds of actions [N, A] that were recorded with `states` [N, P] (None: without any)."""
    units = default_units(actions)
    places = state_places(states, actions, units)
    low, high = actions.min(0).tolist(), actions.max(0).tolist()
    return ActionKinds(units, places, are_motions(units, places), low, high)


def read_actions_and_states(root: Path, *, states: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """All actions [N, A] of a LeRobot dataset's frames, and all states [N, P] if they are wanted."""
    paths = sorted((root / "data").glob("*/*.parquet"))
    names = [ACTION, OBS_STATE] if states else [ACTION]
    tables = [read_columns(path, names) for path in paths]
    actions, *more = (np.concatenate([to_matrix(table[name]) for table in tables]) for name in names)
    return actions, more[0] if more else None


def are_motions(units: list[float], places: list[int]) -> bool:
    """Whether no more than half of the dimensions that are no switch are followed by the state."""
    moving = [place for place, unit in zip(places, units, strict=True) if unit > 0]
    return not moving or 2 * sum(place >= 0 for place in moving) < len(moving)


def default_units(actions: np.ndarray) -> list[float]:
    """asinh units from actions [N, A]: 0 for a switch within +-1, else 0.4 deviations (at least 1e-6)."""
    return [0.0 if _is_switch(column) else max(0.4 * float(column.std()), 1e-6) for column in actions.T]


def _is_switch(values: np.ndarray) -> bool:
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if not high > low or max(-low, high) > 1.0 + 1e-6:
        return False
    rim = _ENDS * (high - low)
    return bool(((values <= low + rim) | (values >= high - rim)).mean() >= _AT_ENDS)


def state_places(states: np.ndarray | None, actions: np.ndarray, units: list[float]) -> list[int]:
    """Per action dimension the place of the state that follows it, -1 for none.

    A command of a position is where the state is or soon will be; a motion is not.

    Args:
        states: [N, P], None without any. actions: [N, A]. units: of the actions, 0 for switches.
    """
    found = [-1] * actions.shape[1]
    for d, column in enumerate(actions.T):
        if states is None or not units[d] or column.std() < 1e-6:
            continue
        spread = states.std(0)
        gap = np.abs(states - column[:, None]).mean(0) / np.maximum(spread, 1e-9)
        gap[spread < 1e-6] = np.inf
        place = int(gap.argmin())
        found[d] = place if gap[place] <= _FOLLOWS else -1
    return found
