"""Files of the compact backend: safetensors for weights, JSON for the rest, each renamed into place.

Beside what every kind keeps (`system2.folder`):

DIR/system2.json            vocabulary, scales, budget, perception's setup, hashes of the stages
DIR/perception.safetensors  DIR/proposals.safetensors        shared by all variants
DIR/VARIANT/nets.safetensors, model.json                     outcomes, next graphs, values, support
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema
from vine_vla.core.protocols import PruningRule
from vine_vla.learning.device import CPU, to_device, to_numpy
from vine_vla.storage.files import file_hash, write_atomically
from vine_vla.storage.json import write_json
from vine_vla.storage.untrusted import check_tensors
from vine_vla.system2.compact.attribute_classifier import Reader
from vine_vla.system2.compact.detector import Detector, DetectorConfig
from vine_vla.system2.compact.dynamics import Changes, dynamics_net
from vine_vla.system2.compact.features import Encoder
from vine_vla.system2.compact.model import GraphModel, Records, Shared
from vine_vla.system2.compact.outcome import outcome_net
from vine_vla.system2.compact.perception import Perception, PerceptionSetup
from vine_vla.system2.compact.proposal import proposal_net
from vine_vla.system2.compact.value import value_net
from vine_vla.system2.compact.words import Vocabulary
from vine_vla.system2.folder import FORMAT, MODEL, read_json
from vine_vla.system2.uncertainty.calibration import Calibration
from vine_vla.system2.uncertainty.support import Support

KIND = "compact"
PERCEPTION, PROPOSALS, NETS = "perception.safetensors", "proposals.safetensors", "nets.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write through a temporary name; returns the file's sha256."""
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    write_atomically(path, lambda file: save_file(plain, file))
    return file_hash(path)


def read_tensors(path: Path, expected: str | None = None) -> dict[str, Tensor]:
    """Tensors of a safetensors file; VineError if it is missing, damaged or not the one expected."""
    if not path.is_file():
        raise VineError("weights are missing", where=str(path), hint="train it with `vine train system2`")
    check_tensors(path, "train System 2 anew")
    if expected is not None and file_hash(path) != expected:
        raise VineError(
            "weights are not those that training wrote", where=str(path), hint="train System 2 anew"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise VineError(f"damaged weights: {error}", where=str(path), hint="train System 2 anew") from error


def _named(prefix: str, net: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in net.state_dict().items()}


def _fill(net: nn.Module, prefix: str, tensors: Mapping[str, Tensor], where: Path) -> None:
    part = {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}
    try:
        net.load_state_dict(part)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise VineError(
            f"weights of {prefix} do not fit: {first}",
            where=str(where),
            hint="train System 2 anew; an earlier version of VINE wrote them",
        ) from error


# Shared part.


def write_perception(folder: Path, perception: Perception) -> tuple[dict[str, Any], str]:
    """Weights to the folder; returns the setup as JSON and the weights' hash."""
    setup = perception.setup
    counts = ("threshold", "least", "most", "least_seen")
    found = {
        name: getattr(setup, name) for name in ("state_mean", "state_scale", *counts, "allowed", "constant")
    }
    found |= {
        "scales": {n: list(v) for n, v in setup.scales.items()},
        "width": perception.detector.config.width,
        "reader": perception.reader is not None,
    }
    tensors = dict(perception.detector.state_dict())
    if perception.reader is not None:
        tensors |= _named("reader", perception.reader)
    return found, write_tensors(folder / PERCEPTION, tensors)


def read_perception(
    folder: Path, info: Mapping[str, Any], schema: Schema, device: torch.device = CPU
) -> Perception:
    """Perception from `info["perception"]` and its weights, which go to `device`."""
    data = info["perception"]
    setup = PerceptionSetup(
        schema=schema,
        state_mean=tuple(data["state_mean"]),
        state_scale=tuple(data["state_scale"]),
        threshold=tuple(data["threshold"]),
        least=tuple(data["least"]),
        most=tuple(data["most"]),
        least_seen=tuple(data["least_seen"]),
        allowed=tuple(tuple(a) for a in data["allowed"]),
        constant=tuple(data["constant"]),
        scales={n: (float(v[0]), float(v[1])) for n, v in data["scales"].items()},
    )
    plain = DetectorConfig.of(schema, len(setup.state_mean))
    detector = Detector(DetectorConfig(**(asdict(plain) | {"width": int(data["width"])})))
    path = folder / PERCEPTION
    tensors = read_tensors(path, info["hashes"].get("perception"))
    reader = None
    if data.get("reader"):
        reader = Reader.of(schema).eval()
        _fill(reader, "reader", tensors, path)
        reader.to(device)
    try:
        detector.load_state_dict({n: t for n, t in tensors.items() if not n.startswith("reader.")})
    except RuntimeError as error:
        raise VineError(
            f"weights do not fit: {str(error).splitlines()[-1].strip()}", where=str(path)
        ) from error
    return Perception(detector.to(device), setup, reader)


def write_shared(folder: Path, shared: Shared) -> tuple[dict[str, Any], str]:
    """Proposal weights to the folder; returns the rest as JSON and the weights' hash."""
    tensors = _named("proposal", shared.proposal) | _named("proposal_all", shared.proposal_all)
    found = {
        "words": list(shared.encoder.vocabulary.words),
        "scales": [list(s) for s in shared.encoder.scales],
        "budget": shared.budget,
        "subgoals_a_plan": shared.subgoals_a_plan,
        "proposal_width": shared.proposal.width,
    }
    return found, write_tensors(folder / PROPOSALS, tensors)


def read_shared(folder: Path, info: Mapping[str, Any], schema: Schema, device: torch.device = CPU) -> Shared:
    """What the variants share, from `info["proposals"]` and its weights, which go to `device`."""
    data = info["proposals"]
    scales = tuple((str(n), float(m), float(s)) for n, m, s in data["scales"])
    encoder = Encoder(schema, Vocabulary(tuple(data["words"])), scales)
    tensors = read_tensors(folder / PROPOSALS, info["hashes"].get("proposals"))
    nets = []
    for name in ("proposal", "proposal_all"):
        nets.append(proposal_net(encoder, int(data["proposal_width"]), torch.Generator()))
        _fill(nets[-1], name, tensors, folder / PROPOSALS)
        nets[-1].to(device)
    return Shared(encoder, nets[0], nets[1], int(data["budget"]), float(data["subgoals_a_plan"]))


# Variants.


def write_model(folder: Path, model: GraphModel) -> str:
    """A variant's nets and the rest of it; returns the weights' hash."""
    support = model.support
    tensors = _named("outcome", model.outcome) | _named("dynamics", model.dynamics)
    tensors |= _named("value", model.value) | _named("value_mu", model.value_mu)
    arrays = {
        "support.mean": support.mean,
        "support.axes": support.axes,
        "support.points": support.points,
        "support.verbs": support.verbs,
        "support.held_out": support.held_out,
        "support.together": support.together,
        "changes.moves": model.changes.moves,
        "changes.alters": model.changes.alters,
        "calibration.temperature": model.calibration.temperature,
        "calibration.bias": model.calibration.bias,
        "records.outcome": model.records.outcome,
    }
    tensors |= {name: to_device(np.ascontiguousarray(a), CPU) for name, a in arrays.items()}
    found = write_tensors(folder / NETS, tensors)
    write_json(
        folder / MODEL,
        {
            "format": FORMAT,
            "members": model.members,
            "width": model.outcome.width,
            "dynamics_width": model.dynamics.width,
            "value_width": model.value.judge.weight.shape[-1],
            "levels": model.value.head.weight.shape[-1] // model.members,
            "prior_floor": model.prior_floor,
            "support_usual": support.usual,
            "calibration": {
                "kind": model.calibration.kind,
                "source": model.calibration.source,
                "count": model.calibration.count,
            },
            "pruning": {**asdict(model.pruning), "tau": dict(model.pruning.tau)},
            "episodes": list(model.records.episodes),
            "sha256": found,
        },
    )
    return found


def read_model(folder: Path, shared: Shared) -> GraphModel:
    """A variant from its folder; its weights go where those of `shared` are."""
    data = read_json(folder / MODEL)
    path = folder / NETS
    tensors = read_tensors(path, data.get("sha256"))
    encoder, members = shared.encoder, int(data["members"])
    g = torch.Generator()
    outcome = outcome_net(encoder, members, int(data["width"]), g)
    dynamics = dynamics_net(encoder, int(data["dynamics_width"]), g)
    value = value_net(encoder, members, int(data["value_width"]), int(data["levels"]), g)
    value_mu = value_net(encoder, 1, int(data["value_width"]), 1, g)
    for name, net in (("outcome", outcome), ("dynamics", dynamics), ("value", value), ("value_mu", value_mu)):
        _fill(net, name, tensors, path)
        net.to(shared.proposal.device)
    a = {name: to_numpy(t) for name, t in tensors.items() if name.split(".")[0] in _ARRAYS}
    pruning = data["pruning"]
    return GraphModel(
        shared=shared,
        outcome=outcome,
        dynamics=dynamics,
        changes=Changes(a["changes.moves"], a["changes.alters"]),
        value=value,
        value_mu=value_mu,
        calibration=Calibration(
            data["calibration"]["kind"],
            data["calibration"]["source"],
            a["calibration.temperature"],
            a["calibration.bias"],
            int(data["calibration"]["count"]),
        ),
        support=Support(
            a["support.mean"],
            a["support.axes"],
            a["support.points"],
            a["support.verbs"],
            float(data["support_usual"]),
            a["support.held_out"],
            a["support.together"],
        ),
        pruning=PruningRule(
            {str(v): float(t) for v, t in pruning["tau"].items()},
            float(pruning["alpha"]),
            float(pruning["tau_stop"]),
            float(pruning["min_support"]),
        ),
        records=Records(tuple(data["episodes"]), a["records.outcome"]),
        prior_floor=float(data["prior_floor"]),
    )


_ARRAYS = frozenset({"support", "changes", "calibration", "records"})
