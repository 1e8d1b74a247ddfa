"""Name each private attribute of nats-py that is used, and why no public one does."""

from typing import Final

PRIVATE: Final[dict[str, dict[str, str]]] = {
    "Client": {
        "_attempt_reconnect": "overridden: an exception in it ends reconnecting for ever",
        "_connect_to_server": "overridden: the transport of a try that failed is left open",
        "_error_cb": "called where an error of the server ends the connection",
        "_flush_pending": "publishes and subscriptions of nats-py have to leave before a ping or a drain",
        "_flusher_task": "supervised: nothing notices that it has ended",
        "_pending": "publishes are appended without a coroutine and a future each; none is sent after a reconnect",
        "_pending_data_size": "kept right for what is appended to _pending",
        "_ping_interval_task": "supervised: nothing notices that it has ended",
        "_pings_outstanding": "reset by a pong, as nats-py does",
        "_pongs": "the waiters of pings; a waiter that has given up must not end the reader",
        "_pongs_received": "counted, as nats-py does",
        "_process_connect_init": "overridden: tasks of a try that failed read from the next connection",
        "_process_err": "overridden: an error of the server closes the connection for good",
        "_process_op_err": "opens the connection again",
        "_process_ping": "overridden: the pong must not wait for the flusher",
        "_process_pong": "overridden: a waiter that has given up ends the reader",
        "_ps": "the parser, replaced by the fast one",
        "_reading_task": "supervised: nothing notices that it has ended",
        "_send_ping": "overridden: the ping must not wait for the flusher",
        "_send_unsubscribe": "drain: it has to leave before nats-py's ping",
        "_status": "set back after a failed reconnect, so that it is tried again",
        "_subs": "how many messages wait for their handlers",
        "_transport": "its streams, to write, to read ahead and to abort",
    },
    "TcpTransport": {
        "_io_reader": "read ahead of nats-py's reader",
        "_io_writer": "written in batches; aborted where a server hangs",
    },
    "Subscription": {
        "_conn": "the client of a subscription that is drained",
        "_id": "the parser finds the handler of a message by it",
    },
    "Service": {"_endpoints": "handlers are called directly, and drained one by one"},
    "Endpoint": {"_subscription": "handed to the fast parser, and drained"},
    "Request": {"_msg": "the reply subject of a request"},
}
"""Class of nats-py → attribute → why it is used."""
