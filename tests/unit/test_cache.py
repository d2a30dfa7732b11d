import os
import time
from pathlib import Path

from tunetrail.cache import ResultCache


def filled(cache: ResultCache, part: str, age: float, size: int = 600_000) -> Path:
    place = cache.place(part)
    place.mkdir(parents=True)
    (place / "file").write_bytes(b"x" * size)
    then = time.time() - age
    os.utime(place, (then, then))
    return place


def test_place_depends_on_all_parts(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    places = {cache.place("a", "b"), cache.place("a"), cache.place("b", "a"), cache.place("a", "b", "")}
    assert len(places) == 4 and cache.place("a", "b") in places


def test_prune_removes_the_longest_unused_above_the_size(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=0.001)
    oldest, older, used = filled(cache, "1", 90_000), filled(cache, "2", 80_000), filled(cache, "3", 70_000)
    cache.place("3")  # asking for a result counts as using it
    assert cache.prune() == 2
    assert not oldest.exists() and not older.exists() and used.exists()


def test_prune_spares_what_may_be_in_use(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=0.0001)
    recent = filled(cache, "1", 60)
    assert cache.prune() == 0 and recent.exists()


def test_prune_removes_what_a_dead_process_left_unfinished(tmp_path: Path) -> None:
    cache = ResultCache(folder=tmp_path, gigabytes=1.0)
    left = tmp_path / "ab" / ".unfinished-x"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    assert cache.prune() == 1 and not left.exists()


def test_prune_takes_a_cache_that_is_not_there(tmp_path: Path) -> None:
    assert ResultCache(folder=tmp_path / "none", gigabytes=1.0).prune() == 0
