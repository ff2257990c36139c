"""The gateway process: `python -P -m afmfs.gateway.process CACHE --home N --fd FD`.

FD is its end of a SOCK_SEQPACKET socket pair; it ends when the other end closes. A gateway that
outlives its mount can do no harm: no batch begins without the mount's durable point.
"""

from __future__ import annotations

import argparse
import logging
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

from afmfs.gateway import protocol
from afmfs.gateway.gateway import Gateway, exit_now
from afmfs.gateway.protocol import ProtocolError

log = logging.getLogger("afmfs.gateway")


def main(argv: Sequence[str] | None = None) -> None:
    words = argparse.ArgumentParser(prog="afmfs-gateway", description=__doc__)
    words.add_argument("cache", type=Path)
    words.add_argument("--home", type=int, required=True)
    words.add_argument("--fd", type=int, required=True)
    args = words.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="gateway: %(message)s")
    sock = socket.socket(fileno=args.fd)
    serve(Gateway(args.cache, args.home, lambda m, fds: protocol.send(sock, m, fds)), sock)


def serve(gateway: Gateway, sock: socket.socket) -> None:
    """Take messages until the end of the socket, or a "bye"; does not return."""
    gateway.crashed = lambda: exit_now(70)
    gateway.start()
    while True:
        try:
            found = protocol.receive(sock)
            if found is None or found[0]["type"] == "bye":
                break
            message, fds = found
            gateway.receive(message, fds)
        except ProtocolError as exc:
            log.error("the mount process sent %s", exc)
        except Exception:  # a full disk, say: a thread that is stuck at home must not keep us alive
            log.exception("a message can't be dealt with")
            gateway.crashed()
    # A checkpoint of the journal is welcome, but a dead home must not hold the process.
    threading.Timer(1.5, exit_now, (0,)).start()
    gateway.stop()
    exit_now(0)


if __name__ == "__main__":
    main()
