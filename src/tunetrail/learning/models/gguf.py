"""Converts GGUF files to float32 once, and caches them as ordinary Hugging Face folders."""

import logging
import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from tunetrail.errors import ModelError
from tunetrail.fingerprints import file_fingerprint
from tunetrail.locks import file_lock
from tunetrail.paths import cache_dir
from tunetrail.scratch import scratch_folder, scratch_prefix, sweep

logger = logging.getLogger(__name__)

_CONVERTED = re.compile(r"[^.].*-[0-9a-f]{16}")
# A model that was used more recently may be in use by another process and is never removed.
_IN_USE_SECONDS = 3600.0
# How long another process may take to convert the model: large ones take many minutes.
_MOST_SECONDS = 3600.0


def convert_gguf(file: Path) -> Path:
    """Return the folder of the converted model, which is converted on the first call.

    The folder's name has the file's SHA-256, so another file never gets an old conversion. If
    several processes convert at once, one of them does the work; a killed one leaves nothing that a
    later one would take for complete.

    Raises:
        ModelError: The file can't be read as GGUF, or the cache can't be written.
    """
    try:
        target = cache_dir() / "models" / f"{file.stem}-{file_fingerprint(file)[:16]}"
        with file_lock(target.with_suffix(".lock"), most_seconds=_MOST_SECONDS):
            # A process that was killed while it converted has left half a gigabyte.
            sweep(target.parent)
            if not target.is_dir():
                _convert(file, target)
            # The time of the folder tells `tunetrail clean` when the model was last used.
            os.utime(target)
        return target
    # A broken file raises whatever its reader stumbles over: errors of struct, NumPy or Python.
    except Exception as error:
        raise ModelError(
            f"GGUF file {file} could not be converted to {cache_dir()}: {error}"
        ) from error


def unused_conversions(models: Path, seconds: float) -> list[Path]:
    """Return the converted models of a cache that nothing has used for some seconds, or an hour.

    Args:
        models: The folder of the converted models.
        seconds: The time without use.
    """
    folders = (path for path in models.glob("*") if _CONVERTED.fullmatch(path.name))
    return sorted(path for path in folders if _is_unused(path, seconds))


def remove_conversion(folder: Path, seconds: float) -> None:
    """Remove a converted model, unless a process has used it in the meantime."""
    with file_lock(folder.with_suffix(".lock")):
        if _is_unused(folder, seconds):
            # Renamed first, so that no process reads half a model.
            with scratch_folder(".removing-", folder.parent) as scratch:
                os.replace(folder, scratch / folder.name)


def _is_unused(folder: Path, seconds: float) -> bool:
    try:
        unused_seconds = time.time() - folder.stat().st_mtime
    except OSError:
        return False
    return folder.is_dir() and unused_seconds >= max(seconds, _IN_USE_SECONDS)


def _convert(file: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tunetrail.learning.torch_internals import without_gguf_bar

    logger.info("converting %s from GGUF to %s, once", file.name, target.parent)
    prefix = scratch_prefix(".converting-")
    unfinished = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        with without_gguf_bar():
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)

        # All weights are float32 now, but transformers refuses to save a model it takes for
        # quantised.
        del model.hf_quantizer, model.config.quantization_config
        # torch types every attribute of a module as a tensor.
        setattr(model, "is_quantized", False)  # noqa: B010

        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
