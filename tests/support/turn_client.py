"""As much of a TURN client (RFC 8656) as it takes to see what a server lets through, over UDP."""

import hashlib
import hmac
import ipaddress
import secrets
import socket
import struct
import time

import pytest

MAGIC = 0x2112A442
_ALLOCATE, _CREATE_PERMISSION = 0x0003, 0x0008
_SUCCESS, _ERROR_CLASS = 0x0100, 0x0110
_ERROR, _INTEGRITY, _USERNAME, _REALM, _NONCE, _RELAYED = 0x09, 0x08, 0x06, 0x14, 0x15, 0x16
_PEER, _FAMILY, _TRANSPORT = 0x12, 0x17, 0x19
_UDP = b"\x11\0\0\0"
_FAMILIES = {4: 0x01, 6: 0x02}
TRIES = 5


class Refused(Exception):
    """The server said no; ``code`` as in HTTP: 401 who are you, 403 not to that peer."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class TurnClient:
    """One socket's dealings with a server. Calls block, for some seconds at most, and raise ``Refused``."""

    def __init__(self, port: int, username: str, password: str, host: str = "127.0.0.1") -> None:
        self._username, self._password = username.encode(), password
        self._realm = self._nonce = b""
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.connect((host, port))
        self._udp.settimeout(30)

    def allocate(self, *, version: int = 4) -> int:
        """The port of a fresh relay address of that IP ``version``."""
        family = _attribute(_FAMILY, bytes((_FAMILIES[version], 0, 0, 0))) if version == 6 else b""
        body = _attribute(_TRANSPORT, _UDP) + family
        with pytest.raises(Refused, match="401"):  # and with it the realm and a nonce
            self._ask(_ALLOCATE, body)
        relayed = self._ask(_ALLOCATE, body)[_RELAYED]
        return int(struct.unpack("!H", relayed[2:4])[0]) ^ (MAGIC >> 16)

    def permit(self, peer: str) -> None:
        """Ask to exchange data with ``peer``."""
        address = ipaddress.ip_address(peer)
        transaction = secrets.token_bytes(12)
        mask = (struct.pack("!I", MAGIC) + transaction)[: len(address.packed)]
        value = bytes(a ^ b for a, b in zip(address.packed, mask, strict=True))
        head = struct.pack("!BBH", 0, _FAMILIES[address.version], 9 ^ (MAGIC >> 16))
        self._ask(_CREATE_PERMISSION, _attribute(_PEER, head + value), transaction)

    def close(self) -> None:
        self._udp.close()

    def _ask(self, kind: int, body: bytes, transaction: bytes | None = None) -> dict[int, bytes]:
        """The attributes of the answer."""
        transaction = transaction or secrets.token_bytes(12)
        if self._nonce:
            for name, value in ((_USERNAME, self._username), (_REALM, self._realm), (_NONCE, self._nonce)):
                body += _attribute(name, value)
            key = hashlib.md5(b":".join((self._username, self._realm, self._password.encode()))).digest()
            signed = struct.pack("!HHI", kind, len(body) + 24, MAGIC) + transaction + body
            body += _attribute(_INTEGRITY, hmac.digest(key, signed, "sha1"))
        answer = self._send(struct.pack("!HHI", kind, len(body), MAGIC) + transaction + body, transaction)
        found, at = {}, 20
        while at < len(answer):
            name, length = struct.unpack_from("!HH", answer, at)
            found[name] = answer[at + 4 : at + 4 + length]
            at += 4 + (length + 3) // 4 * 4
        if struct.unpack_from("!H", answer)[0] == kind | _SUCCESS:
            return found
        assert struct.unpack_from("!H", answer)[0] == kind | _ERROR_CLASS
        self._realm, self._nonce = found.get(_REALM, self._realm), found.get(_NONCE, self._nonce)
        raise Refused(found[_ERROR][2] * 100 + found[_ERROR][3])

    def _send(self, request: bytes, transaction: bytes) -> bytes:
        for _ in range(TRIES):
            try:
                self._udp.send(request)
                while (answer := self._udp.recv(2048))[8:20] != transaction:
                    pass
                return answer
            except TimeoutError:
                continue  # datagrams may be lost
            except ConnectionRefusedError:
                time.sleep(0.5)  # it may have just been started
        raise AssertionError("the TURN server does not answer")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("!HH", kind, len(value)) + value + b"\0" * (-len(value) % 4)
