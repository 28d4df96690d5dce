#!/opt/vipmanager/bin/python3 -IB
# The image's /bin/sh, which is no shell: it does `sh -c '/app/script.sh …'`, as the sample programs' manifests say it,
# in this process, so that signals arrive. (A real shell as PID 1 would keep them, and the pod would wait for its kill.)
import sys

words = sys.argv[2].split() if len(sys.argv) == 3 and sys.argv[1] == "-c" else []
if words[:1] == ["exec"]:
    del words[0]
if words[:1] != ["/app/script.sh"]:
    sys.exit(
        "this image has no shell: its /bin/sh does -c '/app/script.sh …' and nothing else (kubectl debug brings one)"
    )
sys.argv = words

from vipmanager.__main__ import entrypoint  # noqa: E402

entrypoint()
