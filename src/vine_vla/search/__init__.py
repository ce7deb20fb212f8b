"""Search: feasibility-guided planning over a planning model. Layer 2, NumPy and numba only."""

from vine_vla.search.config import SearchConfig

__all__ = [
    "PLANNERS",
    "ExhaustivePlanner",
    "GreedyPlanner",
    "ImitatePlanner",
    "ReachAvoid",
    "SearchConfig",
    "Searched",
    "TabularModel",
    "TreePlanner",
    "prune_options",
    "explain_pruning",
    "load_trace",
    "make_planner",
    "perturb",
    "policy_evaluation",
    "puct",
    "random_problem",
    "sample_episode",
    "save_trace",
    "search",
    "search_everything",
    "validate_trace",
    "value_iteration",
]

_LATE = {
    "ExhaustivePlanner": "planners",
    "GreedyPlanner": "planners",
    "ImitatePlanner": "planners",
    "PLANNERS": "planners",
    "ReachAvoid": "tabular",
    "Searched": "engine",
    "TabularModel": "tabular",
    "TreePlanner": "planners",
    "explain_pruning": "pruning",
    "load_trace": "trace",
    "make_planner": "planners",
    "perturb": "tabular",
    "policy_evaluation": "tabular",
    "prune_options": "pruning",
    "puct": "select",
    "random_problem": "tabular",
    "sample_episode": "tabular",
    "save_trace": "trace",
    "search": "engine",
    "search_everything": "engine",
    "validate_trace": "trace",
    "value_iteration": "tabular",
}


def __getattr__(name: str) -> object:
    """Parts are imported when asked for: numba takes a second."""
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATE[name]}"), name)
    raise AttributeError(name)
