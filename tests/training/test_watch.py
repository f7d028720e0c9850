"""What a watch counts, against sizes known by hand."""

import torch

from fedsim.training.watch import Watch


def test_memory_is_the_most_at_a_time_and_what_was_there_before_is_not_counted():
    before = torch.ones(1000)
    with Watch() as seen:
        for _ in range(3):
            torch.empty(1000)
        before.add_(1.0)
        before[:10].view(2, 5)
    assert seen.peak_bytes == 4000
    with Watch() as seen:
        [torch.empty(1000) for _ in range(3)]
    assert seen.peak_bytes == 12000


def test_what_a_backward_pass_keeps_and_starts_is_seen():
    weight = torch.ones(100, 100, requires_grad=True)
    with Watch() as seen:
        forward = (torch.ones(1, 100) @ weight).sum()
        kept = seen.kernels
        (gradient,) = torch.autograd.grad(forward, [weight])
    assert seen.kernels > kept >= 3
    assert seen.peak_bytes >= gradient.nbytes == 40_000
