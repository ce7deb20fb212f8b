"""Merging: several datasets become one; LeRobot's tool joins frames and videos, this joins the sidecars."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lerobot.datasets.aggregate import aggregate_datasets

from vine_vla.core.errors import VineError
from vine_vla.core.graph import Schema
from vine_vla.core.options import Demonstration
from vine_vla.data.lerobot.dataset import DemoDataset, default_id, open_dataset
from vine_vla.data.lerobot.video import silence_codec_logs
from vine_vla.data.sidecars import files as sidecars
from vine_vla.data.sidecars.boxes import BoxTable, write_boxes
from vine_vla.storage.files import folder_in_the_making


def merge(paths: Sequence[Path], out: Path) -> DemoDataset:
    """Merge datasets in the given order into the new folder `out`.

    Episode ids are kept; ids that VINE made up (`episode_000000`) get the folder's name in front. Video files
    are copied one by one, so that datasets with differently encoded videos can be merged.

    Raises:
        VineError: fewer than two datasets, `out` exists, an id stands twice, or the datasets do not fit.
    """
    if len(paths) < 2:
        raise VineError("fewer than two datasets to merge")
    if out.exists():
        raise VineError("exists already", where=str(out), hint="choose another folder")
    for path in paths:
        if path.resolve() in out.resolve().parents:
            raise VineError("lies inside a dataset", where=str(out), hint="choose another folder")
    datasets = [open_dataset(p) for p in paths]
    _check_alike(datasets)
    schema = datasets[0].schema
    for other in datasets[1:]:
        schema = union(schema, other.schema, f"{datasets[0].root} and {other.root}")
    demonstrations, boxes = _renumber(datasets)
    with folder_in_the_making(out) as root:
        _aggregate([d.root for d in datasets], root)
        sidecars.write_demonstrations(root, demonstrations)
        cameras = datasets[0].cameras
        write_boxes(root, boxes, schema.cameras)
        sidecars.write_info(root, sidecars.SidecarInfo(schema, cameras))
        open_dataset(root)  # what could not be read must not appear
    silence_codec_logs()
    return open_dataset(out)


def _aggregate(roots: Sequence[Path], out: Path) -> None:
    """LeRobot's own merging, without its progress bars."""
    names = [f"vine/part_{i}" for i in range(len(roots))]
    logging.getLogger("lerobot").setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            aggregate_datasets(
                names, "vine/merged", roots=list(roots), aggr_root=out, concatenate_videos=False
            )
    except ValueError as error:
        raise VineError(f"the datasets do not fit: {error}", where=", ".join(map(str, roots))) from error


def _check_alike(datasets: Sequence[DemoDataset]) -> None:
    """Raises VineError naming the first field in which two datasets differ."""
    first = datasets[0]
    for other in datasets[1:]:
        where = f"{first.root} and {other.root}"
        for field in ("fps", "robot_type"):
            a, b = first.files.info.get(field), other.files.info.get(field)
            if a != b:
                raise VineError(
                    f"{field} is {a} and {b}", where=where, hint="only like datasets can be merged"
                )
        ours, theirs = first.files.features, other.files.features
        if ours.keys() != theirs.keys():
            raise VineError(f"features {sorted(ours.keys() ^ theirs.keys())} are in one only", where=where)
        for name, feature in ours.items():
            for part in ("dtype", "shape"):
                if feature[part] != theirs[name][part]:
                    raise VineError(
                        f"{part} of {name} is {feature[part]} and {theirs[name][part]}", where=where
                    )
        if dict(first.cameras) != dict(other.cameras):
            raise VineError(
                f"camera roles {dict(first.cameras)} and {dict(other.cameras)} differ", where=where
            )


def _renumber(datasets: Sequence[DemoDataset]) -> tuple[list[Demonstration], list[tuple[str, BoxTable]]]:
    demonstrations: list[Demonstration] = []
    boxes: list[tuple[str, BoxTable]] = []
    origin: dict[str, Path] = {}
    for dataset in datasets:
        for d in dataset.demonstrations:
            made_up = d.episode_id == default_id(d.episode_index)
            name = f"{dataset.root.resolve().name}-{d.episode_id}" if made_up else d.episode_id
            if name in origin:
                raise VineError(
                    f"episode id {name!r} stands in two datasets",
                    where=f"{origin[name]} and {dataset.root}",
                    hint="merge each episode once, or rename a folder",
                )
            origin[name] = dataset.root
            boxes.append((name, dataset.box_table(d.episode_index)))
            demonstrations.append(replace(d, episode_id=name, episode_index=len(demonstrations)))
    return demonstrations, boxes


def union(a: Schema, b: Schema, where: str) -> Schema:
    """The vocabulary of both; VineError if they use one word differently."""
    if a.cameras != b.cameras:
        raise VineError(f"camera roles {a.cameras} and {b.cameras} differ", where=where)
    verbs = {v.name: v for v in a.verbs}
    for verb in b.verbs:
        if verbs.setdefault(verb.name, verb) != verb:
            raise VineError(f"verb {verb.name} is defined differently", where=where)
    attributes = dict(a.attributes)
    for name, values in b.attributes.items():
        if name in attributes and bool(attributes[name]) != bool(values):
            raise VineError(f"attribute {name} is a number in one only", where=where)
        attributes[name] = tuple(dict.fromkeys((*attributes.get(name, ()), *values)))
    return Schema(
        tuple(dict.fromkeys((*a.classes, *b.classes))),
        attributes,
        tuple(dict.fromkeys((*a.predicates, *b.predicates))),
        tuple(verbs.values()),
        a.cameras,
        tuple(dict.fromkeys((*a.describing, *b.describing))),
    )
