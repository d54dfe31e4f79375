"""Makes the machine ready before MLX computes: a fast BLAS on Linux, and a cache that suits the CPU."""

import ctypes
import logging
import os
import sys
from dataclasses import dataclass
from functools import cache

OPENBLAS = "libopenblas.so.0"
"""The name of OpenBLAS on Debian, Ubuntu, Fedora, Arch and conda."""
CACHE_LIMIT = 1 << 30
"""Bytes of freed memory that MLX keeps on a CPU; its own 32 MB makes it ask the system for every large array."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Platform:
    """What ditq computes on."""

    device: str
    """MLX's default device: "cpu" or "gpu"."""
    blas: str
    """What multiplies float32 matrices on the CPU: "Accelerate", "OpenBLAS" or "reference"."""


@cache
def prepare() -> Platform:
    """The platform, made ready; `import ditq` calls it, and every later call returns the same.

    MLX's Linux wheels are linked with a reference BLAS that is about 35 times slower than OpenBLAS. An OpenBLAS
    whose symbols are global before `mlx.core` is loaded takes its place. Where there is none, or MLX was loaded
    first, one line in the log of `ditq.core.platform` says so, and all results stay the same.
    """
    blas = _fast_blas() if sys.platform == "linux" else "Accelerate"
    import mlx.core as mx

    device = "cpu" if mx.default_device().type == mx.DeviceType.cpu else "gpu"
    if device == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        mx.set_cache_limit(min(CACHE_LIMIT, memory // 4))
    return Platform(device, blas)


def cpu_threads() -> int:
    """How many threads multiply matrices on the CPU: OpenBLAS's own number, what the environment says, or all cores."""
    count = getattr(ctypes.CDLL(None), "openblas_get_num_threads", None) if sys.platform == "linux" else None
    if count is not None:
        return int(count())
    for name in ("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdecimal():
            return int(os.environ[name])
    return os.cpu_count() or 1


def _fast_blas() -> str:
    if "mlx.core" in sys.modules:
        if hasattr(ctypes.CDLL(None), "openblas_get_config"):
            return "OpenBLAS"
        _logger.warning(
            "mlx was imported before ditq, too late for a fast BLAS: matrix products on the CPU are about 35 times "
            "slower. Import ditq first."
        )
        return "reference"
    try:
        ctypes.CDLL(OPENBLAS, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        _logger.warning(
            "%s is missing: matrix products on the CPU are about 35 times slower. Debian and Ubuntu: "
            "sudo apt-get install libopenblas0-pthread",
            OPENBLAS,
        )
        return "reference"
    return "OpenBLAS"
