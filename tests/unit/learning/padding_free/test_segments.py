from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.learning.padding_free.segments import concatenate


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_concatenated_rows_can_be_found_again(lengths: list[int]) -> None:
    rows = [np.arange(length) + 100 * number for number, length in enumerate(lengths)]
    tokens = concatenate(rows)
    assert tokens.segments.lengths == sorted(lengths, reverse=True)
    assert (tokens.segments.tokens, tokens.segments.longest) == (sum(lengths), max(lengths))
    assert [length for _, length in tokens.segments.groups] == sorted(set(lengths), reverse=True)
    ends = tokens.features()["cu_seq_lens_q"].tolist()
    assert ends == [0, *np.cumsum(sorted(lengths, reverse=True)).tolist()]
    for place, (start, stop) in enumerate(pairwise(ends)):
        number = int(tokens.order[place])
        assert tokens.input_ids[0, start:stop].tolist() == rows[number].tolist()
        assert tokens.position_ids[0, start:stop].tolist() == list(range(lengths[number]))
    firsts = torch.tensor([int(tokens.input_ids[0, start]) for start in ends[:-1]])
    assert (tokens.in_callers_order(firsts) // 100).tolist() == list(range(len(lengths)))


def test_equal_lengths_keep_their_order() -> None:
    assert concatenate([[1], [2, 2], [3], [4, 4]]).order.tolist() == [1, 3, 0, 2]


def test_positions_begin_where_the_model_wants_them_to() -> None:
    features = concatenate([[7, 8, 9], [5]]).features(position_offset=2)
    assert features["position_ids"].tolist() == [[2, 3, 4, 2]]
    assert (features["max_length_q"], features["max_length_k"]) == (3, 3)


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_no_sequence_and_an_empty_one_are_refused(rows: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="every sequence must have a token"):
        concatenate(rows)


@pytest.mark.parametrize("lengths", [[3, 5, 1], [8], [16, 3, 13], [2, 7]])
def test_a_filler_behind_all_sequences_makes_the_row_a_multiple(lengths: list[int]) -> None:
    rows = [[number + 1] * length for number, length in enumerate(lengths)]
    plain, filled = concatenate(rows), concatenate(rows, multiple=8)
    tokens = sum(lengths)
    assert filled.segments.tokens == -(-tokens // 8) * 8
    assert torch.equal(filled.input_ids[:, :tokens], plain.input_ids)
    assert torch.equal(filled.position_ids[:, :tokens], plain.position_ids)
    assert not filled.input_ids[:, tokens:].any()
    assert filled.segments.lengths[: len(rows)] == plain.segments.lengths
    per_sequence = torch.arange(len(filled.segments.lengths))
    assert (
        filled.in_callers_order(per_sequence).tolist()
        == plain.in_callers_order(per_sequence[: len(rows)]).tolist()
    )
