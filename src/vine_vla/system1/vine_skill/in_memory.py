"""`lerobot-train` with its frames in memory: the same options, the same batches, less waiting.

    python -m vine_vla.system1.vine_skill.in_memory --policy.type=act --dataset.root=path/to/joint ...

LeRobot's loader reads an item by a PNG per camera and a row look-up per action of the chunk, which takes
longer than the gradient step of a small policy. Nothing else is changed; `memory` says what fits.
"""

from __future__ import annotations

from unittest.mock import patch

from lerobot.scripts import lerobot_train

from vine_vla.system1.vine_skill.memory import InMemoryDataset


def main() -> None:
    """Run LeRobot's trainer on this process's command line."""
    with patch("lerobot.datasets.factory.LeRobotDataset", InMemoryDataset):
        lerobot_train.main()


if __name__ == "__main__":
    main()
