import subprocess
import sys

import pytest

from tunetrail.errors import SampleError
from tunetrail.samples import (
    SampleKind,
    SampleShape,
    all_shapes,
    register_shape,
    shape_named,
)

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
VALUES = {"score": 0.5, "embedding": [1.0, 2.0], "messages": CHAT}
EMBEDDING, LLM = SampleKind.EMBEDDING, SampleKind.LLM


def test_shape_named_knows_the_shapes_of_every_kind():
    assert shape_named("pair").required == ("anchor", "positive")
    assert shape_named("preference").kind is LLM
    with pytest.raises(
        SampleError,
        match=r"shape must be one of pair, .*, verdict_chat, got 'chats'\. Did you mean",
    ):
        shape_named("chats")


def test_sample_kind_names_the_nearest_known_kind():
    assert SampleKind("llm") is LLM and f"{LLM}" == "llm"
    with pytest.raises(SampleError, match=r"one of embedding, llm, got 'embeding'\. Did you mean"):
        SampleKind("embeding")


@pytest.mark.parametrize(
    ("name", "input_texts", "truncatable", "is_preference"),
    [
        ("pair", ("anchor", "positive"), ("anchor", "positive", "negative"), False),
        ("score", ("sentence1", "sentence2"), ("sentence1", "sentence2"), False),
        ("label", ("text",), ("text",), False),
        ("completion", ("input",), (), False),
        ("chat", (), (), False),
        ("document", ("text",), ("text",), False),
        ("preference", ("prompt",), (), True),
    ],
)
def test_shapes_derive_what_follows_from_their_target(
    name, input_texts, truncatable, is_preference
):
    shape = shape_named(name)

    assert shape.input_texts == input_texts
    assert shape.truncatable == truncatable
    assert shape.is_preference == is_preference


def test_register_shape_refuses_a_name_or_a_column_that_is_taken():
    with pytest.raises(SampleError, match="name of its own, got 'pair'"):
        register_shape(SampleShape(name="pair", kind=LLM, required=("text",)))
    with pytest.raises(SampleError, match="'score' of the shape grade must be of type NUMBER"):
        register_shape(SampleShape(name="grade", kind=LLM, required=("text", "score")))

    assert "grade" not in {shape.name for shape in all_shapes()}


@pytest.mark.processes
def test_a_registered_kind_takes_its_shapes_to_another_process():
    program = """
import pickle, sys
from tunetrail.samples import SampleKind, SampleShape, register_shape
kind = SampleKind.register("ticket")
register_shape(SampleShape(name="ticket", kind=kind, required=("subject",)))
sys.stdout.buffer.write(pickle.dumps(kind))
"""
    pickled = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True
    ).stdout
    reading = (
        "import pickle, sys; kind = pickle.load(sys.stdin.buffer);"
        "from tunetrail.samples import parse_sample; print(parse_sample({'subject': 's'}, kind).shape)"
    )

    result = subprocess.run(
        [sys.executable, "-c", reading], input=pickled, capture_output=True, check=True
    )

    assert result.stdout.decode().strip() == "ticket"
