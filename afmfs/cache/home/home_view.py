"""What the mount process knows of home: what the gateway said last."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from afmfs.gateway.protocol import Message
from afmfs.model.states import Link as LinkState


@dataclass
class HomeView:
    """What is known here of home, as the gateway last said it."""

    link: LinkState = LinkState.UNKNOWN
    reason: str = ""
    hint: str = ""
    properties: dict[str, Any] = field(default_factory=dict)
    statvfs: dict[str, int] = field(default_factory=dict)
    home_st: dict[str, Any] = field(default_factory=dict)
    num_exec: int = 0  # of both queues
    executing: int = 0
    progress: Message | None = None  # of the job, as last told
    requeued: int = 0
    latency_s: float = 0.0
    refusal: str = ""  # what it says to what is requeued
    stalled_s: float = 0.0  # for how long a call has not returned while home answers others
    life: float = -math.inf  # trio time of the last sign of life

    def take(self, message: Message) -> None:
        """What a message says beside whether home is there."""
        match message["type"]:
            case "connected":
                self.properties, self.statvfs = message["properties"], message["statvfs"]
                self.home_st = message["home_st"]
            case "status":
                self.num_exec, self.executing = message["num_exec"], message["executing"]
                self.requeued = message["requeued"]
                self.latency_s = (message.get("latency_ms") or 0) / 1000
                self.refusal = message.get("refusal") or ""
                self.stalled_s = message.get("stalled_s") or 0.0
                self.statvfs = message.get("statvfs") or self.statvfs
            case "outcomes":
                self.num_exec = message["num_exec"]
            case "progress":
                self.progress = message
                self.num_exec = message.get("num_exec", self.num_exec)
