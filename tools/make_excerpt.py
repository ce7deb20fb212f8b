"""Make a small re-encoded excerpt of a labelled LeRobot v3 dataset, for tests that run anywhere.

    python tools/make_excerpt.py SOURCE OUT --episodes 2 1 --width 160

The excerpts in `tests/data` were made of the real datasets described in their README.md:

    python tools/make_excerpt.py cr5_hand_guided/usb_on_book tests/data/cr5_excerpt --episodes 2 1
    python tools/make_excerpt.py g1_pick_bottle tests/data/g1_excerpt --episodes 4 6 7 --width 96
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from lerobot.configs import RGBEncoderConfig
from lerobot.datasets import LeRobotDataset
from PIL import Image

from vine_vla.data import DemoDataset, open_dataset
from vine_vla.data.annotate.segmentation import flat_names


def make_excerpt(source: Path, out: Path, episodes: list[int], width: int) -> None:
    """Write the chosen episodes, renumbered from 0, with smaller images, and their labels."""
    dataset = open_dataset(source)
    (role, key), *others = dataset.cameras.items()
    if others:
        raise SystemExit("one camera expected")
    height = round(width * dataset.files.features[key]["shape"][0] / dataset.files.features[key]["shape"][1])
    features = {
        name: {
            "dtype": "float32",
            "shape": tuple(dataset.files.features[name]["shape"]),
            "names": flat_names(dataset.files.features[name]["names"]),
        }
        for name in ("observation.state", "action")
    }
    features[key] = {"dtype": "video", "shape": (height, width, 3), "names": ["height", "width", "channels"]}
    shutil.rmtree(out, ignore_errors=True)
    excerpt = LeRobotDataset.create(
        f"vine/{out.name}",
        fps=int(dataset.fps),
        features=features,
        root=out,
        robot_type=dataset.files.info["robot_type"],
        rgb_encoder=RGBEncoderConfig(vcodec="h264", preset="veryslow", crf=30, g=20),
    )
    for episode in episodes:
        state, action = dataset.proprioception(episode), dataset.actions(episode)
        task = dataset.demonstrations[episode].instruction
        for t, image in enumerate(shrunk(dataset, episode, role, (width, height))):
            excerpt.add_frame({"observation.state": state[t], "action": action[t], key: image, "task": task})
        excerpt.save_episode()
    excerpt.finalize()
    shutil.rmtree(out / "images", ignore_errors=True)
    for name in ("labels.jsonl", "boxes.jsonl"):
        if (source / name).is_file():
            rows = [json.loads(line) for line in (source / name).read_text(encoding="utf-8").splitlines()]
            rows = [row | {"episode_index": episodes.index(row["episode_index"])}
                    for row in rows if row["episode_index"] in episodes]  # fmt: skip
            text = "".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda r: r["episode_index"]))
            (out / name).write_text(text, encoding="utf-8")
    for folder in (source, source.parent):
        if (folder / "LICENSE").is_file():
            shutil.copyfile(folder / "LICENSE", out / "LICENSE")
            break


def shrunk(dataset: DemoDataset, episode: int, role: str, size: tuple[int, int]) -> list[np.ndarray]:
    """All frames of an episode at `size` (width, height); read in parts to keep memory small."""
    length = dataset.demonstrations[episode].length
    found = []
    for begin in range(0, length, 100):
        for image in dataset.images(episode, range(begin, min(begin + 100, length)), role):
            found.append(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, help="LeRobot v3 dataset")
    parser.add_argument("out", type=Path, help="folder of the excerpt; is replaced")
    parser.add_argument(
        "--episodes", type=int, nargs="+", required=True, help="episode indices, in this order"
    )
    parser.add_argument("--width", type=int, default=128, help="width of the images in pixels")
    arguments = parser.parse_args()
    make_excerpt(arguments.source, arguments.out, arguments.episodes, arguments.width)


if __name__ == "__main__":
    main()
