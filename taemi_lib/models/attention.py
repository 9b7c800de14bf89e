"""The attention parts every system is composed of. All of them take a mask (True = a real step) and
obey it.

TimeFeatures -> SelfAttention make A' and V' of a clip's sequences; SingleQueryAttention lets one
query look over them (paper, section 3.3); masked_mean is what pooling is without a query.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the real steps: (B, T, d), (B, T) -> (B, d). A row without any gives zeros."""
    weights = mask.to(values.dtype).unsqueeze(-1)  # (B, T, 1)
    return (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class TimeFeatures(nn.Module):
    """Sines and cosines of a step's time in seconds, (B, T) -> (B, T, width), values in [-1, 1].

    docs/paper.md row 20: without them a query can ask what happens but not when. Periods run
    geometrically from 0.25 s (shorter than any expression) to 60 s (longer than any clip), whatever
    the frame rate.
    """

    frequencies: Tensor  # (width / 2,) rad/s

    def __init__(self, width: int, shortest: float = 0.25, longest: float = 60.0) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(
                f"time features come in pairs (sine, cosine): width must be even, not {width}"
            )
        periods = torch.logspace(math.log10(shortest), math.log10(longest), width // 2)
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)

    def forward(self, times: Tensor) -> Tensor:
        times = times.to(self.frequencies.dtype)
        angles = times.unsqueeze(-1) * self.frequencies  # (B, T, width / 2)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class SelfAttention(nn.Module):
    """One self-attention layer with residual and layer norm, no feed-forward (docs/paper.md row
    11): (B, T, d) -> (B, T, d).

    Dropout acts on what is added to the residual, not on the attention weights, so that the fused
    kernel serves.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor, mask: Tensor) -> Tensor:
        B, T, d = values.shape
        # A row without any real step may look everywhere: a softmax over nothing would be NaN.
        # Nobody reads such a row.
        seen = mask | ~mask.any(dim=1, keepdim=True)
        qkv = (
            self.query_key_value(values)
            .view(B, T, 3, self.heads, d // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        query, key, value = qkv.unbind(0)  # each (B, H, T, d / H)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen[:, None, None, :]
        )
        mixed = mixed.transpose(1, 2).reshape(B, T, d)
        return self.norm(values + self.dropout(self.output(mixed)))


class SingleQueryAttention(nn.Module):
    """Multi-head cross-attention for ONE query a clip: (B, d), (B, T, d) -> pooled (B, d), weights
    (B, H, T).

    The same numbers as nn.MultiheadAttention with the same weights, for less work. With a single
    query,
        score_t = q . (W_K x_t) = (W_K' q) . x_t        fold the query through W_K instead of
                                                        projecting every key
        sum_t a_t (W_V x_t + b_V) = W_V (sum_t a_t x_t) + b_V       pool first, project once (the
                                                                    a_t add up to 1)
    so a step costs 2 H d multiplications instead of 2 d d. A key bias adds the same number to every
    score of a head, which the softmax ignores: there is none. No residual, or the query would leak
    into what it pools (docs/paper.md row 11). Masked steps get weight 0; a row without any real
    step gets weights 0 and a finite output.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    @classmethod
    @torch.no_grad()
    def from_multihead(cls, other: nn.MultiheadAttention) -> SingleQueryAttention:
        """A copy of torch's module in this form, for comparing the two."""
        made = cls(other.embed_dim, other.num_heads).to(other.in_proj_weight)
        for part, weight in zip(
            (made.query, made.key, made.value), other.in_proj_weight.chunk(3), strict=True
        ):
            part.weight.copy_(weight)
        made.query.bias.copy_(other.in_proj_bias.chunk(3)[0])
        made.value.bias.copy_(other.in_proj_bias.chunk(3)[2])
        made.output.load_state_dict(other.out_proj.state_dict())
        return made

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        B, T, d = keys.shape
        H, e = self.heads, d // self.heads
        query = self.query(query).view(B, H, e) * e**-0.5
        folded = torch.einsum("bhe,hed->bhd", query, self.key.weight.view(H, e, d))
        scores = folded @ keys.transpose(1, 2)  # (B, H, d) x (B, d, T) -> (B, H, T)
        mask = mask.unsqueeze(1)  # (B, 1, T)
        # The lowest finite number, not -inf: a row without any real step stays free of NaN, in the
        # gradient too.
        weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1) * mask
        context = weights.to(keys.dtype) @ keys  # (B, H, T) x (B, T, d) -> (B, H, d)
        heads = torch.einsum("bhd,hed->bhe", context, self.value.weight.view(H, e, d))
        pooled = self.output(heads.reshape(B, d) + self.value.bias)
        return pooled, weights


class LearnedQuery(nn.Module):
    """The same learned query for every clip, whatever is said: the control that a text query must
    beat."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(width))

    def forward(self, text: Tensor) -> Tensor:
        return self.vector.expand(len(text), -1)  # (B, text_dim) is only counted -> (B, d)


def check_heads(width: int, heads: int) -> None:
    """Raises ValueError when the heads cannot share the width evenly."""
    if width % heads:
        raise ValueError(
            f"width {width} cannot be shared by {heads} heads: it must be a multiple of heads"
        )
