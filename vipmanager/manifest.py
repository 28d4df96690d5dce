"""Settings from a ConfigMap manifest, as kubectl would read it."""

from __future__ import annotations

import reprlib
from typing import Any

from vipmanager.errors import ConfigError

LIMIT = 4 << 20
"""Characters of the file; other objects may be in it."""
MERGED = 10_000
LONGEST = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2


def read_configmap(path: str) -> dict[str, str]:
    """The data of the one ConfigMap in a YAML file. Raises ConfigError, naming every problem."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(LIMIT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--configmap {path}: {error}"]) from error
    if len(text) > LIMIT:
        raise ConfigError([f"--configmap {path}: more than {LIMIT} characters; a ConfigMap has 1 MiB at most"])
    documents = [document for document in _documents(path, text) if isinstance(document, dict)]
    maps = [document for document in documents if document.get("kind") == "ConfigMap"]
    if len(maps) != 1:
        raise ConfigError([f"--configmap {path}: holds {len(maps)} ConfigMaps; accepted: exactly one"])
    data = maps[0].get("data") or {}
    if not isinstance(data, dict):
        raise ConfigError([f"--configmap {path}: data is no mapping"])
    problems = [_unquoted(path, key, value) for key, value in data.items() if not isinstance(value, str)]
    if problems:
        raise ConfigError(problems)
    return {str(key): value for key, value in data.items()}


def _documents(path: str, text: str) -> list[Any]:
    """The documents of the file. Raises ConfigError."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Aliases stay references, whatever they add up to; merged keys (`<<`) are copies, and so have a limit."""

        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > MERGED:
                raise yaml.YAMLError(f"more than {MERGED} keys in a mapping")

    try:
        return list(yaml.load_all(text, Loader))
    except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # all but the first are PyYAML's own, at scalars such as `2026-13-01` and `!!int ""`
        raise ConfigError([f"--configmap {path}: {error or type(error).__name__}"]) from error
    except RecursionError:
        raise ConfigError([f"--configmap {path}: nested too deeply"]) from None


def _unquoted(path: str, key: Any, value: Any) -> str:
    name = _shown(key)
    if not isinstance(value, int | float):
        return f"--configmap {path}: {name}: {_shown(value)} is no string, which Kubernetes refuses"
    seen = _shown(value)
    return f'--configmap {path}: {name}: {seen} is no string, which Kubernetes refuses; write {name}: "{seen}"'


def _shown(value: Any) -> str:
    """Cut short, because aliases can make little text a huge value."""
    try:
        return (value if isinstance(value, str) else _SHORT.repr(value))[:LONGEST]
    except ValueError:  # an integer of more digits than Python writes
        return f"<{type(value).__name__}>"
