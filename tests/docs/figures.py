"""Measured figures in prose and tables, and the committed rows that they must equal.

After a paragraph, list or table a comment names the rows of its figures, in their order:

    `vine` succeeds in .81 (.76 to .85) of 300 scenes.

    <!-- rows: plug-full/summary.json#arms[arm=vine].{success|low|high} -->

A line is `FILE#PATH`, FILE below results/; without `FILE#` it is the file of the line before. PATH goes
through JSON or the rows of a CSV: `.key`, `[place]`, `[column=value&column=value]` for the one row that has
these values, and last `.mean(column)` over all rows that have them. `{a|b}` stands for a line with each.
Differences, quotients and factors are written ` - `, ` / `, ` * `. A figure equals its row if that rounds
to it; `12 %` is .12.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

ALLOWED = re.compile(
    r"Python \d\.\d+( or \d\.\d+)?|arXiv[ :]\d+\.\d+|LeRobot v?\d\.\d|MuJoCo \d\.\d\.\d|95 %|80 % power"
    r"|Apache-2\.0"
)
"""Numbers that are no measurements: versions, papers, levels of confidence."""
NUMBER = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d*\.\d+|\d+)"
ANY = re.compile(rf"(?<![\w.,])({NUMBER})(?: ?%)?(?!\w|\.\d)")
"""Any number, for the cells of a table that has rows."""
MEASURED = re.compile(
    rf"(?<![\w.,])(?:[+-]?\d*\.\d+|\d{{1,3}}(?:,\d{{3}})+"
    rf"|{NUMBER}(?= ?%| (?:ms|s|seconds|minutes|min|h|hours|MB|GB|won|lost)\b| of \d))(?: ?%)?(?!\w|\.\d)"
)
"""A number that looks measured: a decimal, a long count, a share, a time, a size, n of m."""
ROWS = re.compile(r"<!-- rows:(.*?)-->", re.DOTALL)


class FigureError(ValueError):
    """A figure without a row, or another than its row."""


@dataclass(frozen=True)
class Block:
    """A paragraph, list or table of a page that begins in line `line`, and the sources of its figures."""

    text: str
    line: int
    sources: tuple[str, ...] = ()


def blocks(page: str) -> list[Block]:
    """The blocks of a page; code, targets of links and other comments are blank in them.

    Raises:
        FigureError: rows that belong to no block.
    """
    page = re.sub(r"^( *)(```|~~~).*?^\1\2$", _blank, page, flags=re.MULTILINE | re.DOTALL)
    page = re.sub(r"<!--(?! rows:).*?-->", _blank, page, flags=re.DOTALL)
    page = re.sub(r"(?<=\n\n)(?: {4}.*\n)+", _blank, page)
    found: list[Block] = []
    start = 0
    for comment in [*ROWS.finditer(page), None]:
        text = page[start : comment.start() if comment else len(page)]
        for part in re.finditer(r"(?:^.*\S.*\n?)+", text, re.MULTILINE):
            inline = re.sub(r"`[^`]+`|\]\([^)]*\)|<[a-z/][^>]*>", _blank, part[0])
            found.append(Block(inline, 1 + page.count("\n", 0, start + part.start())))
        if comment:
            if not found or found[-1].sources:
                raise FigureError(f"line {1 + page.count(chr(10), 0, comment.start())}: rows without a block")
            found[-1] = replace(found[-1], sources=tuple(_sources(comment[1])))
            start = comment.end()
    return found


def figures(block: Block) -> list[str]:
    """What has to have a row in a block: what looks measured, and all numbers of a table that has rows."""
    text = ALLOWED.sub(_blank, block.text)
    if not (block.sources and text.lstrip().startswith("|")):
        return [found[0].strip() for found in MEASURED.finditer(text)]
    cells = (row.strip().strip("|").split("|")[1:] for row in text.splitlines()[2:])
    return [found[0].strip() for row in cells for cell in row for found in ANY.finditer(cell)]


def check(block: Block) -> None:
    """Raises FigureError unless every figure of the block equals its row."""
    written = figures(block)
    if len(written) != len(block.sources):
        raise FigureError(f"line {block.line}: {len(written)} figures {written}, {len(block.sources)} rows")
    for figure, source in zip(written, block.sources):
        value = evaluate(source)
        if not matches(figure, value):
            raise FigureError(f"line {block.line}: {figure} is written, the rows have {value:.6g} ({source})")


def matches(written: str, value: float) -> bool:
    """Whether `value` rounds to the figure as it is written."""
    digits = written.rstrip("% ").replace(",", "")
    if written.endswith("%"):
        value *= 100
    return abs(float(digits) - value) <= 0.5 * 10.0 ** -len(digits.partition(".")[2]) + 1e-9


def evaluate(source: str) -> float:
    """The number that `FILE#PATH`, or an expression of such terms, stands for."""
    first, *rest = re.split(r" ([-/*]) ", source)
    value = _term(first)
    for sign, term in zip(rest[::2], rest[1::2]):
        other = _term(term)
        value = value - other if sign == "-" else value * other if sign == "*" else value / other
    return value


def _term(term: str) -> float:
    if re.fullmatch(NUMBER, term):
        return float(term)
    file, _, path = term.partition("#")
    value: Any = _load(file)
    for key, select, column in re.findall(r"\.?(\w[\w-]*)(?![\w(-])|\[([^\]]+)\]|\.?mean\(([^)]+)\)", path):
        try:
            if column:
                value = [sum(float(row[column]) for row in value) / len(value)]
            elif "=" in select:
                wanted = dict(pair.split("=", 1) for pair in select.split("&"))
                value = [row for row in value if all(str(row.get(k)) == v for k, v in wanted.items())]
            elif isinstance(value, list) and key and len(value) == 1:
                value = value[0][key]
            else:
                value = value[int(select)] if isinstance(value, list) else value[key or select]
        except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
            raise FigureError(f"no {term}: {type(error).__name__} {error}") from None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        return float(value)
    except (TypeError, ValueError):
        raise FigureError(f"no number: {term}") from None


@cache
def _load(file: str) -> Any:
    path = ROOT / "results" / file
    if not path.is_file():
        raise FigureError(f"no file results/{file}")
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return json.loads(text) if ".json" in path.name else list(csv.DictReader(io.StringIO(text)))


def _sources(text: str) -> Iterator[str]:
    """The lines of a comment, each with its file, braces multiplied out."""
    file = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        parts = re.split(r"\{([^}]*)\}", line)
        choices = [part.split("|") if place % 2 else [part] for place, part in enumerate(parts)]
        for chosen in product(*choices):
            terms = []
            for term in re.split(r"( [-/*] )", "".join(chosen)):
                if "#" in term:
                    file = term.partition("#")[0]
                bare = "#" in term or term.strip() in "-/*" or re.fullmatch(NUMBER, term)
                terms.append(term if bare else f"{file}#{term}")
            yield "".join(terms)


def _blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n|]", " ", found[0])
