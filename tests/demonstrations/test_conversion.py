"""The mend that `vine inspect` names for old datasets works: regrid the timestamps, convert with LeRobot."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vine_vla.data import open_dataset
from vine_vla.data.inspection import inspect_dataset
from vine_vla.data.lerobot.video import decode_frames


@pytest.mark.slow
def test_the_named_fix_works(real_data, tmp_path):
    source, copy = real_data / "cr5_hand_guided/raw_v21_excerpt", tmp_path / "copy"
    shutil.copytree(source, copy)
    for path in (copy / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        time = (table["frame_index"].to_numpy() / 10).astype(np.float32)
        pq.write_table(
            table.set_column(table.column_names.index("timestamp"), "timestamp", pa.array(time)), path
        )
    command = ["-m", "lerobot.scripts.convert_dataset_v21_to_v30", "--repo-id=me/name", "--push-to-hub=false"]
    subprocess.run(
        [sys.executable, *command, f"--root={copy}"], check=True, env=os.environ, capture_output=True
    )
    assert not inspect_dataset(copy, decode=True).errors
    dataset = open_dataset(copy)
    assert [d.length for d in dataset.demonstrations] == [197, 215, 275]
    for episode in range(3):  # each row has the frame of the source's own video
        video = source / f"videos/chunk-000/observation.images.top/episode_{episode:06d}.mp4"
        some = [0, 100, dataset.demonstrations[episode].length - 1]
        np.testing.assert_array_equal(dataset.images(episode, some, "top"), decode_frames(video, 0, 10, some))
