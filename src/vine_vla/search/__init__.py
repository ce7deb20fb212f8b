"""Search: feasibility-guided planning over a planning model. Layer 2, NumPy and numba only."""

from vine_vla.search.config import SearchConfig
from vine_vla.search.engine import Searched, search, search_everything
from vine_vla.search.planners import (
    PLANNERS,
    ExhaustivePlanner,
    GreedyPlanner,
    ImitatePlanner,
    TreePlanner,
    make_planner,
)
from vine_vla.search.pruning import explain_pruning, prune_options
from vine_vla.search.select import puct
from vine_vla.search.tabular import (
    ReachAvoid,
    TabularModel,
    perturb,
    policy_evaluation,
    random_problem,
    sample_episode,
    value_iteration,
)
from vine_vla.search.trace import load_trace, save_trace, validate_trace

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
