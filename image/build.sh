# Run by the Dockerfile: fills /opt/vipmanager, /app and /rootfs, of which the image is made.
set -eu
cd /
python=/opt/vipmanager/bin/python3
pip() { /build/bin/pip --no-cache-dir --disable-pip-version-check "$@"; }
path() { $python -c "import sysconfig; print(sysconfig.get_path('$1'))"; }
site=$(path purelib)
library=$(path stdlib)

# The application, and of its dependencies what it uses.
pip wheel --no-deps --no-build-isolation -w /wheel /src
pip --python $python install --no-compile --no-deps --no-index /wheel/*.whl
$python -B -m vipmanager.clients.ec2_model
$python -B /src/image/slim.py "$site"

# The ways in. pip's own would spend time on finding its way.
mkdir -p /app
find /opt/vipmanager/bin -mindepth 1 ! -name python3 -delete
cp /src/image/entrypoint.py /opt/vipmanager/bin/vipmanager
cp /src/image/entrypoint.py /app/script.sh
chmod 0755 /opt/vipmanager/bin/vipmanager /app/script.sh

# What is needed of the base, and the bill of materials of both.
$python -B /src/image/root.py /rootfs
$python -B /src/image/sbom.py "$site" /rootfs/var/lib/dpkg/status > /opt/vipmanager/sbom.cdx.json
install -D -m 0755 /src/image/sh.py /rootfs/usr/bin/sh

# Bytecode that is never compared with its source: nothing in an image changes, and its root may be read-only.
$python -B -m compileall -q --invalidation-mode unchecked-hash "$site"
$python -B -m compileall -q --invalidation-mode unchecked-hash -s /rootfs "/rootfs$library"

$python -B /src/image/capability.py "/rootfs$(realpath $python)"
