"""The containers of the sample programs' manifests start vipmanager as they meant, with nothing changed but the image.

Kubernetes appends `args` to the image's ENTRYPOINT, and ours is vipmanager
(https://kubernetes.io/docs/tasks/inject-data-application/define-command-argument-container/).
"""

from __future__ import annotations

import sys

import pytest
import yaml

from vipmanager import __main__ as program
from vipmanager.arguments import UsageError, parse

MULTI_AZ = """
- name: vipmanager
  image: 111122223333.dkr.ecr.us-east-2.amazonaws.com/vipmanager:0.1
  imagePullPolicy: IfNotPresent
  securityContext:
    capabilities:
      add: ["NET_ADMIN"]
  args: [/bin/sh, -c, '/app/script.sh']
  envFrom:
        - configMapRef:
            name: vipmanager-config
"""
"""Of the floating IP sample, init and sidecar: RunAsSidecar tells which."""

IP_MANAGER = """
- name: aws-ip-mgmt
  image: 111122223333.dkr.ecr.us-east-2.amazonaws.com/aws-ip-manager:0.1
  imagePullPolicy: IfNotPresent
  args: [/bin/sh, -c, '/app/script.sh WORD']
"""
"""Of the IP management sample."""


def args(container: str) -> list[str]:
    """What the process gets behind the ENTRYPOINT."""
    return list(yaml.safe_load(container)[0]["args"])


@pytest.mark.parametrize(
    ("container", "mode"),
    [
        (MULTI_AZ, ""),
        (IP_MANAGER.replace("WORD", "initContainers"), "init"),
        (IP_MANAGER.replace("WORD", "sidecar"), "sidecar"),
    ],
    ids=["floating IP", "IP management, init", "IP management, sidecar"],
)
def test_the_mode_is_the_one_that_they_meant(container: str, mode: str) -> None:
    assert parse(args(container)).mode == mode


@pytest.mark.parametrize("words", [["/app/script.sh"], ["/app/script.sh", "sidecar"], ["sh", "-c", "/app/script.sh "]])
def test_the_script_may_be_named_without_a_shell(words: list[str]) -> None:
    assert parse(words).mode == ("sidecar" if "sidecar" in words else "")


@pytest.mark.parametrize(
    "words",
    [
        ["/bin/sh", "-c", "sleep 3600"],
        ["/bin/sh", "-c"],
        ["/bin/sh", "-c", "/app/script.sh", "sidecar"],
        ["/bin/sh", "-c", "/app/script.sh start"],
        ["sidecar", "/app/script.sh"],
    ],
    ids=" ".join,
)
def test_no_other_command_is_taken_for_it(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(words)


@pytest.mark.parametrize(("word", "stays"), [("sidecar", True), ("initContainers", False)])
def test_a_stop_while_it_starts_is_judged_by_the_mode(monkeypatch: pytest.MonkeyPatch, word: str, stays: bool) -> None:
    """A sidecar that is told to stop ends with 0, whenever that is."""
    monkeypatch.setattr(sys, "argv", ["vipmanager", *args(IP_MANAGER.replace("WORD", word))])
    monkeypatch.setenv("RunAsSidecar", str(not stays))
    assert program._stays() is stays
