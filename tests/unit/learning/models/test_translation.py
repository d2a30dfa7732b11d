from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedTokenizerFast

from tunetrail.errors import ConfigError, ModelError
from tunetrail.learning.models.translation import (
    TranslationModel,
    Translator,
    load_translation_model,
    translated,
)

# Two English words may have one foreign word, so that what comes back is the original or its
# synonym.
FOREIGN = {
    "big": "grob", "large": "grob", "small": "kalin", "little": "kalin", "dog": "hund", "cat": "kats",
    "sleeps": "slafa", "runs": "lofa",
}  # fmt: skip
BACK = {
    "grob": "large",
    "kalin": "small",
    "hund": "dog",
    "kats": "cat",
    "slafa": "sleeps",
    "lofa": "runs",
}
SYNONYMS = {"big": "large", "little": "small"}


def toy_tokenizer(words: dict[str, str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each word."""
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokens = [*special.values(), *dict.fromkeys([*words, *words.values()])]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=12, **special)


def toy_translator(folder: Path, words: dict[str, str]) -> str:
    """Train a tiny sequence-to-sequence model until it maps each of four words, and return its folder."""
    torch.manual_seed(0)
    tokenizer = toy_tokenizer(words)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=12, dropout=0.0,
        init_std=0.1, pad_token_id=0, eos_token_id=1, bos_token_id=None, decoder_start_token_id=1,
        forced_eos_token_id=None,
    )  # fmt: skip
    model = BartForConditionalGeneration(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    known = list(words)
    for _ in range(200):
        drawn = torch.randint(len(known), (64, 4), generator=generator).tolist()
        batch, labels = (
            tokenizer(
                [" ".join(names[token_id] for token_id in row) for row in drawn],
                return_tensors="pt",
            )
            for names in (known, [words[word] for word in known])
        )
        loss = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels["input_ids"],
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    folder, threads = tmp_path_factory.mktemp("translation"), torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # tensors this small are trained thirty times slower by threads that wait for one another
    yield toy_translator(folder / "there", FOREIGN), toy_translator(folder / "back", BACK)
    torch.set_num_threads(threads)


@pytest.fixture
def translator(folders: tuple[str, str]) -> Translator:
    there, back = (load_translation_model(folder) for folder in folders)
    return Translator(there=there, back=back)


@pytest.mark.processes
def test_translator_returns_each_word_or_its_synonym(translator: Translator) -> None:
    texts = [
        "big dog sleeps runs",
        "little cat runs sleeps",
        "small large dog cat",
        "big dog sleeps runs",
    ]
    expected = [" ".join(SYNONYMS.get(word, word) for word in text.split()) for text in texts]

    assert translated(translator.there, texts[:1]) == ["grob hund slafa lofa"]
    assert translator.back_translated(texts) == expected
    assert expected[0] != texts[0]


@pytest.mark.processes
def test_translator_keeps_white_space_between_sentences(translator: Translator) -> None:
    text = "\n  big dog sleeps runs\n\n\tlittle cat runs sleeps \n"
    assert translator.back_translated([text]) == [
        "\n  large dog sleeps runs\n\n\tsmall cat runs sleeps \n"
    ]


@pytest.mark.processes
def test_translator_leaves_what_the_models_cannot_read(translator: Translator) -> None:
    long = "big dog " * 7

    assert translated(translator.there, [long.strip(), "big cat big cat"]) == [
        None,
        "grob kats grob kats",
    ]
    assert translator.back_translated([long, "", " \n ", "  " * 50_000]) == [
        long,
        "",
        " \n ",
        "  " * 50_000,
    ]
    assert translator.back_translated([]) == []
    assert len(translator.back_translated(["\ud800\x00", "?!" * 100_000])) == 2


@pytest.mark.processes
def test_translator_does_not_translate_twice(translator: Translator) -> None:
    first = translator.back_translated(["big dog sleeps runs"])
    batches: list[int] = []
    translator.there.model.register_forward_hook(lambda *_: batches.append(1))

    assert translator.back_translated(["big dog sleeps runs"]) == first and not batches

    translator.back_translated(["little dog sleeps runs"])
    assert batches


@pytest.mark.processes
def test_load_translation_model_knows_what_a_model_can_read(folders: tuple[str, str]) -> None:
    loaded = load_translation_model(folders[0])
    assert isinstance(loaded, TranslationModel) and loaded.longest == 12
    assert not loaded.model.training and loaded.model.dtype == torch.float32


@pytest.mark.parametrize("name", ["opus", "./missing/folder", "/missing", "a/b/c", ""])
def test_load_translation_model_refuses_what_names_no_model(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"translation_models must be local folders or hub ids owner/name, got"
    ):
        load_translation_model(name)


def test_load_translation_model_refuses_another_kind_of_model(tiny_language_model: str) -> None:
    with pytest.raises(
        ModelError, match="translation_models must be sequence-to-sequence models, got"
    ):
        load_translation_model(tiny_language_model)


@pytest.mark.processes
def test_load_translation_model_refuses_weights_that_can_run_code(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    for file in Path(folders[0]).iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"must hold \*\.safetensors"):
        load_translation_model(str(tmp_path))
