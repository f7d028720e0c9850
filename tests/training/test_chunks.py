"""Claims about how many devices make a stack."""

import pytest
import torch

from fedsim.training.chunks import _fitting


@pytest.mark.parametrize(
    ("megabytes", "devices"), [(1, 32), (3, 10), (5, 8), (8, 8), (15, 4), (40, 1), (100, 1)]
)
def test_a_stack_on_a_processor_fits_the_caches_and_one_of_few_devices_twice_of_them(
    megabytes, devices
):
    assert _fitting(megabytes * 2**20, torch.device("cpu")) == devices
