"""The model card: what the probability means, and on which data it was calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vine_vla.compute.progress import FEW, too_few

_LEARNED_FROM = {
    "all": "all recorded episodes, successful, failed, truncated and unknown",
    "withhold": "successful episodes only; subgoals that slipped in them are kept",
    "withhold-slips": "successful episodes only; subgoals that slipped are removed as well",
    "withhold-matched": "successful episodes only, as many as the full variant has episodes",
}


def model_card(metrics: Mapping[str, Any]) -> str:
    """Markdown from a variant's metrics (`metrics.json`)."""
    variant = str(metrics["variant"])
    episodes = metrics["episodes"]
    reach = metrics["outcomes"]["reach"]
    calibration = metrics["calibration"]
    source = {
        "demonstration": "held-out operator segments: it says how often *operators* reached the subgoal",
        "execution": "probes: single subgoals that the learned skills carried out on calibration scenes",
        "none": "nothing: there were too few held-out segments, the backend's own probabilities are used",
    }[calibration["source"] if calibration["segments"] else "none"]
    lines = [
        f"# System 2, variant `{variant}`",
        "",
        f"Learned from {_LEARNED_FROM.get(variant.removesuffix('-executed'), variant)}: "
        f"{episodes['all']} episodes, {episodes['segments']} segments; "
        f"{metrics['members']} ensemble members on bootstrapped episodes.",
        "",
        "## What the probability means",
        "",
        "- `p` of a subgoal: the chances that executing it in this scene ends with the goal, with the",
        "  subgoal reached, slipped (failed, still solvable) or dead (failed for good). They sum to 1.",
        "- `V`, feasibility: P(reach the goal before failing) if the best subgoal is taken from here, with",
        f"  the subgoals that are left of a budget of {metrics['budget']}. No discount, no cost of time.",
        "- `V_mu`: the same if the demonstrators go on. A diagnostic; planning does not use it.",
        "- `support`: how well the data cover a scene and subgoal, in [0, 1]; the share of held-out segments",
        "  that lie at least as far from the training data. Under "
        f"{metrics['pruning']['min_support']:g} an option counts as uncovered.",
        "",
        "## Calibrated on",
        "",
        f"{source[0].upper()}{source[1:]}. {calibration['segments']} segments, kind `{calibration['kind']}`, "
        f"{metrics['graphs']} scene graphs.",
        "The probabilities hold for scenes, operators and objects like those; elsewhere they are unproven.",
        "",
        "## Measured",
        "",
        f"On {metrics['judged_on']}, {metrics['graphs']} graphs, P(goal or reached):",
        "",
        "| verb | segments | observed | predicted | Brier | log-loss | ECE | AUROC |",
        "|---|---|---|---|---|---|---|---|",
        _row("all", reach),
        *[_row(f"`{name}`", scores) for name, scores in metrics["outcomes"]["by_verb"].items()],
        "",
        "Reliability: `reliability.png`.",
    ]
    mu = metrics["value_mu"]
    if mu.get("count"):
        lines += ["", f"`V_mu` of first scenes against episodes' success: {_in_words(mu)}."]
    tau = metrics["pruning"]["tau"]
    lines += [
        "",
        "## Pruning",
        "",
        f"alpha {metrics['pruning']['alpha']:g} a plan; thresholds on the upper bound of P(goal or reached): "
        + (", ".join(f"`{v}` {t:.3f}" for v, t in sorted(tau.items())) if tau else "none")
        + ". Verbs without a threshold had too few reached calibration segments for the promise and are"
        " never pruned.",
        "",
    ]
    if perception := metrics.get("perception"):
        size = " x ".join(map(str, perception["image_size"]))
        lines += [
            "## Perception",
            "",
            f"On {perception['frames']} frames of held-out episodes (images {size}): "
            f"{_perception_line(perception)}.",
            "",
        ]
    lines += [
        "## Limits",
        "",
        *[f"- {warning[0].upper()}{warning[1:]}." for warning in metrics.get("warnings", ())],
        "- Without failures in the data the probabilities are too high: nothing teaches what fails.",
        "- A graph holds what its schema names; what is not in it cannot lower a probability.",
        "- Scores on calibration episodes share operators and scenes with training.",
        "",
    ]
    return "\n".join(lines)


def _row(name: str, scores: Mapping[str, Any]) -> str:
    if not scores.get("count"):
        return f"| {name} | 0 | - | - | - | - | - | - |"
    auroc = "-" if scores["auroc"] is None else f"{scores['auroc']:.3f}"
    figures = " | ".join(f"{scores[k]:.3f}" for k in ("rate", "predicted", "brier", "log_loss", "ece"))
    return f"| {name} | {scores['count']} | {figures} | {auroc} |"


def _in_words(scores: Mapping[str, Any]) -> str:
    auroc = "" if scores["auroc"] is None else f", AUROC {scores['auroc']:.3f}"
    return f"n {scores['count']}, Brier {scores['brier']:.3f}, ECE {scores['ece']:.3f}{auroc}"


def metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    """A variant's metrics (`metrics.json`) for a terminal."""
    lines = [f"on {metrics['judged_on']}, {metrics['graphs']} graphs:"]
    rows = {"all verbs": metrics["outcomes"]["reach"], **metrics["outcomes"]["by_verb"]}
    for name, scores in rows.items():
        if 0 < scores["count"] < FEW:
            lines.append(f"  {name:<16} {too_few(scores['count'])}")
        elif scores["count"]:
            auroc = "   -" if scores["auroc"] is None else f"{scores['auroc']:.3f}"
            lines.append(
                f"  {name:<16} n {scores['count']:>4}  reached {scores['rate']:.2f}  "
                f"Brier {scores['brier']:.3f}  log-loss {scores['log_loss']:.3f}  "
                f"ECE {scores['ece']:.3f}  AUROC {auroc}"
            )
    if perception := metrics.get("perception"):
        lines.append(f"  perception: {_perception_line(perception)}")
    return lines


def _perception_line(found: Mapping[str, Any]) -> str:
    """Figures of perception; one that its held-out frames cannot give is left out."""
    if found["frames"] < FEW:
        return f"held-out frames: {too_few(found['frames'])}"
    px = [f"{camera} {value:.1f} px" for camera, value in found["box_error_px"].items() if value is not None]
    parts = [f"boxes off by {', '.join(px)}" if px else "no boxes found"]
    shares = {"classes": "class_accuracy", "attributes": "attribute_accuracy", "relation F1": "relation_f1"}
    parts += [f"{name} {found[key]:.3f}" for name, key in shares.items() if found[key] is not None]
    return "; ".join(parts)
