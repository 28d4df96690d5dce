"""End to end: the image that the Dockerfile makes, and the manifests themselves, with a CNI and a container runtime."""
