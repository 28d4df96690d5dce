#!/opt/vipmanager/bin/python3 -IB
# vipmanager, and /app/script.sh: no shell script, in spite of its name, so that it gets signals itself and has this
# interpreter's capabilities. -I: no variable changes what code is run. -B: the bytecode is there.
from vipmanager.__main__ import entrypoint

entrypoint()
