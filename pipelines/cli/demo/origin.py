"""Which requests the page answers: those that address this server by its own name, and come from the page itself.

The page has no login, so other web pages that its user opens must not reach it. Two headers, which pages cannot forge, tell:

- ``Host``: with DNS rebinding, a name of the attacker resolves to this machine, and the browser takes both for one site.
- ``Origin``: browsers send it with every POST and WebSocket, and it names the page that sends the request.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from mistere.common.errors import UsageError
from mistere.common.parsing.web_headers import host_name, is_address, is_loopback, parse_origin

MISDIRECTED: Final = (421, b"This address is not the page's: see --public-url.\n")
FOREIGN: Final = (403, b"The request comes from another page.\n")


@dataclass(frozen=True)
class AllowedHosts:
    """The names of the page.

    Attributes:
        host: the address that the server listens on, as ``--host`` names it.
        public_url: the address that a proxy offers, ``https://demo.example.org``; empty for none.
    """

    host: str
    public_url: str = ""

    def refusal(self, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bytes] | None:
        """Status and text with which a request is refused; None if it is answered.

        Args:
            headers: of the request, with lower-case names.
        """
        given = [(name, value.decode("latin-1").strip().lower()) for name, value in headers]
        hosts = [value for name, value in given if name == b"host"]
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return MISDIRECTED
        own = {parse_origin(f"http://{hosts[0]}"), parse_origin(self.public_url)}
        origins = [parse_origin(value) for name, value in given if name == b"origin"]
        return None if all(origin and origin in own for origin in origins) else FOREIGN

    def _is_own(self, host: str) -> bool:
        """Whether a ``Host`` header names this server. Its port may differ: SSH and kubectl forward others."""
        name = host_name(host)
        public = parse_origin(self.public_url)
        if not name:
            return False
        if name in {"localhost", self.host.lower(), public[1] if public else ""}:
            return True
        # No DNS name can take the place of an address.
        return is_loopback(name) or (is_address(name) and not is_loopback(self.host))


def check_public_url(url: str) -> None:
    """Check the option ``--public-url``.

    Raises:
        UsageError: it is not the address of a page.
    """
    if not parse_origin(url) or urlsplit(url).path.strip("/"):
        raise UsageError(f"--public-url {url}: write it as https://demo.example.org, without a path.")
