"""A policy folder as a skill for a dataset: `vine_skill` or any of LeRobot's, checked before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

from vine_vla.core.errors import VineError
from vine_vla.core.graph import SceneGraph
from vine_vla.core.options import Subgoal
from vine_vla.core.protocols import Observation, Skill
from vine_vla.data.export.crops import LAYOUT, CropLayout
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.data.sidecars.files import EPISODE
from vine_vla.learning.device import usable_device
from vine_vla.system1.adapters.openpi import EXECUTE, OpenpiSkill, server_keys
from vine_vla.system1.adapters.skills import LeRobotSkill, camera_keys, read_layout
from vine_vla.system1.vetting import read_config
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig
from vine_vla.system1.vine_skill.skill import FlowSkill
from vine_vla.system1.vine_skill.weights import POLICY_FOLDER, is_url


def load_skill(
    policy: Path | str,
    dataset: DemoDataset,
    *,
    cameras: Mapping[str, str] | None = None,
    layout: Path | None = None,
    device: str | None = None,
    execute: int = EXECUTE,
) -> tuple[Skill, PreTrainedConfig | None]:
    """A policy as a skill for the frames of `dataset`, and its configuration; None behind a server.

    Args:
        policy: a checkpoint (`pretrained_model`), a run of `vine train system1`, or the URL of an openpi
            server (ws://host:port).
        dataset: demonstrations, or an export of skills, whose crops are fed as they are.
        cameras: camera role -> image key of the policy; default: keys that end in the role.
        layout: `vine_crops.json` of the dataset that the policy was trained on; default: the one in the
            checkpoint, else that of `dataset`, else the verb alone if the policy's vector is as long.
        device: see `usable_device`. execute: as `OpenpiSkill`.

    Raises:
        VineError: no policy there, one of an unknown type, or one whose features are not the dataset's.
    """
    if is_url(policy):
        return _server_skill(str(policy), dataset, cameras, execute), None
    policy = Path(policy)
    folder = policy / POLICY_FOLDER if (policy / POLICY_FOLDER).is_dir() else policy
    config = read_config(folder)
    place = str(usable_device(device))
    exported = dataset.root / LAYOUT
    if isinstance(config, VineSkillConfig) and config.layout and not exported.is_file():
        _check(config, dataset, CropLayout.from_json(config.layout), None)
        return FlowSkill.load(folder, dataset.schema, device=place), config
    found = _layout(folder, config, dataset, layout)
    _check(config, dataset, found, cameras)
    return LeRobotSkill.load(folder, cameras=cameras, layout=found, device=place), config


def _server_skill(
    url: str, dataset: DemoDataset, cameras: Mapping[str, str] | None, execute: int
) -> OpenpiSkill:
    """A skill on a server that has answered to a frame of `dataset`, with as many numbers an action."""
    keys = server_keys(dataset.schema.cameras, cameras)
    skill = OpenpiSkill.connect(url, names=keys, execute=execute)
    first = dataset.demonstrations[0]
    images = {role: dataset.images(first.episode_index, [0], role)[0] for role in dataset.cameras}
    observation = Observation(images, dataset.proprioception(first.episode_index)[0].copy())
    skill.start(Subgoal(EPISODE.name, ()), first.instruction, 0)
    answered = skill.act(observation, SceneGraph(())).actions.shape[1]
    recorded = dataset.actions(first.episode_index).shape[1]
    if answered != recorded:
        raise VineError(
            f"actions of {answered} numbers, the dataset's have {recorded}",
            where=url,
            hint="serve a policy of this robot",
        )
    return skill


def _layout(
    folder: Path, config: PreTrainedConfig, dataset: DemoDataset, given: Path | None
) -> CropLayout | None:
    """How the policy's environment vector is laid out; None if that is not known, or it has none."""
    if given is not None and not given.is_file():
        raise VineError("no such file", where=f"--layout {given}", hint=f"give {LAYOUT} of its dataset")
    for path in (given, folder / Path(LAYOUT).name, dataset.root / LAYOUT):
        if path is not None and (found := read_layout(path)) is not None:
            return found
    verbs = tuple(verb.name for verb in dataset.schema.verbs)
    vector = config.env_state_feature
    return CropLayout((), verbs) if vector and vector.shape[0] == len(verbs) else None


def _check(
    config: PreTrainedConfig,
    dataset: DemoDataset,
    layout: CropLayout | None,
    cameras: Mapping[str, str] | None,
) -> None:
    """Raises VineError, with both lists, unless the policy's features can be made from the dataset."""
    features = dataset.files.features
    made = {f"camera {role}": "" for role in dataset.cameras}
    made |= {n: f" [{features[n]['shape'][0]}]" for n in (OBS_STATE, ACTION) if n in features}
    if layout is not None:
        made[OBS_ENV_STATE] = f" [{layout.width}]"
    keys = camera_keys(list(config.image_features), cameras, None)
    wanted = {f"camera {role}": "" for role in keys.values()}
    for name, feature in {
        OBS_STATE: config.robot_state_feature,
        OBS_ENV_STATE: config.env_state_feature,
        ACTION: config.action_feature,
    }.items():
        if feature is not None:
            wanted[name] = f" [{feature.shape[0]}]"
    if any(made.get(name) != size for name, size in wanted.items()):
        raise VineError(
            f"the policy has {_listed(wanted)}; the dataset has {_listed(made)}",
            where=str(dataset.root),
            hint="give the dataset that it was trained on, and --camera ROLE=KEY or --layout if names differ",
        )


def _listed(features: Mapping[str, str]) -> str:
    return ", ".join(name + size for name, size in features.items())
