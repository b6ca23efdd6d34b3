"""Numbers as people read them."""

from __future__ import annotations


def human_size(count: int) -> str:
    """Return bytes in decimal units, e.g. `98.4 MB`, as disks and download pages count them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.95:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def human_count(count: int) -> str:
    """Return a count with a short unit, e.g. `134.5M` parameters."""
    value = float(count)
    for unit in ("", "k", "M", "B"):
        if abs(value) < 999.95:
            return f"{value:.0f}" if unit == "" else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f}T"
