"""Keys and certificates of the lab's Kubernetes API."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_LIFE = datetime.timedelta(days=2)


def make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a private key and write it to a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return key


def make_certificate(directory: Path, addresses: Sequence[str]) -> tuple[Path, Path]:
    """Make a server's key and its self-signed certificate for these IP addresses; the files, certificate first."""
    key = make_key(directory / "tls.key")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lab Kubernetes")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address)) for address in addresses])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFE)
        .not_valid_after(now + _LIFE)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "tls.crt"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path, directory / "tls.key"
