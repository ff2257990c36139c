"""A gateway that only looks whether a home can be had: what a failover asks before it begins.

It has no journal and replays nothing; the one thing that it may do at home is to make the marker,
where hello says that it is the first.
"""

from __future__ import annotations

import threading

from afmfs.gateway.home.contact import Contact, Send
from afmfs.gateway.protocol import Message, ProtocolError


class Scout:
    def __init__(self, hello: Message, send: Send) -> None:
        self.running: list[threading.Thread] = []
        self.contact = Contact(hello, send, lambda call_s: None)

    def tick(self, ticks: int) -> None:
        self.contact.tick()

    def take(self, message: Message) -> None:
        raise ProtocolError(f"{message['type']!r} is not for a gateway that only looks")

    def stop(self, within_s: float) -> bool:
        self.contact.stop()
        for thread in self.running:
            thread.join(within_s)
        return not any(thread.is_alive() for thread in self.running)
