"""A policy folder as a skill for a dataset: `vine_skill` or any of LeRobot's, checked before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lerobot.configs import PreTrainedConfig
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

from vine_vla.core.errors import VineError
from vine_vla.core.protocols import Skill
from vine_vla.data.export.crops import LAYOUT, CropLayout
from vine_vla.data.lerobot.dataset import DemoDataset
from vine_vla.learning.device import usable_device
from vine_vla.system1.adapters.skills import LeRobotSkill, camera_keys, read_layout
from vine_vla.system1.vetting import read_config
from vine_vla.system1.vine_skill.configuration_vine_skill import VineSkillConfig
from vine_vla.system1.vine_skill.skill import FlowSkill
from vine_vla.system1.vine_skill.weights import POLICY_FOLDER


def open_skill(
    policy: Path,
    dataset: DemoDataset,
    *,
    cameras: Mapping[str, str] | None = None,
    layout: Path | None = None,
    device: str = "cpu",
) -> tuple[Skill, PreTrainedConfig]:
    """The policy in a folder as a skill for the frames of `dataset`, and its configuration.

    Args:
        policy: a checkpoint (`pretrained_model`), or a run of `vine train system1`.
        dataset: demonstrations, or an export of skills, whose crops are fed as they are.
        cameras: camera role -> image key of the policy; default: keys that end in the role.
        layout: `vine_crops.json` of the dataset that the policy was trained on; default: the one in the
            checkpoint, else that of `dataset`, else the verb alone if the policy's vector is as long.

    Raises:
        VineError: no policy there, one of an unknown type, or one whose features are not the dataset's.
    """
    folder = policy / POLICY_FOLDER if (policy / POLICY_FOLDER).is_dir() else policy
    config = read_config(folder)
    usable_device(device)
    exported = dataset.root / LAYOUT
    if isinstance(config, VineSkillConfig) and config.layout and not exported.is_file():
        _check(config, dataset, CropLayout.from_json(config.layout), None)
        return FlowSkill.load(folder, dataset.schema), config
    found = _layout(folder, config, dataset, layout)
    _check(config, dataset, found, cameras)
    return LeRobotSkill.load(folder, cameras=cameras, layout=found, device=device), config


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
