"""Seconds and peak memory of a phase, measured while it runs."""

from __future__ import annotations

import os
import platform
import threading
import time
from importlib.metadata import version
from types import TracebackType
from typing import Any

import psutil
import torch

MEBIBYTE = 1 << 20
SAMPLE_SECONDS = 0.05


class Meter:
    """Context manager: ``seconds``, ``cpu_seconds`` and ``peak_memory_mib`` of the block.

    Memory is the process's resident set, sampled 20 times a second; on a CUDA device the allocator's own peak
    is recorded beside it.
    """

    def __init__(self, name: str) -> None:
        self.record: dict[str, Any] = {"name": name}
        self._stop = threading.Event()
        self._peak = 0
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self._peak = max(self._peak, process.memory_info().rss)
            if self._stop.wait(SAMPLE_SECONDS):
                return

    def __enter__(self) -> Meter:
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._peak = psutil.Process().memory_info().rss
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.record["seconds"] = round(time.perf_counter() - self._wall, 3)
        self.record["cpu_seconds"] = round(_cpu_seconds() - self._cpu, 3)
        self.record["peak_memory_mib"] = round(self._peak / MEBIBYTE, 1)
        if torch.cuda.is_available():
            self.record["peak_device_memory_mib"] = round(torch.cuda.max_memory_allocated() / MEBIBYTE, 1)


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def hardware(device: str) -> dict[str, Any]:
    """What the run ran on."""
    found: dict[str, Any] = {
        "device": device,
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(logical=True),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    names = ("torch", "transformers", "peft", "datasets", "numpy", "scikit-learn", "scipy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
