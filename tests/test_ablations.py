import dataclasses

import torch
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.models.attention import masked_mean


def create(name, **changes):
    torch.manual_seed(0)
    return models.create(name, **SIZES | changes).eval()


def without(clips, name):
    return dataclasses.replace(
        clips, present=clips.present | {name: torch.zeros(len(clips), dtype=torch.bool)}
    )


def backwards(clips, name):
    """The same steps of one modality in the opposite order of time."""
    return dataclasses.replace(clips, values=clips.values | {name: clips.values[name].flip(1)})


def test_concat_is_the_head_on_the_text_vector_and_the_means_of_the_projected_steps():
    model, clips = create("concat"), batch()
    clips.mask["audio"][0, 5:] = False
    means = [
        masked_mean(model.streams[name].project(clips.values[name]), clips.mask[name])
        for name in ("audio", "vision")
    ]
    assert torch.allclose(
        model(clips).prediction, model.head(torch.cat([clips.pooled, *means], -1)), atol=1e-6
    )
    assert not any(
        "attend" in key or "cross" in key or "query" in key for key in model.state_dict()
    )


def test_concat_knows_no_order_and_self_attention_does():
    clips = batch()
    for name, same in (("concat", True), ("self_attention_only", False)):
        model = create(name)
        assert (
            torch.allclose(
                model(clips).prediction, model(backwards(clips, "vision")).prediction, atol=1e-5
            )
            == same
        )


def test_self_attention_only_is_taemi_without_its_query_and_cross_attention():
    shapes = [
        {k: tuple(v.shape) for k, v in create(name).state_dict().items()}
        for name in ("taemi", "self_attention_only")
    ]
    left_out = {key for key in shapes[0] if not key.startswith(("query.", "cross."))}
    assert shapes[1] == {key: shapes[0][key] for key in left_out}
    model, clips = create("self_attention_only"), batch()
    parts = [
        masked_mean(*model.streams[name](clips, clips.present[name]))
        for name in ("audio", "vision")
    ]
    assert torch.allclose(
        model(clips).prediction, model.head(torch.cat([clips.pooled, *parts], -1)), atol=1e-6
    )


def test_without_missing_tokens_zeros_stand_in_their_place():
    model, taemi = create("taemi_no_missing_tokens"), create("taemi")
    assert not any("token" in name for name, _ in model.named_parameters())
    assert model.modality_dropout.p == taemi.modality_dropout.p == 0.1
    taemi.load_state_dict(model.state_dict(), strict=False)  # all but the tokens
    with torch.no_grad():
        for name, parameter in taemi.named_parameters():
            if "token" in name:
                parameter.zero_()
    for name in ("audio", "vision", "text"):
        clips = without(batch(), name)
        assert torch.equal(model(clips).prediction, taemi(clips).prediction)
    zeroed = dataclasses.replace(batch(), pooled=torch.zeros_like(batch().pooled))
    assert torch.allclose(model(without(batch(), "text")).prediction, model(zeroed).prediction)


def test_without_modality_dropout_training_shows_everything():
    clips = batch(256)
    assert not all(kept.all() for kept in create("taemi").train()(clips).kept.values())
    assert all(
        kept.all() for kept in create("taemi_no_modality_dropout").train()(clips).kept.values()
    )
    shapes = [
        {k: v.shape for k, v in create(n).state_dict().items()}
        for n in ("taemi", "taemi_no_modality_dropout")
    ]
    assert shapes[0] == shapes[1]


def test_concat_and_self_attention_only_keep_tokens_and_modality_dropout():
    for name in ("concat", "self_attention_only"):
        model, clips = create(name), without(batch(), "audio")
        before = model(clips).prediction
        with torch.no_grad():
            model.streams["audio"].token.vector.add_(1.0)
        assert not torch.allclose(before, model(clips).prediction)
        assert not all(kept.all() for kept in model.train()(batch(256)).kept.values())
