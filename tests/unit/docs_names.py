"""The variables and functions of a document's shell blocks: which are used before they are set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.unit.docs_commands import Block

GIVEN = frozenset(("HOME", "PATH", "PWD", "USER"))
"""What every shell has."""

FUNCTIONS = frozenset(("describe", "output", "private"))
"""Commands that a document makes itself."""

HEREDOC = re.compile(r"(<<'(\w+)'[^\n]*\n).*?^\2$", re.DOTALL | re.MULTILINE)
TOKEN = re.compile(
    r"""
    \\. | \$\( | [)'"]
    | (?:^|(?<=\s))(?P<comment>\#[^\n]*)
    | \$\{?(?P<used>[A-Za-z_]\w*)
    | (?P<function>^[A-Za-z_]\w*(?=\(\)))
    | (?:^|[;&|({]|\b(?:do|then|export))[ ]*(?P<set>[A-Za-z_]\w*)=
    | \bfor[ ]+(?P<each>[A-Za-z_]\w*)
    | [ \n;]
    """,
    re.VERBOSE | re.MULTILINE,
)


@dataclass
class Names:
    """What has been set so far, where a scan of shell text is, and what it found used before that."""

    known: set[str] = field(default_factory=lambda: set(GIVEN))
    unknown: list[str] = field(default_factory=list)
    quotes: list[str] = field(default_factory=lambda: [""])
    """The quote that is open, for each `$(` that is open."""
    pending: list[tuple[int, str]] = field(default_factory=list)
    """Names whose value is being read, with the depth of `$(`: they are set when it ends."""

    def read(self, text: str) -> None:
        """Go through a block."""
        for match in TOKEN.finditer(HEREDOC.sub(r"\1", text).replace("\\\n", "  ") + "\n"):
            if self.quotes[-1] == "'":
                self._close(match[0])
            elif not self._quote(match[0]):
                self._name(match)

    def _close(self, token: str) -> None:
        if token == "'":
            self.quotes[-1] = ""

    def _quote(self, token: str) -> bool:
        """Whether it was a matter of quotes, of `$(…)`, or of a value's end."""
        quote = self.quotes[-1]
        if token == "$(":
            self.quotes.append("")
        elif token == ")" and not quote and len(self.quotes) > 1:
            self.quotes.pop()
        elif token == '"':
            self.quotes[-1] = "" if quote else '"'
        elif token == "'" and not quote:
            self.quotes[-1] = "'"
        elif token in (" ", "\n", ";") and not quote:
            self._ended()
        else:
            return False
        return True

    def _ended(self) -> None:
        depth = len(self.quotes)
        self.known |= {name for at, name in self.pending if at >= depth}
        self.pending = [(at, name) for at, name in self.pending if at < depth]

    def _name(self, match: re.Match[str]) -> None:
        if match["used"]:
            if match["used"] not in self.known:
                self.unknown.append(match["used"])
        elif not self.quotes[-1] and match["set"]:
            self._ended()
            self.pending.append((len(self.quotes), match["set"]))
        elif not self.quotes[-1] and (name := match["each"] or match["function"]):
            self.known.add(name)


def unset(blocks: Iterable[Block]) -> Iterator[str]:
    """Variables and functions that the blocks of one document use and none of them set before."""
    names = Names()
    for block in blocks:
        names.read(block.text)
        yield from (f"{block}: ${name}" for name in names.unknown)
        names.unknown.clear()
        called = {words[0] for words in block.commands} & FUNCTIONS
        yield from (f"{block}: {name}()" for name in sorted(called - names.known))
