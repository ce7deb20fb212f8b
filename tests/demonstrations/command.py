"""The command line, run as a user runs it."""

import os
import subprocess
import sys

MAIN = "import sys; from vine_vla.cli import main; sys.exit(main())"


def vine(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `vine ARGUMENTS` in a process of its own."""
    command = [sys.executable, "-c", MAIN, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
