"""The only users of SDKs and of the network. Each implements a port and translates its SDK's errors."""
