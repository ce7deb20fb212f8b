"""Import: a policy that others trained becomes the System 1 of a run, frozen and checked.

RUN/system1/policy/     its checkpoint, with `vine_crops.json` if it reads verb and boxes
RUN/system1/done/       a done head that was trained beside it, if there is one
RUN/system1/system1.json  hashes of its files, its cameras, what its actions are; or a server's URL
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lerobot.utils.import_utils import register_third_party_plugins

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema
from vine_vla.core.protocols import Skill
from vine_vla.data.export.crops import LAYOUT
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.storage.files import folder_in_the_making
from vine_vla.storage.json import write_json
from vine_vla.system1.adapters.action_kinds import ActionKinds, action_kinds, read_actions_and_states
from vine_vla.system1.adapters.loading import load_skill
from vine_vla.system1.adapters.openpi import EXECUTE, OpenpiSkill, server_keys
from vine_vla.system1.adapters.skills import LeRobotSkill
from vine_vla.system1.done.head import DoneHead
from vine_vla.system1.vetting import vet_policy
from vine_vla.system1.vine_skill.skill import FlatSkill, FlowSkill
from vine_vla.system1.vine_skill.weights import (
    DONE,
    POLICY_FOLDER,
    RUN_FILE,
    RUN_FORMAT,
    SERVER,
    check_weights,
    file_hashes,
    read_run,
    weights_hash,
)

SAFE = ("*.json", "*.safetensors")
"""What is copied of a checkpoint: nothing that would have to be unpickled."""


def import_policy(
    policy: Path | str,
    dataset: DemoDataset,
    out: Path,
    *,
    cameras: Mapping[str, str] | None = None,
    layout: Path | None = None,
    done: Path | None = None,
    execute: int = EXECUTE,
) -> Path:
    """Make a LeRobot policy, or an openpi server, the System 1 in `out`.

    Args:
        policy: a checkpoint (`pretrained_model`) of any type that LeRobot knows, or the URL of a server.
        dataset: demonstrations that it is to act in; they tell what its actions are.
        out: RUN/system1, or RUN/flat for a policy that is run alone.
        cameras, layout: as `open_skill`.
        done: folder of a done head (`vine train done`); None: a subgoal ends by its time-out and the graph.
        execute: actions of a server's chunk that are executed before it is asked again.

    Raises:
        VineError: it does not fit the dataset, has no safe weights, does not answer, or `out` exists.
    """
    if out.exists():
        raise VineError("exists already", where=str(out), hint="choose another run, or remove it")
    skill, config = load_skill(policy, dataset, cameras=cameras, layout=layout, execute=execute)
    if isinstance(skill, FlowSkill):
        raise VineError(
            "a vine_skill policy has a done head of its own",
            where=str(policy),
            hint="train it into the run with `vine train system1`",
        )
    if done is not None:
        DoneHead.load(done, dataset.schema)
    kinds = action_kinds(*reversed(read_actions_and_states(dataset.root)))
    with folder_in_the_making(out) as folder:
        folder.mkdir()
        if done is not None:
            _copy(done, folder / DONE)
        if isinstance(skill, OpenpiSkill):
            record = {"imported": SERVER, "url": str(policy), "keys": skill.names, "execute": execute}
            record["weights_sha256"] = f"unknown: {policy}"
        else:
            assert isinstance(skill, LeRobotSkill) and config is not None
            _copy(Path(policy), folder / POLICY_FOLDER)
            if skill.layout is not None:
                (folder / POLICY_FOLDER / Path(LAYOUT).name).write_text(skill.layout.to_json() + "\n")
            record = {"imported": config.type, "weights_sha256": weights_hash(folder / POLICY_FOLDER)}
            record["cameras"] = {role: key for key, role in skill.cameras.items()}
        record |= {"format": RUN_FORMAT, "files_sha256": file_hashes(folder), "actions": kinds._asdict()}
        write_json(folder / RUN_FILE, record)
    return out


def load_run_skill(
    folder: Path,
    schema: Schema,
    *,
    whole_task: bool = False,
    device: str | None = "cpu",
    server: str | None = None,
) -> Skill:
    """The skill in RUN/system1, or in RUN/flat: trained by VINE, or imported.

    Args:
        whole_task: it is run alone, on the instruction.
        device: see `usable_device`; a server has its own.
        server: URL of an openpi server that acts instead, with the done head of the folder, if there is one.

    Raises:
        VineError: none there, files that have changed, another vocabulary, `vet_policy` refuses it, or a
            server does not answer.
    """

    def head() -> DoneHead | None:
        found = (folder / DONE).is_dir() and not whole_task
        return DoneHead.load(folder / DONE, schema, device) if found else None

    if server is not None:
        return OpenpiSkill.connect(server, names=server_keys(schema.cameras), done=head())
    info = vet_run(folder)
    check_weights(folder)
    if "imported" not in info:
        return (FlatSkill if whole_task else FlowSkill).load(folder, schema, device=device)
    if info["imported"] == SERVER:
        return OpenpiSkill.connect(info["url"], names=info["keys"], execute=info["execute"], done=head())
    return LeRobotSkill.load(folder / POLICY_FOLDER, cameras=info["cameras"], done=head(), device=device)


def vet_run(folder: Path) -> dict[str, Any]:
    """What is written down of the System 1 in `folder`, whose policy is vetted first (`vet_policy`)."""
    info = read_run(folder)
    if info.get("imported") == SERVER:
        return info
    if "imported" in info:
        register_third_party_plugins()
    vet_policy(folder / POLICY_FOLDER)
    return info


def skill_actions(folder: Path, skill: Skill) -> ActionKinds:
    """What the actions of the System 1 in `folder` are.

    Raises:
        VineError: the policy has no statistics of its actions.
    """
    if not isinstance(skill, FlowSkill):
        found: dict[str, Any] = read_run(folder)["actions"]
        return ActionKinds(**found)
    config = skill.policy.config
    for step in skill._post.steps:
        stats = (getattr(step, "stats", None) or {}).get("action", {})
        if "min" in stats and "max" in stats:
            low, high = ([float(v) for v in stats[name].ravel()] for name in ("min", "max"))
            units, places = config.action_units or [], config.action_places or []
            return ActionKinds(list(units), list(places), bool(config.delta_actions), low, high)
    raise VineError("the policy has no statistics of its actions", hint="train System 1 anew")


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for pattern in SAFE:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, target / file.name)
