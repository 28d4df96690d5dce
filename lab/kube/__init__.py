"""A Kubernetes API for the lab: the real etcd and kube-apiserver, or a small test server for Leases and Events."""
