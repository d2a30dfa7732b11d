"""QuickReader: vectors of texts for the checks of rows, without the libraries that train models.

It takes BERT models, on the CPU; `quick_reader` tells whether it takes a model. Everything else,
and every score, is computed by the whole model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tunetrail.config import Settings
from tunetrail.errors import ConfigError
from tunetrail.hardware import may_have_gpu
from tunetrail.learning.embedding.bert_folder import BertFolder, bert_folder
from tunetrail.learning.tokens.prompts import QUERY, configured_prompts
from tunetrail.learning.tokens.token_counts import fast_tokenizer

if TYPE_CHECKING:
    from tunetrail.learning.embedding.bert import Bert


@dataclass(frozen=True, kw_only=True, slots=True)
class QuickReader:
    """Loads a BERT model and applies it, as `EmbeddingReader` does with any model.

    Attributes:
        folder: The model.
        settings: The length and the prompts.
        precision: `float32` or `int8`.
    """

    folder: BertFolder
    settings: Settings
    precision: str

    @property
    def identity(self) -> str:
        """What the vectors depend on besides the model, its texts and its prompts."""
        # float32 gives the vectors of the whole model, except for the last digits.
        return "" if self.precision == "float32" else f":{self.precision}"

    def load(self, path: str) -> "Bert":
        """Load a model folder.

        Raises:
            BrokenModelError: Its weights don't belong to a BERT model.
        """
        from tunetrail.learning.embedding.bert import Bert
        from tunetrail.learning.load_errors import naming_broken_model

        most_tokens = min(self.settings.embedding.max_length, self.folder.positions)
        with naming_broken_model(path):
            return Bert(self.folder, fast_tokenizer(path, most_tokens), self.precision)

    def vectors(
        self, model: "Bert", texts: Sequence[str], *, role: str = QUERY
    ) -> npt.NDArray[np.float32]:
        """Return the unit vectors of texts, [texts, dimensions], each read after the prompt."""
        import torch

        from tunetrail.learning.embedding.text_batches import SHOWN_FROM, encode_in_batches

        prompt = configured_prompts(self.settings.embedding)[role]
        prompted = [prompt + text for text in texts]
        return encode_in_batches(
            model.encode,
            prompted,
            shown=len(texts) > SHOWN_FROM,
            batches_at_once=torch.get_num_threads(),
        )


def quick_reader(settings: Settings, path: str) -> QuickReader | None:
    """Return the quick reader of a model folder; None if the whole model has to be loaded.

    Raises:
        ConfigError: The settings ask for a precision that only the quick reader has, of a model
            that it doesn't take.
    """
    folder = bert_folder(path)
    precision = settings.preparation.vector_precision
    if folder is None and precision == "int8":
        raise ConfigError(
            "preparation.vector_precision must be float32 for a model that isn't BERT, got 'int8' "
            f"for {path}. Change it, or choose another model."
        )

    # A GPU is faster than any of this. `int8` is of the CPU, whoever asks for it.
    has_gpu = settings.trainer.accelerator != "cpu" and may_have_gpu()
    if folder is None or (has_gpu and precision != "int8"):
        return None
    return QuickReader(folder=folder, settings=settings, precision=precision)
