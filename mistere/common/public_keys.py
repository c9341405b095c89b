"""Public keys of signatures: PEM text in a setting, or a file that an environment variable names."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mistere.common.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

AFFECTS_RESULTS = False

_BLOCK: Final = re.compile(r"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----")
_CURVES: Final = ("secp256r1", "secp384r1", "secp521r1")


def read_public_keys(value: str, where: str) -> list[EllipticCurvePublicKey]:
    """Parse public keys that are given as PEM text, or as the path of a file with it.

    Raises:
        UsageError: there is no such file, or it holds no public key that signatures can be verified with.
    """
    if "-----BEGIN" in value:
        return parse_public_keys(value, where)
    try:
        text = Path(value).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{where}: there is no key at {value}: name an existing file, or give the PEM text of the key."
        ) from error
    return parse_public_keys(text, f"{where} ({value})")


def parse_public_keys(text: str, where: str) -> list[EllipticCurvePublicKey]:
    """Parse public keys: one or several PEM blocks (``-----BEGIN PUBLIC KEY-----``).

    Line breaks inside a block may be missing or be spaces, as YAML folds them.

    Args:
        text: the PEM text.
        where: the setting or variable that holds it, for the error message.

    Raises:
        UsageError: it holds no public key on one of the curves P-256, P-384 and P-521.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    if "PRIVATE KEY" in text:
        raise UsageError(f"{where} holds a private key: name the public key that belongs to it.")
    keys = []
    try:
        for block in _BLOCK.findall(text):
            key = load_der_public_key(base64.b64decode("".join(block.split()), validate=True))
            if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
                raise ValueError
            keys.append(key)
    except ValueError:  # also what the library raises
        keys.clear()
    if not keys:
        raise UsageError(
            f"{where} is not a public key that signatures can be verified with: it must be PEM (BEGIN PUBLIC KEY) of an "
            "elliptic-curve key, such as the cosign.pub of `cosign generate-key-pair`."
        )
    return keys


def pem(key: EllipticCurvePublicKey) -> bytes:
    """The PEM block of a key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
