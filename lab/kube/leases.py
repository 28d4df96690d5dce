"""The leases of the small test server: stored with optimistic concurrency, and watched."""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from lab.kube import status, validation

Lease = dict[str, Any]
Event = dict[str, Any]

_KIND = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1"}


class Leases:
    """The leases of one namespace. Every method raises Problem; what is returned is the caller's to change."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._changed = threading.Condition()
        self._stored: dict[str, Lease] = {}
        self._revision = 100
        self._history: list[tuple[int, Event]] = []
        self._oldest = 0  # what happened up to this revision is no longer kept
        self._closed = False

    def get(self, name: str) -> Lease:
        """One lease."""
        with self._changed:
            if name not in self._stored:
                raise status.not_found(name)
            return copy.deepcopy(self._stored[name])

    def find(self, name: str) -> dict[str, Any]:
        """The list of all leases, or of the one with this name."""
        with self._changed:
            items = [copy.deepcopy(self._stored[each]) for each in sorted(self._stored) if name in ("", each)]
            version = str(self._revision)
        return {
            "kind": "LeaseList",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"resourceVersion": version},
            "items": items,
        }

    def create(self, lease: Lease) -> Lease:
        """Make one."""
        self._check_namespace(lease)
        if "resourceVersion" in lease["metadata"]:
            raise status.Problem(500, "", "resourceVersion should not be set on objects to be created")
        validation.check(lease)
        name = lease["metadata"]["name"]
        with self._changed:
            if name in self._stored:
                raise status.exists(name)
            return self._store("ADDED", lease, None)

    def replace(self, name: str, lease: Lease) -> tuple[Lease, bool]:
        """Replace one of the same version, and say whether it was made instead.

        A lease is made by a PUT too; unless the PUT names the uid of the one it was meant for.
        """
        self._check_namespace(lease)
        metadata = lease["metadata"]
        given = metadata.get("name", "")
        if given != name:
            message = f"the name of the object ({given}) does not match the name on the URL ({name})"
            missing = f"the name of the object ({name} based on URL) was undeterminable: name must be provided"
            raise status.bad_request(message if given else missing)
        with self._changed:
            old = self._stored.get(name)
            uid = old["metadata"]["uid"] if old else ""
            if metadata.get("uid", uid) != uid:
                wanted = metadata["uid"]
                why = (
                    f"StorageError: invalid object, Code: 4, Key: /registry/leases/{self.namespace}/{name}, "
                    "ResourceVersion: 0, AdditionalErrorMsg: "
                    f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
                )
                raise status.conflict(name, why)
            version = metadata.get("resourceVersion", "")
            if version and not version.isdecimal():
                raise status.Problem(500, "", f'strconv.ParseUint: parsing "{version}": invalid syntax')
            if old is not None and not version:
                why = "Invalid value: 0: must be specified for an update"
                raise status.invalid(name, "metadata.resourceVersion", why, kind="leases")
            if old is not None and version != old["metadata"]["resourceVersion"]:
                raise status.conflict(name)
            validation.check(lease)
            return self._store("MODIFIED" if old else "ADDED", lease, old), old is None

    def delete(self, name: str) -> Lease:
        """Delete one."""
        with self._changed:
            if name not in self._stored:
                raise status.not_found(name)
            gone = self._stored.pop(name)
            self._revision += 1
            gone["metadata"]["resourceVersion"] = str(self._revision)
            self._note("DELETED", gone)
            return gone

    def compact(self) -> None:
        """Forget what happened so far, as the real one does after some minutes: older watches have expired."""
        with self._changed:
            self._history.clear()
            self._oldest = self._revision

    def watch(self, name: str, version: str, seconds: float) -> Iterator[Event]:
        """What happens to all leases or to the one with this name, after a version, for a time.

        Without a version (or with 0) it begins with the present state.
        """
        end = time.monotonic() + seconds
        with self._changed:
            after = int(version or 0)
            present = [] if after else self.find(name)["items"]
            after = after or self._revision
        yield from ({"type": "ADDED", "object": lease} for lease in present)
        while not self._closed and time.monotonic() < end:
            if after < self._oldest:
                yield {"type": "ERROR", "object": status.expired(after, self._oldest).body}
                return
            events, after = self._events_after(after, end)
            yield from (event for event in events if name in ("", event["object"]["metadata"]["name"]))

    def _events_after(self, after: int, end: float) -> tuple[list[Event], int]:
        """Wait for the first of them; all there are, and the revision that they go up to."""
        with self._changed:
            while not self._closed and self._revision <= after and time.monotonic() < end:
                self._changed.wait(end - time.monotonic())
            return [event for revision, event in self._history if revision > after], max(after, self._revision)

    def close(self) -> None:
        """End the watches."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _check_namespace(self, lease: Lease) -> None:
        if lease["metadata"].get("namespace", self.namespace) != self.namespace:
            message = "the namespace of the provided object does not match the namespace sent on the request"
            raise status.bad_request(message)

    def _store(self, kind: str, lease: Lease, old: Lease | None) -> Lease:
        kept = old["metadata"] if old else {}
        metadata = {
            **lease["metadata"],
            "namespace": self.namespace,
            "uid": kept.get("uid") or str(uuid.uuid4()),
            "creationTimestamp": kept.get("creationTimestamp") or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "resourceVersion": kept.get("resourceVersion", ""),
        }
        new = {**_KIND, "metadata": metadata, "spec": lease["spec"]}
        if new == old:  # an update that changes nothing makes no version
            return copy.deepcopy(old)
        self._revision += 1
        metadata["resourceVersion"] = str(self._revision)
        self._stored[metadata["name"]] = new
        self._note(kind, new)
        return copy.deepcopy(new)

    def _note(self, kind: str, lease: Lease) -> None:
        self._history.append((self._revision, {"type": kind, "object": copy.deepcopy(lease)}))
        self._changed.notify_all()
