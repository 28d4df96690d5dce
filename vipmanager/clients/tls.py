"""TLS without paying for it at each connection.

urllib3 loads the file of certificate authorities anew for every connection, although all of a pool's connections share
one context: 20 ms of CPU and some memory each, and an init run opens up to sixteen at once. Loaded once, they stay.
"""

from __future__ import annotations

import ssl
import threading
from typing import Any


def share_authorities(client: Any) -> None:
    """Make the connections of a botocore client load their certificate authorities once; verification stays as it is.

    botocore has no public way to the context. Where a version keeps it elsewhere, nothing is changed.
    """
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    manager = getattr(session, "_manager", None)
    context = getattr(manager, "connection_pool_kw", {}).get("ssl_context")
    if isinstance(context, ssl.SSLContext):
        load_once(context)


def load_once(context: ssl.SSLContext) -> None:
    """Let a context load each set of authorities once; connections that begin meanwhile wait for it."""
    load = context.load_verify_locations
    loaded: set[tuple[Any, ...]] = set()
    lock = threading.Lock()

    def load_verify_locations(cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        with lock:
            if (cafile, capath, cadata) not in loaded:
                load(cafile, capath, cadata)
                loaded.add((cafile, capath, cadata))

    context.load_verify_locations = load_verify_locations  # type: ignore[method-assign]
