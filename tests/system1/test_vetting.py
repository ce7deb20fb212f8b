"""A policy folder that names code is refused before anything of it is imported, and damage is found."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import lerobot
import pytest
from lerobot.configs import FeatureType, PolicyFeature
from system1.toy import SCHEMA

from vine_vla.core.errors import VineError
from vine_vla.data.export.crops import LAYOUT
from vine_vla.serving.configuration_vine import VineConfig
from vine_vla.serving.processor_vine import make_vine_pre_post_processors
from vine_vla.storage.untrusted import HEADER_BYTES, JSON_DEPTH, check_inner, check_tensors, parse_json
from vine_vla.system1.adapters.importing import import_policy, load_run_skill
from vine_vla.system1.adapters.skills import LeRobotSkill
from vine_vla.system1.vetting import REMOTE_CODE_POLICIES, vet_policy
from vine_vla.system1.vine_skill.weights import check_weights

PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"


@pytest.fixture
def policy(checkpoint, tmp_path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(checkpoint, tmp_path / "pretrained_model"))


def change(file: Path, edit) -> None:
    data = json.loads(file.read_text())
    edit(data)
    file.write_text(json.dumps(data))


def popen(marker: Path) -> dict:
    """The attack: a step that LeRobot would import and call, with no fault of its own afterwards."""
    return {"class": "subprocess.Popen", "config": {"args": ["touch", str(marker)]}}


def attack(folder: Path, marker: Path, name: str = PRE) -> None:
    change(folder / name, lambda data: data["steps"].insert(0, popen(marker)))


ATTACKS = """
import contextlib, io, json, sys, traceback
from vine_vla.cli import main
from lerobot.utils.import_utils import register_third_party_plugins
from lerobot.configs import PreTrainedConfig
from lerobot.policies import make_policy, make_pre_post_processors
from lerobot.scripts import lerobot_eval

def lerobot(*arguments):
    sys.argv = ["lerobot-eval", *arguments]
    lerobot_eval.main()

def unvetted(folder):
    make_pre_post_processors(PreTrainedConfig.from_pretrained(folder), folder)

calls = {"vine": lambda *arguments: main(arguments), "lerobot": lerobot, "unvetted": unvetted}
for kind, *arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    code = 1
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = calls[kind](*arguments)
        except BaseException as error:
            traceback.print_exception(error)
    print("DONE " + json.dumps([code, said.getvalue()]), flush=True)
"""


def forget_hashes(record: dict) -> None:
    del record["files_sha256"]


def save_agent(run: Path, out: Path) -> Path:
    """A checkpoint of the policy `vine`; without its System 2, which is loaded after System 1 is vetted."""
    config = VineConfig(
        device="cpu",
        push_to_hub=False,
        input_features={
            **{
                f"observation.images.{c}": PolicyFeature(FeatureType.VISUAL, (3, 96, 96))
                for c in SCHEMA.cameras
            },
            "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))},
    )
    shutil.copytree(run, out)
    config.save_pretrained(out)
    for processor in make_vine_pre_post_processors(config):
        processor.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def attacks(checkpoint, toy, tmp_path_factory) -> dict[str, tuple[int, str, Path]]:
    """Every door tried by the attack, in a process of its own: exit code, what was said, the marker."""
    folder = tmp_path_factory.mktemp("attacks")
    calls: dict[str, list[str]] = {}
    for name in (PRE, POST):
        policy = shutil.copytree(checkpoint, folder / f"policy_{name}")
        attack(policy, folder / f"import {name}", name)
        calls[f"import {name}"] = ["vine", "skill", "import", policy, toy.root, "--out", folder / "system1"]
    policy = shutil.copytree(checkpoint, folder / "policy")
    attack(policy, folder / "check")
    calls["check"] = ["vine", "skill", "check", policy, toy.root, "--threads", "1"]
    import_policy(checkpoint, toy, folder / "run/system1")
    change(folder / "run/system1/system1.json", forget_hashes)  # an attacker writes them too
    served = shutil.copytree(folder / "run", folder / "served")
    attack(served / "system1/policy", folder / "serve")
    calls["serve"] = ["vine", "serve", served, "--port", "0"]
    for name, place in (("agent", "."), ("agent's run", "system1/policy")):
        agent = save_agent(folder / "run", folder / f"{name} exported")
        attack(agent / place, folder / name)
        scene = ["--env.type=vine_sim", "--env.episode_length=2", "--eval.n_episodes=1"]
        more = ["--eval.batch_size=1", "--policy.device=cpu", f"--output_dir={folder / 'out'}"]
        calls[name] = ["lerobot", f"--policy.path={agent}", *scene, *more]
    policy = shutil.copytree(checkpoint, folder / "unvetted_policy")
    attack(policy, folder / "unvetted")
    calls["unvetted"] = ["unvetted", policy]
    told = [[str(a) for a in call] for call in calls.values()]
    done = subprocess.run(
        [sys.executable, "-c", ATTACKS, json.dumps(told)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    lines = [line.removeprefix("DONE ") for line in done.stdout.splitlines() if line.startswith("DONE ")]
    assert len(lines) == len(calls), done.stderr[-3000:]
    return {name: (*json.loads(line), folder / name) for name, line in zip(calls, lines, strict=True)}


# ---- the attack ------------------------------------------------------------------------------------------
slow_machine = pytest.mark.timeout(600)  # one process imports LeRobot anew


@slow_machine
@pytest.mark.parametrize("door", [f"import {PRE}", f"import {POST}", "check", "serve"])
def test_no_command_executes_what_a_policy_names(attacks, door):
    code, said, marker = attacks[door]
    assert code == 2 and not marker.exists(), said
    line = [line for line in said.splitlines() if not line.startswith("vine: remark")]
    assert len(line) == 1 and "'subprocess.Popen', which is never imported" in line[0]
    assert "processor.json, steps[0].class" in line[0]
    assert not (marker.parent / "system1").exists()  # nothing half imported


@slow_machine
@pytest.mark.parametrize("door", ["agent", "agent's run"])
def test_lerobots_evaluation_executes_nothing(attacks, door):
    """`--policy.path` of the policy `vine`: its own processors, and those of the run in it."""
    code, said, marker = attacks[door]
    assert code == 1 and not marker.exists()
    assert "VineError: the step is given by its class 'subprocess.Popen'" in said


@slow_machine
def test_the_attack_works_where_nobody_vets(attacks):
    """Else the tests above would prove nothing."""
    marker, patience = attacks["unvetted"][2], 200
    while not marker.exists() and patience:  # the child runs by itself
        time.sleep(0.05)
        patience -= 1
    assert marker.exists()


# ---- what is refused, and what is not --------------------------------------------------------------------
def test_a_registered_step_of_an_installed_package_is_taken(policy, toy):
    step = {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}}
    change(policy / PRE, lambda data: data["steps"].append(step))
    assert vet_policy(policy) == "act"
    assert LeRobotSkill.load(policy)._pre.steps[-1].rename_map == {}


def set_step(**fields):
    return PRE, lambda data: data["steps"][0].update(fields)


@pytest.mark.parametrize(
    ("file", "edit", "says"),
    [
        (*set_step(registry_name="nobody_knows"), r"registers the step 'nobody_knows' \(.*steps\[0\]"),
        (*set_step(**{"class": "lerobot.processor.IdentityProcessorStep"}), "never imported"),
        (*set_step(registry_name=["x"]), "registers the step"),
        (*set_step(registry_name="action_tokenizer_processor"), "runs code of a model repository"),
        (*set_step(config={"trust_remote_code": True}), "field trust_remote_code"),
        (*set_step(module="os"), "unknown field 'module'"),
        (*set_step(config=[]), "not a processor step"),
        (*set_step(state_file="../model.safetensors"), r"no path inside the folder \(.*state_file"),
        (*set_step(state_file="/etc/passwd"), "no path inside the folder"),
        (*set_step(state_file="absent.safetensors"), "no safetensors file"),
        (PRE, lambda data: data.update(steps={}), "no list of processor steps"),
        ("config.json", lambda data: data.update(type="os.system"), "unknown type 'os.system'"),
        ("config.json", lambda data: data.update(type=["act"]), "unknown type"),
        ("config.json", lambda data: data.update(type="pi0_fast"), "runs code of a model repository"),
        ("config.json", lambda data: data.update(use_peft=True), "an adapter of another policy"),
        ("config.json", lambda data: data.update(n_obs_steps="many"), "malformed"),
    ],
)
def test_what_names_something_else_is_refused(policy, file, edit, says):
    change(policy / file, edit)
    with pytest.raises(VineError, match=says) as told:
        LeRobotSkill.load(policy)
    assert str(policy / file) in str(told.value) and "\n" not in str(told.value)


def test_every_policy_that_runs_code_of_a_repository_is_known():
    """LeRobot's source says which; another version may have more."""
    root = Path(lerobot.__file__).parent / "policies"
    found = {
        path.relative_to(root).parts[0]
        for path in root.rglob("*.py")
        if re.search(r"trust_remote_code\"?\s*[=:]\s*True", path.read_text(encoding="utf-8"))
    }
    assert found == REMOTE_CODE_POLICIES


@pytest.mark.parametrize("file", [PRE, "config.json", Path(LAYOUT).name])
@pytest.mark.parametrize("depth", [JSON_DEPTH + 1, 100_000])
def test_deep_json_is_refused(policy, file, depth):
    (policy / file).write_text('{"steps": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(VineError, match=f"nested deeper than {JSON_DEPTH}"):
        LeRobotSkill.load(policy)


def test_json_is_bounded(policy, monkeypatch):
    assert parse_json("[" * JSON_DEPTH + "]" * JSON_DEPTH, "here")
    with pytest.raises(VineError, match="damaged JSON"):
        parse_json("{", "here")
    monkeypatch.setattr("vine_vla.storage.untrusted.JSON_BYTES", 100)
    with pytest.raises(VineError, match="at most 100"):
        vet_policy(policy)


@pytest.mark.parametrize("length", [HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_a_huge_safetensors_header_is_refused(policy, length):
    with (policy / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", length))
        file.truncate(HEADER_BYTES * 2)  # sparse
    with pytest.raises(VineError, match=f"a header of {length} bytes, at most {HEADER_BYTES}"):
        LeRobotSkill.load(policy)


def test_a_short_or_foreign_safetensors_file_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    for data, says in (
        (b"", "header"),
        (b"\x05", "header"),
        (struct.pack("<Q", 4) + b"abcd", "damaged JSON"),
    ):
        file.write_bytes(data)
        with pytest.raises(VineError, match=says):
            check_tensors(file)


@pytest.mark.parametrize("name", ["..", "a/../../b", "/a", "C:\\a", "..\\a", "", None, 3, "a\0b"])
def test_paths_that_leave_their_folder_are_refused(name):
    with pytest.raises(VineError, match="no path inside the folder"):
        check_inner(name, "here")


# ---- the hash finds damage -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: change(p / PRE, lambda data: data.update(name="other")), f"has changed .*{PRE}"),
        (lambda p: change(p / "config.json", lambda data: data.update(kl_weight=1)), "has changed"),
        (lambda p: (p / POST).unlink(), f"is missing .*{POST}"),
        (lambda p: (p / "adapter_config.json").write_text("{}"), "was added"),
    ],
)
def test_damage_anywhere_in_the_policys_folder_is_found(policy, toy, tmp_path, spoil, says):
    out = import_policy(policy, toy, tmp_path / "system1")
    assert load_run_skill(out, SCHEMA)
    spoil(out / "policy")
    with pytest.raises(VineError, match=says):
        load_run_skill(out, SCHEMA)


def test_a_run_of_before_is_checked_by_its_weights_alone(policy, toy, tmp_path):
    out = import_policy(policy, toy, tmp_path / "system1")
    change(out / "system1.json", forget_hashes)
    change(out / "policy" / PRE, lambda data: data.update(name="other"))
    assert check_weights(out) and load_run_skill(out, SCHEMA)
