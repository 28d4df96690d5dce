"""The shell blocks of the documents, taken apart into commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    each for folder in ("*", "docs/**/*", "samples/**/*", "nad/**/*", "cfn/**/*") for each in ROOT.glob(f"{folder}.md")
)
SUBSTITUTED = "SUBSTITUTED"
"""What stands where a command has `$(another)`."""
SEPARATORS = frozenset((";", "&&", "||", "|", "(", ")", "()", "{", "}", "&", ";;"))
KEYWORDS = frozenset(("do", "then", "else", "while", "until", "if"))
NOTHING = frozenset(("done", "fi", "for", "true", "test"))


@dataclass(frozen=True)
class Block:
    """One block of a document."""

    document: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The simple commands in it, as words, those in `$(…)` too."""
        text = re.sub(r"(<<'(\w+)'[^\n]*\n).*?^\2$", r"\1", self.text, flags=re.DOTALL | re.MULTILINE)
        return [command for line in text.replace("\\\n", " ").splitlines() for command in _commands(line)]

    @property
    def made(self) -> set[str]:
        """Files that it writes by `>`."""
        return set(re.findall(r"> ?([\w.-]+)", self.text))


def blocks(document: Path, language: str = "sh") -> list[Block]:
    """The blocks of that language, indented ones as well, without their indentation."""
    text = document.read_text()
    found = []
    for match in re.finditer(rf"^( *)```{language}\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE):
        body = "".join(line.removeprefix(match[1]) for line in match[2].splitlines(keepends=True))
        found.append(Block(document, text.count("\n", 0, match.start()) + 1, body))
    return found


def _commands(line: str) -> Iterator[list[str]]:
    line, inner = _without_substitutions(line)
    for each in inner:
        yield from _commands(each)
    words: list[str] = []
    skip = False
    for word in [*_words(line), ";"]:
        if word in SEPARATORS or (word in KEYWORDS and not words):
            yield from _simple(words)
            words = []
        elif skip or set(word) <= set("<>"):
            skip = not skip  # a redirection, and then what it leads to
        else:
            words.append(word)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return list(lexer)


def _simple(words: list[str]) -> Iterator[list[str]]:
    """The command without assignments before it; nothing where it is none, or the name of a function."""
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if words and words[0] not in NOTHING and not (len(words) == 1 and words[0].isidentifier()):
        yield words


def _without_substitutions(line: str) -> tuple[str, list[str]]:
    inner = []
    while (start := line.find("$(")) >= 0:
        end, depth = start + 2, 1
        while depth:
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        inner.append(line[start + 2 : end - 1])
        line = line[:start] + SUBSTITUTED + line[end:]
    return line, inner
