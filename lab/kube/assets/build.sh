#!/bin/sh
# Builds etcd and kube-apiserver into a directory, unless they are there: build.sh DIRECTORY KUBERNETES ETCD
set -eu

directory=$1 kubernetes=$2 etcd=$3
here=$(cd "$(dirname "$0")" && pwd)

need_go() {
    command -v go >/dev/null || {
        echo "make kube-assets needs Go (https://go.dev/dl): there is no 'go' in the PATH" >&2
        exit 1
    }
}

# The versions stand in go.mod too, which is what counts.
pinned() {
    grep -q "^require $2 $3\$" "$here/$1/go.mod" || {
        echo "lab/kube/assets/$1/go.mod does not have $2 $3: change it together with the Makefile" >&2
        exit 1
    }
}

# build MODULE BINARY PACKAGE LDFLAGS…: under another name first, so that half a build is never taken for one
build() {
    test ! -x "$directory/$2" || return 0
    need_go
    echo "building $2 (some minutes) …" >&2
    mkdir -p "$directory"
    (cd "$here/$1" && CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "$4" -o "$directory/$2.new" "$3")
    mv "$directory/$2.new" "$directory/$2"
}

pinned etcd go.etcd.io/etcd/server/v3 "$etcd"
pinned apiserver k8s.io/kubernetes "$kubernetes"
version=k8s.io/component-base/version
minor=${kubernetes#v1.}
build etcd etcd . "-s -w"
build apiserver kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver \
    "-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
echo "export KUBEBUILDER_ASSETS=$directory"
