"""Each compared system has the idea it is compared for: every test here fails when that idea is
taken out."""

import copy
import dataclasses
import math

import pytest
import torch
from torch import nn
from toy import DIMS, SIZES, batch

from taemi_lib import models
from taemi_lib.models import Batch
from taemi_lib.models.attention import masked_mean
from taemi_lib.models.systems.savchenko2025 import correlations, statistics
from taemi_lib.models.systems.yu2025 import contrast
from taemi_lib.models.temporal import (
    LSTM,
    CausalConvolutions,
    Features,
    TemporalTransformer,
    last_step,
)
from taemi_lib.profiles import Training

BASELINES = ("vit_baseline", "wav2vec2_baseline", "vit_wav2vec2_baseline")
RECURRENT = ("hallmen2024", "hallmen2025")
SYSTEMS = (*BASELINES, "yu2024", *RECURRENT, "savchenko2025", "zhang2024", "yu2025")
READS = {
    "vit_baseline": {"vision"},
    "wav2vec2_baseline": {"audio"},
    "vit_wav2vec2_baseline": {"vision", "audio"},
    "yu2024": {"vision", "audio"},
    "hallmen2024": {"audio"},
}


def create(name, **sizes):
    torch.manual_seed(0)
    return models.create(name, **SIZES | sizes).eval()


def ragged(size=4, seed=0):
    """Clips of different lengths, the text as tokens and vector; the padding is noise."""
    clips = batch(size, seed)
    draw = torch.Generator().manual_seed(seed + 1)
    values = clips.values | {"text": torch.randn(size, 5, DIMS["text"], generator=draw)}
    mask = {}
    for name, tensor in values.items():
        lengths = torch.randint(2, tensor.shape[1] + 1, (size, 1), generator=draw)
        mask[name] = torch.arange(tensor.shape[1]) < lengths
    return dataclasses.replace(clips, values=values, mask=mask, times={}, present={})


def without(clips, *names, rows=slice(None)):
    present = {key: value.clone() for key, value in clips.present.items()}
    for name in names:
        present[name][rows] = False
    return dataclasses.replace(clips, present=present)


def changed(clips, name):
    """The same clips with other features of one modality."""
    values = clips.values | ({name: clips.values[name].flip(-1)} if name in clips.values else {})
    return dataclasses.replace(
        clips, values=values, pooled=clips.pooled.flip(-1) if name == "text" else clips.pooled
    )


# --- what holds for all of them


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_reads_its_own_modalities_and_no_other(name):
    model, clips = create(name), ragged()
    for modality in ("audio", "vision", "text"):
        same = torch.equal(model(clips).prediction, model(changed(clips, modality)).prediction)
        assert same == (modality not in READS.get(name, {"audio", "vision", "text"})), modality
        assert modality in model(clips).kept or same


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("filling", [1e4, float("nan")])
@torch.no_grad()
def test_padding_never_changes_a_prediction_without_gradients_either(name, filling):
    """torch's transformer takes another path without gradients."""
    model, clips = create(name), ragged()
    longer = {}
    for modality, mask in clips.mask.items():
        values = clips.values[modality].masked_fill(~mask.unsqueeze(-1), filling)
        longer[modality] = torch.cat(
            [values, torch.full((4, 11, values.shape[-1]), filling)], dim=1
        )
    mask = {
        modality: torch.cat([mask, torch.zeros(4, 11, dtype=torch.bool)], dim=1)
        for modality, mask in clips.mask.items()
    }
    padded = dataclasses.replace(clips, values=longer, mask=mask, times={})
    assert torch.allclose(model(padded).prediction, model(clips).prediction, atol=1e-5)
    for row in range(4):
        alone = {
            key: value[row : row + 1, : int(clips.mask[key][row].sum())]
            for key, value in clips.values.items()
        }
        prediction = model(Batch(alone, pooled=clips.pooled[row : row + 1])).prediction[0]
        assert torch.allclose(prediction, model(clips).prediction[row], atol=1e-5)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_subset_trains_without_reading_what_is_absent(name):
    model = create(name).train()
    for subset in range(8):
        absent = [
            modality
            for bit, modality in enumerate(("audio", "vision", "text"))
            if subset >> bit & 1
        ]
        clips = without(ragged(6), *absent, rows=[1, 4])
        garbage = copy.deepcopy(clips)
        for modality in absent:
            garbage.values[modality][[1, 4]] = float("nan")
            if modality == "text":
                garbage.pooled[[1, 4]] = float("nan")
        torch.manual_seed(1)
        expected = model(clips).prediction
        torch.manual_seed(1)
        output = model(garbage)
        assert (
            torch.allclose(output.prediction, expected, atol=1e-6)
            and output.prediction.isfinite().all()
        )
        model.zero_grad()
        model.loss(output, garbage).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        assert model(without(clips, *absent)).prediction.isfinite().all()


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_takes_any_widths(name):
    model = create(
        name,
        width=10,
        heads=5,
        mlp_width=3,
        audio_dim=7,
        vision_dim=3,
        text_dim=2,
        time_features=False,
    )
    clips = Batch(
        {"audio": torch.randn(2, 1, 7), "vision": torch.randn(2, 3, 3)}, pooled=torch.randn(2, 2)
    )
    assert model(clips).prediction.shape == (2, 6)


@pytest.mark.parametrize(
    "name", [name for name in SYSTEMS if name not in ("savchenko2025", "yu2025")]
)
def test_trainable_tokens_stand_in_for_absent_modalities(name):
    model = create(name)
    tokens = {key: parameter for key, parameter in model.named_parameters() if "token" in key}
    model(ragged()).prediction.sum().backward()
    assert len(tokens) == len(model(ragged()).kept) and not any(
        p.grad is not None and p.grad.any() for p in tokens.values()
    )
    model(without(ragged(), "audio", "vision", "text")).prediction.sum().backward()
    assert all(token.grad.any() for token in tokens.values())


# --- the parts they are made of


def test_an_lstm_reads_real_steps_only_in_both_directions_and_wherever_they_stand():
    torch.manual_seed(0)
    values, mask = (
        torch.randn(3, 6, 4),
        torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]]).bool(),
    )
    for both in (False, True):
        lstm = LSTM(4, 3, both_directions=both)
        steps, real = lstm(values, mask)
        for row in range(3):
            alone = lstm.lstm(values[row][mask[row]][None])[0][0]
            assert (
                torch.allclose(steps[row, real[row]], alone, atol=1e-6)
                and (steps[row, ~real[row]] == 0).all()
            )
            assert torch.allclose(last_step(steps, real)[row], alone[-1], atol=1e-6)


def test_convolutions_see_the_past_only_and_no_padding():
    network = CausalConvolutions(4, 8, dropout=0.0).eval()
    values, mask = torch.randn(1, 20, 4), torch.ones(1, 20, dtype=torch.bool)
    before, other = network(values, mask), values.clone()
    other[:, 15] += 1
    after = network(other, mask)
    moved = (before - after).abs().sum(dim=-1)[0] > 1e-6
    assert not moved[:15].any() and moved[15:].all()
    assert torch.allclose(network(values[:, :12], mask[:, :12]), before[:, :12], atol=1e-6)
    late = torch.cat([torch.zeros(1, 5, 4), values], dim=1)
    assert torch.allclose(
        network(late, torch.arange(25)[None] >= 5)[:, 5:], before, atol=1e-6
    )  # padding in front of it, too


# --- the systems, one by one


def test_the_baselines_are_a_masked_mean_and_one_linear_layer():
    clips = ragged()
    vision, audio = (
        torch.stack(
            [clips.values[name][row][clips.mask[name][row]].mean(dim=0) for row in range(4)]
        )
        for name in ("vision", "audio")
    )
    for name, means in zip(
        BASELINES, (vision, audio, torch.cat([vision, audio], dim=-1)), strict=True
    ):
        model = create(name)
        expected = means @ model.linear.weight.T + model.linear.bias
        assert torch.allclose(model(clips).prediction, expected, atol=1e-6)


def test_yu2024_is_the_mean_of_two_modalities_and_one_of_them_where_the_other_is_absent():
    model, clips = create("yu2024"), ragged()
    output = model(clips)
    vision, audio = output.parts["vision"], output.parts["audio"]
    assert torch.allclose(output.prediction, (vision + audio) / 2)
    assert torch.equal(model(changed(clips, "audio")).parts["vision"], vision)
    assert not torch.allclose(vision, audio)
    assert torch.allclose(model(without(clips, "audio")).prediction, vision)
    neither = model(without(clips, "audio", "vision"))
    assert torch.allclose(
        neither.prediction, (neither.parts["vision"] + neither.parts["audio"]) / 2
    )


def test_yu2024_convolves_first_and_attends_then():
    model, clips = create("yu2024"), ragged()
    part = model.regressors["audio"]
    assert isinstance(part.convolutions, CausalConvolutions) and isinstance(
        part.transformer, TemporalTransformer
    )
    values, mask, times = part.features(clips)
    steps = part.transformer(part.convolutions(values, mask), mask, times)
    assert torch.allclose(part.head(masked_mean(steps, mask)), model(clips).parts["audio"])
    later = values.clone()
    later[:, 1] += 1  # the first step cannot hear it in the convolutions, in the transformer it can
    assert torch.allclose(
        part.convolutions(later, mask)[:, 0], part.convolutions(values, mask)[:, 0]
    )
    one, other = (
        part.transformer(inputs @ torch.eye(5, 8), mask, times)[:, 0] for inputs in (values, later)
    )
    assert not torch.allclose(one, other)


def test_hallmen2024_joins_the_last_real_step_with_the_mean_of_the_features():
    model, clips = create("hallmen2024"), ragged()
    assert model.lstm.lstm.num_layers == 2
    for row in range(4):
        features = clips.values["audio"][row][clips.mask["audio"][row]]  # (T, 5), no padding
        joined = torch.cat([model.lstm.lstm(features[None])[0][0, -1], features.mean(dim=0)])
        assert torch.allclose(model.head(joined), model(clips).prediction[row], atol=1e-6)
    assert any(isinstance(layer, nn.Tanh) for layer in model.head)


def test_hallmen2025_joins_the_text_with_the_last_real_steps_of_both_lstms():
    model, clips = create("hallmen2025"), ragged()
    for row in range(4):
        last = [
            model.lstms[name].lstm(clips.values[name][row][clips.mask[name][row]][None])[0][0, -1]
            for name in ("vision", "audio")
        ]
        assert torch.allclose(
            model.head(torch.cat([clips.pooled[row], *last])),
            model(clips).prediction[row],
            atol=1e-6,
        )


def test_the_order_of_the_steps_matters_where_a_system_reads_a_sequence_and_nowhere_else():
    clips = batch()
    backwards = dataclasses.replace(
        clips, values={name: values.flip(1) for name, values in clips.values.items()}
    )
    for name in SYSTEMS:
        same = torch.allclose(
            create(name)(clips).prediction, create(name)(backwards).prediction, atol=1e-6
        )
        assert same == (name in (*BASELINES, "savchenko2025")), name


def test_at_the_papers_widths_the_joined_vectors_have_the_sources_sizes():
    with torch.device("meta"):
        older, newer = (
            models.create(name, audio_dim=1027, vision_dim=768, text_dim=768) for name in RECURRENT
        )
        savchenko = models.create("savchenko2025", audio_dim=1027, vision_dim=768, text_dim=768)
    assert older.head[0].in_features == 2054
    assert newer.head[0].in_features == 2563 and newer.head[0].out_features == 1027
    assert (
        savchenko.networks["vision"][1].in_features == 4 * 768
        and savchenko.networks["vision"][1].out_features == 64
    )


def test_statistics_are_over_the_real_steps_only():
    values = torch.tensor([[[1.0], [3.0], [99.0]], [[-2.0], [float(7)], [4.0]]])
    found = statistics(values, torch.tensor([[True, True, False], [True, True, True]]))
    assert torch.allclose(found[0], torch.tensor([2.0, 1.0, 1.0, 3.0]), atol=1e-4)
    assert torch.allclose(
        found[1], torch.tensor([3.0, (values[1].std(unbiased=False)).item(), -2.0, 7.0]), atol=1e-4
    )
    assert (statistics(values, torch.zeros(2, 3, dtype=torch.bool)) == 0).all()


def test_savchenko2025_minimises_correlation_of_each_modality_over_the_clips_that_have_it():
    model, clips = create("savchenko2025"), without(ragged(12), "audio", rows=[0, 5])
    output = model(clips)
    expected = []
    for name in ("audio", "vision", "text"):
        rows = clips.present[name]
        pairs = torch.stack([output.parts[name][rows].T, clips.labels[rows].T], dim=1)  # (6, 2, n)
        expected.append(1 - torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).mean())
    assert torch.allclose(model.loss(output, clips), torch.stack(expected).mean(), atol=1e-5)
    assert all(((part > 0) & (part < 1)).all() for part in output.parts.values())
    assert (
        correlations(torch.ones(4, 6), torch.rand(4, 6), torch.ones(4).bool()).eq(0).all()
    )  # constant: no NaN


def planted(model, clips, expert):
    """Labels that are what the modality `expert[e]` says about emotion e."""
    parts = model(clips).parts
    labels = torch.stack([parts[name][:, emotion] for emotion, name in enumerate(expert)], dim=1)
    return dataclasses.replace(clips, labels=labels.detach())


@torch.no_grad()
def test_savchenko2025_finds_for_each_emotion_the_modality_to_trust():
    model = create("savchenko2025")
    expert = ("audio", "vision", "text", "text", "vision", "audio")
    clips = planted(model, without(ragged(60), "audio", rows=[7]), expert)
    before = model(clips).prediction
    assert model.weights.eq(1 / 3).all()
    model.calibrate(iter([clips]))
    for emotion, name in enumerate(expert):
        weights = dict(
            zip(("audio", "vision", "text"), model.weights[:, emotion].tolist(), strict=True)
        )
        assert weights[name] > 0.85 and sum(weights.values()) == pytest.approx(1)
    after = correlations(model(clips).prediction, clips.labels, torch.ones(60).bool())
    assert (after > correlations(before, clips.labels, torch.ones(60).bool())).all()
    assert torch.allclose(
        model(clips).prediction.mean(0), clips.labels.mean(0), atol=0.02
    )  # correlation loss knows no level


@torch.no_grad()
def test_savchenko2025_calibrates_from_the_weights_and_the_clips_only():
    model = create("savchenko2025")
    clips = planted(model, ragged(30), ("audio",) * 6)
    model.calibrate([clips])
    once = {key: value.clone() for key, value in model.named_buffers()}
    model.calibrate([planted(model, ragged(30, seed=3), ("text",) * 6)])
    model.calibrate([clips])
    assert all(torch.equal(once[key], value) for key, value in model.named_buffers())


@torch.no_grad()
def test_savchenko2025_leaves_the_weight_of_an_absent_modality_to_the_others():
    model = create("savchenko2025")
    clips = planted(model, ragged(40), ("audio",) * 6)
    model.calibrate([clips])
    assert model.weights[0].min() > 0.85
    alone = model(
        without(clips, "audio", "vision")
    ).prediction  # the text has next to no weight, and the word
    standard = (model(clips).parts["text"] - model.level[2]) / model.spread[2]
    assert torch.allclose(alone, model.label_level + model.label_spread * standard, atol=1e-5)
    nothing = model(without(clips, "audio", "vision", "text")).prediction
    assert torch.allclose(nothing, clips.labels.mean(dim=0).expand_as(nothing), atol=1e-6)


def test_savchenko2025_asks_for_large_batches_and_no_weight_decay():
    preset = models.find("savchenko2025").preset(Training(learning_rate=0.5))
    assert preset.batch_size >= 128 and preset.weight_decay == 0 and preset.learning_rate == 0.5
    assert models.find("savchenko2025").preset(Training(batch_size=512)).batch_size == 512


def test_zhang2024_gives_each_modality_its_own_transformer_over_time():
    model, clips = create("zhang2024"), ragged()
    pooled = []
    for name in ("audio", "vision", "text"):
        values, mask, times = model.features[name](clips)
        pooled.append(masked_mean(model.transformers[name](values, mask, times), mask))
    assert torch.allclose(model(clips).prediction, model.head(torch.cat(pooled, dim=-1)))
    words = clips.values["text"].clone()
    words[:, 1] += 1  # a word, not the vector: the text is read as a sequence
    assert not torch.allclose(
        model(dataclasses.replace(clips, values=clips.values | {"text": words})).prediction,
        model(clips).prediction,
    )
    moved = model(
        dataclasses.replace(clips, times=clips.times | {"vision": clips.times["vision"] + 1})
    ).prediction
    assert not torch.allclose(moved, model(clips).prediction)  # it knows when


def test_the_contrast_is_low_when_each_clip_points_to_its_own_text_and_only_then():
    vectors, both, scale = torch.eye(4), torch.tensor([True, True, True, False]), torch.tensor(10.0)
    own, mixed = (
        contrast(vectors, vectors, both, scale),
        contrast(vectors, vectors[[1, 2, 0, 3]], both, scale),
    )
    assert own == pytest.approx(torch.log1p(2 * torch.exp(-scale)).item(), abs=1e-5)
    assert mixed == pytest.approx(torch.log(torch.exp(scale) + 2).item(), abs=1e-4)
    assert contrast(vectors, vectors, both & False, scale) == 0


def related(size, seed):
    """Clips whose sound and face are, with noise, what is said."""
    clips = batch(size, seed)
    said = clips.pooled.unsqueeze(1)
    values = {name: said[..., : DIMS[name]] + 0.3 * tensor for name, tensor in clips.values.items()}
    return dataclasses.replace(clips, values=values, times={}, mask={}, present={})


def test_the_first_stage_of_yu2025_aligns_the_encoders_on_new_clips_and_trains_nothing_else():
    model = create("yu2025", width=16, input_dropout=0.0).train()
    model.begin("align")
    training = {
        key.split(".")[0] for key, parameter in model.named_parameters() if parameter.requires_grad
    }
    assert training == {
        "encoders",
        "log_scale",
    }  # several processes refuse a parameter that trains but gets no gradient
    before, new = copy.deepcopy(model.state_dict()), related(32, seed=99)
    start = model.loss(model(new), new).item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(40):
        clips = related(32, seed=step)
        optimizer.zero_grad()
        model.loss(model(clips), clips).backward()
        optimizer.step()
    assert model.loss(model(new), new).item() < 0.6 * start
    touched = {
        key.split(".")[0]
        for key, value in model.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert touched == {"encoders", "log_scale"}
    model.begin("fit")
    assert all(p.requires_grad for key, p in model.named_parameters() if key != "log_scale")
    clips = related(8, seed=1)
    assert torch.allclose(
        model.loss(model.eval()(clips), clips),
        ((model(clips).prediction - clips.labels) ** 2).mean(),
    )


def test_the_quality_of_a_modality_decides_how_much_of_it_is_heard():
    model, clips = create("yu2025"), ragged()
    for trusted in ("audio", "vision", "text"):
        with torch.no_grad():
            for name, score in model.scores.items():
                score[-1].weight.zero_()
                score[-1].bias.fill_(30.0 if name == trusted else 0.0)
        for name in model.scores:
            same = torch.allclose(
                model(clips).prediction, model(changed(clips, name)).prediction, atol=1e-6
            )
            assert same == (name != trusted)


def test_quality_depends_on_the_clip_and_an_absent_modality_has_none():
    model, clips = create("yu2025"), without(ragged(), "audio", rows=[1])
    vectors = {name: torch.randn(4, 8) for name in ("audio", "vision", "text")}
    quality = model.quality(vectors, clips.present)
    assert (
        torch.allclose(quality.sum(dim=1), torch.ones(4))
        and quality[1, 0] == 0
        and quality[[0, 2, 3], 1].std() > 1e-3
    )
    assert (model.quality(vectors, {name: torch.zeros(4).bool() for name in vectors}) == 0).all()


def test_yu2025_gates_its_bidirectional_lstm():
    model, clips = create("yu2025"), ragged()
    assert model.gated.lstm.lstm.bidirectional
    before = model(clips).prediction
    with torch.no_grad():
        model.gated.gate.bias.fill_(-100.0)  # closed: nothing of the sound passes
    closed = model.gated(*model.encode(clips)["audio"])[0]
    assert torch.allclose(closed, model.gated.project.bias.expand_as(closed), atol=1e-6)
    assert not torch.allclose(model(clips).prediction, before)


def test_a_text_vector_that_is_missing_beside_its_tokens_is_an_error():
    for name in ("savchenko2025", "yu2025", "hallmen2025"):
        with pytest.raises(ValueError, match="Batch.pooled"):
            create(name)(Batch({"text": torch.zeros(1, 3, 6)}))


def test_features_that_have_no_clip_are_a_single_token():
    features = Features("audio", create("taemi").sizes).eval()
    values, mask, times = features(Batch(pooled=torch.zeros(3, 6)))
    assert (
        torch.equal(values, features.token.vector.expand(3, 1, 5))
        and mask.all()
        and times.shape == (3, 1)
    )


# --- the whole of a system, rebuilt from its equations


def test_savchenko2025_reads_the_statistics_of_sound_and_face_and_the_text_vector():
    model, clips = create("savchenko2025"), ragged()
    parts = model(clips).parts
    for name in ("audio", "vision"):
        assert torch.allclose(
            parts[name], model.networks[name](statistics(clips.values[name], clips.mask[name]))
        )
        assert any(isinstance(layer, nn.GELU) for layer in model.networks[name])
    assert torch.allclose(parts["text"], model.networks["text"](clips.pooled))


@torch.no_grad()
def test_savchenko2025_predicts_at_the_level_and_spread_of_the_labels():
    model = create("savchenko2025")
    clips = planted(model, ragged(60), ("audio",) * 6)
    clips = dataclasses.replace(clips, labels=1 + 20 * clips.labels)
    model.calibrate([clips])
    assert torch.allclose(
        model(clips).prediction, clips.labels, atol=0.05 * clips.labels.std().item() + 0.05
    )


@torch.no_grad()
def test_no_other_weights_on_savchenko2025s_grid_do_better_where_half_of_the_clips_lack_the_sound():
    model, clips, everybody = (
        create("savchenko2025"),
        without(ragged(40), "audio", rows=slice(0, 20)),
        torch.ones(40).bool(),
    )
    model.calibrate([clips])
    assert torch.allclose(model.weights * 10, (model.weights * 10).round(), atol=1e-5)
    best = correlations(model(clips).prediction, clips.labels, everybody)
    for audio, vision in ((a, v) for a in range(11) for v in range(11 - a)):
        model.weights.copy_(
            torch.tensor([audio, vision, 10 - audio - vision]).unsqueeze(1).expand(3, 6) / 10
        )
        assert (correlations(model(clips).prediction, clips.labels, everybody) <= best + 1e-5).all()


@torch.no_grad()
@pytest.mark.parametrize("heard", [0, 1])
def test_a_modality_that_savchenko2025_cannot_calibrate_says_the_mean_label_and_never_more(heard):
    """No clip of the selection split has sound, or only one: its level and spread are unknown."""
    model = create("savchenko2025")
    model.calibrate(
        [planted(model, ragged(30, seed=3), ("audio",) * 6)]
    )  # whatever an earlier calibration found is forgotten
    clips = without(ragged(30), "audio", rows=slice(heard, None))
    model.calibrate([clips])
    others = without(ragged(20, seed=5), "vision", "text")  # sound is all they have
    prediction = model(others).prediction
    assert torch.allclose(prediction, clips.labels.mean(dim=0).expand_as(prediction), atol=1e-5)


def test_the_first_stage_of_yu2025_is_two_contrasts_of_means_over_time():
    model, clips = create("yu2025"), without(ragged(6), "audio", rows=[2])
    model.begin("align")
    losses, steps = model(clips).losses, model.encode(clips)
    means = {name: masked_mean(*steps[name]) for name in steps}
    assert set(losses) == {"vision_text", "audio_text"}
    for name in ("vision", "audio"):
        both = clips.present[name] & clips.present["text"]
        assert torch.allclose(
            losses[f"{name}_text"],
            contrast(means[name], means["text"], both, model.log_scale.exp()),
        )


def test_the_contrast_asks_both_ways_and_about_directions_only():
    ours, texts, both = (
        torch.tensor([[1.0, 0], [1, 0]]),
        torch.tensor([[1.0, 0], [0, 1]]),
        torch.ones(2).bool(),
    )
    # cosines [[1, 0], [1, 0]]: each row finds its text with e / (1 + e) and 1 / (1 + e); each
    # column with 1 / 2
    rows = (2 * math.log(1 + math.e) - 1) / 2
    expected = torch.tensor((rows + math.log(2)) / 2)
    assert torch.allclose(contrast(ours, texts, both, torch.tensor(1.0)), expected)
    assert torch.allclose(contrast(7 * ours, 3 * texts, both, torch.tensor(1.0)), expected)


def test_the_second_stage_of_yu2025_is_its_equations():
    model, clips = create("yu2025"), ragged()
    steps = model.encode(clips)
    assert isinstance(model.convolutions, CausalConvolutions)
    lstm, mask = model.gated.lstm(*steps["audio"])
    vectors = {
        "audio": masked_mean(model.gated.project(lstm * model.gated.gate(lstm).sigmoid()), mask),
        "vision": masked_mean(model.convolutions(*steps["vision"]), steps["vision"][1]),
        "text": steps["text"][0][:, 0],
    }
    names = ("audio", "vision", "text")
    quality = torch.cat([model.scores[name](vectors[name]) for name in names], dim=-1).softmax(
        dim=-1
    )  # (B, 3)
    heard = torch.cat(
        [quality[:, [index]] * vectors[name] for index, name in enumerate(names)], dim=-1
    )
    assert torch.allclose(model(clips).prediction, model.head(heard), atol=1e-6)


def test_recurrent_readers_are_lstms_and_the_newer_one_ends_in_a_tanh_layer():
    older, newer = create("hallmen2024"), create("hallmen2025")
    assert all(
        isinstance(part.lstm, nn.LSTM)
        for part in (older.lstm, *newer.lstms.values(), create("yu2025").gated.lstm)
    )
    assert create("hallmen2024", dropout=0.25).lstm.lstm.dropout == 0.25
    assert isinstance(newer.head[1], nn.Tanh)


def test_zhang2024_has_a_transformer_for_each_modality():
    assert all(
        type(part) is TemporalTransformer for part in create("zhang2024").transformers.values()
    )


def test_a_step_of_the_convolutions_reaches_thirteen_steps_beside_a_residual():
    network, values, mask = (
        CausalConvolutions(4, 8, dropout=0.0).eval(),
        torch.randn(1, 20, 4),
        torch.ones(1, 20).bool(),
    )
    other = values.clone()
    other[:, 2] += 1
    moved = (network(values, mask) - network(other, mask)).abs().sum(dim=-1)[0] > 1e-7
    assert moved[2:15].all() and not moved[15:].any() and not moved[:2].any()
    with torch.no_grad():
        for block in network.blocks:
            block[-1].weight.zero_()
            block[-1].bias.zero_()
    assert torch.allclose(network(values, mask), network.project(values))
