import gc

import pytest

from tunetrail.imports import importing


def test_garbage_is_collected_again_after_imports_and_after_a_failed_one() -> None:
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()

    with pytest.raises(ImportError), importing():
        raise ImportError("no such module")
    assert gc.isenabled()


def test_a_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
