"""Settings from a ConfigMap manifest, as kubectl would read it."""

from __future__ import annotations

from typing import Any

from vipmanager.errors import ConfigError


def read_configmap(path: str) -> dict[str, str]:
    """The data of the one ConfigMap in a YAML file. Raises ConfigError, naming every problem."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            documents = [document for document in yaml.safe_load_all(file) if isinstance(document, dict)]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"--configmap {path}: {error}"]) from error
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


def _unquoted(path: str, key: Any, value: Any) -> str:
    return f'--configmap {path}: {key}: {value!r} is no string, which Kubernetes refuses; write {key}: "{value}"'
