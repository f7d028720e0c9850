"""Claims about freed memory: a block that is taken again costs no pages."""

import resource

import pytest
import torch

from fedsim.engine.memory import keep_freed


def test_a_block_that_is_freed_and_taken_again_is_not_mapped_anew():
    if not keep_freed():
        pytest.skip("this C library has no mallopt")

    def faults(blocks):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for _ in range(blocks):
            # 20 MB: beyond every threshold that glibc would choose by itself.
            torch.zeros(5 * 2**20)
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    faults(20)
    # 5,120 pages a block.
    assert faults(20) < 5120
