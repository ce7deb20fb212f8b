"""VINE's search against mctx at equal regret: model calls and seconds.

    pip install -e '.[bench]'
    python benchmarks/search.py --out results/search

One process, one thread, float32. A family is `dead-ends` (a subgoal is reached or ends the episode; mctx's
`muzero_policy` and `gumbel_muzero_policy`) or `slips` (a third outcome from which one can go on;
`stochastic_muzero_policy`). A model is a `table`, or a small `network` whose weights both sides use. Both
know true outcomes and next states; what they believe of a state's value is wrong by noise (table) or by what
a network cannot fit, so that a planner has to look ahead. Regret is the mean of V*(root) - Q*(root, chosen)
over the problems.

Reach-avoid needs no new machinery in mctx: the reward of an edge is P(goal), its discount P(reached), what
is missing to 1 is death. Its value scale is fixed to (0, 1), its noise is off, and it may choose by value
or by visits and with several exploration constants: what was best on problems of another seed is its
entry (`--tune` tries them; the same is done for VINE's leaves a call). Its calls are compiled and
warmed up before the clock starts; transfers to and from arrays count. A model call is one call for the
whole batch.

Columns of `speed.csv`: planner, family, model, threads, B, K, depth, budget (expansions or simulations),
regret, seconds (a call of the planner, for all B), model_calls, graphs (evaluated by the model, a problem),
repeat.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

# Before jax and NumPy are imported: one thread on either side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
from search_mctx import Mctx
from search_problems import Problems, make_problems
from search_vine import Planner, vine

COLUMNS = ("planner", "family", "model", "threads", "B", "K", "depth", "budget", "regret", "seconds")
COLUMNS += ("model_calls", "graphs", "repeat")


def measure(planner: Planner, problems: Problems, batch: int, repeats: int) -> Iterator[dict[str, float]]:
    """Regret over all problems and seconds a call, once for each repeat; the first call is not timed."""
    order = np.arange(problems.count).reshape(-1, batch)
    planner(order[0])
    for repeat in range(repeats):
        regret, seconds, calls, graphs = [], [], [], []
        for problem in order:
            start = time.perf_counter()
            answer = planner(problem)
            seconds.append(time.perf_counter() - start)
            regret.append(problems.regret(problem, answer.action))
            calls.append(answer.model_calls)
            graphs.append(answer.graphs)
        yield {
            "regret": float(np.concatenate(regret).mean()),
            "seconds": float(np.median(seconds)),
            "model_calls": float(np.mean(calls)),
            "graphs": float(np.mean(graphs)),
            "repeat": repeat,
        }


BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TARGET = 0.01
Maker = Callable[[Problems, int], Planner]


def entrants(slips: bool, tune: bool) -> dict[str, Maker]:
    """Planners by name; with `tune`, every setting that was tried."""
    if tune:
        found: dict[str, Maker] = {
            f"vine leaves={leaves} explore={c}": partial(vine, leaves=leaves, explore=c)
            for leaves in (4, 8, 16)
            for c in (0.25, 0.6, 1.5)
        }
        policies = ("stochastic",) if slips else ("muzero", "gumbel")
        for policy in policies:
            for explore in (0.1, 0.3, 1.0) if policy == "gumbel" else (0.3, 0.6, 1.25):
                for by_value in (False, True):
                    name = f"mctx-{policy} explore={explore} by_value={by_value}"
                    found[name] = Mctx(policy, explore, by_value).planner
        return found
    if slips:
        return {
            "vine": partial(vine, leaves=8, explore=0.6),
            "mctx-stochastic": Mctx("stochastic", 0.6, True).planner,
        }
    return {
        "vine": partial(vine, leaves=8, explore=0.6),
        "mctx-muzero": Mctx("muzero", 0.6, True).planner,
        "mctx-gumbel": Mctx("gumbel", 0.3, True).planner,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/search"))
    parser.add_argument("--problems", type=int, default=256, help="a multiple of every B")
    parser.add_argument("--depth", type=int, default=6, help="subgoals of the budget, and of the look-ahead")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--options", type=int, nargs="+", default=[3, 5, 8], help="K")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="all settings on problems of another seed")
    args = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / ("tuning.csv" if args.tune else "speed.csv")
    with file.open("w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS)
        table.writeheader()
        for k in args.options:
            for family in ("dead-ends", "slips"):
                for kind in ("table", "network"):
                    problems = make_problems(
                        args.seed + 1000 * args.tune,
                        args.problems,
                        k,
                        args.depth,
                        slips=family == "slips",
                        network=kind == "network",
                    )
                    for batch in args.batches:
                        for name, make in entrants(family == "slips", args.tune).items():
                            fixed = {"planner": name, "family": family, "model": kind, "threads": 1}
                            fixed |= {"B": batch, "K": k, "depth": args.depth}
                            sweep(table, fixed, make, problems, args.repeats)
                            stream.flush()


def sweep(
    table: csv.DictWriter, fixed: dict[str, object], make: Maker, problems: Problems, repeats: int
) -> None:
    """Raise the budget until the target is met twice in a row, or budgets end."""
    met = 0
    for budget in BUDGETS:
        rows = list(measure(make(problems, budget), problems, int(str(fixed["B"])), repeats))
        for row in rows:
            table.writerow(fixed | {"budget": budget} | {n: f"{v:.6g}" for n, v in row.items()})
        best = min(rows, key=lambda row: row["seconds"])
        text = " ".join(f"{name} {value}" for name, value in fixed.items())
        print(
            f"{text} budget {budget}: regret {best['regret']:.4f}, {1000 * best['seconds']:.2f} ms, "
            f"{best['model_calls']:.0f} calls",
            flush=True,
        )
        met = met + 1 if best["regret"] <= TARGET else 0
        if met == 2:
            return


if __name__ == "__main__":
    main()
