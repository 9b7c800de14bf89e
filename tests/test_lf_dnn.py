"""LF-DNN: averages with batch norm, an LSTM over the words, and nothing shared before the end."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional
from toy import SIZES, batch, dataset

from taemi_lib import models, train
from taemi_lib.models.systems.lf_dnn import ClipNorm
from taemi_lib.profiles import Model, Training
from taemi_lib.runs import load_run

WIDTH = SIZES["width"]


def create(**changes):
    torch.manual_seed(0)
    return models.create("lf_dnn", **SIZES | changes).eval()


def changed(clips, name):
    return dataclasses.replace(clips, values=clips.values | {name: clips.values[name] + 1})


def vectors(model, clips):
    """The three vectors that are concatenated: audio, vision, text, each (B, d)."""
    seen = []
    handle = model.fuse.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        model(clips)
    handle.remove()
    return dict(zip(("audio", "vision", "text"), seen[0].split(WIDTH, dim=-1), strict=True))


def test_it_is_its_equations():
    model, clips = create(), batch()
    clips.mask["audio"][0, 5:] = False
    clips.mask["text"][1, 2:] = False
    parts = []
    for name, net in model.averages.items():
        mask = clips.mask[name].unsqueeze(-1)
        average = (clips.values[name] * mask).sum(dim=1) / mask.sum(dim=1)
        norm = net.norm.norm
        x = (average - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        for number in (0, 2, 4):
            x = functional.relu(net.layers[number](x))
        parts.append(x)
    states = model.text.lstm.lstm(clips.values["text"])[0]
    last = states[torch.arange(4), clips.mask["text"].sum(dim=1) - 1]
    x = torch.cat([*parts, model.text.project(last)], dim=-1)
    for number in (1, 3):
        x = functional.relu(model.fuse[number](x))
    assert torch.allclose(model(clips).prediction, model.fuse[5](x), atol=1e-5)


def test_the_order_of_sound_and_face_is_averaged_away_that_of_the_words_is_read():
    model, clips = create(), batch()
    plain = model(clips).prediction
    for name, counts in (("audio", False), ("vision", False), ("text", True)):
        backwards = clips.values | {name: clips.values[name].flip(1)}
        other = model(dataclasses.replace(clips, values=backwards)).prediction
        assert torch.allclose(other, plain, atol=1e-6) != counts, name


@pytest.mark.parametrize("name", ["audio", "vision", "text"])
def test_a_modality_moves_its_own_vector_and_no_other_before_the_fusion(name):
    model, clips = create(), batch()
    before, after = vectors(model, clips), vectors(model, changed(clips, name))
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert moved == {name}
    assert not torch.allclose(
        model(clips).prediction, model(changed(clips, name)).prediction, atol=1e-5
    )


# --- batch norm over clips


def test_the_norm_is_of_the_clips_that_are_kept():
    norm, values = ClipNorm(2).train(), torch.tensor([[1.0, 0.0], [3.0, 4.0], [1e6, 1e6]])
    kept = torch.tensor([True, True, False])
    assert torch.allclose(
        norm(values, kept)[:2], torch.tensor([[-1.0, -1.0], [1.0, 1.0]]), atol=1e-4
    )
    # a tenth of the way from 0 and 1 to the mean and the unbiased variance, (2, 2) and (2, 8)
    assert torch.allclose(norm.norm.running_mean, torch.tensor([0.2, 0.2]))
    assert torch.allclose(norm.norm.running_var, torch.tensor([1.1, 1.7]))
    norm.eval()
    expected = (values[:1] - 0.2) / torch.tensor([1.1, 1.7]).sqrt()
    assert torch.allclose(norm(values[:1], kept[:1]), expected, atol=1e-4)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_clips_are_normed_by_the_running_numbers_and_change_none(count):
    norm, values = ClipNorm(2).train(), torch.randn(3, 2) + 5
    kept = torch.arange(3) < count
    before = [buffer.clone() for buffer in norm.buffers()]
    assert torch.allclose(norm(values, kept), values, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, norm.buffers(), strict=True))


def test_absent_and_left_out_clips_never_move_the_running_numbers():
    model, clips = create(modality_dropout=0.0, input_dropout=0.0).train(), batch()
    half = torch.tensor([True, True, False, False])
    given = dataclasses.replace(clips, present=clips.present | {"audio": half})
    garbage = clips.values["audio"].masked_fill(~half[:, None, None], float("nan"))
    other = dataclasses.replace(given, values=clips.values | {"audio": garbage})
    found = []
    for shown in (given, other):
        model = create(modality_dropout=0.0, input_dropout=0.0).train()
        torch.manual_seed(1)
        model.loss(model(shown), shown).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        found.append(model.averages["audio"].norm.norm.running_mean.clone())
    average = clips.values["audio"][:2].mean(dim=1).mean(dim=0)
    assert torch.allclose(found[0], 0.1 * average, atol=1e-6) and torch.equal(*found)


def test_a_batch_of_one_clip_trains():
    model, clips = create().train(), batch(1)
    model.loss(model(clips), clips).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


# --- runs


def run(folder, epochs, **options):
    return train(
        "lf_dnn",
        dataset(25),  # the last batch of an epoch has one clip
        dataset(12, seed=1, prefix="held"),
        model=Model(width=8, heads=2, mlp_width=8),
        training=Training(batch_size=8, epochs=epochs, learning_rate=1e-2, patience=9),
        run_folder=folder,
        progress=False,
        device="cpu",
        **options,
    )


def test_the_running_numbers_are_saved_and_a_run_is_repeatable(tmp_path):
    one, other = (run(tmp_path / name, 3) for name in ("one", "other"))
    first, second = one.model(), other.model()
    assert all(
        torch.equal(value, second.state_dict()[key]) for key, value in first.state_dict().items()
    )
    for name in ("audio", "vision"):
        norm = first.averages[name].norm.norm
        assert norm.num_batches_tracked > 0 and norm.running_mean.abs().sum() > 0
    again = load_run(tmp_path / "one").model()
    clips = batch()
    assert torch.equal(again(clips).prediction, first(clips).prediction)
    assert np.isfinite([entry["loss"] for entry in one.history]).all()
