"""`vine doctor`: right when all is well, and right about what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vine_vla.compute import machine


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from vine_vla.cli import main; sys.exit(main())", "doctor"]
    return subprocess.run(
        [*command, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_json_report_agrees_with_the_exit_code() -> None:
    done = call("--json")
    report = json.loads(done.stdout)
    names = [check["name"] for check in report["checks"]]
    assert names == ["python", "packages", "rendering", "video h264", "video av1", "torch", "disk", "memory"]
    failed = [check for check in report["checks"] if check["status"] == "failed"]
    assert report["ok"] == (not failed) == (done.returncode == 0)
    assert all(check["fix"] for check in failed)
    # These tests run in an installed environment, so its own parts must be found sound.
    status = {check["name"]: check["status"] for check in report["checks"]}
    assert {status[n] for n in ("python", "video h264", "video av1", "torch")} == {"ok"}
    assert status["packages"] != "failed"


def test_a_backend_that_cannot_draw_fails_with_a_hint() -> None:
    """An unknown back end stands for any broken one: MuJoCo refuses it in the probe's process."""
    done = call(MUJOCO_GL="no-such-backend")
    assert done.returncode == 1
    assert "rendering" in done.stdout
    assert "failed" in done.stdout
    assert "hint:" in done.stdout
    assert "something needed does not work" in done.stdout


def test_missing_egl_names_the_debian_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real draw attempt with EGL switched to a vendor that does not exist."""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/no/such/vendor.json")
    check = machine.check_rendering()
    assert check.status == "failed"
    assert "apt-get install -y --no-install-recommends libegl1 libgl1-mesa-dri" in check.fix
    assert "egl" in check.detail


def test_drawing_really_draws() -> None:
    check = machine.check_rendering()
    if check.status == "failed":
        pytest.skip(f"this machine cannot draw: {check.detail}")
    assert "ms for a 96 px frame" in check.detail


def test_versions_against_a_lock(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        f"# a comment\nnumpy=={machine._installed('numpy')}\nnot-for-here==1.0 ; sys_platform == 'none'\n"
    )
    assert machine.check_versions(lock).status == "ok"

    lock.write_text("numpy==1.0.0\n")
    check = machine.check_versions(lock)
    assert check.status == "warning"
    assert "numpy" in check.detail
    assert "1.0.0" in check.detail

    lock.write_text("no-such-package-anywhere==3.1\n")
    check = machine.check_versions(lock)
    assert check.status == "failed"
    assert "no-such-package-anywhere" in check.detail
    assert check.fix


def test_versions_without_a_lock(tmp_path: Path) -> None:
    check = machine.check_versions(tmp_path / "absent.lock")
    assert check.status == "ok"
    assert "as declared" in check.detail


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_video_round_trip(codec: str) -> None:
    error, count = machine.round_trip(codec)
    assert count == 8
    assert 0 < error < 6


def test_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = machine.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage._replace(free=int(4e8)))
    check = machine.check_disk(tmp_path)
    assert check.status == "failed"
    assert "0.4 GB" in check.detail
    assert str(tmp_path) in check.fix
