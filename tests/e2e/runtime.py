#!/usr/bin/env python3
"""An OCI runtime: runc (or crun), given what Kubernetes gives it and podman does not.

containerd leaves out the ambient and the inheritable capabilities (WithoutAmbientCaps in its CRI plugin; containerd
1.6.2), podman has them for users other than root. With them the image's file capability would not be tested at all.
Docker until 24.0 left such users nothing but the bounding set (moby/moby#45491): the annotation OLD_DOCKER.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

OLD_DOCKER = "vipmanager.e2e.old-docker"


def main(arguments: list[str]) -> None:
    """Change the bundle's configuration before it is created; become the runtime."""
    if "create" in arguments and "--bundle" in arguments:
        path = Path(arguments[arguments.index("--bundle") + 1]) / "config.json"
        config = json.loads(path.read_text())
        capabilities = config["process"].get("capabilities", {})
        capabilities.pop("ambient", None)
        capabilities.pop("inheritable", None)
        if OLD_DOCKER in config.get("annotations", {}) and config["process"]["user"]["uid"] != 0:
            capabilities.pop("permitted", None)
            capabilities.pop("effective", None)
        path.write_text(json.dumps(config))
    runtime = shutil.which("runc") or shutil.which("crun")
    if runtime is None:
        sys.exit("neither runc nor crun is installed")
    os.execv(runtime, [runtime, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
