"""Small checks on files about to be committed; also run over the whole tree by a test.

python tools/hygiene.py FILE...      # exit code 1 and a line per finding
"""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

LARGEST = 2_000_000  # bytes; data of that size belong into a gzip file or outside of the repository
TEXT = {
    *{".py", ".pyi", ".toml", ".md", ".yaml", ".yml", ".json", ".jsonl", ".csv", ".txt", ".lock"},
    *{".sh", ".cfg", ".html", ".css", ".js", ".xml", ""},
}
CONFLICT = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
LINE_RULES = (
    (
        re.compile(r"https?://[^\s)\">]*(pypi|pythonhosted|npmjs|deb\.debian)"),
        "address of a package registry",
    ),
    (re.compile(r"(/home/\w+|/root)/\w"), "path of one machine"),
)
CODE_RULES = (
    (
        re.compile(r"\bpickle\.loads?\(|\btorch\.load\(|allow_pickle\s*=\s*True|\byaml\.load\("),
        "unpickles a file",
    ),
    (re.compile(r"\bbreakpoint\(\)|\bpdb\.set_trace\("), "debugger left in"),
)


def findings(files: Iterable[Path]) -> Iterator[str]:
    """One line `file[:line]: what` for everything that should not be committed."""
    for file in files:
        if not file.is_file() or file.is_symlink():
            continue
        if file.stat().st_size > LARGEST:
            yield f"{file}: {file.stat().st_size / 1e6:.1f} MB, more than {LARGEST / 1e6:.0f} MB"
        if file.suffix not in TEXT:
            continue
        content = file.read_bytes()
        if b"\0" in content:
            continue
        text = content.decode("utf-8", errors="replace")
        if "\ufffd" in text:
            yield f"{file}: not UTF-8"
        if "\r\n" in text:
            yield f"{file}: line ends of Windows"
        if text and not text.endswith("\n") and file.suffix not in (".json", ".html", ".csv"):
            yield f"{file}: no newline at the end"
        if CONFLICT.search(text) and file.suffix != ".md":
            yield f"{file}: marks of a merge conflict"
        rules = LINE_RULES + (CODE_RULES if file.suffix == ".py" else ())
        for number, line in enumerate(text.splitlines(), start=1):
            for pattern, what in rules:
                if pattern.search(line) and "hygiene: allow" not in line:
                    yield f"{file}:{number}: {what}"


if __name__ == "__main__":
    found = list(findings(map(Path, sys.argv[1:])))
    print("\n".join(found))
    sys.exit(bool(found))
