"""What the bench says: a table on the terminal, a JSON file, and the tables of docs/bench.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Measured, Row

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


@dataclass(frozen=True)
class Outcome:
    """A row that was run; `error` says why there is nothing measured."""

    row: Row
    measured: Measured | None
    error: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands in the table: name, what, against, ours, theirs, ratio, target, and whether it was met."""
        row, measured = self.row, self.measured
        if measured is None:
            return (row.name, row.what, row.against, "", "", "failed", row.aim, self.error)
        ours, theirs = (_number(median(values)) for values in (measured.ours, measured.theirs))
        met = "met" if row.met(measured.ratio) else "missed"
        shown = _ratio(measured.ratio)
        return (row.name, row.what, row.against, f"{ours} {measured.unit}", theirs, shown, row.aim, met)


HEAD = ("row", "what", "against", "promptd", "other", "ratio", "target", "")


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    model = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), "0")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    names = ("llama-cpp-python", "wasmtime", "promptd")
    return {
        "cpu": model,
        "cores": str(len(_cores())),
        "memory": f"{int(memory) // 1024**2} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        **{name: version(name) for name in names},
    }


def show(outcomes: list[Outcome]) -> None:
    """Print the table."""
    table = Table(*HEAD)
    for outcome in outcomes:
        table.add_row(*outcome.cells)
    Console().print(table)


def as_json(outcomes: list[Outcome], *, quick: bool, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return everything that was measured, with the rows of a result from `before` that were not measured again."""
    facts = machine()
    rows = {row["name"]: row for row in before["rows"]} if before else {}
    for outcome in outcomes:
        row, measured = outcome.row, outcome.measured
        entry: dict[str, Any] = {"name": row.name, "what": row.what, "against": row.against, "target": row.aim}
        entry["commit"] = facts["commit"]
        if measured is None:
            entry["error"] = outcome.error
        else:
            entry |= asdict(measured) | {"ratio": measured.ratio, "met": row.met(measured.ratio)}
        rows[row.name] = entry
    return {"machine": facts, "quick": quick, "rows": list(rows.values())}


def read(path: Path) -> dict[str, Any] | None:
    """Return what `save` has written, if there is any."""
    return dict(json.loads(path.read_text())) if path.exists() else None


def write_docs(path: Path, result: dict[str, Any]) -> None:
    """Put the table and the machine between the two marks of a Markdown page."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{_markdown(result)}{END}{after}")


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


def _markdown(result: dict[str, Any]) -> str:
    commits = dict.fromkeys(row["commit"] for row in result["rows"])
    machine = {**result["machine"], "commit": " and ".join(commits)}
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    lines = [f"Measured with `scripts/bench{' --quick' if result['quick'] else ''}` on: {facts}.", ""]
    lines += ["| what | against | promptd | other | ratio | target | |", "|---|---|---|---|---|---|---|"]
    for row in result["rows"]:
        if "error" in row:
            lines.append(f"| {row['what']} | {row['against']} | | | failed: {row['error']} | {row['target']} | |")
            continue
        ours, theirs = (_number(median(row[key])) for key in ("ours", "theirs"))
        ratio = _ratio(row["ratio"])
        met = "met" if row["met"] else "**missed**"
        cells = (row["what"], row["against"], f"{ours} {row['unit']}", theirs, ratio, row["target"], met)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Counters of these runs:", ""]
    for row in result["rows"]:
        if row.get("counters"):
            counters = ", ".join(f"{name} {_number(value)}" for name, value in row["counters"].items())
            lines.append(f"- {row['name']}: {counters}")
    return "\n".join(lines) + "\n"


def save(path: Path, result: dict[str, Any]) -> None:
    """Write the JSON file."""
    path.write_text(json.dumps(result, indent=2) + "\n")


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
