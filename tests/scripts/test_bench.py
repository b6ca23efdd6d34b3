"""The bench's own arithmetic and table; what it measures is measured by running it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent.parent / "scripts"))

from benchmarks.report import BEGIN, END, Outcome, as_json, read, save, write_docs
from benchmarks.rows import Bench, Measured, Row


def row(target: float, better: str, name: str = "name") -> Row:
    def run(bench: Bench) -> Measured:
        raise AssertionError("the tests measure nothing")

    return Row(name, "ours", "theirs", target, better, run)


def test_the_ratio_is_the_median_of_the_pairs_ratios_and_not_of_the_sides():
    assert Measured([1.0, 10.0, 3.0], [2.0, 10.0, 1.0], "s").ratio == 1.0


@pytest.mark.parametrize(("better", "met", "missed"), [("higher", 0.95, 0.94), ("lower", 0.95, 0.96)])
def test_a_target_is_met_at_its_limit_and_missed_beyond_it(better: str, met: float, missed: float):
    assert row(0.95, better).met(met)
    assert not row(0.95, better).met(missed)


def test_the_page_gets_the_table_between_its_marks_and_keeps_the_rest(tmp_path: Path):
    page = tmp_path / "bench.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    good = Outcome(row(0.9, "higher"), Measured([95.0], [100.0], "tokens/s", {"widths": 16}))
    bad = Outcome(row(2, "lower", "other"), None, "OSError: no space")
    write_docs(page, as_json([good, bad], quick=False))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| ours | theirs | 95 tokens/s | 100 | 0.950 | ≥ 0.9 | met |" in text
    assert "failed: OSError: no space" in text
    assert "- name: widths 16" in text


def test_rows_from_before_stay_in_the_file_until_they_are_measured_again(tmp_path: Path):
    file = tmp_path / "bench.json"
    assert read(file) is None
    first = [Outcome(row(1, "lower", name), Measured([2.0], [1.0], "s")) for name in ("one", "two")]
    save(file, as_json(first, quick=False, before=read(file)))
    again = Outcome(row(1, "lower", "two"), Measured([1.0], [1.0], "s"))
    save(file, as_json([again], quick=False, before=read(file)))
    result = read(file)
    assert result is not None
    assert {each["name"]: each["met"] for each in result["rows"]} == {"one": False, "two": True}
