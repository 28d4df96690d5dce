"""The command line: words → Arguments, or what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vipmanager import __version__

MODES = {"init": "init", "initContainers": "init", "sidecar": "sidecar", "nodeport": "nodeport"}

USAGE = f"""vipmanager {__version__}: makes the VPC deliver the floating addresses of this pod, or of this node

usage: vipmanager [init|sidecar|nodeport] [--configmap FILE.yaml]
       vipmanager plan [MODE] [--configmap FILE.yaml] [--on ENI=ADDRESS[,ADDRESS…]]… [--json]
       vipmanager doctor [MODE] [--configmap FILE.yaml] [--json]
       vipmanager status [--json | --ready]
       vipmanager iam-policy [MODE] [--configmap FILE.yaml] [--region R] [--account A] [--vpc V] [--doctor]
       vipmanager free-ips SUBNET [--count N] [--family 4|6]

  init                 do the job once and exit 0, or non-zero with what is missing (also: initContainers)
  sidecar              keep watching
  (no mode)            what the setting RunAsSidecar says
  nodeport             on the host network: hold FLOATING_IP while this node has the Lease

  plan                 what would be done now, and which calls would be denied; changes nothing.
                       Exit code 0: nothing to do, 2: changes, 1: an error
  doctor               checks what the mode needs and says how to mend it; exit code 1 where something fails
  status               what the vipmanager in this container says of itself; --ready: exit code 0 when all is in place
  iam-policy           the least IAM policy for these settings and this mode; --doctor: and what doctor reads besides
  free-ips SUBNET      free addresses of a subnet, one a line: 10, or as many as --count says

  --configmap FILE     read settings from a ConfigMap manifest too; environment variables win
  --on ENI=ADDRESS     plan: as if a pod had these addresses on an interface of this ENI; needs no pod
  --version, --help

Settings come from environment variables, usually a ConfigMap through envFrom; see docs/configuration.md.
The commands are shown in docs/operations.md."""


class Arguments(NamedTuple):
    """What the command line says. `command` is empty where only a mode is given, `mode` where none is."""

    command: str = ""
    mode: str = ""
    operand: str = ""
    configmap: str | None = None
    json: bool = False
    ready: bool = False
    doctor: bool = False
    limit: int = 10
    family: int = 4
    region: str = ""
    account: str = ""
    vpc: str = ""
    on: tuple[str, ...] = ()


class UsageError(Exception):
    """The command line is wrong."""


BELONGS: Mapping[str, frozenset[str]] = {
    "": frozenset(("mode", "configmap")),
    "plan": frozenset(("mode", "configmap", "json", "on")),
    "doctor": frozenset(("mode", "configmap", "json")),
    "status": frozenset(("configmap", "json", "ready")),
    "iam-policy": frozenset(("mode", "configmap", "doctor", "region", "account", "vpc")),
    "free-ips": frozenset(("operand", "count", "family")),
}
"""The commands, and which words each takes."""

SCRIPT = "/app/script.sh"
"""The image's other way in, which the manifests of the sample programs name."""

VALUES = ("configmap", "count", "family", "region", "account", "vpc", "on")
SWITCHES = ("json", "ready", "doctor")


def parse(arguments: Sequence[str]) -> Arguments:
    """Read the command line (argparse would cost more of the start-up than it saves here). Raises UsageError."""
    found: dict[str, Any] = {}
    rest = _unwrapped(arguments)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        name = option[2:] if option.startswith("--") else ""
        if name in VALUES:
            if not equals and not rest:
                raise UsageError(f"{option} needs a value")
            _keep(found, name, value if equals else rest.pop(0))
        elif name in SWITCHES and not equals:
            found[name] = True
        elif not _take_word(found, word):
            raise UsageError(f"unexpected argument {word!r}")
    return _checked(found)


def _unwrapped(arguments: Sequence[str]) -> list[str]:
    """What `/bin/sh -c '/app/script.sh …'` asks for.

    The sample programs' manifests have that as `args`, which Kubernetes puts behind the image's ENTRYPOINT: this image
    has one, theirs had none.
    """
    words = list(arguments)
    if len(words) == 3 and words[:2] in (["/bin/sh", "-c"], ["sh", "-c"]):
        words = words[2].split()
    return words[1:] if words[:1] == [SCRIPT] else list(arguments)


def _keep(found: dict[str, Any], name: str, value: str) -> None:
    found[name] = (*found.get(name, ()), value) if name == "on" else value


def _take_word(found: dict[str, Any], word: str) -> bool:
    """A command, then a mode, each once; what free-ips asks about."""
    if word in BELONGS and word and "command" not in found and "mode" not in found:
        found["command"] = word
    elif word in MODES and "mode" not in found:
        found["mode"] = MODES[word]
    elif found.get("command") == "free-ips" and "operand" not in found and not word.startswith("-"):
        found["operand"] = word
    else:
        return False
    return True


def _checked(found: dict[str, Any]) -> Arguments:
    """Options that belong to the command, with numbers as numbers. Raises UsageError."""
    command = found.get("command", "")
    whose = command or found.get("mode", "a mode")
    for name in sorted(set(found) - BELONGS[command] - {"command"}):
        shown = found["mode"] if name == "mode" else f"--{name}"
        raise UsageError(f"{shown} does not belong to {whose}")
    if command == "free-ips" and "operand" not in found:
        raise UsageError("free-ips needs the id of a subnet")
    if found.get("json") and found.get("ready"):
        raise UsageError("--json and --ready exclude each other")
    return Arguments(
        **{name: value for name, value in found.items() if name not in ("count", "family")},
        limit=_number(found, "count", "a number from 1", range(1, 1_000_001).__contains__, 10),
        family=_number(found, "family", "4 or 6", (4, 6).__contains__, 4),
    )


def _number(found: Mapping[str, Any], name: str, accepted: str, accepts: Callable[[int], bool], default: int) -> int:
    text = found.get(name, str(default))
    if not text.isdecimal() or not accepts(int(text)):
        raise UsageError(f"--{name}: accepted: {accepted}")
    return int(text)
