"""A policy folder is vetted before anything in it is loaded: nothing that it names is imported or executed.

LeRobot builds the processors of a saved policy from JSON: a step is looked up by `registry_name`, or else its
dotted `class` is imported and called with `config`, whatever it is. Some policies and steps hand a name in
their JSON to `transformers` with `trust_remote_code`, which runs Python files of that folder or repository.
Both are refused here, as are adapters (`use_peft`), which name another policy to begin with.

The hash in a run (`weights`) finds damage. It does not stop an attacker, who can write another; this does.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from draccus.utils import DraccusException
from huggingface_hub import snapshot_download
from lerobot.configs import PreTrainedConfig
from lerobot.processor import ProcessorStepRegistry

from vine_vla.core.errors import VineError
from vine_vla.storage.untrusted import check_inner, check_tensors, read_json
from vine_vla.system1.vine_skill.configuration_vine_skill import check_format

REMOTE_CODE_POLICIES = frozenset({"gaussian_actor", "groot", "pi0_fast", "wall_x"})
"""Policies of LeRobot that run code of the model repository that their config.json names."""

REMOTE_CODE_STEPS = frozenset(
    {"action_tokenizer_processor", "reward_classifier_processor", "robometer_encoder", "topreward_encoder"}
    | {"groot_n1_7_pack_inputs_v1", "groot_n1_7_vlm_encode_v1", "groot_n1_7_action_decode_v1"}
)
"""Processor steps of LeRobot that do so, or load a policy that does."""

PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
STEP_FIELDS = frozenset({"registry_name", "config", "state_file"})
ELSEWHERE = "run it behind a server of its own (openpi) if you trust it"


def fetch_policy(source: str | Path, revision: str | None = None, **options: Any) -> Path:
    """The folder of a saved policy, downloaded if it is a repository on the hub, and vetted (`vet_policy`).

    Args:
        options: of LeRobot's `from_pretrained`; those of a download are heeded.
    """
    folder = Path(source)
    if not folder.is_dir():
        known = ("cache_dir", "force_download", "token", "local_files_only")
        download = {name: options[name] for name in known if options.get(name) is not None}
        folder = Path(snapshot_download(str(source), revision=revision, **download))
    vet_policy(folder)
    return folder


def vet_policy(folder: Path) -> str:
    """Check every JSON and safetensors file of a saved policy's folder; nothing of it is loaded.

    Returns:
        The policy's type, one that LeRobot or an installed plugin registers.

    Raises:
        VineError: no policy there, a type or step that no installed package registers, a step given by its
            class, code of a model repository, a path that leaves the folder, or a file out of bounds.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise VineError(
            "no LeRobot policy", where=str(folder), hint="give a pretrained_model folder or a run's system1"
        )
    kind = _vet_config(path)
    # A policy's own steps are registered by its processor module, which LeRobot finds by this rule as well.
    with suppress(ImportError):
        module = PreTrainedConfig.get_choice_class(kind).__module__
        import_module(module.replace("configuration_", "processor_"))
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            check_tensors(file)
        elif file.suffix == ".json":
            data = read_json(file)
            _refuse_remote_code(data, str(file))
            if file.name in PROCESSORS or (isinstance(data, dict) and isinstance(data.get("steps"), list)):
                _vet_steps(data, file)
    return kind


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration of the policy in a folder that is vetted first.

    Raises:
        VineError: as `vet_policy`, or a field is missing or malformed.
    """
    vet_policy(folder)
    try:
        return PreTrainedConfig.from_pretrained(folder)
    except (DraccusException, ValueError, TypeError, KeyError) as error:
        raise VineError(f"malformed: {error}", where=str(folder / "config.json")) from error


def _vet_config(path: Path) -> str:
    data = read_json(path)
    if not isinstance(data, dict):
        raise VineError("not a JSON object", where=str(path), hint="give a saved policy")
    kind = data.get("type")
    if not isinstance(kind, str) or kind not in PreTrainedConfig.get_known_choices():
        raise VineError(
            f"a policy of unknown type {kind!r}", where=str(path), hint="install its plugin for LeRobot"
        )
    check_format(data, str(path))
    if kind in REMOTE_CODE_POLICIES:
        raise VineError(
            f"a policy of type {kind} runs code of a model repository",
            where=f"{path}, field type",
            hint=ELSEWHERE,
        )
    if data.get("use_peft"):
        raise VineError(
            "an adapter of another policy",
            where=f"{path}, field use_peft",
            hint="merge it, and save the whole",
        )
    return kind


def _vet_steps(data: Any, file: Path) -> None:
    steps = data.get("steps") if isinstance(data, dict) else None
    if not isinstance(steps, list):
        raise VineError(
            "no list of processor steps", where=f"{file}, field steps", hint="save the policy anew"
        )
    for number, step in enumerate(steps):
        where = f"{file}, steps[{number}]"
        if not isinstance(step, dict) or not isinstance(step.get("config", {}), dict):
            raise VineError("not a processor step", where=where, hint="save the policy anew")
        if "class" in step:
            raise VineError(
                f"the step is given by its class {step['class']!r}, which is never imported",
                where=f"{where}.class",
                hint="register the step in an installed package and save the processor anew",
            )
        if unknown := sorted(set(step) - STEP_FIELDS):
            raise VineError(f"unknown field {unknown[0]!r}", where=where, hint="save the policy anew")
        name = step.get("registry_name")
        if not isinstance(name, str) or name not in ProcessorStepRegistry.list():
            raise VineError(
                f"no installed package registers the step {name!r}",
                where=f"{where}.registry_name",
                hint="install the policy's plugin for LeRobot",
            )
        if name in REMOTE_CODE_STEPS:
            raise VineError(
                f"the step {name} runs code of a model repository",
                where=f"{where}.registry_name",
                hint=ELSEWHERE,
            )
        if "state_file" in step:
            inner = check_inner(step["state_file"], f"{where}.state_file", "save the policy anew")
            if len(inner.parts) != 1 or inner.suffix != ".safetensors" or not (file.parent / inner).is_file():
                raise VineError(
                    f"no safetensors file {step['state_file']!r} beside it", where=f"{where}.state_file"
                )


def _refuse_remote_code(data: Any, where: str) -> None:
    level = [data]
    while level:
        item = level.pop()
        if isinstance(item, dict):
            if item.get("trust_remote_code"):
                raise VineError(
                    "wants code of a model repository to run",
                    where=f"{where}, field trust_remote_code",
                    hint=ELSEWHERE,
                )
            level.extend(item.values())
        elif isinstance(item, list):
            level.extend(item)
