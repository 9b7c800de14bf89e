import dataclasses

import pytest
import torch
from toy import SIZES, batch, dataset

from taemi_lib import models
from taemi_lib.models.attention import SelfAttention, masked_mean
from taemi_lib.profiles import Model, Training
from taemi_lib.training import train


def create(name):
    torch.manual_seed(0)
    return models.create(name, **SIZES).eval()


def changed(clips, name):
    """The same clips with other features of one modality."""
    if name == "text":
        return dataclasses.replace(clips, pooled=clips.pooled + 1)
    return dataclasses.replace(clips, values=clips.values | {name: clips.values[name] + 1})


def test_the_constant_query_looks_at_the_same_moments_whatever_is_said():
    model, clips = create("constant_query"), batch()
    said, other = model(clips), model(changed(clips, "text"))
    for name in ("audio", "vision"):
        assert torch.equal(said.attention[name], other.attention[name])
    assert not torch.allclose(
        said.prediction, other.prediction
    )  # the text vector is still concatenated


def test_the_constant_query_is_taemi_but_for_the_query():
    shapes = [
        {k: tuple(v.shape) for k, v in create(name).state_dict().items()}
        for name in ("taemi", "constant_query")
    ]
    different = {
        key
        for key in shapes[0].keys() | shapes[1].keys()
        if shapes[0].get(key) != shapes[1].get(key)
    }
    assert different == {"query.weight", "query.bias", "query.vector"}
    assert create("constant_query").head[0].in_features == create("taemi").head[0].in_features


def test_a_single_modality_system_reads_its_own_modality_only():
    for own in ("audio", "vision", "text"):
        model, clips = create(f"{own}_only"), batch()
        for name in ("audio", "vision", "text"):
            same = torch.equal(model(clips).prediction, model(changed(clips, name)).prediction)
            assert same == (name != own)


def test_audio_only_is_the_masked_mean_of_the_self_attended_sequence():
    model, clips = create("audio_only"), batch()
    sequence, mask = model.stream(clips, clips.present["audio"])
    assert torch.allclose(model(clips).prediction, model.head(masked_mean(sequence, mask)))


def test_a_single_modality_system_never_leaves_its_modality_out_in_training():
    for own in ("audio", "vision", "text"):
        model = create(f"{own}_only").train()
        assert model(batch()).kept[own].all()


def with_partners(clips, seed=9):
    return dataclasses.replace(
        clips,
        partner=torch.randn(clips.pooled.shape, generator=torch.Generator().manual_seed(seed)),
    )


def gates_at(model, bias):
    """The model with every gate at 2 sigmoid(bias), whatever is said."""
    with torch.no_grad():
        for gate in model.gates:
            gate.weight.zero_()
            gate.bias.fill_(bias)
    return model


def test_the_text_gates_scale_what_a_constant_query_finds():
    model, reference, clips = create("text_gated"), create("constant_query"), batch()
    reference.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("gates.")}
    )
    assert not torch.allclose(model(clips).prediction, reference(clips).prediction, atol=1e-4)
    assert torch.allclose(
        gates_at(model, 0.0)(clips).prediction, reference(clips).prediction
    )  # gates of 1
    closed = gates_at(model, -1e4)
    for name in ("audio", "vision"):
        assert torch.equal(closed(clips).prediction, closed(changed(clips, name)).prediction)


def test_the_text_says_how_much_and_never_where():
    model, clips = create("text_gated"), batch()
    said, other = model(clips), model(changed(clips, "text"))
    assert all(
        torch.equal(said.attention[name], other.attention[name]) for name in ("audio", "vision")
    )
    inputs = []
    model.head.register_forward_hook(
        lambda _, given, __: inputs.append(given[0][:, 6:])
    )  # [t; g h_a; g h_v] without t
    model(clips), model(changed(clips, "text"))
    ratio = inputs[1] / inputs[0]
    assert (
        ratio > 0
    ).all() and ratio.std() > 1e-3  # scaled, each number by its own positive factor


def test_no_text_reads_no_text_and_leaves_out_sound_or_face_never_both():
    model, clips = create("no_text"), batch(256)
    for other in (
        changed(clips, "text"),
        dataclasses.replace(
            clips, pooled=None, values=silent(clips), mask={}, times={}, present={}
        ),
    ):
        assert torch.equal(model(clips).prediction, model(other).prediction)
    model.train().modality_dropout.p = 0.6
    kept = model(clips).kept
    assert (
        set(kept) == {"audio", "vision"}
        and (kept["audio"] | kept["vision"]).all()
        and not kept["audio"].all()
    )


def silent(clips):
    return {name: clips.values[name] for name in ("audio", "vision")}


def test_no_time_features_cannot_tell_one_moment_from_another():
    clips = batch()
    later = dataclasses.replace(
        clips, times={name: times + 3.0 for name, times in clips.times.items()}
    )
    for name, same in (("taemi", False), ("no_time_features", True)):
        model = create(name)
        assert torch.equal(model(clips).prediction, model(later).prediction) == same
    assert create("no_time_features").sizes.time_features is False


def test_shuffled_text_is_taemi_told_the_partners_words_only():
    model, taemi, clips = create("shuffled_text"), create("taemi"), with_partners(batch())
    assert torch.equal(model(clips).prediction, model(changed(clips, "text")).prediction)
    assert torch.equal(
        model(clips).prediction, taemi(dataclasses.replace(clips, pooled=clips.partner)).prediction
    )
    assert not torch.allclose(model(clips).prediction, model(with_partners(clips, 5)).prediction)


def test_a_shuffled_query_asks_with_the_partners_words_and_concatenates_the_true_ones():
    model, taemi, clips = create("shuffled_query"), create("taemi"), with_partners(batch())
    told = dataclasses.replace(clips, pooled=clips.partner)
    for name in ("audio", "vision"):
        assert torch.equal(model(clips).attention[name], taemi(told).attention[name])
        assert not torch.allclose(
            model(clips).attention[name], taemi(clips).attention[name], atol=1e-4
        )
    assert not torch.allclose(model(clips).prediction, model(changed(clips, "text")).prediction)
    assert torch.equal(
        model(dataclasses.replace(clips, partner=clips.pooled)).prediction, taemi(clips).prediction
    )


def test_without_text_or_partner_the_shuffled_systems_read_the_missing_token():
    for name in ("shuffled_text", "shuffled_query"):
        model, clips = create(name), with_partners(batch())
        nobody_speaks = dataclasses.replace(
            clips, present=clips.present | {"text": torch.zeros(4, dtype=torch.bool)}
        )
        garbage = dataclasses.replace(
            nobody_speaks, partner=torch.full_like(clips.partner, float("nan"))
        )
        assert torch.equal(model(nobody_speaks).prediction, model(garbage).prediction)
        alone, silent_query = model(batch()), model(nobody_speaks)
        assert torch.equal(alone.attention["audio"], silent_query.attention["audio"])


def test_only_systems_that_ask_for_partners_get_them_in_training_and_in_prediction(
    monkeypatch, tmp_path
):
    seen = []
    for system in (models.find("shuffled_query"), models.find("taemi")):
        forward = system.forward

        def spy(self, given, forward=forward):
            seen.append(given.partner is not None)
            return forward(self, given)

        monkeypatch.setattr(system, "forward", spy)
        clips, held, folder = dataset(8), dataset(8, seed=1, prefix="held"), tmp_path / system.name
        sizes = Model(**{key: SIZES[key] for key in ("width", "heads", "mlp_width")})
        train(
            system.name,
            clips,
            held,
            model=sizes,
            training=Training(epochs=1),
            run_folder=folder,
            progress=False,
        )
        assert seen and all(given == system.needs_partner for given in seen)
        seen.clear()


def test_only_the_shuffled_systems_are_told_another_clips_words():
    assert {name for name in models.names() if models.find(name).needs_partner} == {
        "shuffled_text",
        "shuffled_query",
    }


@pytest.mark.parametrize("name", ["constant_query", "text_gated", "no_text"])
def test_a_constant_query_is_learned(name):
    assert "query.vector" in dict(create(name).named_parameters())


def test_the_gates_are_one_for_each_number_of_a_vector():
    model, clips, seen = create("text_gated"), batch(), []
    model.head.register_forward_hook(lambda _, given, __: seen.append(given[0][:, 6:]))
    model(clips), model(changed(clips, "text"))
    assert (seen[1] / seen[0]).view(4, 2, 8).std(
        dim=-1
    ).min() > 1e-3  # within the vector of one modality


@pytest.mark.parametrize("name", ["audio_only", "vision_only"])
def test_a_single_sequence_is_self_attended_and_averaged_over_its_real_steps(name):
    model, clips = create(name), batch()
    clips.mask[model.modality][0, 4:] = False
    steps, mask = model.stream(clips, clips.present[model.modality])
    assert isinstance(model.stream.attend, SelfAttention)
    assert torch.allclose(model(clips).prediction, model.head(masked_mean(steps, mask)))


def test_no_text_looks_with_its_constant_query():
    model, clips = create("no_text"), batch()
    found = [
        model.cross[name](
            model.query(clips.pooled), *model.streams[name](clips, clips.present[name])
        )[0]
        for name in model.streams
    ]
    assert torch.allclose(model(clips).prediction, model.head(torch.cat(found, dim=-1)), atol=1e-6)
