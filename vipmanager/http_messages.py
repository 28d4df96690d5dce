"""What a request says and how a response is written: as much of HTTP/1.1 (RFC 9112) as a probe and a scrape need."""

from __future__ import annotations

import time
from typing import NamedTuple

REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
TEXT = "text/plain; charset=utf-8"
METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""The text format of Prometheus, which every version of it reads; it is what clients/exposition.py makes."""


class Request(NamedTuple):
    """The head of a request."""

    method: str
    path: str


class Answer(NamedTuple):
    """A response before it is written."""

    status: int
    text: bytes
    kind: str = TEXT


def read_head(head: bytes) -> Request | Answer:
    """The request in the lines (ended by LF alone) before the empty one, or what to say to what is none."""
    lines = head.decode("latin-1").split("\n")
    words = lines[0].split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1") or not words[0].isascii() or not words[1]:
        return said(400)
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            return said(400)
        name, value = name.lower(), value.strip()
        if name == "transfer-encoding" or (name == "content-length" and value.strip("0")):
            return said(413)
    return Request(words[0], words[1].partition("?")[0])


def write(answer: Answer, method: str, now: float) -> bytes:
    """The bytes of a response, after which the connection ends. `now`: seconds since 1970."""
    fields = {
        "Date": time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)),
        "Server": "vipmanager",
        "Content-Type": answer.kind,
        "Content-Length": str(len(answer.text)),
        "Cache-Control": "no-store",
        "Connection": "close",
    }
    if answer.status == 405:
        fields["Allow"] = "GET, HEAD"
    head = f"HTTP/1.1 {answer.status} {REASONS[answer.status]}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{head}\r\n".encode("ascii") + (b"" if method == "HEAD" else answer.text)


def said(status: int) -> Answer:
    """An answer of a few words."""
    return Answer(status, f"{REASONS[status].lower()}\n".encode())
