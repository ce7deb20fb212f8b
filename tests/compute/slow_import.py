"""A module whose import takes long: a worker's imports, of which the parent may be killed in the middle."""

import os
import time
from pathlib import Path

folder = Path(os.environ["PIDS"])
(folder / f"pid-{os.getpid()}").touch()
time.sleep(30)


def make():
    raise AssertionError("the import takes longer than the test")
