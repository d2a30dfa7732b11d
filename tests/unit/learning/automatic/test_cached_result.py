import os
import time
from pathlib import Path

from tunetrail.cache import ResultCache
from tunetrail.learning.automatic.cached_result import CachedResult


def test_a_result_is_found_again_under_equal_conditions(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    CachedResult(cache, "speed", {"rows": 3}).write({"seconds": 2.0})

    assert CachedResult(cache, "speed", {"rows": 3}).read(dict) == {"seconds": 2.0}
    assert CachedResult(cache, "speed", {"rows": 4}).read(dict) is None
    assert CachedResult(cache, "memory", {"rows": 3}).read(dict) is None


def test_a_result_that_is_too_old_or_broken_is_none(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    cached = CachedResult(cache, "speed", {})
    cached.write({"seconds": 2.0})
    (file,) = tmp_path.rglob("found.json")
    an_hour_ago = time.time() - 3600.0
    os.utime(file, (an_hour_ago, an_hour_ago))

    assert cached.age_seconds is not None and 3599.0 < cached.age_seconds < 3700.0
    assert cached.read(dict, within_seconds=7200.0) == {"seconds": 2.0}
    assert cached.read(dict, within_seconds=1800.0) is None
    file.write_text("{")
    assert cached.read(dict) is None


def test_without_a_cache_nothing_is_kept() -> None:
    cached = CachedResult(None, "speed", {})
    with cached.computing():
        cached.write({"seconds": 2.0})
    assert cached.read(dict) is None and cached.age_seconds is None
