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
entry (`--tune` tries them; the same is done for VINE's leaves a call). Calls of either side are compiled and
warmed up before the clock starts; transfers to and from arrays count. A model call is one call for the
whole batch. Budgets are swept at the smallest B, where a call of mctx is by far the cheapest; other B run at
the last budget of that sweep, since rows of a batch are independent.

A run that was stopped goes on when it is started again: what stands in the table is kept.

Columns of `speed.csv`: planner, family, model, threads, B, K, depth, budget (expansions or simulations),
regret, seconds (CPU time of the process for a call of the planner, for all B: other work on the machine
matters less to it than to wall time), model_calls, graphs (evaluated by the model, a problem), evaluations
(of a subgoal in a graph, whose outcome the model predicts, a problem: the work that both sides have), repeat.
"""

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

# Before jax and NumPy are imported: one thread on either side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
from search_mctx import Mctx
from search_problems import Problems, make_problems
from search_vine import Planner, vine

COLUMNS = ("planner", "family", "model", "threads", "B", "K", "depth", "budget", "regret", "seconds")
COLUMNS += ("model_calls", "graphs", "evaluations", "repeat")


def measure(planner: Planner, problems: Problems, batch: int, repeats: int) -> Iterator[dict[str, float]]:
    """Regret over all problems and seconds a call, once for each repeat; the first call is not timed.

    Half a minute is not repeated.
    """
    order = np.arange(problems.count).reshape(-1, batch)
    planner(order[0])
    for repeat in range(repeats):
        regret, seconds, calls, graphs, evaluations = [], [], [], [], []
        for problem in order:
            start = time.process_time()
            answer = planner(problem)
            seconds.append(time.process_time() - start)
            regret.append(problems.regret(problem, answer.action))
            calls.append(answer.model_calls)
            graphs.append(answer.graphs)
            evaluations.append(answer.evaluations)
        yield {
            "regret": float(np.concatenate(regret).mean()),
            "seconds": float(np.median(seconds)),
            "model_calls": float(np.mean(calls)),
            "graphs": float(np.mean(graphs)),
            "evaluations": float(np.mean(evaluations)),
            "repeat": repeat,
        }
        if sum(seconds) > 30:
            return


BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TARGET = 0.01
KEY = ("planner", "family", "model", "B", "K", "depth", "budget")
Rows = dict[tuple[str, ...], list[dict[str, str]]]
"""Measured rows by their KEY, as the table has them."""
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
            for explore in (0.1, 0.3, 1.0) if policy == "gumbel" else (0.3, 0.6, 1.25, 2.5):
                for by_value in (False, True):
                    name = f"mctx-{policy} explore={explore} by_value={by_value}"
                    found[name] = Mctx(policy, explore, by_value).planner
        return found
    if slips:
        return {
            "vine": partial(vine, leaves=16, explore=0.6),
            "mctx-stochastic": Mctx("stochastic", 1.25, False).planner,
        }
    return {
        "vine": partial(vine, leaves=16, explore=0.6),
        "mctx-muzero": Mctx("muzero", 1.25, True).planner,
        "mctx-gumbel": Mctx("gumbel", 0.3, False).planner,
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
    parser.add_argument("--families", nargs="+", default=["dead-ends", "slips"])
    parser.add_argument("--models", nargs="+", default=["table", "network"])
    parser.add_argument("--planners", nargs="+", default=["vine", "mctx"], help="how their names begin")
    parser.add_argument("--budgets", type=int, nargs="+", help="instead of 1, 2, 4 ... 1,024")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="all settings on problems of another seed")
    args = parser.parse_args()
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / ("tuning.csv" if args.tune else "speed.csv")
    done = kept_rows(file)
    with file.open("a", newline="") as stream:
        for k in args.options:
            for family in args.families:
                for kind in args.models:
                    problems = make_problems(
                        args.seed + 1000 * args.tune,
                        args.problems,
                        k,
                        args.depth,
                        slips=family == "slips",
                        network=kind == "network",
                    )
                    for name, make in entrants(family == "slips", args.tune).items():
                        if not name.startswith(tuple(args.planners)):
                            continue
                        fixed = {"planner": name, "family": family, "model": kind, "threads": 1}
                        fixed |= {"K": k, "depth": args.depth}
                        budgets = tuple(args.budgets or BUDGETS[:: 1 + args.tune])
                        for batch in sorted(args.batches):
                            cell = fixed | {"B": batch}
                            rows = partial(measured, stream, done, cell, make, problems, args.repeats)
                            budgets = (sweep(rows, budgets),)
    if not args.tune:
        summarise(file, args.out / "speed_summary.csv")


def kept_rows(file: Path) -> Rows:
    """What an earlier run measured; the file then has these rows and its header, without a line cut off."""
    found: Rows = {}
    if file.exists():
        with file.open() as stream:
            for row in csv.DictReader(stream):
                if row["repeat"]:
                    found.setdefault(tuple(row[n] for n in KEY), []).append(row)
    fresh = file.with_suffix(".new")
    with fresh.open("w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(row for rows in found.values() for row in rows)
    fresh.replace(file)
    return found


def measured(
    stream: TextIO,
    done: Rows,
    fixed: dict[str, object],
    make: Maker,
    problems: Problems,
    repeats: int,
    budget: int,
) -> list[dict[str, str]]:
    """The rows of a budget: those that are there, or new ones, which are written at once."""
    cell = {n: str(v) for n, v in fixed.items()} | {"budget": str(budget)}
    key = tuple(cell[n] for n in KEY)
    if key not in done:
        found = measure(make(problems, budget), problems, int(cell["B"]), repeats)
        done[key] = [cell | {n: f"{v:.6g}" for n, v in row.items()} for row in found]
        csv.DictWriter(stream, COLUMNS, lineterminator="\n").writerows(done[key])
        stream.flush()
        best = min(done[key], key=lambda row: float(row["seconds"]))
        text = " ".join(f"{name} {value}" for name, value in cell.items())
        print(
            f"{text}: regret {float(best['regret']):.4f}, {1000 * float(best['seconds']):.3f} ms, "
            f"{float(best['model_calls']):.0f} calls, load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    return done[key]


def sweep(rows: Callable[[int], list[dict[str, str]]], budgets: tuple[int, ...]) -> int:
    """Raise the budget until the target is met, or budgets end; the last one that was tried."""
    for budget in budgets:
        if min(float(row["regret"]) for row in rows(budget)) <= TARGET:
            break
    return budget


def summarise(file: Path, out: Path) -> None:
    """A row a cell: VINE at the target beside the best of mctx at it, and the model call that breaks even.

    Columns: family, model, B, K; of either side planner, budget, regret, model_calls, graphs, evaluations,
    milliseconds (median over calls, the best repeat); `calls_ratio` and `time_ratio` (mctx / VINE, above 1
    for VINE), and `break_even_us`: how long a model call has to take beyond what this one does for VINE to
    be the faster, 0 where it is. Where a side misses the target with its largest budget, that is its row.
    """
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    cells: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
        cell = cells.setdefault(tuple(row[n] for n in ("family", "model", "B", "K")), {})
        side = "vine" if row["planner"] == "vine" else "mctx"
        if side not in cell or _rank(row) < _rank(cell[side]):
            cell[side] = row
    with out.open("w", newline="") as stream:
        names = ("planner", "budget", "regret", "model_calls", "graphs", "evaluations")
        columns = ["family", "model", "B", "K"]
        columns += [f"{side}_{n}" for side in ("vine", "mctx") for n in (*names, "ms")]
        table = csv.DictWriter(
            stream, [*columns, "calls_ratio", "time_ratio", "break_even_us"], lineterminator="\n"
        )
        table.writeheader()
        for key, cell in cells.items():
            if len(cell) < 2:  # the run was stopped before the other side's turn
                continue
            found: dict[str, object] = dict(zip(columns, key, strict=False))
            for side, row in cell.items():
                found |= {f"{side}_{n}": row[n] for n in names}
                found[f"{side}_ms"] = f"{1000 * float(row['seconds']):.4g}"
            (v, m), (mine, theirs) = (
                [float(cell[s][n]) for s in ("vine", "mctx")] for n in ("seconds", "model_calls")
            )
            found |= {"calls_ratio": f"{theirs / mine:.3g}", "time_ratio": f"{m / v:.3g}"}
            found["break_even_us"] = f"{max(0.0, (v - m) / max(theirs - mine, 1e-9)) * 1e6:.3g}"
            table.writerow(found)


def _rank(row: dict[str, str]) -> tuple[bool, float]:
    """Rows at the target first, the fastest first; else the one of least regret."""
    missed = float(row["regret"]) > TARGET
    return missed, float(row["regret"] if missed else row["seconds"])


if __name__ == "__main__":
    main()
