"""Per-example clipping the slow and obvious way: one backward pass for each example."""

import torch


def naive(losses, parameters, batch, clip_norm):
    """Clipped sum and norms from one backward pass for each example; no device axis."""
    examples = batch["weight"].shape[0]
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    norms = []
    for b in range(examples):
        one = {k: v[b : b + 1] if v.dim() else v for k, v in batch.items()}
        own = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
        loss = losses(own, one).sum()
        gradients = torch.autograd.grad(loss, list(own.values()), materialize_grads=True)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        norms.append(norm)
        factor = min(1.0, clip_norm / norm) * batch["weight"][b]
        for name, g in zip(own, gradients, strict=True):
            total[name] += factor * g
    return total, torch.stack(norms) if norms else torch.zeros(0)


def assert_same(clipped, wanted, tolerance):
    """Equal sums and norms, up to `tolerance` of the longest gradient."""
    total, norms = wanted
    near = tolerance * max(1.0, norms.max().item() if len(norms) else 1.0)
    torch.testing.assert_close(clipped.norms, norms, rtol=tolerance, atol=near)
    assert list(clipped.gradients) == list(total)
    for name, wanted_sum in total.items():
        torch.testing.assert_close(clipped.gradients[name], wanted_sum, rtol=tolerance, atol=near)


def stacked(values):
    """Dicts of tensors, one a device -> one dict with a leading device axis."""
    return {name: torch.stack([v[name] for v in values]) for name in values[0]}


def assert_devices_same(losses, parameters, batches, clip_norm, clipped, tolerance):
    """A stack of devices against the devices one by one."""
    for d, (own, batch) in enumerate(zip(parameters, batches, strict=True)):
        wanted = naive(losses, own, batch, clip_norm)
        part = clipped._replace(
            gradients={name: g[d] for name, g in clipped.gradients.items()},
            norms=clipped.norms[d],
        )
        assert_same(part, wanted, tolerance)
