"""The workers' service accounts in a namespace of an API server with the RBAC authorizer."""

from __future__ import annotations

import time

from lab.kube import rbac
from lab.kube.api import Api
from lab.kube.backend import account_of, user_of
from lab.kube.status import GROUP

_EFFECTIVE_WITHIN = 10.0  # seconds


class Accounts:
    """Each has a Role and a RoleBinding of its own."""

    def __init__(self, admin: Api, namespace: str) -> None:
        self._admin = admin
        self._namespace = namespace
        self._roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        self._accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"

    def token(self, worker: str) -> str:
        """See Backend: a token of a service account of its own."""
        name = account_of(worker)
        self._admin.expect("POST", self._accounts, {"metadata": {"name": name}})
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self._namespace}],
        }
        self._admin.expect("POST", f"{self._roles}/rolebindings", binding)
        answer = self._admin.expect("POST", f"{self._accounts}/{name}/token", {"spec": {"expirationSeconds": 86400}})
        return str(answer["status"]["token"])

    def allow(self, worker: str, rules: rbac.Rules) -> None:
        """See Backend. Returns when the authorizer knows it."""
        name = account_of(worker)
        self._admin.expect("PUT", f"{self._roles}/roles/{name}", {"metadata": {"name": name}, "rules": list(rules)})
        questions = {
            (verb, lease): rbac.allows(rules, verb, lease)
            for rule in rbac.rules()
            for verb in rule["verbs"]
            for lease in rule.get("resourceNames", [""])
        }
        end = time.monotonic() + _EFFECTIVE_WITHIN
        while any(self._may(worker, *question) != answer for question, answer in questions.items()):
            if time.monotonic() > end:
                raise RuntimeError(f"the authorizer does not take the rules of {name}")
            time.sleep(0.02)

    def _may(self, worker: str, verb: str, lease: str) -> bool:
        attributes = {"namespace": self._namespace, "verb": verb, "group": GROUP, "resource": "leases", "name": lease}
        review = {"spec": {"user": user_of(self._namespace, worker), "resourceAttributes": attributes}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self._admin.expect("POST", path, review)["status"]["allowed"])
