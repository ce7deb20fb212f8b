"""Every measured figure of the README and of the docs outside the notebook equals its committed rows."""

from pathlib import Path

import pytest

from docs.figures import ROOT, FigureError, blocks, check, evaluate, figures, matches

PAGES = [
    ROOT / "README.md",
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "notebook" not in p.parts),
    *sorted((ROOT / "results").rglob("README.md")),
]


@pytest.mark.parametrize("page", PAGES, ids=[p.relative_to(ROOT).as_posix() for p in PAGES])
def test_figures_equal_their_rows(page: Path) -> None:
    problems = []
    for block in blocks(page.read_text(encoding="utf-8")):
        try:
            check(block)
        except FigureError as error:
            problems.append(str(error))
    assert not problems, "\n".join(problems)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


SUMMARY = "plug-full/summary.json#arms[arm=vine].{success|low|high}"
SENTENCE = "It succeeds in .81 (.76 to .85)\nof 300 scenes.\n"


def test_a_wrong_figure_is_found() -> None:
    (right,) = blocks(f"{SENTENCE}\n<!-- rows: {SUMMARY} -->\n")
    check(right)
    (wrong,) = blocks(f"# Title\n\n{SENTENCE}\n<!-- rows: {SUMMARY} -->\n".replace(".76", ".77"))[1:]
    with pytest.raises(FigureError, match=r"line 3: \.77 is written, the rows have 0\.76"):
        check(wrong)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("it takes 98 ms, 1,300 MB and .5 GB", ["98", "1,300", ".5"]),
        ("46 of 46, +.12 and -.11, 12 % of 37,385", ["46", "+.12", "-.11", "12 %", "37,385"]),
        ("67 won and 32 lost on 300 scenes with 3 seeds", ["67", "32"]),
        ("`alpha=.1` at 95 % with Python 3.12, see [it](a_1.5.md)", []),
        ("```text\n.81\n```", []),
    ],
)
def test_what_looks_measured(text: str, found: list[str]) -> None:
    assert [figure for block in blocks(text) for figure in figures(block)] == found


def test_a_figure_without_rows_is_found() -> None:
    with pytest.raises(FigureError, match="3 figures"):
        check(blocks(SENTENCE)[0])
    with pytest.raises(FigureError, match="without a block"):
        blocks(f"<!-- rows: {SUMMARY} -->")


def test_all_numbers_of_a_table_with_rows_count() -> None:
    rows = "plug-full/summary.json#comparisons[0].wins"
    table = f"| n | won |\n|---|---|\n| 5 | 67 |\n\n<!-- rows: {rows} -->\n"
    (block,) = blocks(table)
    assert figures(block) == ["67"]
    check(block)


def test_sources() -> None:
    assert evaluate("failures/failures.csv#[failures=50].success") == 0.895
    assert evaluate("3 * 4 - 2 / 5") == 2
    between = "replanning/between/episodes.csv#[arm=vine&variant={}].mean(model_calls)"
    assert round(evaluate(between.format("uncertainty")), 1) == 9.7
    for missing in ("plug-full/none.json#a", "failures/failures.csv#[failures=51].success"):
        with pytest.raises(FigureError):
            evaluate(missing)
    assert matches("+.12", 0.1166) and not matches(".12", 0.1149) and matches("78 %", 0.776)
