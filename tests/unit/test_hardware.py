from pathlib import Path

import pytest

from tunetrail.hardware import has_integer_products


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_vnni avx512_bf16", True),
        ("flags\t\t: fpu avx2 avx_vnni", False),
        ("Features\t: fp asimd", False),
        ("", False),
    ],
)
def test_has_integer_products_reads_the_flags_of_linux(
    tmp_path: Path, flags: str, expected: bool
) -> None:
    cpu_info = tmp_path / "cpuinfo"
    cpu_info.write_text(f"processor\t: 0\n{flags}\n\nprocessor\t: 1\n{flags}\n")

    assert has_integer_products(cpu_info) == expected
    assert not has_integer_products(tmp_path / "nothing")
