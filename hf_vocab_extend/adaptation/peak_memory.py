"""The most memory that a process uses while something is done."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"
"""What Linux takes, written to the second, as the wish to begin its peak anew."""


class PeakMemory:
    """Measures from when it is made.

    Attributes:
        kind: ``"cuda"``: bytes allocated by torch on the device. ``"resident"``: bytes of the process in memory,
            Python, libraries and what was there before included. ``"resident_ever"``: the same since the process
            began, where the system does not begin its peak anew.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin.

        Args:
            device: Where the model is.
        """
        self._device, self._stopped = device, False
        self._final: int | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.kind = "cuda"
            return
        try:
            _CLEAR.write_text(_CLEAR_PEAK)
            self.kind = "resident"
        except OSError:
            self.kind = "resident_ever"

    def peak(self) -> int | None:
        """Return the peak in bytes until now, or until it was stopped; None if the system does not tell."""
        if self._stopped:
            return self._final
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        try:
            lines = _STATUS.read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            return _ever()

    def stop(self) -> None:
        """Keep the peak as it is now."""
        if not self._stopped:
            self._final = self.peak()
            self._stopped = True


def _ever() -> int | None:
    """Return the peak of the process since it began, where there is no ``/proc``."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


__all__ = ["PeakMemory"]
