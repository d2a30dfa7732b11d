import random

import numpy as np
import pytest
import torch
from torch import nn

from tunetrail.learning.evaluation_mode import undisturbed


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def seed() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def test_undisturbed_restores_each_parts_mode_and_all_generators() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 2)))
    module.train()
    module[1][0].eval()  # frozen on purpose
    before = [submodule.training for submodule in module.modules()]
    seed()
    expected = draws()
    seed()

    with undisturbed(module):
        assert not any(submodule.training for submodule in module.modules())
        assert draws() == expected

    assert [submodule.training for submodule in module.modules()] == before
    assert draws() == expected


def test_undisturbed_restores_after_a_failure() -> None:
    module = nn.Dropout(0.5)
    with pytest.raises(RuntimeError, match="no records"), undisturbed(module):
        raise RuntimeError("no records")
    assert module.training
