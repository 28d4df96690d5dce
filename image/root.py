"""Copies what Python needs of the base image: `python3 root.py DIRECTORY`, when the image is built.

What is not named here is not in the image: no shell, no package manager, no compiler, no coreutils, no set-uid program.
It works on any base that has Python, glibc and dpkg (Debian, and the official Python images, which are Debian): where
Python's files are is asked of it.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

NOT_OF_PYTHON = re.compile(
    r"/(__pycache__|test|tests|idlelib|tkinter|turtledemo|turtle\.py|ensurepip|venv|lib2to3|pydoc_data|pydoc\.py|distutils"
    r"|site-packages|dist-packages|config-[^/]*|sitecustomize\.py|EXTERNALLY-MANAGED"
    r"|lib-dynload/(_test|_xxtest|_ctypes_test|xxlimited|_tkinter|_dbm|_gdbm|_curses|readline|_sqlite3)[^/]*)(/|$)"
)
"""Of the standard library: tests, what has windows or a terminal, installers, and other people's packages."""
LOADED_BY_NAME = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
"""Libraries that glibc loads itself: to end a thread, to resolve a name."""
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
FILES = (
    "/etc/debian_version",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/protocols",
    "/etc/services",
    AUTHORITIES,
    "/etc/ssl/openssl.cnf",
    "/usr/lib/os-release",
)
FOLDERS = ("/etc/ld.so.conf.d", "/usr/lib/locale/C.utf8")
LINKS = ("/bin", "/lib", "/lib64", "/sbin")
"""To /usr, in every Debian since 12."""
EMPTY = ("dev", "etc", "proc", "run", "run/vipmanager", "sys", "tmp", "var/lib/dpkg")
USER = 65532
"""That of distroless images, too: an ordinary user that no node has anything for."""
ACCOUNTS = {
    "passwd": f"root:x:0:0:root:/:/bin/false\nvipmanager:x:{USER}:{USER}:vipmanager:/:/bin/false\n",
    "group": f"root:x:0:\nvipmanager:x:{USER}:\n",
}


def main(root: Path) -> None:
    """Fill the directory."""
    interpreter = Path(sysconfig.get_config_var("BINDIR"), "python3")
    for link in map(Path, LINKS):
        if link.is_symlink():
            copy(link, root)
    for name in EMPTY:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in ACCOUNTS.items():
        (root / "etc" / name).write_text(text)
    os.chown(root / "run/vipmanager", USER, USER)
    (root / "tmp").chmod(0o1777)
    library = sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
    files = [path for folder in library for path in below(folder) if not NOT_OF_PYTHON.search(str(path))]
    files += [path for folder in FOLDERS for path in below(folder)]
    files += [path for path in map(Path, FILES) if exists(path)]
    programs = [interpreter, *(path for path in files if path.suffix == ".so")]
    for path in sorted({*files, interpreter, *libraries(programs)}):
        copy(path, root)
    link_authorities(root)
    subprocess.run(["ldconfig", "-r", str(root)], check=True)
    keep_package_records(root)


def below(folder: str) -> Iterator[Path]:
    """The files and links below a folder."""
    for here, folders, names in os.walk(folder):
        yield from (Path(here, name) for name in names)
        yield from (Path(here, name) for name in folders if Path(here, name).is_symlink())


def exists(path: Path) -> bool:
    """Whether it is there, be it a link that leads nowhere."""
    return path.exists() or path.is_symlink()


def real(path: Path) -> Path:
    """The path without links on the way; the last part may be one."""
    return path.parent.resolve() / path.name


def libraries(programs: Iterable[Path]) -> set[Path]:
    """The shared libraries of the programs, the dynamic linker, and what is loaded by name; as ldd(1) finds them."""
    found: set[Path] = set()
    for program in programs:
        said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
        found |= set(map(Path, re.findall(r"(/\S+) \(0x", said)))
    by_name = {path.with_name(name) for path in found for name in LOADED_BY_NAME}
    return found | {path for path in by_name if path.exists()}


def copy(path: Path, root: Path) -> None:
    """Copy a file, or a link and what it leads to, to the same place below `root`."""
    path = real(path)
    target = root / path.relative_to("/")
    if exists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        shutil.copy2(path, target)
        return
    target.symlink_to(path.readlink())
    if path.is_file():
        copy(path.parent / path.readlink(), root)


def link_authorities(root: Path) -> None:
    """Let OpenSSL find the authorities in one file, instead of in a folder with a link for each."""
    target = root / ssl.get_default_verify_paths().openssl_cafile.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(AUTHORITIES)


def keep_package_records(root: Path) -> None:
    """dpkg's records, for scanners, of the packages that have a file here, and their licences."""
    kept = []
    for paragraph in Path("/var/lib/dpkg/status").read_text().split("\n\n"):
        name = re.search(r"^Package: (\S+)", paragraph, re.MULTILINE)
        if name and any(exists(root / real(path).relative_to("/")) for path in files_of(name[1])):
            kept.append(paragraph.strip("\n"))
            licence = Path("/usr/share/doc", name[1], "copyright")
            if licence.exists():
                copy(licence, root)
    (root / "var/lib/dpkg/status").write_text("\n\n".join(kept) + "\n")


def files_of(package: str) -> list[Path]:
    """What a package has installed, without its documentation and folders."""
    info = Path("/var/lib/dpkg/info")
    lists = [*info.glob(f"{package}.list"), *info.glob(f"{package}:*.list")]
    paths = [Path(line) for each in lists for line in each.read_text().splitlines()]
    return [path for path in paths if not path.is_relative_to("/usr/share/doc") and not path.is_dir()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
