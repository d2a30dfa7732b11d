"""What a training holds when it writes a checkpoint."""

import platform
from pathlib import Path

import pytest
import pytorch_lightning as lightning

from tunetrail.learning.devices import CPU
from tunetrail.learning.memory_meter import held_memory
from tunetrail.learning.recovery.checkpoints import LastCheckpoint

MEBIBYTE = 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is asked for it")
def test_a_validation_begins_without_what_the_steps_have_freed(tmp_path: Path) -> None:
    checkpoint = LastCheckpoint(tmp_path)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    blocks = [bytearray(64 * 1024) for _ in range(1024)]  # too small to be mapped one by one
    kept = bytearray(64 * 1024)  # above them: without it, the heap would shrink by itself
    held = held_memory(CPU)
    del blocks

    checkpoint.on_validation_start(trainer, lightning.LightningModule())

    assert held - held_memory(CPU) > 48 * MEBIBYTE
    assert len(kept) == 64 * 1024
