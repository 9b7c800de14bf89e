"""What every system must do, whatever it is: each test runs for every system of the package, a new
one included; nothing here is changed for it."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch
from toy import SIZES, batch, dataset

from taemi_lib import models
from taemi_lib.evaluation.scoring import evaluate
from taemi_lib.models import Batch, System
from taemi_lib.models.missing import ModalityDropout
from taemi_lib.profiles import MODALITIES, Model, Training
from taemi_lib.training import train

NAMES = [name for name in models.names() if models.find(name).__module__.startswith("taemi_lib.")]
# the systems of the paper's tables 2 to 4, the controls, and the other ways of fusion
LISTED = set(
    "vit_baseline wav2vec2_baseline vit_wav2vec2_baseline yu2024 hallmen2024 savchenko2025 "
    "zhang2024 yu2025 taemi hallmen2025 "
    "concat self_attention_only taemi_no_missing_tokens taemi_no_modality_dropout "
    "vision_anchored audio_anchored vision_anchored_pooled audio_anchored_pooled "
    "constant_query text_gated text_only audio_only vision_only no_text no_time_features "
    "shuffled_text shuffled_query "
    "tfn dynamic_fusion_graph mult misa".split()
)
MODEL = Model(
    **{key: SIZES[key] for key in ("width", "heads", "mlp_width", "dropout", "input_dropout")}
)
TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=1, clip_value=None, clip_norm=1.0)


def create(name, **changes):
    torch.manual_seed(0)
    return models.create(name, **SIZES | changes).eval()


def ragged(size=6):
    """Clips of different lengths, each with a partner; the first is complete, the others lack one
    step more each."""
    clips = batch(size, audio_steps=9, vision_steps=8, tokens=7)
    mask = {
        name: torch.arange(values.shape[1]) < values.shape[1] - torch.arange(size)[:, None]
        for name, values in clips.values.items()
    }
    return dataclasses.replace(clips, mask=mask, present={}, partner=clips.pooled.flip(0))


def showing(clips, names):
    """The same clips with these modalities only, and NaN in the others: what is absent must not be
    read."""
    clips = dataclasses.replace(clips, values=dict(clips.values))
    for name in set(MODALITIES) - set(names):
        clips.values[name] = torch.full_like(clips.values[name], float("nan"))
        if name == "text":
            clips.pooled = torch.full_like(clips.pooled, float("nan"))
            clips.partner = torch.full_like(clips.pooled, float("nan"))
    absent = {name: torch.full((len(clips),), name in names) for name in MODALITIES}
    return dataclasses.replace(clips, present=absent)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch for a name, made once."""
    runs = {}

    def get(name):
        if name not in runs:
            runs[name] = train(
                name,
                dataset(24),
                dataset(12, seed=1, prefix="held"),
                model=MODEL,
                training=TRAINING,
                run_folder=tmp_path_factory.mktemp("runs") / name,
                progress=False,
                device="cpu",
            )
        return runs[name]

    return get


def test_all_systems_of_the_issue_are_there():
    assert set(NAMES) >= LISTED and NAMES[0] == "taemi" and len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_saves_loads_and_scores(name, trained):
    run = trained(name)
    assert run.finished and np.isfinite([entry["loss"] for entry in run.history]).all()
    held = dataset(12, seed=1, prefix="held")
    again = evaluate(run, held, "cpu", resamples=0)
    assert again.mean_rho == pytest.approx(run.metrics["selection"]["mean_rho"])
    assert np.isfinite(again.predictions.prediction).all() and not again.constant


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts_with_any_subset_of_modalities(name, trained):
    """Also with none, and nothing is read of what is absent; each clip of a mixed batch is
    predicted as among its like."""
    model, clips = trained(name).model(), ragged(8)
    subsets = [
        {m for m, there in zip(MODALITIES, shown) if there}
        for shown in product((False, True), repeat=3)
    ]
    alike = [model(showing(clips, subset)).prediction for subset in subsets]
    assert all(prediction.isfinite().all() for prediction in alike)
    present = {m: torch.tensor([m in subset for subset in subsets]) for m in MODALITIES}
    mixed = model(dataclasses.replace(clips, present=present)).prediction
    for row in range(8):
        assert torch.allclose(mixed[row], alike[row][row], atol=1e-5)
    # no modality: the same answer for everybody
    assert torch.allclose(alike[0], alike[0][:1].expand(8, 6), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_it_predicts_what_a_batch_does_not_even_mention(name):
    model = create(name)
    for given in ({"audio": torch.randn(2, 3, 5)}, {"vision": torch.randn(2, 1, 4)}):
        assert model(Batch(given)).prediction.isfinite().all()
    assert model(Batch(pooled=torch.randn(2, 6))).prediction.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("filling", [0.0, float("nan")])
def test_padding_its_length_and_its_content_change_nothing(name, filling):
    model, clips = create(name), ragged()
    values, mask, times = {}, {}, {}
    for m, tensor in clips.values.items():
        inside = tensor.masked_fill(~clips.mask[m].unsqueeze(-1), filling)
        values[m] = torch.cat([inside, torch.full((6, 11, tensor.shape[-1]), filling)], dim=1)
        mask[m] = torch.cat([clips.mask[m], torch.zeros(6, 11, dtype=torch.bool)], dim=1)
        times[m] = torch.cat(
            [clips.times[m].masked_fill(~clips.mask[m], filling), torch.full((6, 11), filling)],
            dim=1,
        )
    longer = dataclasses.replace(clips, values=values, mask=mask, times=times, present={})
    plain, other = model(clips), model(longer)
    assert torch.allclose(plain.prediction, other.prediction, atol=1e-5)
    for m, weights in other.attention.items():
        steps = plain.attention[m].shape[-1]
        assert (
            torch.allclose(weights[..., :steps], plain.attention[m], atol=1e-5)
            and (weights[..., steps:] == 0).all()
        )
        assert torch.allclose(weights.sum(dim=-1), torch.ones(weights.shape[:-1]), atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_company_in_a_batch_changes_nothing(name):
    model, clips = create(name), ragged()
    together = model(clips).prediction
    for row in range(6):
        one = slice(row, row + 1)
        alone = Batch(
            {m: v[one, : clips.mask[m][row].sum()] for m, v in clips.values.items()},
            pooled=clips.pooled[one],
            partner=clips.partner[one],
        )
        assert torch.allclose(model(alone).prediction[0], together[row], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_its_gradients_are_finite_with_absent_modalities_and_reach_every_part(name):
    """Every parameter of the last stage's model moves for some clips: nothing is carried along
    unused."""
    torch.manual_seed(0)
    model, clips = models.create(name, **SIZES | {"modality_dropout": 0.0}).train(), ragged(8)
    model.begin(model.stages[-1])
    reached = set()
    everything, half = torch.ones(8, dtype=torch.bool), torch.arange(8) % 2 == 0
    for missing in ((), *((m,) for m in MODALITIES), MODALITIES):
        given = dataclasses.replace(
            clips, present={m: half if m in missing else everything for m in MODALITIES}
        )
        model.zero_grad()
        output = model(given)
        model.loss(output, given).backward()
        model.observe(output, given)  # as training does
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), key
                if parameter.grad.abs().sum() > 0:
                    reached.add(key)
    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == reached


@pytest.mark.parametrize("name", NAMES)
def test_it_works_at_other_widths(name):
    sizes = {
        "audio_dim": 131,
        "vision_dim": 96,
        "text_dim": 128,
        "width": 16,
        "heads": 4,
        "mlp_width": 12,
    }
    model = models.create(name, **sizes).eval()
    clips = Batch(
        {
            "audio": torch.randn(2, 5, 131),
            "vision": torch.randn(2, 6, 96),
            "text": torch.randn(2, 3, 128),
        },
        pooled=torch.randn(2, 128),
        partner=torch.randn(2, 128),
    )
    assert model(clips).prediction.shape == (2, 6)


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_says_what_it_is_where_it_comes_from_and_what_is_reduced(name):
    system = models.find(name)
    # a family says it once
    said = "\n".join(cls.__doc__ for cls in system.__mro__[: system.__mro__.index(System)])
    assert system.__doc__ != System.__doc__ and len(system.__doc__.splitlines()[0]) > 30
    assert [
        word
        for word in ("Source", "Faithful", "Reduced")
        if f"{word}: " not in " ".join(said.split())
    ] == []


# who leaves modalities out in training; others of these have one modality only, or their sources
# know no such thing
LEAVE_OUT = set(
    "taemi constant_query text_gated no_text no_time_features shuffled_text shuffled_query "
    "concat self_attention_only taemi_no_missing_tokens vision_anchored audio_anchored "
    "vision_anchored_pooled audio_anchored_pooled tfn dynamic_fusion_graph mult misa".split()
)
NO_LAYER_TO_DROP_IN = {"vit_baseline", "wav2vec2_baseline", "vit_wav2vec2_baseline"}


def has(model, kind):
    """Whether a part of this kind, with a probability above 0, is in the model."""
    return any(isinstance(part, kind) and part.p > 0 for part in model.modules())


def test_of_the_listed_systems_those_drop_that_should():
    leave_out = {name for name in LISTED if has(create(name), ModalityDropout)}
    without = {"dropout": 0.5, "input_dropout": 0.0}
    still = {name for name in LISTED if not has(create(name, **without), torch.nn.Dropout)}
    assert leave_out == LEAVE_OUT and still == NO_LAYER_TO_DROP_IN


def with_partners(clips):
    return dataclasses.replace(clips, partner=clips.pooled.flip(0))


@pytest.mark.parametrize("name", NAMES)
def test_it_leaves_modalities_out_in_training_if_that_is_its_way(name):
    model, clips = create(name, modality_dropout=0.5), with_partners(batch(64))
    assert all(kept.all() for kept in model(clips).kept.values())
    all_kept = all(kept.all() for kept in model.train()(clips).kept.values())
    assert all_kept != has(model, ModalityDropout)


@pytest.mark.parametrize("kind", ["dropout", "input_dropout"])
@pytest.mark.parametrize("name", NAMES)
def test_its_dropouts_act_in_training_only(name, kind):
    off = {"dropout": 0.0, "input_dropout": 0.0, "modality_dropout": 0.0}
    model, clips = create(name, **off | {kind: 0.5}), with_partners(batch())
    assert torch.equal(model(clips).prediction, model(clips).prediction)
    model.train()
    still = torch.equal(model(clips).prediction, model(clips).prediction)
    assert still != has(model, torch.nn.Dropout)
