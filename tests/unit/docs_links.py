"""The links of a document, and whether there is something where they lead."""

from __future__ import annotations

import functools
import re
from pathlib import Path

LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s[^)]*)?\)")
FENCED = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)


def broken(document: Path) -> list[str]:
    """The links to files, or headings of files, that do not exist. Those to the web are not tried."""
    return [target for target in LINK.findall(document.read_text()) if not _leads_somewhere(document, target)]


def _leads_somewhere(document: Path, target: str) -> bool:
    if re.match(r"\w+://", target):
        return True
    name, _, anchor = target.partition("#")
    path = (document.parent / name).resolve() if name else document
    return path.exists() and (not anchor or (path.suffix == ".md" and anchor in _anchors(path)))


@functools.cache
def _anchors(document: Path) -> frozenset[str]:
    """The anchors of its headings: lower case, spaces as hyphens, no other signs; the second of a name ends in -1."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", FENCED.sub("", document.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{_times(found, slug)}")
    return frozenset(found)


def _times(found: list[str], slug: str) -> int:
    return sum(bool(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", each)) for each in found)
