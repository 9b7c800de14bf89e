import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.errors import ChoiceError
from taemi_lib.models import TAEMI, Batch
from taemi_lib.models.base import parameter_count


@pytest.fixture
def model():
    torch.manual_seed(0)
    return TAEMI(**SIZES).eval()


def without(batch, name, rows=slice(None)):
    """The same clips; in these rows the modality is absent."""
    present = {key: value.clone() for key, value in batch.present.items()}
    present[name][rows] = False
    return dataclasses.replace(batch, present=present)


def test_the_papers_sizes_concatenate_1792_and_take_its_batches():
    with torch.device("meta"):
        model = TAEMI(1027, 768, 768)
    assert model.head[0].in_features == 768 + 512 + 512 == 1792
    assert model.sizes.heads == 8 and model.head[0].out_features == 512


def test_taemi_is_the_papers_equations():
    """The whole forward pass, rebuilt from torch's own modules with TAEMI's weights."""
    torch.manual_seed(0)
    model = TAEMI(5, 4, 6, width=8, heads=2, mlp_width=8).eval()
    clips = batch()
    query = functional.linear(clips.pooled, model.query.weight, model.query.bias)
    parts = [clips.pooled]
    for name in ("audio", "vision"):
        stream, cross = model.streams[name], model.cross[name]
        projected = stream.project(clips.values[name]) + stream.time(clips.times[name])
        own = nn.MultiheadAttention(8, 2, batch_first=True)
        own.load_state_dict(
            {
                "in_proj_weight": stream.attend.query_key_value.weight,
                "in_proj_bias": stream.attend.query_key_value.bias,
                "out_proj.weight": stream.attend.output.weight,
                "out_proj.bias": stream.attend.output.bias,
            }
        )
        attended = stream.attend.norm(projected + own(projected, projected, projected)[0])
        both = nn.MultiheadAttention(8, 2, batch_first=True)
        both.load_state_dict(
            {
                "in_proj_weight": torch.cat(
                    [cross.query.weight, cross.key.weight, cross.value.weight]
                ),
                "in_proj_bias": torch.cat([cross.query.bias, torch.randn(8), cross.value.bias]),
                "out_proj.weight": cross.output.weight,
                "out_proj.bias": cross.output.bias,
            }
        )
        parts.append(both(query[:, None], attended, attended)[0][:, 0])
    hidden = functional.gelu(
        functional.linear(torch.cat(parts, -1), model.head[0].weight, model.head[0].bias)
    )
    expected = functional.linear(hidden, model.head[3].weight, model.head[3].bias)
    assert torch.allclose(model(clips).prediction, expected, atol=1e-5)


def padded(clips, extra, filling):
    """The same clips with `extra` more steps of padding."""
    values, mask, times = {}, {}, {}
    for name, tensor in clips.values.items():
        size = len(tensor)
        values[name] = torch.cat(
            [tensor, torch.full((size, extra, tensor.shape[-1]), filling)], dim=1
        )
        mask[name] = torch.cat(
            [clips.mask[name], torch.zeros(size, extra, dtype=torch.bool)], dim=1
        )
        times[name] = torch.cat([clips.times[name], torch.full((size, extra), filling)], dim=1)
    return dataclasses.replace(clips, values=values, mask=mask, times=times, present={})


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize("filling", [0.0, 1e4, float("nan"), float("inf")])
def test_padding_never_changes_a_prediction(name, filling):
    torch.manual_seed(0)
    model = models.create(name, **SIZES).eval()
    plain, longer = model(batch()), model(padded(batch(), 13, filling))
    assert torch.allclose(plain.prediction, longer.prediction, atol=1e-5)
    for modality, weights in longer.attention.items():
        assert torch.allclose(weights[..., :-13], plain.attention[modality], atol=1e-5)
        assert (weights[..., -13:] == 0).all()


@pytest.mark.parametrize("name", models.names())
def test_the_company_in_a_batch_never_changes_a_prediction(name):
    torch.manual_seed(0)
    model = models.create(name, **SIZES).eval()
    clips = without(batch(6), "audio", [2, 3])
    together = model(clips).prediction
    for row in range(6):
        alone = Batch(
            {key: value[row : row + 1] for key, value in clips.values.items()},
            present={key: value[row : row + 1] for key, value in clips.present.items()},
            pooled=clips.pooled[row : row + 1],
        )
        assert torch.allclose(model(alone).prediction[0], together[row], atol=1e-5)


@pytest.mark.parametrize("name", ["audio", "vision", "text"])
def test_what_an_absent_modality_holds_is_never_read_not_even_by_a_gradient(model, name):
    model.train()
    model.modality_dropout.p = 0.0
    clips = without(batch(), name, [1])
    garbage = copy.deepcopy(clips)
    if name == "text":
        garbage.pooled[1] = float("nan")
    else:
        garbage.values[name][1] = float("nan")
    torch.manual_seed(1)
    expected = model(clips).prediction
    torch.manual_seed(1)
    output = model(garbage)
    assert torch.allclose(output.prediction, expected, atol=1e-6)
    model.loss(output, garbage).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", ["audio", "vision", "text"])
def test_a_missing_modality_is_replaced_by_its_token(model, name):
    token = model.text.token if name == "text" else model.streams[name].token
    missing = without(batch(), name, [1])
    before, complete = model(missing).prediction, model(batch()).prediction
    with torch.no_grad():
        token.vector.add_(1.0)
    after = model(missing).prediction
    assert not torch.allclose(before[1], after[1])  # the clip without it reads the token,
    assert torch.allclose(before[[0, 2, 3]], after[[0, 2, 3]])  # the others do not,
    assert not torch.allclose(before[1], complete[1])  # and the token is not the modality
    if name == "text":
        assert token.vector.shape == (
            SIZES["text_dim"],
        )  # raw width: it replaces query and concatenated vector
    else:
        assert model(missing).attention[name][1, :, 0].eq(1).all()  # a sequence of length 1


def test_every_subset_of_modalities_gives_a_finite_prediction_even_none(model):
    for name in models.names():
        system = models.create(name, **SIZES).eval()
        for subset in range(8):
            clips = batch()
            for bit, modality in enumerate(("audio", "vision", "text")):
                if not subset >> bit & 1:
                    clips = without(clips, modality)
            assert system(clips).prediction.isfinite().all()
    no_text = Batch({"audio": torch.randn(2, 3, 5)})
    assert model(no_text).prediction.shape == (2, 6)


def test_modality_dropout_shows_what_it_left_out_and_never_leaves_out_all(model):
    torch.manual_seed(0)
    model.train()
    model.modality_dropout.p = 0.6
    kept = torch.stack([mask for mask in model(batch(256)).kept.values()])
    assert kept.any(dim=0).all() and 0.3 < (~kept).float().mean() < 0.6


def test_the_text_moves_the_attention_and_the_time_features_let_it(model):
    clips = batch()
    other = dataclasses.replace(clips, pooled=clips.pooled.flip(0))
    assert not torch.allclose(
        model(clips).attention["audio"], model(other).attention["audio"], atol=1e-4
    )
    constant = Batch({"audio": torch.ones(1, 9, 5)}, pooled=torch.randn(1, 6))
    weights = model(constant).attention["audio"]
    assert weights.std() > 1e-4  # the same sound at another moment is another key
    timeless = TAEMI(**SIZES | {"time_features": False}).eval()(constant).attention["audio"]
    assert torch.allclose(timeless, torch.full_like(timeless, 1 / 9), atol=1e-6)


def test_the_loss_is_the_mean_squared_error_plus_what_the_system_adds(model):
    clips = batch()
    output = model(clips)
    expected = ((output.prediction - clips.labels) ** 2).mean()
    assert torch.allclose(model.loss(output, clips), expected)
    output.losses["extra"] = torch.tensor(2.0)
    assert torch.allclose(model.loss(output, clips), expected + 2)


def test_half_precision_features_are_computed_in_single(model):
    clips = batch()
    half = dataclasses.replace(
        clips, values={key: value.half() for key, value in clips.values.items()}
    )
    assert model(half).prediction.dtype == torch.float32
    assert torch.allclose(model(half).prediction, model(clips).prediction, atol=1e-2)


def test_features_of_another_width_are_refused_naming_both(model):
    with pytest.raises(ValueError, match="audio features 5 wide, this batch has 7"):
        model(Batch({"audio": torch.zeros(1, 3, 7)}))
    with pytest.raises(ValueError, match="Batch.pooled"):
        model(Batch({"text": torch.zeros(1, 3, 6)}))


@pytest.mark.parametrize("name", models.names())
def test_a_saved_system_comes_back_as_it_was(name, tmp_path, capsys):
    model = models.create(name, **SIZES).eval()
    model.save_pretrained(tmp_path)
    again = models.load(tmp_path)
    assert type(again) is type(model) and torch.equal(
        again(batch()).prediction, model(batch()).prediction
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }
    card = (tmp_path / "README.md").read_text()
    assert f"{parameter_count(model):,}" in card and "6 targets" in card and name in card
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_other_sizes_is_refused_naming_both(model, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="width is 8 there, 16 now"):
        TAEMI.from_pretrained(tmp_path, width=16)
    with pytest.raises(ValueError, match="heads is 2 there, 4 now"):
        TAEMI.from_pretrained(tmp_path, heads=4)  # no tensor's shape would tell
    assert TAEMI.from_pretrained(tmp_path, dropout=0.5).sizes.dropout == 0.5
    with pytest.raises(ValueError, match="'taemi', not a 'text_only'"):
        models.find("text_only").from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="config.json"):
        models.load(tmp_path / "nowhere")


def test_unknown_names_are_refused_with_the_valid_ones():
    assert models.names()[0] == "taemi" and "constant_query" in models.names()
    with pytest.raises(ChoiceError, match="'tami'; the systems are: taemi, .*constant_query"):
        models.create("tami")
    with pytest.raises(ChoiceError, match="widht.*width"):
        models.create("taemi", widht=3)
