"""Claims about the packed layout of sentences, against loops over sentences and words."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.models.packing import Packing


@st.composite
def stacks(draw):
    """Lengths (devices, examples), each row non-increasing, and a padded width."""
    devices, examples = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    rows = draw(
        st.lists(
            st.lists(st.integers(0, 6), min_size=examples, max_size=examples),
            min_size=devices,
            max_size=devices,
        )
    )
    lengths = torch.tensor([sorted(row, reverse=True) for row in rows])
    return lengths, max(1, int(lengths.max())) + draw(st.integers(0, 2))


def padded_values(lengths, tokens, features=2):
    """Distinct values, negative ones among them, at every place, padding included."""
    count = lengths.numel() * tokens * features
    values = torch.arange(count, dtype=torch.float64) * 7 % 101 - 50
    return values.view(*lengths.shape, tokens, features)


def each_sentence(lengths, padded, function, empty):
    """`function` of the words (length, features) of every sentence, by a loop."""
    flat = padded.flatten(0, -4) if padded.dim() > 3 else padded
    flat = flat.reshape(-1, *padded.shape[-2:])
    rows = [
        function(words[:length]) if length else empty
        for words, length in zip(flat, lengths.flatten().tolist(), strict=True)
    ]
    return torch.stack(rows).view(*lengths.shape, -1)


def only_words(lengths, padded):
    """The padded values with zeros at padding."""
    inside = torch.arange(padded.shape[-2]) < lengths.unsqueeze(-1)
    return padded * inside.unsqueeze(-1)


@given(stacks())
@settings(max_examples=60, deadline=None)
def test_sums_means_and_maxima_are_those_of_a_loop(stack):
    lengths, tokens = stack
    nothing = torch.zeros(2, dtype=torch.float64)
    for own in (lengths, lengths[0]):
        values = padded_values(own, tokens)
        packing = Packing.of(own, tokens)
        packed = packing.packed(values)
        for reduced, function in (
            (packing.sums, lambda words: words.sum(0)),
            (packing.means, lambda words: words.mean(0)),
            (packing.maxima, lambda words: words.amax(0)),
        ):
            wanted = each_sentence(own, values, function, nothing)
            torch.testing.assert_close(reduced(packed), wanted)


@given(stacks())
@settings(max_examples=60, deadline=None)
def test_packing_keeps_every_word_and_padding_comes_back_as_zero(stack):
    lengths, tokens = stack
    for own in (lengths, lengths[0]):
        values = padded_values(own, tokens)
        packing = Packing.of(own, tokens)
        packed = packing.packed(values)
        assert torch.equal(packing.padded(packed), only_words(own, values))
        assert sum(packing.steps) == len(packing.place) == packed.shape[-2]


@given(stacks())
@settings(max_examples=60, deadline=None)
def test_gradients_of_padded_sentences_reach_their_words_alone(stack):
    lengths, tokens = stack
    for own in (lengths, lengths[0]):
        packing = Packing.of(own, tokens)
        packed = torch.zeros(*packing.real.shape, 2, dtype=torch.float64, requires_grad=True)
        slopes = padded_values(own, tokens)
        (got,) = torch.autograd.grad(packing.padded(packed), packed, slopes)
        assert torch.equal(packing.padded(got), only_words(own, slopes))
        assert not got[~packing.real].any()


@given(stacks())
@settings(max_examples=60, deadline=None)
def test_reversing_turns_every_sentence_round_and_twice_is_nothing(stack):
    lengths, tokens = stack
    for own in (lengths, lengths[0]):
        values = padded_values(own, tokens)
        packing = Packing.of(own, tokens)
        packed = packing.packed(values)
        turned = packing.reversed(packed)
        assert torch.equal(packing.reversed(turned), packed)
        wanted = only_words(own, values).flatten(0, -3).clone()
        for words, length in zip(wanted, own.flatten().tolist(), strict=True):
            words[:length] = words[:length].flip(0)
        got = only_words(own, packing.padded(turned)).flatten(0, -3)
        assert torch.equal(got, wanted)


@given(stacks())
@settings(max_examples=60, deadline=None)
def test_real_marks_exactly_the_words(stack):
    lengths, tokens = stack
    packing = Packing.of(lengths, tokens)
    assert torch.equal(packing.real.sum(-1), lengths.sum(-1))
    marks = packing.padded(packing.real.unsqueeze(-1).double()).squeeze(-1)
    assert torch.equal(marks > 0, torch.arange(tokens) < lengths.unsqueeze(-1))


@given(stacks())
@settings(max_examples=60, deadline=None)
def test_a_stack_has_no_place_that_no_device_needs_and_a_single_device_keeps_its_padding(stack):
    lengths, tokens = stack
    needed = int(lengths.amax(0).sum())
    assert len(Packing.of(lengths, tokens).place) == needed
    assert len(Packing.of(lengths[0], tokens).place) == lengths.shape[1] * tokens


def test_steps_never_grow_so_that_ended_sentences_cost_nothing():
    packing = Packing.of(torch.tensor([[4, 1, 0], [2, 2, 1]]), tokens=9)
    assert packing.steps == [3, 2, 1, 1]


def test_a_maximum_sends_its_gradient_to_the_winning_word_alone():
    packing = Packing.of(torch.tensor([3, 1]), tokens=3)
    # Word by word, the first sentence's beside the second's; 99 stands at padding.
    words = torch.tensor([[1.0], [5.0], [9.0], [99.0], [2.0], [99.0]], requires_grad=True)
    packing.maxima(words).sum().backward()
    assert words.grad.flatten().tolist() == [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]


@given(stacks(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_gradients_of_maxima_are_those_of_amax_where_words_tie_too(stack, seed):
    lengths, tokens = stack
    draw = torch.Generator().manual_seed(seed)
    for own in (lengths, lengths[0]):
        packing = Packing.of(own, tokens)
        # Few different values: ties everywhere.
        packed = torch.randint(0, 3, (*packing.real.shape, 2), generator=draw).double()
        packed.requires_grad_()
        slopes = torch.randn(*own.shape, 2, dtype=torch.float64, generator=draw)
        (got,) = torch.autograd.grad(packing.maxima(packed), packed, slopes)
        padded = packing.padded(packed)
        # Padding must lose: the smallest value is 0.
        inside = (torch.arange(tokens) < own.unsqueeze(-1)).unsqueeze(-1)
        highest = padded.masked_fill(~inside, -1.0).amax(-2)
        highest = torch.where(own.unsqueeze(-1) > 0, highest, 0.0)
        (wanted,) = torch.autograd.grad(highest, packed, slopes)
        torch.testing.assert_close(got, wanted)


def test_a_layout_first_made_in_inference_mode_serves_training():
    lengths = torch.full((3,), 41)
    with torch.inference_mode():
        Packing.of(lengths, 41)
    packing = Packing.of(lengths, 41)
    words = torch.ones(3 * 41, 2, requires_grad=True)
    (slopes,) = torch.autograd.grad(packing.reversed(words).sum(), words)
    assert torch.equal(slopes, torch.ones_like(words))
