"""What Kubernetes lets this process do with its Lease. Only `vipmanager doctor` loads this."""

from __future__ import annotations

import json
from dataclasses import replace

from vipmanager.clients.kube import CONNECT_TIMEOUT, LeaseClient, _body, _is
from vipmanager.errors import CallError

GROUP, RESOURCE = "coordination.k8s.io", "leases"
CALL = "selfsubjectaccessreviews.authorization.k8s.io:create"


class LeaseAccessClient(LeaseClient):
    """The lease access port."""

    def may(self, verb: str) -> bool:
        """See LeaseAccessPort. Every authenticated user may ask (ClusterRole system:basic-user).

        What is being created has no name that the authorizer knows (Kubernetes, "Using RBAC Authorization").
        """
        name = {} if verb == "create" else {"name": self._name}
        attributes = {"namespace": self._namespace, "verb": verb, "group": GROUP, "resource": RESOURCE, **name}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        try:
            lease_api = self._connected()
            from kubernetes import client

            api = client.AuthorizationV1Api(lease_api.api_client)
            function = client.AuthorizationV1Api.create_self_subject_access_review
            function = getattr(function, "raw_function", function)  # see LeaseClient
            timeout = (CONNECT_TIMEOUT, self._timeout)
            response = function(api, body, _preload_content=False, _request_timeout=timeout)
            return _is(bool, json.loads(_body(response))["status"]["allowed"])
        except Exception as error:
            failure = self._classified("review", error).failure
            raise CallError(replace(failure, call=CALL, remedy="")) from None
