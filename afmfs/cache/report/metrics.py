"""A fileset's status as metrics, in Prometheus's text format.

The library takes longer to load than all else that is told of a fileset: whoever shows no metrics
imports nothing from here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from afmfs.cache.report.status import JobStatus, Status
from afmfs.model.states import State

_GAUGES = {
    "queue_length": "Entries that home has yet to see.",
    "executing": "Entries of the batch that is being executed.",
    "requeued": "Entries that home refused, tried again later.",
    "unrepresentable": "Changes that this home can never hold.",
    "lost": "Files that home has lost.",
    "nulled_files": "Files of which a resync made bytes null at home.",
    "bytes_pending": "Bytes of pending entries.",
    "dirty_bytes": "Bytes covered by pending entries.",
    "oldest_pending_seconds": "Age of the oldest pending entry.",
    "entries_per_second": "Entries replayed per second.",
    "bytes_per_second": "Bytes replayed per second.",
    "write_bytes_left": "Bytes that home has yet to get; one written twice counts twice.",
    "write_bytes_per_second": "Bytes that home gets per second.",
    "write_seconds_left": "Time until it has them, at this rate.",
    "cached_bytes": "Bytes of cached blocks.",
    "cache_size": "Most bytes that may be cached.",
    "evicted_files": "Files evicted to make room, since the mount.",
    "evicted_bytes": "Bytes evicted to make room, since the mount.",
    "disk_failed": "1 if the cache's disk has failed.",
    "cache_free_bytes": "Bytes free on the cache's file system.",
    "inodes": "Objects known to the cache.",
    "mount_memory_bytes": "Resident memory of the mount process.",
    "gateway_memory_bytes": "Resident memory of the gateway process.",
    "home_latency_ms": "Time that home took for the last probe.",
}


_JOB_GAUGES = {
    "left": "Objects that the resync, failover or recovery has still to see to.",
    "total": "Objects in its plan.",
    "bytes_left": "Bytes that it has still to push.",
    "bytes_total": "Bytes in its plan.",
    "requeued": "Objects that home refused, tried again later.",
    "objects_per_second": "Objects done per second.",
    "bytes_per_second": "Bytes pushed per second.",
    "seconds_left": "Time left at this rate.",
}


def render_metrics(status: Status) -> bytes:
    """`status` in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(status))
    return generate_latest(registry)


class _Metrics(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        status = self._status
        names, values = ["device", "fileset"], [_label(status.device), _label(status.fileset)]
        for field, text in _GAUGES.items():
            value = getattr(status, field)
            if value is not None:
                gauge = GaugeMetricFamily(f"afmfs_{field}", text, labels=names)
                gauge.add_metric(values, value)
                yield gauge
        executed = CounterMetricFamily(
            "afmfs_executed", "Entries executed since the mount.", labels=names
        )
        executed.add_metric(values, status.num_exec)
        yield executed
        written = CounterMetricFamily(
            "afmfs_written_bytes", "Bytes of entries that home got since the mount.", labels=names
        )
        written.add_metric(values, status.written_bytes)
        yield written
        if status.job is not None:
            yield from self._of_job(status.job, [*names, "kind"], [*values, status.job.kind])
        state = GaugeMetricFamily("afmfs_state", "1 for the shown state.", labels=[*names, "state"])
        for word in State:
            state.add_metric([*values, word], word == status.state)
        yield state

    def _of_job(self, job: JobStatus, names: list[str], values: list[str]) -> Iterator[Metric]:
        for field, text in _JOB_GAUGES.items():
            value = getattr(job, field)
            if value is not None:
                gauge = GaugeMetricFamily(f"afmfs_job_{field}", text, labels=names)
                gauge.add_metric(values, value)
                yield gauge


def _label(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "backslashreplace")
