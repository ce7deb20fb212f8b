"""Folders that are replaced, and JSON that is read into types."""

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from vine_vla import VineError
from vine_vla.storage import files
from vine_vla.storage.files import folder_in_the_making
from vine_vla.storage.json import decode, read_typed


def replace(target: Path, text: str) -> None:
    with folder_in_the_making(target) as folder:
        folder.mkdir()
        (folder / "file").write_text(text)


def test_a_folder_that_is_replaced_is_never_absent(tmp_path: Path) -> None:
    target = tmp_path / "export"
    replace(target, "0")
    absent, ended = [], threading.Event()

    def watch() -> None:
        while not ended.is_set():
            if not target.is_dir():
                absent.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(1, 100):
        replace(target, str(number))
    ended.set()
    watcher.join()
    assert not absent
    assert (target / "file").read_text() == "99" and [p.name for p in tmp_path.iterdir()] == ["export"]


def test_a_folder_is_replaced_where_the_system_cannot_exchange(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    replace(tmp_path / "export", "old")
    replace(tmp_path / "export", "new")
    assert (tmp_path / "export/file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["export"]


@dataclass(frozen=True)
class Point:
    x: int
    tags: tuple[str, ...] = ()


def test_json_is_read_into_types(tmp_path: Path) -> None:
    (tmp_path / "point.json").write_text('{"x": 1, "tags": ["a"]}')
    assert read_typed(tmp_path / "point.json", Point) == Point(1, ("a",))
    assert decode('{"3": "x"}', dict[int, str], "here") == {3: "x"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{"x": "1"}', r"Expected `int`, got `str` \(here, field x\): write a point"),
        ('{"x": 1, "tags": ["a", 2]}', r"Expected `str`, got `int` \(here, field tags\[1\]\)"),
        ("{}", r"missing required field `x` \(here\)"),
        ("[]", r"Expected `object`, got `array` \(here\)"),
        ('{"x": 1', r"damaged JSON.*\(here\)"),
        ("[" * 100 + "]" * 100, r"nested deeper than 64 \(here\)"),
    ],
)
def test_json_of_another_form_is_named_in_one_line(text: str, line: str) -> None:
    with pytest.raises(VineError, match=line):
        decode(text, Point, "here", "write a point")
