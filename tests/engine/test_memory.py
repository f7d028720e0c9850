"""Claims about freed memory, counted in pages that the kernel hands out."""

import os
import platform
import subprocess
import sys

import pytest

from fedsim.engine.memory import CHOSEN

SCRIPT = """
import sys
from resource import RUSAGE_SELF, getrusage
import torch
from fedsim.engine.memory import keep_freed_memory
kept = keep_freed_memory()
sizes = [1 << power for power in range(12, 22)]
for turn in range(20):
    if turn == 10:
        before = getrusage(RUSAGE_SELF).ru_minflt
    held = [torch.ones(size) for size in sizes]
    del held
print(int(kept), getrusage(RUSAGE_SELF).ru_minflt - before)
"""


def said(**variables):
    environment = {k: v for k, v in os.environ.items() if k not in CHOSEN} | variables
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
    )
    return tuple(map(int, run.stdout.split()))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc, nothing is asked of it")
def test_freed_tensors_need_no_new_pages_unless_the_user_chose_otherwise():
    kept, faults = said()
    assert kept and faults < 100
    # 4 MiB above the threshold are mapped anew, 1,024 pages each time.
    kept, faults = said(MALLOC_MMAP_THRESHOLD_="65536")
    assert not kept and faults > 5000
