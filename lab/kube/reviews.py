"""SelfSubjectAccessReviews: what the one who asks may do (Kubernetes, "Checking API access")."""

from __future__ import annotations

import json
from typing import Any

from lab.kube import rbac, status

PATH = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def answer(rules: rbac.Rules, body: bytes, namespace: str) -> dict[str, Any]:
    """The review with its status, as the RBAC authorizer decides; the rules hold in one namespace. Raises Problem."""
    try:
        review: dict[str, Any] = json.loads(body)
    except ValueError as error:
        raise status.bad_request(f"json parse error: {error}") from None
    asked = review.get("spec", {}).get("resourceAttributes", {})
    allowed = asked.get("namespace", "") == namespace and rbac.allows(
        rules,
        asked.get("verb", ""),
        asked.get("name", ""),
        group=asked.get("group", ""),
        resource=asked.get("resource", ""),
    )
    return {
        "kind": "SelfSubjectAccessReview",
        "apiVersion": "authorization.k8s.io/v1",
        "metadata": {},
        "spec": review.get("spec", {}),
        "status": {"allowed": allowed},
    }
