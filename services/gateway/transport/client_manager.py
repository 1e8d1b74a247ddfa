"""Who is connected to Socket.IO's namespace."""

import socketio
from bidict import ValueDuplicationError


class ClientManager(socketio.AsyncManager):  # type: ignore[misc]  # untyped
    """All of them in one room. A room of its own for each would make leaving as dear as there are clients."""

    async def pre_connect(self, eio_sid: str, namespace: str) -> str | None:
        sid: str = self.server.eio.generate_id()
        try:
            self.basic_enter_room(sid, namespace, None, eio_sid=eio_sid)
        except ValueDuplicationError:
            return None  # connected already
        self.pending_connect.setdefault(namespace, []).append(sid)
        return sid
