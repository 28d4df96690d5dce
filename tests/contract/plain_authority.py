"""A certificate authority as that of many an EKS cluster: Basic Constraints, and no key identifiers."""

from __future__ import annotations

import datetime
import ssl
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_LIFE = datetime.timedelta(days=1)


def serve_with(directory: Path, address: str) -> tuple[Path, ssl.SSLContext]:
    """The authority's certificate, and the context of a server at an address with a certificate that it signed."""
    key, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
    leaf = _begun("kube-apiserver", own).add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    authority = _begun("kubernetes", key).add_extension(constraints, critical=True).sign(key, hashes.SHA256())
    path, chain = directory / "authority.crt", directory / "server.pem"
    path.write_bytes(authority.public_bytes(Encoding.PEM))
    private = own.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    chain.write_bytes(private + leaf.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return path, context


def _begun(name: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFE)
        .not_valid_after(now + _LIFE)
    )
