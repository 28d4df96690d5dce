"""The workers' service accounts in a namespace of an API server with the RBAC authorizer."""

from __future__ import annotations

import time

from lab.kube import rbac
from lab.kube.api import Api
from lab.kube.backend import account_of, user_of

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
        return self._request_token(worker, {})

    def make_pod(self, name: str, owner: str) -> str:
        """See Backend: no scheduler has the name that it asks for."""
        spec = {
            "serviceAccountName": account_of(owner),
            "schedulerName": "vipmanager-lab",
            "containers": [{"name": "vipmanager", "image": "vipmanager"}],
        }
        body = {"metadata": {"name": name}, "spec": spec}
        made = self._admin.expect("POST", f"/api/v1/namespaces/{self._namespace}/pods", body)
        return str(made["metadata"]["uid"])

    def pod_token(self, owner: str, pod: str, uid: str) -> str:
        """See Backend."""
        return self._request_token(
            owner, {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}
        )

    def _request_token(self, worker: str, spec: dict[str, object]) -> str:
        path, body = f"{self._accounts}/{account_of(worker)}/token", {"spec": {"expirationSeconds": 86400, **spec}}
        return str(self._admin.expect("POST", path, body)["status"]["token"])

    def allow(self, worker: str, rules: rbac.Rules) -> None:
        """See Backend. Returns when the authorizer knows it."""
        name = account_of(worker)
        self._admin.expect("PUT", f"{self._roles}/roles/{name}", {"metadata": {"name": name}, "rules": list(rules)})
        questions = {
            (verb, group, resource, each): rbac.allows(rules, verb, each, group=group, resource=resource)
            for rule in rbac.rules()
            for verb in rule["verbs"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for each in rule.get("resourceNames", [""])
        }
        end = time.monotonic() + _EFFECTIVE_WITHIN
        while any(self._may(worker, *question) != answer for question, answer in questions.items()):
            if time.monotonic() > end:
                raise RuntimeError(f"the authorizer does not take the rules of {name}")
            time.sleep(0.02)

    def _may(self, worker: str, verb: str, group: str, resource: str, name: str) -> bool:
        attributes = {"namespace": self._namespace, "verb": verb, "group": group, "resource": resource, "name": name}
        review = {"spec": {"user": user_of(self._namespace, worker), "resourceAttributes": attributes}}
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(self._admin.expect("POST", path, review)["status"]["allowed"])
