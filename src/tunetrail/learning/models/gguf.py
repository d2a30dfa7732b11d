"""GGUF files made trainable: dequantised to float32 once, kept in the cache as an ordinary Hugging Face folder."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from tunetrail.errors import ModelError
from tunetrail.locks import file_lock
from tunetrail.paths import cache_dir


def convert_gguf(file: Path) -> Path:
    """Return the folder of the converted model, made on the first call and reused afterwards.

    The folder's name holds the file's SHA-256, so another file never meets an old conversion. Conversions by several
    processes at once are done by one of them; a killed one leaves nothing that a later one would take for complete.

    Raises:
        ModelError: The file can't be read as GGUF, or the cache can't be written.
    """
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        target = cache_dir() / "models" / f"{file.stem}-{digest}"
        with file_lock(target.with_suffix(".lock")):
            if not target.is_dir():
                _convert(file, target)
        return target
    except (
        Exception
    ) as error:  # a broken file raises whatever its reader trips over: struct's, NumPy's, Python's
        raise ModelError(
            f"GGUF file {file} could not be converted into {cache_dir()}: {error}"
        ) from error


def _convert(file: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    work = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        # transformers refuses to save what it still takes for a quantised model, though all weights are float32 by now
        del model.hf_quantizer, model.config.quantization_config
        setattr(model, "is_quantized", False)  # noqa: B010 - torch types every attribute of a module as a tensor
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
