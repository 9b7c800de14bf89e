import dataclasses

import torch
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.models.attention import masked_mean


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
    assert not torch.allclose(said.prediction, other.prediction)  # the text vector is still concatenated


def test_the_constant_query_is_taemi_but_for_the_query():
    shapes = [{k: tuple(v.shape) for k, v in create(name).state_dict().items()} for name in ("taemi", "constant_query")]
    different = {key for key in shapes[0].keys() | shapes[1].keys() if shapes[0].get(key) != shapes[1].get(key)}
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
