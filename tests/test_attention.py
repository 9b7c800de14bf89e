import pytest
import torch
from torch import nn

from taemi_lib.models.attention import (
    LearnedQuery,
    SelfAttention,
    SingleQueryAttention,
    TimeFeatures,
    masked_mean,
)
from taemi_lib.models.missing import MissingToken, ModalityDropout


def mask_of(*lengths, steps):
    return torch.arange(steps) < torch.tensor(lengths)[:, None]


def torch_attention(width, heads):
    """nn.MultiheadAttention with every bias away from zero."""
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(width, heads, batch_first=True)
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    return attention


@pytest.mark.parametrize("heads", [1, 4])
def test_one_query_gives_the_numbers_of_multihead_attention(heads):
    textbook = torch_attention(16, heads)
    ours = SingleQueryAttention.from_multihead(textbook)
    query, keys = torch.randn(3, 16), torch.randn(3, 11, 16)
    mask = mask_of(11, 4, 1, steps=11)
    expected, weights = textbook(
        query[:, None],
        keys,
        keys,
        key_padding_mask=~mask,
        average_attn_weights=False,
        need_weights=True,
    )
    pooled, ours_weights = ours(query, keys, mask)
    assert torch.allclose(pooled, expected[:, 0], atol=1e-5)
    assert torch.allclose(ours_weights, weights[:, :, 0], atol=1e-5)
    everything = torch.ones_like(mask)
    assert torch.allclose(
        ours(query, keys, everything)[0], textbook(query[:, None], keys, keys)[0][:, 0], atol=1e-5
    )


def test_one_query_has_the_gradients_of_multihead_attention():
    textbook = torch_attention(8, 2)
    ours = SingleQueryAttention.from_multihead(textbook)
    query, keys, mask = torch.randn(3, 8), torch.randn(3, 5, 8), mask_of(5, 2, 3, steps=5)
    textbook(query[:, None], keys, keys, key_padding_mask=~mask)[0].square().sum().backward()
    ours(query, keys, mask)[0].square().sum().backward()
    expected = textbook.in_proj_weight.grad.chunk(3)
    for part, gradient in zip((ours.query, ours.key, ours.value), expected, strict=True):
        assert torch.allclose(part.weight.grad, gradient, atol=1e-4)


def test_self_attention_gives_the_numbers_of_multihead_attention():
    textbook = torch_attention(16, 4)
    ours = SelfAttention(16, 4)
    ours.query_key_value.load_state_dict(
        {"weight": textbook.in_proj_weight, "bias": textbook.in_proj_bias}
    )
    ours.output.load_state_dict(textbook.out_proj.state_dict())
    values, mask = torch.randn(2, 7, 16), mask_of(7, 3, steps=7)
    mixed = textbook(values, values, values, key_padding_mask=~mask, need_weights=False)[0]
    expected = ours.norm(values + mixed)
    assert torch.allclose(ours(values, mask)[mask], expected[mask], atol=1e-5)


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_row_without_any_step_is_never_nan_in_value_or_gradient(precision):
    values = torch.randn(2, 5, 8, dtype=precision, requires_grad=True)
    mask = mask_of(3, 0, steps=5)
    attend, cross = SelfAttention(8, 2).to(precision), SingleQueryAttention(8, 2).to(precision)
    pooled, weights = cross(torch.randn(2, 8, dtype=precision), attend(values, mask), mask)
    assert pooled.isfinite().all() and (weights[1] == 0).all()
    assert masked_mean(values, mask)[1].eq(0).all()
    pooled.sum().backward()
    assert values.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in [*attend.parameters(), *cross.parameters()])


def test_attention_weights_add_up_to_one_and_padding_gets_none():
    _, weights = SingleQueryAttention(8, 2)(
        torch.randn(3, 8), torch.randn(3, 6, 8), mask := mask_of(6, 2, 1, steps=6)
    )
    assert torch.allclose(weights.sum(-1), torch.ones(3, 2))
    assert (weights.masked_select(~mask[:, None].expand_as(weights)) == 0).all()


def test_the_query_decides_where_attention_goes():
    cross = SingleQueryAttention(2, 1)
    for part in (cross.query, cross.key):
        nn.init.eye_(part.weight)
    nn.init.zeros_(cross.query.bias)
    keys = torch.tensor([[[10.0, 0.0], [0.0, 10.0]]]).expand(2, -1, -1)
    _, weights = cross(
        torch.tensor([[5.0, 0.0], [0.0, 5.0]]), keys, torch.ones(2, 2, dtype=torch.bool)
    )
    assert weights[0, 0, 0] > 0.99 and weights[1, 0, 1] > 0.99
    constant = LearnedQuery(2)(torch.randn(2, 2))
    assert torch.equal(constant[0], constant[1])


def test_masked_mean_by_hand():
    values = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert masked_mean(values, mask_of(2, steps=3)).item() == 2.0


def test_time_features_depend_on_seconds_not_on_the_frame_rate():
    time = TimeFeatures(8)
    slow, fast = time(torch.arange(5)[None] / 10), time(torch.arange(25)[None] / 50)
    assert torch.allclose(slow, fast[:, ::5], atol=1e-4)
    assert slow.shape == (1, 5, 8) and slow.abs().max() <= 1
    assert (slow[0, 0] - slow[0, 1]).abs().max() > 0.1  # a tenth of a second can be told
    with pytest.raises(ValueError, match="even"):
        TimeFeatures(7)


def test_heads_must_share_the_width():
    with pytest.raises(ValueError, match="width 10.*4 heads"):
        SelfAttention(10, 4)


def test_modality_dropout_leaves_one_modality_and_meets_its_rate():
    torch.manual_seed(0)
    size = 20000
    three = {name: torch.ones(size, dtype=torch.bool) for name in ("audio", "vision", "text")}
    kept = ModalityDropout(0.5)(three)
    assert torch.stack(list(kept.values())).any(0).all()
    for mask in kept.values():
        assert abs((~mask).float().mean().item() - (0.5 - 0.5**3 / 3)) < 0.01


def test_modality_dropout_never_takes_the_only_one_and_never_invents_one():
    torch.manual_seed(0)
    present = {
        "audio": torch.ones(500, dtype=torch.bool),
        "text": torch.zeros(500, dtype=torch.bool),
    }
    kept = ModalityDropout(0.9)(present)
    assert kept["audio"].all() and not kept["text"].any()
    nothing = ModalityDropout(0.9)(
        {name: torch.zeros(9, dtype=torch.bool) for name in ("audio", "text")}
    )
    assert not nothing["audio"].any() and not nothing["text"].any()


def test_modality_dropout_is_off_in_evaluation():
    present = {
        "audio": torch.ones(500, dtype=torch.bool),
        "text": torch.ones(500, dtype=torch.bool),
    }
    assert all(mask.all() for mask in ModalityDropout(0.9).eval()(present).values())


def test_a_missing_token_stands_in_as_vector_and_as_sequence_of_one():
    token = MissingToken(2)
    kept = torch.tensor([True, False])
    vectors = token.in_vector(torch.ones(2, 2), kept)
    assert vectors[0].tolist() == [1, 1] and torch.equal(vectors[1], token.vector)
    values, mask = token.in_sequence(torch.ones(2, 3, 2), mask_of(2, 0, steps=3), kept)
    assert mask.tolist() == [[True, True, False], [True, False, False]]
    assert values[0].eq(1).all() and torch.equal(values[1, 0], token.vector)
    values, mask = token.in_sequence(None, None, kept)
    assert values.shape == (2, 1, 2) and mask.all()
