"""Time of one plan with a cheap model: what the search itself costs, on graphs of realistic size.

    python benchmarks/plan_time.py --plans 200

Prints, for K = 5 and 8, wall and CPU milliseconds (p50/p95, one thread) of a whole plan with its JSON tree,
of the search in it, and of the model in that. Different states give different graphs, so the cache of equal
graphs hardly helps. CPU time is the fairer figure on a machine that does other work.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from vine_vla.search import SearchConfig, TabularModel, TreePlanner, perturb, random_problem, search


class Stopwatch:
    """Wall and CPU seconds of calls."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def time(self, call: Callable[[], object]) -> object:
        wall, cpu = time.perf_counter(), time.process_time()
        result = call()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        return result

    def __str__(self) -> str:
        wall, cpu = (1000 * np.percentile(t, [50, 95]) for t in (self.wall, self.cpu))
        return f"wall {wall[0]:5.1f}/{wall[1]:5.1f}  cpu {cpu[0]:5.1f}/{cpu[1]:5.1f}"


class Timed(TabularModel):
    """A tabular model that adds up its own time."""

    spent = 0.0

    def expand(self, graphs, instructions, k, context=None):  # noqa: ANN001, ANN201
        start = time.process_time()
        try:
            return super().expand(graphs, instructions, k)
        finally:
            self.spent += time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plans", type=int, default=200, help="plans a setting")
    parser.add_argument("--objects", type=int, default=12, help="objects in a graph")
    parser.add_argument("--members", type=int, default=6, help="members of the ensemble")
    parser.add_argument("--expansions", type=int, default=64, help="nodes a plan")
    parser.add_argument("--budget", type=int, default=8, help="subgoals left at the root")
    options = parser.parse_args()
    for k in (5, 8):
        rng = np.random.default_rng(k)
        problem = random_problem(rng, states=5000, actions=k, applicable=1.0)
        members = perturb(problem, options.members, 20, rng)
        model = Timed(members, things=options.objects - 1, budget=options.budget)
        for leaves in (8, 16):
            config = SearchConfig(k=k, expansions=options.expansions, leaves=leaves)
            bare = TreePlanner(model, dataclasses.replace(config, trace=1))
            whole, short, inner, thinking = Stopwatch(), Stopwatch(), Stopwatch(), []
            for state in range(options.plans):
                scene, packed = model.graph(state), model.pack([state], options.budget)
                planner = TreePlanner(model, config)
                whole.time(lambda: planner.plan(scene, "go", options.budget))  # noqa: B023
                short.time(lambda: bare.plan(scene, "go", options.budget))  # noqa: B023
                model.spent = 0.0
                inner.time(lambda: search(model, packed, ["go"], config))  # noqa: B023
                thinking.append(model.spent)
            print(f"K {k}, {leaves} leaves a call (ms, p50/p95)")
            print(f"  plan with the whole tree as JSON   {whole}")
            print(f"  plan with the best path as JSON    {short}")
            print(f"  search                             {inner}")
            print(f"  of which the model                 cpu {1000 * np.median(thinking):.1f}")


if __name__ == "__main__":
    main()
