"""Search: feasibility-guided planning over a planning model. Layer 2, NumPy and numba only."""

import lazy_loader

from vine_vla.search.config import SearchConfig

# Imported when asked for, so that commands start fast.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "engine": ["Searched", "search", "search_everything"],
        "planners": [
            "ExhaustivePlanner",
            "GreedyPlanner",
            "ImitatePlanner",
            "PLANNERS",
            "TreePlanner",
            "make_planner",
        ],
        "pruning": ["explain_pruning", "prune_options"],
        "select": ["puct"],
        "tabular": [
            "ReachAvoid",
            "TabularModel",
            "perturb",
            "policy_evaluation",
            "random_problem",
            "sample_episode",
            "value_iteration",
        ],
        "trace": ["load_trace", "save_trace", "validate_trace"],
    },
)
__all__ += ["SearchConfig"]
