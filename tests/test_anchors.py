import dataclasses

import pytest
import torch
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.models.attention import SelfAttention, masked_mean

OTHERS = {"vision": ("audio", "text"), "audio": ("vision", "text")}
ANCHORED = [(f"{anchor}_anchored{form}", anchor) for anchor in OTHERS for form in ("", "_pooled")]


def create(name, **changes):
    torch.manual_seed(0)
    return models.create(name, **SIZES | changes).eval()


def changed(clips, name):
    return dataclasses.replace(clips, values=clips.values | {name: clips.values[name] + 1})


@pytest.mark.parametrize(("name", "anchor"), ANCHORED)
def test_the_anchor_moves_the_attention_over_the_others(name, anchor):
    model, clips = create(name), batch()
    before, after = model(clips).attention, model(changed(clips, anchor)).attention
    for other in OTHERS[anchor]:
        assert not torch.allclose(before[other], after[other], atol=1e-4)
        unmoved = model(changed(clips, other)).attention
        for third in set(OTHERS[anchor]) - {other}:
            assert torch.equal(before[third], unmoved[third])  # what is asked never asks
    assert before["text"].shape == (4, 2, 4)  # over its tokens


@pytest.mark.parametrize("anchor", OTHERS)
def test_the_mean_of_the_self_attended_anchor_is_the_query_and_is_concatenated(anchor):
    model, clips = create(f"{anchor}_anchored"), batch()
    clips.mask[anchor][0, 3:] = False
    query = masked_mean(*model.streams[anchor](clips, clips.present[anchor]))
    parts = [query]
    for name in model.cross:
        parts.append(model.cross[name](query, *model.streams[name](clips, clips.present[name]))[0])
    assert torch.allclose(model(clips).prediction, model.head(torch.cat(parts, -1)), atol=1e-6)
    assert set(model(clips).attention) == set(OTHERS[anchor])


@pytest.mark.parametrize("anchor", OTHERS)
def test_a_pooled_anchor_can_pick_one_event_that_a_mean_dilutes(anchor):
    """A query that likes one kind of step finds it among many others: the mean moves by 1 / T, the
    pooled vector by nearly all."""
    model = create(f"{anchor}_anchored_pooled", width=8, heads=1)
    quiet = torch.zeros(1, 40, 8)
    event = quiet.clone()
    event[0, 17, 0] = 10.0
    with torch.no_grad():
        for part in (model.pool.query, model.pool.key, model.pool.value, model.pool.output):
            part.weight.copy_(torch.eye(8))
        model.query.vector.copy_(10 * torch.eye(8)[0])
    mask = torch.ones(1, 40, dtype=torch.bool)
    moved = [model.summary(x, mask)[0][0, 0] for x in (quiet, event)]
    assert moved[1] - moved[0] > 9.9 and masked_mean(event, mask)[0, 0] == 0.25
    assert model(batch()).attention[anchor].shape == (4, 1, batch().values[anchor].shape[1])


@pytest.mark.parametrize(("name", "anchor"), ANCHORED)
def test_a_missing_anchor_asks_with_its_token(name, anchor):
    model, clips = create(name), batch()
    missing = dataclasses.replace(
        clips, present=clips.present | {anchor: torch.zeros(4, dtype=torch.bool)}
    )
    before = model(missing)
    with torch.no_grad():
        model.streams[anchor].token.vector.add_(torch.randn(8))
    assert not torch.allclose(before.attention["text"], model(missing).attention["text"], atol=1e-4)


def test_text_without_tokens_is_its_vector_as_one_step():
    model, clips = create("audio_anchored"), batch()
    without_tokens = models.Batch(
        {name: clips.values[name] for name in ("audio", "vision")}, pooled=clips.pooled
    )
    one_step = dataclasses.replace(
        without_tokens, values=without_tokens.values | {"text": clips.pooled.unsqueeze(1)}
    )
    assert torch.equal(model(without_tokens).prediction, model(one_step).prediction)
    assert not torch.allclose(model(without_tokens).prediction, model(clips).prediction)


@pytest.mark.parametrize("name", [name for name, _ in ANCHORED])
def test_all_three_sequences_are_self_attended_the_words_too(name):
    streams = create(name).streams
    assert set(streams) == {"audio", "vision", "text"} and all(
        isinstance(stream.attend, SelfAttention) for stream in streams.values()
    )
