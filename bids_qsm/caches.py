"""Numba's cache of compiled kernels, where its files are damaged."""

from numba.core.caching import IndexDataCacheFile

_load = IndexDataCacheFile.load


def mend_caches():
    """Have damaged kernels, as after a power cut, compiled again; Numba alone would fail in each run."""
    IndexDataCacheFile.load = _load_or_flush


def _load_or_flush(cache, key):
    try:
        return _load(cache, key)
    except Exception:  # whatever pickle makes of what it finds
        cache.flush()
        return None
