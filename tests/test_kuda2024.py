"""KuDA: which modality leads is decided clip by clip, by how well each knows the answer alone."""

import dataclasses
import math

import pytest
import torch
from test_training import PRESET, Killed, numbers, run, weights
from torch.nn import functional
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.models import Batch
from taemi_lib.models.systems.kuda2024 import CONTRAST, SHARPNESS, KuDA2024, contrast
from taemi_lib.profiles import MODALITIES
from taemi_lib.runs import load_run


def create(stage="fit", **changes):
    torch.manual_seed(0)
    model = models.create("kuda2024", **SIZES | changes).eval()
    model.begin(stage)
    return model


def everybody(size):
    return {name: torch.ones(size, dtype=torch.bool) for name in MODALITIES}


# --- the weights


def test_weights_by_hand():
    errors = {
        "audio": torch.tensor([[0.1, 0.2]]),
        "vision": torch.tensor([[0.0, 0.0]]),
        "text": torch.tensor([[0.3, 0.3]]),
    }
    found = create().weigh(errors, everybody(1))
    goodness = {"audio": math.exp(-3.6 * 0.3), "vision": 1.0, "text": math.exp(-3.6 * 0.6)}
    for name, value in goodness.items():
        assert found[name].item() == pytest.approx(value / sum(goodness.values()))
    # -3 to 3 as published, k = .1: the same weights for the same answers
    assert pytest.approx(3.6) == SHARPNESS and pytest.approx(0.1 / 36) == CONTRAST


def test_what_is_not_shown_has_no_weight():
    errors = {name: torch.rand(4, 2) for name in MODALITIES}
    kept = everybody(4)
    kept["vision"] = torch.tensor([True, False, False, False])
    kept["text"] = torch.tensor([True, True, False, False])
    kept["audio"] = torch.tensor([True, True, True, False])
    found = torch.stack(list(create().weigh(errors, kept).values()))  # (3, 4)
    assert torch.allclose(found.sum(dim=0), torch.tensor([1.0, 1, 1, 0]))
    shown = torch.stack([kept[name] for name in MODALITIES])
    assert torch.equal(found > 0, shown)


def test_each_clip_has_weights_of_its_own_and_they_use_no_label():
    model, clips = create(), batch(6)
    found = model(clips).weights
    assert list(found) == list(MODALITIES) and found["audio"].shape == (6,)
    assert torch.allclose(sum(found.values()), torch.ones(6))
    assert found["vision"].std() > 1e-3
    bare = model(dataclasses.replace(clips, labels=None))
    assert all(torch.equal(found[name], bare.weights[name]) for name in MODALITIES)
    assert torch.equal(bare.prediction, model(clips).prediction)


@pytest.mark.parametrize("name", MODALITIES)
def test_a_weight_moves_the_prediction(name, monkeypatch):
    """In the public code a layer norm takes the weight out again: nothing would move here."""
    model, clips = create(), batch(6)
    others = [other for other in MODALITIES if other != name]
    said = []
    for leads in (0.0, 1.0):
        given = {name: torch.full((6,), leads)} | dict.fromkeys(
            others, torch.full((6,), (1 - leads) / 2)
        )
        monkeypatch.setattr(KuDA2024, "weigh", lambda self, errors, kept, given=given: given)
        said.append(model(clips).prediction)
    assert (said[0] - said[1]).abs().max() > 1e-3


def test_a_route_by_its_equation():
    model = create()
    route, width = model.routes[0], SIZES["width"]
    steps = {name: torch.randn(2, 8, width) for name in MODALITIES}
    given = {"audio": torch.tensor([0.2, 1.0]), "vision": torch.tensor([0.5, 0.0])}
    given["text"] = torch.tensor([0.3, 0.0])
    z = torch.randn(2, 8, width)
    total = sum(
        (1 + given[name].view(2, 1, 1)) * route.norm_each[name](route.look[name](z, steps[name]))
        for name in MODALITIES
    )
    expected = route.norm[0](z + route.norm_sum(total))
    expected = route.norm[1](expected + route.attend(expected, expected, expected)[0])
    expected = route.norm[2](expected + route.feed_forward(expected))
    assert torch.allclose(route(z, steps, given), expected, atol=1e-6)


# --- the contrast


def test_the_contrast_by_hand():
    ours = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    fused = torch.tensor([[5.0, 0.0], [0.0, 0.1], [9.0, 9.0]])
    two = torch.tensor([True, True, False])
    # cosines of the first two: [[1, 0], [0, 1]]
    assert contrast(ours, fused, two).item() == pytest.approx(math.log(1 + math.exp(-1)))
    turned = contrast(ours[[1, 0, 2]], fused, two)
    assert turned.item() == pytest.approx(math.log(1 + math.e))
    assert contrast(ours, fused, torch.tensor([True, False, False])) == 0


def test_the_contrast_is_of_the_modalities_with_what_was_fused(monkeypatch):
    model, clips = create(), batch(6)
    clips = dataclasses.replace(clips, present=clips.present | {"audio": torch.arange(6) < 4})
    gathered, last, output = {}, [], None
    for name, part in model.gather.items():
        part.register_forward_hook(lambda _, __, out, name=name: gathered.update({name: out}))
    model.routes[-1].register_forward_hook(lambda _, __, out: last.append(out))
    output = model(clips)
    for name in MODALITIES:
        rows = clips.present[name]
        x, z = (functional.normalize(v.mean(1)[rows], dim=-1) for v in (gathered[name], last[0]))
        cosines = x @ z.T
        expected = (cosines.logsumexp(1) - cosines.diagonal()).mean()
        assert torch.allclose(output.losses[f"contrast_{name}"], CONTRAST * expected)


# --- the two stages


@pytest.mark.parametrize("stage", ["inject", "fit"])
def test_its_loss_by_hand(stage):
    model, clips = create(stage), batch(6)
    clips = dataclasses.replace(
        clips,
        present=clips.present | {"audio": torch.arange(6) < 4},
        known=torch.rand(6, 6) < 0.8,
    )
    output = model(clips)
    expected = 0
    for name in MODALITIES:
        where = clips.known & clips.present[name].unsqueeze(-1)
        error = (output.parts[name] - clips.labels).square()
        expected = expected + (error - output.vectors[name]).square()[where].mean()
        if stage == "inject":
            expected = expected + error[where].mean()
    if stage == "fit":
        expected = expected + (output.prediction - clips.labels).square()[clips.known].mean()
        expected = expected + sum(output.losses.values())
        assert len(output.losses) == 3
    assert torch.allclose(model.loss(output, clips), expected)


def test_the_second_stage_freezes_what_the_first_has_injected():
    model, clips = create("inject"), batch(8)
    for stage, moves in (("inject", True), ("fit", False)):
        model.begin(stage)
        model.zero_grad(set_to_none=True)
        model.loss(model(clips), clips).backward()
        for alone in model.unimodal.values():
            for part in (alone.adapter, alone.decoder):
                assert all((p.grad is not None) == moves for p in part.parameters())
            assert all(p.grad.abs().sum() > 0 for p in alone.judge.parameters())
            assert alone.encoder.project.weight.grad.abs().sum() > 0
        routed = [p.grad is not None for p in model.routes.parameters()]
        assert all(routed) if stage == "fit" else not any(routed)


def test_a_judge_learns_from_its_modality_and_teaches_it_nothing():
    model, clips = create("inject"), batch(8)
    expected = sum(errors.sum() for errors in model(clips).vectors.values())
    for alone in model.unimodal.values():
        others = [*alone.encoder.parameters(), *alone.adapter.parameters()]
        others += [*alone.decoder.parameters()]
        found = torch.autograd.grad(expected, others, retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in found)


# --- the anchor moves


def two_kinds(size, seed):
    """Clips of two kinds, which sound and face both show in their last number: in the one the face
    decides the labels, in the other the sound; what the other one shows is noise."""
    draw = torch.Generator().manual_seed(seed)
    seen = torch.arange(size) % 2 == 0
    mark = (2.0 * seen - 1)[:, None, None].expand(-1, 3, 1)
    values = {
        name: torch.cat([torch.randn(size, 1, 3, generator=draw).expand(-1, 3, -1), mark], dim=-1)
        for name in ("audio", "vision")
    }
    source = torch.where(seen[:, None], values["vision"][:, 0, :3], values["audio"][:, 0, :3])
    made = Batch(values, pooled=torch.zeros(size, 2), labels=source.sigmoid())
    return made, seen


def test_weights_follow_the_modality_that_decides():
    """The idea, from end to end: trained on the labels alone, the face leads where the face decides
    and the sound where the sound does, also in clips that training has not seen."""
    torch.manual_seed(0)
    sizes = {"audio_dim": 4, "vision_dim": 4, "text_dim": 2, "outputs": 3, "width": 16, "heads": 2}
    model = models.create("kuda2024", **sizes, mlp_width=16, dropout=0.0, modality_dropout=0.0)
    (clips, _), (held, seen) = two_kinds(256, 0), two_kinds(100, 1)
    for stage, epochs in (("inject", 80), ("fit", 10)):
        model.train().begin(stage)
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=3e-3)
        for _ in range(epochs):
            optimizer.zero_grad()
            model.loss(model(clips), clips).backward()
            optimizer.step()
    model.eval()
    found = model(held).weights
    face_leads = found["vision"] > found["audio"]
    assert (face_leads == seen).float().mean() > 0.95
    lead = found["vision"] - found["audio"]
    assert lead[seen].mean() > 0.03 and lead[~seen].mean() < -0.03


# --- runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "kuda", "kuda2024")


@pytest.mark.parametrize("moment", [5, 11, 14, 20])  # batches: 4 epochs of 3 in each stage
def test_a_run_killed_at_any_batch_goes_on_to_the_same_numbers(
    whole, moment, tmp_path, monkeypatch
):
    loss, calls = KuDA2024.loss, []

    def counted(self, output, clips):
        calls.append(self.training)
        if sum(calls) == moment:
            raise Killed
        return loss(self, output, clips)

    with monkeypatch.context() as patch:
        patch.setattr(KuDA2024, "loss", counted)
        with pytest.raises(Killed):
            run(tmp_path, "kuda2024")
    assert not load_run(tmp_path).finished
    resumed = run(tmp_path, "kuda2024")
    assert numbers(resumed) == numbers(whole)
    for which in ("best_inject", "best", "last"):
        assert weights(resumed, which) == weights(whole, which)


def test_each_stage_is_chosen_by_what_it_is_for(whole):
    first, last = whole.history[: PRESET.epochs], whole.history[PRESET.epochs :]
    assert {entry["stage"] for entry in first} == {"inject"}
    assert all("selection_loss" in entry for entry in first)
    assert {entry["stage"] for entry in last} == {"fit"} and len(last) == PRESET.epochs
    assert all("selection_rho" in entry for entry in last)
