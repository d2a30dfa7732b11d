"""Chat templates in the forms of well-known models, written for the tests, and tokenizers for them.

Each has its family's peculiarity: what it opens, strips, refuses or moves.
"""

# ruff: noqa: RUF001 - DeepSeek's markers are written with such a bar.

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Family:
    """A chat template with its tokens.

    Attributes:
        template: The template.
        eos: The token of the end of sequence, as the tokenizer names it.
        end: The token that ends an answer.
        special: Further special tokens.
        plain: Added tokens that aren't flagged as special.
    """

    template: str
    eos: str
    end: str
    special: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()


# ChatML: the markers of turns are special, and the end of a turn is the end of sequence.
SMOLLM2 = Family(
    template="""{%- for m in messages -%}
{%- if loop.first and m.role != 'system' -%}<|im_start|>system
You are kind.<|im_end|>
{% endif -%}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}""",
    eos="<|im_end|>",
    end="<|im_end|>",
    special=("<|im_start|>",),
)

# Thoughts of earlier answers are dropped; the last answer gets empty ones if it has none.
QWEN3 = Family(
    template="""{%- if tools -%}<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}

{% endif -%}
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% elif messages[0].role == 'system' -%}<|im_start|>system
{{ messages[0].content }}<|im_end|>
{% endif -%}
{%- set ns = namespace(last=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'tool' -%}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% elif m.role == 'assistant' -%}
{%- set thought = '' -%}{%- set said = m.content -%}
{%- if '</think>' in m.content -%}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}<|im_start|>assistant
{% if loop.index0 > ns.last and (loop.last or thought) -%}<think>
{{ thought }}
</think>

{% endif -%}{{ said }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{%- endfor -%}<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false -%}<think>

</think>

{% endif -%}{% endif -%}""",
    eos="<|im_end|>",
    end="<|im_end|>",
    special=("<|im_start|>",),
    plain=("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>"),
)

# The generation prompt opens thoughts, answers lose theirs, and markers aren't special.
R1 = Family(
    template="""{%- if messages[0].role == 'system' -%}{{ messages[0].content }}{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}<｜User｜>{{ m.content }}
{%- elif m.role == 'assistant' -%}
<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<｜Assistant｜><think>
{% endif -%}""",
    eos="<｜end▁of▁sentence｜>",
    end="<｜end▁of▁sentence｜>",
    plain=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
)

# Thoughts stay in every answer.
SMOLLM3 = Family(
    template="""<|im_start|>system
{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}Think first.{% endif %}
{%- for tool in tools or [] %}
{{ tool | tojson }}{% endfor %}<|im_end|>
{% for m in messages -%}
{%- if m.role == 'user' -%}<|im_start|>user
{{ m.content }}<|im_end|>
{% elif m.role == 'assistant' -%}<|im_start|>assistant
{{ m.content.lstrip('\\n') }}<|im_end|>
{% endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}""",
    eos="<|im_end|>",
    end="<|im_end|>",
    special=("<|im_start|>",),
    plain=("<think>", "</think>"),
)

# Content is trimmed; the end of a turn isn't the end of sequence; one call for each answer.
LLAMA3 = Family(
    template="""{{ bos_token }}{%- for m in messages -%}
{%- if m.tool_calls -%}
{%- if m.tool_calls | length > 1 -%}{{ raise_exception('one call at a time') }}{%- endif -%}
{%- set call = m.tool_calls[0].function -%}
<|start_header_id|>assistant<|end_header_id|>

{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>
{%- else -%}
<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>

{% if loop.last and tools %}{% endif -%}
{%- if tools and loop.first -%}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{%- endif -%}
{{ m.content | trim }}<|eot_id|>
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<|start_header_id|>assistant<|end_header_id|>

{% endif -%}""",
    eos="<|end_of_text|>",
    end="<|eot_id|>",
    special=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)

# No system role, turns have to alternate, and the assistant is called the model.
GEMMA = Family(
    template="""{{ bos_token }}{%- if messages[0].role == 'system' -%}
{{ raise_exception('System role not supported') }}{%- endif -%}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Roles must alternate') }}{%- endif -%}
<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ m.content | trim }}<end_of_turn>
{% endfor -%}
{%- if add_generation_prompt -%}<start_of_turn>model
{% endif -%}""",
    eos="<eos>",
    end="<end_of_turn>",
    special=("<bos>", "<start_of_turn>", "<end_of_turn>"),
)

# The system's text and the tools stand before the last user's turn, wherever that is.
MISTRAL = Family(
    template="""{{ bos_token }}{%- set ns = namespace(last=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}
{%- if tools and loop.index0 == ns.last -%}
[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]
{%- endif -%}
[INST] {% if messages[0].role == 'system' and loop.index0 == ns.last -%}
{{ messages[0].content }}

{% endif -%}{{ m.content }}[/INST]
{%- elif m.role == 'tool' -%}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]
{%- elif m.tool_calls -%}
[TOOL_CALLS] [{% for call in m.tool_calls -%}
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
{%- endfor %}]{{ eos_token }}
{%- elif m.role == 'assistant' -%}
{{ ' ' + m.content }}{{ eos_token }}
{%- endif -%}{%- endfor -%}""",
    eos="</s>",
    end="</s>",
    special=(
        "<s>",
        "[INST]",
        "[/INST]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_CALLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ),
)

FAMILIES = {
    "smollm2": SMOLLM2,
    "qwen3": QWEN3,
    "r1": R1,
    "smollm3": SMOLLM3,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
}


def tokenizer_of(family: Family) -> Any:
    """Return a byte-level tokenizer with a family's template and tokens; line breaks pair up."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import AddedToken, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The letter that stands for a line break: two of them are one token, as in most vocabularies.
    line_break = "Ċ"
    vocabulary = {token: index for index, token in enumerate([*alphabet, line_break * 2])}
    merges = [(line_break, line_break)]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    # Line breaks are a word of their own, as in most vocabularies.
    line_breaks = pre_tokenizers.Split(Regex(r"\n+"), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([line_breaks, bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    bos = {"bos_token": family.special[0]} if family.special else {}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=4096,
        eos_token=family.eos,
        pad_token=family.eos,
        additional_special_tokens=list(family.special),
        **bos,
    )
    fast.add_tokens([AddedToken(text, special=False, normalized=False) for text in family.plain])
    fast.chat_template = family.template
    return fast
