import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunetrail.cache import ResultCache
from tunetrail.config import LanguageModelConfig
from tunetrail.errors import SampleError
from tunetrail.learning.language_model.learner import LanguageModelLearner

LEARNER = LanguageModelLearner(config=LanguageModelConfig(max_length=256), seed=0)


@pytest.mark.parametrize("known", [0, 7, [7, 9], None])
def test_the_saved_model_stops_at_the_end_that_is_learnt(
    tiny_language_model: str, tmp_path: Path, known: int | list[int] | None
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_language_model, folder)
    settings = {"eos_token_id": known} if known is not None else {}
    (folder / "generation_config.json").write_text(json.dumps(settings))

    LEARNER.save(LEARNER.load(str(folder)), tmp_path / "saved")

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").generation_config
    ends = saved.eos_token_id
    end = AutoTokenizer.from_pretrained(tmp_path / "saved").convert_tokens_to_ids("<|end|>")
    assert end in (ends if isinstance(ends, list) else [ends])
    assert set(known if isinstance(known, list) else [known or 0]) <= {
        *(ends if isinstance(ends, list) else [ends])
    }


def test_check_names_rows_without_a_form_and_refuses_most_of_them(
    tiny_language_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"input": "a", "output": "b"}] * 19
    tools = json.dumps([{"type": "function", "function": {"name": "weather"}}])
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    unlearnable = {"messages": messages, "tools": tools}

    LEARNER.check(tiny_language_model, [*rows, unlearnable], LEARNER.load)

    assert "1 of 20 rows can't be learnt: tools must be written by" in caplog.text
    with pytest.raises(SampleError, match="2 of 3 rows can't be learnt: tools must be written"):
        LEARNER.check(tiny_language_model, [rows[0], unlearnable, unlearnable], LEARNER.load)
    model = LEARNER.load(tiny_language_model)
    answers = LEARNER.write_answers(model, [rows[0], unlearnable], max_new_tokens=2, batch_size=2)
    assert answers[0] is not None and answers[1] is None


@pytest.mark.parametrize("with_cache", [False, True])
def test_check_names_answers_that_are_context_only(
    tiny_language_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, with_cache: bool
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_language_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Like Qwen3's, it drops the thoughts of all answers except the last one.
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
        "{{ m['content'] if loop.last else m['content'].split('</think>')[-1] }}"
        "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    turns = [("user", "a"), ("assistant", "<think>why</think>b"), ("user", "c"), ("assistant", "d")]
    thoughtful = {"messages": [{"role": role, "content": text} for role, text in turns]}
    plain = {"input": "a", "output": "b"}
    cache = ResultCache(folder=tmp_path / "cache", gigabytes=1) if with_cache else None
    if cache is not None:
        cache.open()
    learner = replace(LEARNER, cache=cache)

    learner.check(str(folder), [plain], learner.load)
    assert "context only" not in caplog.text
    # The second time, the examples come from the cache.
    for _ in range(2):
        caplog.clear()
        learner.check(str(folder), [plain, thoughtful, thoughtful], learner.load)
        assert "context only: 2 answers before the last one of a chat" in caplog.text
