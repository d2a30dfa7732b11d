from tunetrail.learning.language_model.data import LanguageBatch, LanguageModelDataModule
from tunetrail.learning.language_model.forward import padded
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample
from tunetrail.learning.training.micro_batches import MicroBatchLoader


def example(*ids: int) -> TokenizedExample:
    labels = [IGNORED, *ids[1:]]
    return TokenizedExample(
        input_ids=list(ids), labels=labels, supervised_bytes=len(ids), truncated=False
    )


def micro_batches(loader: MicroBatchLoader) -> list[LanguageBatch]:
    return [shared.batch for shared in loader]


def test_padded_pads_on_the_right_and_masks_the_padding() -> None:
    batch = padded([example(5, 6, 7), example(8)], pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [IGNORED, IGNORED, IGNORED]]


def test_padded_keeps_a_padding_token_that_ends_the_text() -> None:
    batch = padded(
        [example(5, 9), example(5, 6, 9)], pad_token_id=9
    )  # pad is the end-of-sequence token
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 9, IGNORED], [IGNORED, 6, 9]]


def test_data_gives_every_example_once_in_an_order_of_the_seed() -> None:
    examples = [example(number + 10, *range(number % 4)) for number in range(11)]
    orders = []
    for seed in (0, 0, 1):
        data = LanguageModelDataModule(train=examples, validation=examples, batch_size=4, seed=seed)
        batches = micro_batches(data.train_dataloader())
        assert sorted(len(batch.examples) for batch in batches) == [3, 4, 4]
        orders.append([example.input_ids[0] for batch in batches for example in batch.examples])
        assert [row + 10 for batch in batches for row in batch.rows] == orders[-1]
        assert sorted(orders[-1]) == list(range(10, 21))
        kept = [
            example.input_ids[0]
            for batch in micro_batches(data.val_dataloader())
            for example in batch.examples
        ]
        assert kept == list(range(10, 21))
    assert orders[0] == orders[1] != orders[2]
