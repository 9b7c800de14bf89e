"""ALMT: that text guides at three depths, what the hyper-modality holds, and how the two meet."""

import dataclasses

import pytest
import torch
from torch import nn
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.models.systems.almt2023 import (
    DEPTHS,
    TOKENS,
    ALMT2023FirstPlace,
    ALMT2023Learned,
)

FAMILY = ["almt2023", "almt2023_learned", "almt2023_first_place"]
WIDTH = SIZES["width"]


def create(name="almt2023", **changes):
    torch.manual_seed(0)
    return models.create(name, **SIZES | changes).eval()


def changed(clips, name):
    other = dataclasses.replace(clips, values=clips.values | {name: clips.values[name] + 1})
    return dataclasses.replace(other, pooled=clips.pooled + 1) if name == "text" else other


def heard(model, part, clips):
    """What a part is given and what it answers, for every time it is called."""
    calls = []
    handle = part.register_forward_hook(lambda _, given, answer: calls.append((given, answer)))
    with torch.no_grad():
        model(clips)
    handle.remove()
    return calls


def hyper_of(model, clips):
    """The hyper-modality after its last layer, (B, 8, d)."""
    return heard(model, model.hyper_layers[-1], clips)[0][1]


# --- a modality's sequence as eight vectors


@pytest.mark.parametrize("name", ["audio", "vision", "text"])
def test_eight_vectors_stand_for_a_sequence_of_any_length_even_of_one_step(name):
    model = create()
    for steps in (1, 5, 40):
        values = torch.randn(2, steps, WIDTH)
        mask = torch.ones(2, steps, dtype=torch.bool)
        assert model.condense[name](values, mask).shape == (2, TOKENS, WIDTH) == (2, 8, WIDTH)
    clips = batch(2, audio_steps=1, vision_steps=1, tokens=1)
    assert model(clips).prediction.isfinite().all()


def test_each_of_the_eight_reads_the_steps_that_are_real_and_no_other():
    model, values = create().condense["audio"], torch.randn(1, 5, WIDTH)
    mask = torch.arange(5)[None] < 3
    plain = model(values, mask)
    seen, padded = values.clone(), values.clone()
    seen[:, 1], padded[:, 3:] = -seen[:, 1], 1e3
    assert torch.equal(model(padded, mask), plain)
    assert ((model(seen, mask) - plain).abs().amax(dim=-1) > 1e-5).all()


# --- the hyper-modality


def test_a_layer_adds_what_the_text_finds_in_sound_and_in_face_by_textbook_attention():
    """h^j = h^(j-1) + Attn(t^j -> h_a) + Attn(t^j -> h_v), one query and one output map for
    both."""
    torch.manual_seed(0)
    layer = create().hyper_layers[1]
    hyper, text, audio, vision = torch.randn(4, 3, TOKENS, WIDTH)
    expected = hyper + layer.output.bias
    for name, source in (("audio", audio), ("vision", vision)):
        textbook = nn.MultiheadAttention(WIDTH, SIZES["heads"], bias=False, batch_first=True)
        textbook.load_state_dict(
            {
                "in_proj_weight": torch.cat([layer.query.weight, layer.key_value[name].weight]),
                "out_proj.weight": layer.output.weight,
            }
        )
        source = layer.norm[name](source)
        expected = expected + textbook(layer.norm["text"](text), source, source)[0]
    found = layer(hyper, text, {"audio": audio, "vision": vision})
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_text_guides_at_three_depths_each_a_transformer_layer_on_the_one_before():
    model, clips = create(), batch()
    text = heard(model, model.condense["text"], clips)[0][1]
    first = text + model.text_positions
    second = model.text_layers[0](first)
    depths = [first, second, model.text_layers[1](second)]
    assert len(model.hyper_layers) == DEPTHS == 3
    condensed = {n: heard(model, model.condense[n], clips)[0][1] for n in ("audio", "vision")}
    hyper = model.hyper.expand(4, -1, -1)
    for layer, depth in zip(model.hyper_layers, depths):
        (given, answer) = heard(model, layer, clips)[0]
        assert torch.allclose(given[0], hyper, atol=1e-6)  # what the layer before made of it
        assert torch.allclose(given[1], depth, atol=1e-6)
        assert all(torch.equal(given[2][name], values) for name, values in condensed.items())
        hyper = answer
    # the deepest text and the last hyper-modality meet
    assert torch.allclose(
        model(clips).prediction, model.output(model.fuse(depths[-1], hyper)), atol=1e-5
    )
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (depths[one] - depths[other]).abs().mean() > 0.05


def test_the_hyper_modality_starts_at_ones_the_same_for_all_clips():
    model = create()
    assert torch.equal(model.hyper, torch.ones(TOKENS, WIDTH)) and model.hyper.requires_grad


def test_the_hyper_modality_holds_sound_and_face_and_words_only_choose():
    model, clips = create(), batch()
    plain = hyper_of(model, clips)
    for name in ("audio", "vision", "text"):
        assert not torch.allclose(hyper_of(model, changed(clips, name)), plain, atol=1e-5), name
    # keys and values that are the same at all eight places leave the words nothing to choose from
    with torch.no_grad():
        for layer in model.hyper_layers:
            for key_value in layer.key_value.values():
                key_value.weight.zero_()
    plain = hyper_of(model, clips)
    for name in ("audio", "vision", "text"):
        assert torch.equal(hyper_of(model, changed(clips, name)), plain), name


@pytest.mark.parametrize("depth", range(3))
def test_the_guide_of_every_depth_reaches_the_prediction(depth):
    model, clips = create("almt2023_first_place"), batch()
    plain = model(clips).prediction
    guides = model.guides

    def moved(texts):
        found = list(guides(texts))
        found[depth] = found[depth].roll(1, dims=-1)
        return found

    model.guides = moved
    assert not torch.allclose(model(clips).prediction, plain, atol=1e-5)


# --- its meeting with the text


def test_the_text_asks_and_the_hyper_modality_answers():
    model = create()
    text, hyper = torch.randn(2, 3, TOKENS, WIDTH)
    target = torch.cat([torch.zeros(3, 1, WIDTH), text], dim=1) + model.positions["text"]
    source = torch.cat([torch.zeros(3, 1, WIDTH), hyper], dim=1) + model.positions["hyper"]
    assert len(model.fusion_layers) == 2
    for layer in model.fusion_layers:
        read = layer.norm_source(source)
        target = target + layer.attend(layer.norm_target(target), read, read)[0]
        target = target + layer.mlp(target)
    assert torch.allclose(model.fuse(text, hyper), target.mean(dim=1), atol=1e-5)
    first = create("almt2023_first_place")
    assert torch.allclose(first.fuse(text, hyper), target[:, 0], atol=1e-5)  # the same weights


@pytest.mark.parametrize("name", ["almt2023", "almt2023_first_place"])
def test_where_the_public_code_reads_the_words_are_not_read_themselves(name):
    """Its first place sees the hyper-modality only; the mean of all places sees the text, too."""
    model = create(name)
    text, hyper = torch.randn(2, 3, TOKENS, WIDTH)
    plain = model.fuse(text, hyper)
    assert not torch.allclose(model.fuse(text, -hyper), plain, atol=1e-4)
    assert torch.equal(model.fuse(-text, hyper), plain) == (name == "almt2023_first_place")


# --- the control


def test_learned_tokens_ask_in_the_controls_place_of_the_text():
    model, clips = create("almt2023_learned"), batch()
    for layer, tokens in zip(model.hyper_layers, model.learned, strict=True):
        guide = heard(model, layer, clips)[0][0][1]
        assert torch.equal(guide, tokens.expand(4, -1, -1))
    plain = hyper_of(model, clips)
    assert torch.equal(hyper_of(model, changed(clips, "text")), plain)
    for name in ("audio", "vision"):
        assert not torch.allclose(hyper_of(model, changed(clips, name)), plain, atol=1e-5)
    # the words are still read, in the fusion
    after = model(changed(clips, "text")).prediction
    assert not torch.allclose(after, model(clips).prediction, atol=1e-5)


def test_the_control_differs_by_its_learned_tokens_only():
    almt, control = create(), create("almt2023_learned")
    extra = set(control.state_dict()) - set(almt.state_dict())
    assert extra == {f"learned.{depth}" for depth in range(DEPTHS)}
    assert set(almt.state_dict()) <= set(control.state_dict())


# --- what all of them do


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("modality", ["audio", "vision", "text"])
def test_every_modality_its_order_and_its_times_count(name, modality):
    model, clips = create(name), batch()
    plain = model(clips).prediction
    assert not torch.allclose(model(changed(clips, modality)).prediction, plain, atol=1e-5)
    backwards = clips.values | {modality: clips.values[modality].flip(1)}
    later = clips.times | {modality: clips.times[modality] + 1.3}
    for other in (
        dataclasses.replace(clips, values=backwards),
        dataclasses.replace(clips, times=later),
    ):
        assert not torch.allclose(model(other).prediction, plain, atol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_it_has_any_number_of_outputs_and_leaves_modalities_out(name):
    model = create(name, outputs=17)
    assert model(batch()).prediction.shape == (4, 17)
    assert any(isinstance(part, ModalityDropout) and part.p > 0 for part in model.modules())


def guided(count, seed):
    """Clips of two steps of sound, each 0 or 1, and one word, which says whose number the label
    is."""
    draw = torch.Generator().manual_seed(seed)
    clips = batch(count, audio_steps=2, vision_steps=1, tokens=1)
    said = torch.randint(2, (count,), generator=draw)
    sound = torch.randint(2, (count, 2), generator=draw).float()
    values = {name: torch.zeros_like(tensor) for name, tensor in clips.values.items()}
    values["audio"][..., 0] = 2 * sound - 1
    values["text"][..., 0] = (2.0 * said - 1)[:, None]
    label = sound.gather(1, said[:, None])
    return dataclasses.replace(
        clips, values=values, pooled=values["text"][:, 0], labels=label.expand(-1, 6)
    )


class Wordless(ALMT2023Learned):
    """No word reaches it: learned guides, and the place that the public code reads."""

    read = ALMT2023FirstPlace.read


@pytest.mark.slow
def test_the_words_choose_what_is_taken_from_the_sound():
    """Nothing but the guide reads the words, and the right step is found; without them, no better
    than the mean of both steps, which explains half of the labels' variance, 0.25."""
    errors = {}
    sizes = {"width": 16, "dropout": 0.0, "input_dropout": 0.0, "modality_dropout": 0.0}
    for system in (ALMT2023FirstPlace, Wordless):
        torch.manual_seed(0)
        model, clips, held = system(**SIZES | sizes).train(), guided(128, 1), guided(128, 2)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(100):
            optimizer.zero_grad()
            model.loss(model(clips), clips).backward()
            optimizer.step()
        errors[system] = model.eval().loss(model(held), held).item()
    assert errors[ALMT2023FirstPlace] < 0.06 and errors[Wordless] > 0.1, errors
