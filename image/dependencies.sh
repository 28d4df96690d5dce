# Run by the Dockerfile: what vipmanager needs, by the hashes of the lock files, into an environment of its own.
set -eu
pip() { /build/bin/pip --no-cache-dir --disable-pip-version-check "$@"; }

python3 -m venv /build  # for building alone
pip install --require-hashes -r /src/image/build.lock

python3 -m venv --without-pip /opt/vipmanager
rm -r /opt/vipmanager/include
find /opt/vipmanager/bin -mindepth 1 ! -name python3 -delete
ln -sf "$(python3 -c 'import sysconfig; print(sysconfig.get_config_var("BINDIR"))')/python3" /opt/vipmanager/bin/python3
pip --python /opt/vipmanager/bin/python3 install --no-compile --only-binary :all: --require-hashes \
    -r /src/image/requirements.lock
