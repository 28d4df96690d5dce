"""Puts the functions' code from lambda/ into the templates, between their marks: python cfn/embed.py [--check]

Inline, as users then need no bucket. CloudFormation took 4096 characters until 2022; it takes 4 MB now (aws/aws-cdk
pull request 20624). What `aws cloudformation deploy` sends without a bucket is 51,200 bytes of template at most.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
MARKED = re.compile(
    r"^(?P<indent> +)# embedded: (?P<path>\S+) .*\n(?P<key> +ZipFile: \|\n)(?P<code>(?:.*\n)*?)(?P=indent)# end$", re.M
)
MAX_BODY = 51_200  # bytes ("AWS CloudFormation quotas")


def embedded(template: str) -> str:
    """The template with the present code."""

    def put(found: re.Match[str]) -> str:
        margin = found["indent"] + "  "
        lines = (HERE / found["path"]).read_text().splitlines()
        code = "".join(f"{margin}{line}\n" if line else "\n" for line in lines)
        return found[0].replace(found["key"] + found["code"], found["key"] + code)

    return MARKED.sub(put, template)


def main(check: bool) -> int:
    """0, or 1 if a template is to be changed and may not be, or is too big."""
    code = 0
    for path in sorted(HERE.glob("*.yaml")):
        text = path.read_text()
        wanted = embedded(text)
        if len(wanted.encode()) > MAX_BODY:
            sys.stderr.write(f"{path}: more than {MAX_BODY} bytes\n")
            code = 1
        if wanted != text and check:
            sys.stderr.write(f"{path}: is not what lambda/ says; run python cfn/embed.py\n")
            code = 1
        elif wanted != text:
            path.write_text(wanted)
    return code


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
