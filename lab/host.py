"""A machine, or a pod, of the lab: a network namespace with processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from lab import echo, environment, links
from lab.children import Children
from lab.links import Link
from lab.netns import Namespace
from lab.responder import Responder


class Host:
    """A network namespace with a name and processes."""

    def __init__(self, name: str, children: Children) -> None:
        self.name = name
        self.env = environment.paths()  # what processes here have in their environment, besides what the lab has
        self.ns = Namespace(name)
        links.set_up_host(self.ns)
        self._children = children

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process here; `options` are subprocess.Popen's. It is killed with the host and with the lab.

        Unless they say otherwise, it has the host's `env` on top of the lab's environment, and no standard input.
        """
        options.setdefault("env", environment.without_aws(os.environ) | self.env)
        options.setdefault("stdin", subprocess.DEVNULL)
        return self._children.popen(self.ns, argv, **options)

    def processes(self) -> list[subprocess.Popen[Any]]:
        """The processes started here that are still running."""
        return self._children.running(self.ns)

    def kill_processes(self) -> None:
        """Kill what was started here, as a power failure would."""
        self._children.kill(self.ns)

    def interfaces(self) -> list[Link]:
        """The interfaces as the kernel has them now, without the loopback."""
        return links.list_links(self.ns)

    def reach(self, address: str, *, source: str | None = None, timeout: float = 1.0, count: int = 1) -> bool:
        """Whether the address answers one of `count` pings from here, each within `timeout` seconds."""
        identifier = self.ns.inode
        return self.ns.run(
            lambda: echo.ping(address, source=source, timeout=timeout, count=count, identifier=identifier)
        )

    def serve_http(self, port: int, text: str | None = None) -> Responder:
        """Start a process that answers HTTP on all addresses with `text`, the host's name when None."""
        argv = [
            sys.executable,
            "-m",
            "lab.responder",
            "--port",
            str(port),
            "--text",
            self.name if text is None else text,
        ]
        return Responder(self.popen(argv, stdout=subprocess.PIPE, text=True), port)

    def close(self) -> None:
        """Kill the processes and let go of the namespace, with its interfaces. May be called again."""
        self._children.kill(self.ns)
        self.ns.close()
