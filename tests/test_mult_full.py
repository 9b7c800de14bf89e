"""MulT at its published size: depth, feed-forward, positions, norms and the mask of the future."""

import dataclasses
import math
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.models.systems.mult_full import (
    LAYERS,
    Encoder,
    LastStepEncoder,
    Steps,
    WideLayer,
    seen_steps,
)
from taemi_lib.profiles import MODALITIES

WIDTH = SIZES["width"]


def create(**changes):
    torch.manual_seed(0)
    return models.create("mult_full", **SIZES | changes).eval()


def sizes(**changes):
    return create(**changes).sizes


def steps(count, width=8, size=2):
    mask = torch.ones(size, count, dtype=torch.bool)
    return Steps(torch.randn(size, count, width), mask, torch.randn(size, count, width))


def test_it_has_the_published_depth_and_widths():
    model, wide = create(), 6 * WIDTH
    assert set(model.cross) == {f"{s}_to_{m}" for s, m in permutations(MODALITIES, 2)}
    assert set(model.attend) == set(MODALITIES) and LAYERS == 4
    for encoders, width in ((model.cross, WIDTH), (model.attend, 2 * WIDTH)):
        for encoder in encoders.values():
            assert len(encoder.layers) == 4 and encoder.norm.normalized_shape == (width,)
            for layer in encoder.layers:
                linears = [part for part in layer.mlp if isinstance(part, nn.Linear)]
                assert [part.out_features for part in linears] == [4 * width, width]
                assert any(isinstance(part, nn.Dropout) and part.p > 0 for part in layer.mlp)
    linears = [part for part in model.residual if isinstance(part, nn.Linear)]
    assert [(part.in_features, part.out_features) for part in linears] == [(wide, wide)] * 2
    assert isinstance(model.output, nn.Linear)


# --- the mask of the future


def test_no_step_reads_the_future_of_a_sequence_of_its_own_length():
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert seen_steps(mask, mask)[0, 0].tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_other_lengths_shift_the_future_by_their_difference():
    short, long = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool)
    seen = seen_steps(short, long)[0, 0]
    assert seen.tolist() == [[True, True, True, False], [True] * 4]
    # 0 reads up to 0 + 2: all of the two there are
    assert seen_steps(long, short)[0, 0].all()


def test_the_mask_counts_real_steps_wherever_they_stand():
    target = torch.tensor([[False, True, True, False]])
    source = torch.tensor([[True, False, True, True, False]])
    # two real steps against three: the first reads two, the second all three
    seen = seen_steps(target, source)[0, 0]
    assert seen[1].tolist() == [True, False, True, False, False]
    assert seen[2].tolist() == [True, False, True, True, False]
    assert seen.any(dim=-1).all()  # a softmax over nothing would be NaN


# --- an encoder


def published(layer, target, source, seen):
    """A layer of the public code, with torch's own attention."""
    textbook = nn.MultiheadAttention(target.shape[-1], layer.heads, batch_first=True)
    textbook.load_state_dict(
        {
            "in_proj_weight": torch.cat([layer.query.weight, layer.key_value.weight]),
            "in_proj_bias": torch.cat([layer.query.bias, layer.key_value.bias]),
            "out_proj.weight": layer.output.weight,
            "out_proj.bias": layer.output.bias,
        }
    )
    hidden = ~seen.expand(-1, layer.heads, -1, -1).flatten(0, 1)
    read = layer.norm(source)
    target = target + textbook(layer.norm(target), read, read, attn_mask=hidden)[0]
    norm, up, _, _, down = layer.mlp
    return target + down(functional.relu(up(norm(target))))


def test_an_encoder_is_its_equations():
    torch.manual_seed(0)
    encoder, target, source = Encoder(8, sizes()).eval(), steps(3), steps(5)
    source.mask[1, 4] = False
    seen = seen_steps(target.mask, source.mask)
    x = math.sqrt(8) * target.values + target.positions
    read = math.sqrt(8) * source.values + source.positions
    for layer in encoder.layers:
        assert isinstance(layer, WideLayer)
        x = published(layer, x, read, seen)
    assert torch.allclose(encoder(target, source), encoder.norm(x), atol=1e-5)


def test_a_targets_own_encoder_is_the_same_at_its_last_real_step():
    torch.manual_seed(0)
    encoder, own = LastStepEncoder(8, sizes()).eval(), steps(5)
    own.mask[1, 3:] = False
    seen = seen_steps(own.mask, own.mask)
    x = math.sqrt(8) * own.values + own.positions
    for layer in encoder.layers:
        x = published(layer, x, x, seen)
    last = encoder.norm(x)[torch.arange(2), own.mask.sum(dim=1) - 1]
    assert torch.allclose(encoder(own), last, atol=1e-5)


def test_an_encoder_drops_its_inputs_in_training():
    torch.manual_seed(0)
    encoder = Encoder(8, sizes(dropout=0.5)).train()
    assert (encoder.embed(torch.ones(1, 50, 8), None) == 0).float().mean() > 0.3


# --- the system


def given_to(model, part, clips):
    seen = []
    handle = part.register_forward_hook(lambda _, given, __: seen.append(given))
    model(clips)
    handle.remove()
    return seen[0]


def test_it_is_its_equations():
    model, clips = create(), batch()
    clips.mask["audio"][0, 5:] = False
    read, wide = {}, {}
    for name in MODALITIES:
        values, mask = model.sequences[name](clips, clips.present[name])
        near, far = (encode(clips.times[name] * mask) for encode in model.times)
        read[name], wide[name] = Steps(values, mask, near), far
        # positions are not in the sequences yet
        projected = model.sequences[name].project(clips.values[name])
        assert torch.allclose(values[mask], projected[mask], atol=1e-6)
    parts = []
    for target in MODALITIES:
        seen = [
            model.cross[f"{source}_to_{target}"](read[target], read[source])
            for source in MODALITIES
            if source != target
        ]
        own = Steps(torch.cat(seen, dim=-1), read[target].mask, wide[target])
        parts.append(model.attend[target](own))
    z = torch.cat(parts, dim=-1)
    first, _, _, second = model.residual
    expected = model.output(z + second(functional.relu(first(z))))
    assert torch.allclose(model(clips).prediction, expected, atol=1e-5)


def test_it_looks_in_all_six_directions_and_through_every_layer():
    model, clips = create(), batch()
    plain = model(clips).prediction
    for encoder in (*model.cross.values(), *model.attend.values()):
        for layer in encoder.layers:
            weight = layer.output.weight.detach().clone()
            with torch.no_grad():
                layer.output.weight.zero_()
                assert not torch.allclose(plain, model(clips).prediction, atol=1e-6)
                layer.output.weight.copy_(weight)


@pytest.mark.parametrize("name", MODALITIES)
def test_it_knows_when_in_every_encoder_that_reads_the_modality(name):
    model, clips = create(), batch()
    later = dataclasses.replace(clips, times=clips.times | {name: clips.times[name] + 1.3})
    assert not torch.allclose(model(later).prediction, model(clips).prediction, atol=1e-6)
    for key, encoder in (*model.cross.items(), *model.attend.items()):
        if name not in key:
            continue
        place = 1 if key.startswith(f"{name}_to_") else 0
        before, after = (
            given_to(model, encoder, shown)[place].positions for shown in (clips, later)
        )
        assert not torch.allclose(before, after)
    timeless = create(time_features=False)
    assert torch.equal(timeless(later).prediction, timeless(clips).prediction)


@pytest.mark.parametrize("name", MODALITIES)
def test_a_token_stands_at_no_time_of_the_clip_that_it_replaces(name):
    model, clips = create(), batch()
    absent = clips.present | {name: torch.zeros(4, dtype=torch.bool)}
    found = [
        model(dataclasses.replace(clips, times=times, present=absent)).prediction
        for times in (clips.times, clips.times | {name: clips.times[name] + 1.3})
    ]
    assert torch.equal(*found)


def test_one_step_of_each_modality_is_enough():
    clips = batch(audio_steps=1, vision_steps=1, tokens=1)
    assert create(outputs=3)(clips).prediction.shape == (4, 3)
