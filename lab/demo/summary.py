"""The table at the end of the demo."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lab.demo.timeline import Timeline

_HEADINGS = ("", "", "packets", "without", "until the pod", "vipmanager's", "EC2")
_HEADINGS_2 = ("", "", "lost", "service", "(address) was there", "part", "calls")
_WIDTHS = (24, 20, 9, 10, 21, 14, 7)


@dataclass(frozen=True)
class Row:
    """One move of addresses; times in ms. Of several addresses, the one that was without service longest.

    `failure` says what went wrong; then there are no numbers. A first start has neither `lost` nor `before`.
    """

    act: str
    move: str
    lost: int | None = None
    before: int | None = None
    own: int | None = None
    calls: int | None = None
    failure: str = ""


def show(timeline: Timeline, rows: Sequence[Row]) -> None:
    """Print the rows, and whether all traffic that should flow did."""
    timeline.title("Summary")
    timeline.line()
    for headings in (_HEADINGS, _HEADINGS_2):
        timeline.line(aligned(headings, _WIDTHS), "bold")
    for row in rows:
        timeline.line(aligned(tuple(_cells(row)), _WIDTHS), "red" if row.failure else "")
    timeline.line()
    failures = [row for row in rows if row.failure]
    for row in failures:
        timeline.note(f"{row.act}, {row.move}: {row.failure}", "red")
    if not failures:
        timeline.note("All traffic that should flow did, and no packet was lost outside of the moves.", "green")


def _cells(row: Row) -> Iterator[str]:
    yield row.act
    yield row.move
    if row.failure:
        yield "FAILED"
        return
    without = None if row.before is None or row.own is None else row.before + row.own
    yield _or_dash(row.lost)
    for milliseconds in (without, row.before, row.own):
        yield _or_dash(milliseconds, " ms")
    yield _or_dash(row.calls)


def _or_dash(number: int | None, unit: str = "") -> str:
    return "-" if number is None else f"{number}{unit}"


def aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of a table: the first two columns begin at the left, the others end at the right."""
    columns = zip(cells, widths, range(len(widths)), strict=False)
    return (
        "  " + "".join(text.ljust(width) if number < 2 else text.rjust(width) for text, width, number in columns)
    ).rstrip()
