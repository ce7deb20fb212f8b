"""How good the probabilities are: Brier, log-loss, ECE, AUROC, by verb; and the picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from statsmodels.stats.proportion import proportion_confint

from vine_vla.core.protocols import GOAL, REACHED, Float, Int
from vine_vla.storage.files import write_atomically


def expected_calibration_error(p: NDArray[np.floating], y: NDArray[np.integer], bins: int = 10) -> float:
    """ECE with bins of equal counts: mean distance of predicted and observed rate, weighted by count.

    scikit-learn has no ECE. Equal counts, since most predictions crowd near 0 and 1.
    """
    if not len(p):
        return float("nan")
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(p)))
    return float(sum(len(i) * abs(p[i].mean() - y[i].mean()) for i in parts) / len(p))


def binary_scores(p: NDArray[np.floating], y: NDArray[np.integer]) -> dict[str, float | int | None]:
    """Scores of P(goal or reached) against what happened; AUROC is None where only one thing happened."""
    if not len(y):
        return {"count": 0}
    both = 0 < y.mean() < 1
    return {
        "count": int(len(y)),
        "rate": float(y.mean()),
        "predicted": float(p.mean()),
        "brier": float(brier_score_loss(y, p)) if both else float(((p - y) ** 2).mean()),
        "log_loss": float(log_loss(y, np.clip(p, 1e-6, 1 - 1e-6), labels=[0, 1])),
        "ece": expected_calibration_error(p, y),
        "auroc": float(roc_auc_score(y, p)) if both else None,
    }


def outcome_scores(p: Float, outcome: Int, verbs: Int, names: Sequence[str]) -> dict[str, object]:
    """Scores of members' mean probabilities [M, N, 4] on decided segments, all and by verb."""
    mean = p.mean(0)
    reach = mean[:, GOAL] + mean[:, REACHED]
    y = ((outcome == GOAL) | (outcome == REACHED)).astype(np.int64)
    four = mean[np.arange(len(outcome)), outcome] if len(outcome) else np.zeros(0)
    one_hot = np.eye(4)[outcome] if len(outcome) else np.zeros((0, 4))
    return {
        "reach": binary_scores(reach, y),
        "four_way": {
            "log_loss": float(-np.log(np.maximum(four, 1e-9)).mean()) if len(four) else None,
            "brier": float(((mean - one_hot) ** 2).sum(1).mean()) if len(four) else None,
        },
        "by_verb": {name: binary_scores(reach[verbs == v], y[verbs == v]) for v, name in enumerate(names)},
    }


def plot_reliability(
    path: Path, p: Float, outcome: Int, verbs: Int, names: Sequence[str], title: str, bins: int = 8
) -> None:
    """Reliability diagram: observed against predicted P(goal or reached), one panel a verb and one for all.

    Bins hold equal counts; bars are 95 % Wilson intervals; ticks below show where the predictions lie.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    mean = p.mean(0)
    reach = mean[:, GOAL] + mean[:, REACHED]
    y = ((outcome == GOAL) | (outcome == REACHED)).astype(float)
    panels = [("all verbs", np.ones(len(y), bool))] + [
        (name, verbs == v) for v, name in enumerate(names) if (verbs == v).any()
    ]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 3.4 * rows), squeeze=False)
    for ax in axes.ravel()[len(panels) :]:
        ax.axis("off")
    for ax, (name, part) in zip(axes.ravel(), panels, strict=False):
        ax.plot([0, 1], [0, 1], color="0.7", lw=1)
        q, hit = reach[part], y[part]
        for index in np.array_split(np.argsort(q, kind="stable"), min(bins, max(1, len(q) // 5))):
            if len(index):
                low, high = proportion_confint(hit[index].sum(), len(index), method="wilson")
                x = q[index].mean()
                ax.plot([x, x], [low, high], color="tab:blue", lw=1.5, alpha=0.6)
                ax.plot(x, hit[index].mean(), "o", color="tab:blue", ms=5)
        ax.plot(q, np.full(len(q), -0.04), "|", color="0.4", ms=5, alpha=0.4)
        scores = binary_scores(q, hit.astype(np.int64))
        auroc = scores.get("auroc")
        told = f"n {len(q)}, ECE {scores.get('ece', float('nan')):.3f}"
        told += f", AUROC {auroc:.3f}" if isinstance(auroc, float) else ""
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.08, 1.03), xlabel="predicted P(reached)", ylabel="observed")
        ax.set_title(f"{name}\n{told}", fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    write_atomically(path, lambda file: figure.savefig(file, dpi=110, format="png"))
    plt.close(figure)
