import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tunetrail.learning.automatic.fingerprints import (
    length_fingerprint,
    machine_fingerprint,
    model_fingerprint,
    records_fingerprint,
)


def test_models_of_one_kind_share_a_batch_size_but_no_rate(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_embedding_model, tmp_path / "other"))
    same = model_fingerprint(Path(tiny_embedding_model), contents=True)
    assert model_fingerprint(other, contents=True) == same
    (file,) = other.rglob("*.safetensors")
    weights = load_file(file)
    save_file(
        {name: value + 1.0 for name, value in weights.items()}, file, metadata={"format": "pt"}
    )
    shape = [
        model_fingerprint(folder, contents=False) for folder in (Path(tiny_embedding_model), other)
    ]
    assert shape[0] == shape[1]
    assert model_fingerprint(other, contents=True) != same


def test_like_rows_have_one_class_of_lengths() -> None:
    assert length_fingerprint([5, 60, 120]) == length_fingerprint([7, 50, 128]) == [7, 6]
    assert length_fingerprint([5, 60, 200]) != length_fingerprint([5, 60, 120])


def test_the_digest_of_records_knows_their_order() -> None:
    records = [{"anchor": f"question {n}", "positive": f"answer {n}"} for n in range(16)]
    assert records_fingerprint(records) != records_fingerprint(records[::-1])
    assert records_fingerprint(records) == records_fingerprint(
        [dict(reversed(record.items())) for record in records]
    )


def test_the_machine_is_plain_values() -> None:
    assert machine_fingerprint() == machine_fingerprint()
    assert all(isinstance(value, str | int) for value in machine_fingerprint())
