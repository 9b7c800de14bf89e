"""Self-MM and TETFN: labels of single modalities, made in training, kept beside the weights; and
what each of the two is compared for."""

import dataclasses

import pytest
import torch
from test_training import PRESET, Killed, numbers, run, weights
from toy import SIZES, batch

from taemi_lib import models
from taemi_lib.errors import RunError
from taemi_lib.models import Batch, Output
from taemi_lib.models.pseudo_labels import FUSED, SPACES, SPAN, PseudoLabels, SelfSupervised
from taemi_lib.profiles import MODALITIES
from taemi_lib.runs import load_run

NAMES = ["self_mm2021", "tetfn2023"]


def create(name, **changes):
    torch.manual_seed(0)
    return models.create(name, **SIZES | changes).eval()


def clips(labels, known=None, names=None):
    labels = torch.tensor(labels).view(len(labels), -1)
    known = None if known is None else torch.tensor(known).view(len(labels), -1)
    pooled = torch.zeros(len(labels), 1)
    return Batch(pooled=pooled, labels=labels, known=known, clip_id=names)


def seen(size=1, left_out=(), **vectors):
    """An output of representations one number wide."""
    there = {name: torch.full((size,), name not in left_out) for name in MODALITIES}
    columns = {name: torch.tensor(vectors[name]).view(size, 1) for name in SPACES}
    return Output(torch.zeros(size, 1), kept=there, vectors=columns)


# Two clips of low and two of high labels, whose representations lie at 0 and 4 in every space. The
# zero is .5: the first label is -1.5 in the original's units.
GIVEN = [0.25, 0.25, 0.75, 0.75]
AT = [0.0, 0.0, 4.0, 4.0]
FIRST = {"names": ["clip 0"]}


def after_one_epoch(given=GIVEN, known=None):
    made = PseudoLabels(outputs=1, width=1)
    made.observe(seen(4, **dict.fromkeys(SPACES, AT)), clips(given, known))
    return made


def label(made, name, row=0):
    return made.labels(clips(GIVEN), name)[row].item()


def test_in_the_first_epoch_every_modality_has_the_clips_label():
    made = PseudoLabels(1, 1)
    assert made.labels(clips(GIVEN), "audio").flatten().tolist() == GIVEN
    made = after_one_epoch()
    assert all(made.labels(clips(GIVEN), m).flatten().tolist() == GIVEN for m in MODALITIES)


def test_a_second_epochs_labels_by_hand():
    """Centres at 0 and 4. fused at 1: delta -2/3. sound at 2: 0, u = (0 - 1.5 + 2/3) / 2. Face at
    3: 2, u = (-3 (-1.5) - 1.5 + 2 + 2/3) / 2. Text where the fused one is: u = -1.5."""
    made = after_one_epoch()
    made.observe(seen(fused=1.0, audio=2.0, vision=3.0, text=1.0), clips([0.25], **FIRST))
    for name, u in (("audio", -5 / 12), ("vision", 17 / 6), ("text", -1.5)):
        assert label(made, name) == pytest.approx(0.25 / 3 + 2 / 3 * (0.5 + u / SPAN), abs=1e-6)
        assert [label(made, name, row) for row in (1, 2, 3)] == GIVEN[1:]
    assert made.labels(clips([0.9], names=["unknown"]), "audio").item() == pytest.approx(0.9)


def test_a_third_epoch_weighs_one_half_and_labels_stay_within_the_range():
    made = after_one_epoch()
    for _ in range(2):  # far out on the high side: clipped to 1 each time
        near = {"fused": 1.0, "audio": 1.0, "vision": 3.99, "text": 1.0}
        made.observe(seen(**near), clips([0.25], **FIRST))
    second = 0.25 / 3 + 2 / 3
    assert label(made, "vision") == pytest.approx(second / 2 + 1 / 2, abs=1e-6)


def test_a_modality_that_says_the_opposite_gets_another_label_than_the_clip():
    """The idea: a low clip whose face lies among the high ones is taught a higher label for its
    face, and the other way round."""
    low, high = after_one_epoch(), after_one_epoch()
    low.observe(seen(fused=0.5, audio=0.5, vision=3.5, text=0.5), clips([0.25], **FIRST))
    assert label(low, "vision") > 0.5 > 0.3 > label(low, "audio")
    third = clips([0.75], names=["clip 2"])
    high.observe(seen(fused=3.5, audio=3.5, vision=0.5, text=3.5), third)
    assert label(high, "vision", 2) < 0.7 < label(high, "audio", 2)


def test_what_is_left_out_moves_neither_label_nor_centre():
    made, other = after_one_epoch(), after_one_epoch()
    shown = {"fused": 1.0, "audio": 2.0, "text": 1.0}
    made.observe(seen(**shown, vision=3.0, left_out=("vision",)), clips([0.25], **FIRST))
    other.observe(seen(**shown, vision=-9.0, left_out=("vision",)), clips([0.25], **FIRST))
    assert label(made, "vision") == 0.25 and label(made, "audio") != 0.25
    assert made.state()["vectors"]["vision"].flatten().tolist() == AT
    assert same(made.state(), other.state())


def test_labels_that_are_not_known_move_nothing():
    known = [True, True, True, False]
    states = []
    for nonsense in (0.0, 1.0, float("nan")):
        made = after_one_epoch([0.25, 0.25, 0.75, nonsense], known)
        made.observe(
            seen(4, fused=[1.0, 0, 4, 2], audio=[2.0, 1, 3, 1], vision=AT, text=AT),
            clips([0.25, 0.25, 0.75, nonsense], known),
        )
        states.append(made.state())
    assert same(states[0], states[1]) and same(states[0], states[2])
    # the zero is the mean of the three, and a class of one clip is enough
    y, delta, fused = SPAN * (0.25 - 1.25 / 3), 0.0, -2 / 3
    u = (delta / fused * y + y + delta - fused) / 2
    expected = 0.25 / 3 + 2 / 3 * (1.25 / 3 + u / SPAN)
    assert states[0]["labels"]["audio"][0].item() == pytest.approx(expected, abs=1e-6)


def test_a_modalitys_classes_follow_its_own_labels_and_the_fused_ones_the_given():
    made = after_one_epoch()
    near = {"fused": 1.0, "audio": 1.0, "vision": 3.99, "text": 1.0}
    made.observe(seen(**near), clips([0.25], **FIRST))
    assert label(made, "vision") == pytest.approx(0.75)  # its face is now among the high ones
    made.observe(seen(**(near | {"vision": 1.0})), clips([0.25], names=["clip 1"]))
    high = (3.99 + 4 + 4) / 3 - 1
    own, fused = (1 - high) / high, (0.5 - 3) / 3  # low ones at 0; fused ones at .5, for 0 and 1
    u = (own / fused * -1.5 - 1.5 + own - fused) / 2
    expected = 0.25 / 3 + 2 / 3 * (0.5 + u / SPAN)
    assert label(made, "vision", 1) == pytest.approx(expected, abs=1e-6)


def test_an_output_without_both_classes_keeps_its_labels():
    made = after_one_epoch([0.5] * 4)
    made.observe(seen(fused=1.0, audio=2.0, vision=3.0, text=1.0), clips([0.5], **FIRST))
    assert all(label(made, name) == 0.5 for name in MODALITIES)


def test_how_clips_come_in_batches_does_not_matter_in_the_first_epoch():
    whole, parts = after_one_epoch(), PseudoLabels(1, 1)
    for rows in ([0, 3], [1, 2]):
        at = dict.fromkeys(SPACES, [AT[row] for row in rows])
        names = [f"clip {row}" for row in rows]
        parts.observe(seen(2, **at), clips([GIVEN[row] for row in rows], names=names))
    for made in (whole, parts):
        made.observe(seen(fused=1.0, audio=2.0, vision=3.0, text=1.0), clips([0.25], **FIRST))
    assert all(label(whole, name) == label(parts, name) for name in MODALITIES)


def test_each_output_has_classes_of_its_own():
    made = PseudoLabels(2, 1)
    labels = torch.tensor([[0.25, 0.75], [0.25, 0.75], [0.75, 0.25], [0.75, 0.25]])
    both = Batch(pooled=torch.zeros(4, 1), labels=labels)
    made.observe(seen(4, **dict.fromkeys(SPACES, AT)), both)
    made.observe(seen(4, fused=[1.0, 0, 4, 4], audio=[2.0, 0, 4, 4], vision=AT, text=AT), both)
    found = made.labels(both, "audio")[0]
    # the second output is the first turned round: +1.5, its high class at 0 and its low one at 4,
    # so that delta of the fused vector is (3 - 1) / 1
    u = (0 / 2 * 1.5 + 1.5 + 0 - 2) / 2
    assert found[1].item() == pytest.approx(0.75 / 3 + 2 / 3 * (0.5 + u / SPAN), abs=1e-6)
    assert found[0].item() == pytest.approx(0.25 / 3 + 2 / 3 * (0.5 - 5 / 12 / SPAN), abs=1e-6)


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one == other


# --- the loss


@pytest.mark.parametrize("name", NAMES)
def test_its_loss_by_hand(name):
    model, given = create(name), batch(8)
    output = model(given)
    error = (output.prediction - given.labels).abs().mean()
    assert torch.allclose(model.loss(output, given), error)  # first epoch: all weights are 0
    model.observe(output, given)
    model.observe(output, given)
    for m in MODALITIES:
        own = model.pseudo_labels.labels(given, m)
        weight = (SPAN * (own - given.labels).abs()).tanh()
        assert weight.max() > 0.01
        error = error + (weight * (output.parts[m] - own).abs()).mean()
    assert torch.allclose(model.loss(output, given), error)


@pytest.mark.parametrize("name", NAMES)
def test_modalities_left_out_and_labels_not_known_are_not_taught(name):
    model, given = create(name), batch(8)
    for _ in range(2):
        model.observe(model(given), given)
    half = torch.arange(8) < 4
    lacking = dataclasses.replace(given, present=given.present | {"audio": half})
    output = model(lacking)
    output.parts["audio"] = output.parts["audio"].detach().requires_grad_()
    some = torch.rand(8, 6) < 0.7
    model.loss(output, dataclasses.replace(lacking, known=some)).backward()
    taught = output.parts["audio"].grad != 0
    assert taught.any() and not taught[~half].any() and not taught[~some].any()


# --- the systems


@pytest.mark.parametrize("name", NAMES)
def test_every_modality_speaks_for_itself_and_for_the_fusion(name):
    model, given = create(name), batch()
    plain = model(given)
    for m in MODALITIES:
        changed = dataclasses.replace(given, values=given.values | {m: given.values[m] + 1})
        if m == "text":
            changed = dataclasses.replace(changed, pooled=given.pooled + 1)
        other = model(changed)
        assert not torch.allclose(plain.prediction, other.prediction, atol=1e-6)
        for n in MODALITIES:
            assert torch.equal(plain.parts[n], other.parts[n]) == (n != m)
            assert torch.equal(plain.vectors[n], other.vectors[n]) == (n != m)
        assert not torch.equal(plain.vectors[FUSED], other.vectors[FUSED])


def test_self_mm_is_its_equations():
    model, given = create("self_mm2021"), batch()
    read = {name: model.sequences[name](given) for name in ("audio", "vision")}
    read["text"] = given.pooled
    for name in MODALITIES:
        represented = model.towers[name].represent(read[name])
        assert torch.equal(model(given).vectors[name], represented)
        assert torch.equal(model(given).parts[name], model.towers[name].predict(represented))
    joined = torch.cat([read[name] for name in MODALITIES], dim=-1)
    assert torch.allclose(model(given).prediction, model.fused(joined)[1])
    lstm = model.sequences["audio"].lstm.lstm
    last = lstm(given.values["audio"])[1][0].squeeze(0)
    assert torch.allclose(read["audio"], model.sequences["audio"].project(last), atol=1e-6)


def read_sequences(model, given):
    found = {}
    for name, reader in model.readers.items():
        values, mask, times = reader(given)
        found[name] = values + model.time(times), mask
    return found


def test_tetfn_is_its_equations():
    model, given = create("tetfn2023"), batch()
    given.mask["audio"][0, 5:] = False
    read = read_sequences(model, given)
    (a, a_mask), (v, v_mask), (t, t_mask) = (read[name] for name in MODALITIES)
    through_face = model.enhanced["vision_to_audio"].enhance(v, t, t_mask)
    through_sound = model.enhanced["audio_to_vision"].enhance(a, t, t_mask)
    sees = {
        "audio": [
            model.enhanced["vision_to_audio"].look(a, through_face, v_mask),
            model.cross["text_to_audio"](a, t, t_mask),
        ],
        "vision": [
            model.enhanced["audio_to_vision"].look(v, through_sound, a_mask),
            model.cross["text_to_vision"](v, t, t_mask),
        ],
        "text": [
            model.cross["audio_to_text"](t, a, a_mask),
            model.cross["vision_to_text"](t, v, v_mask),
        ],
    }
    ends = [model.end[name](torch.cat(sees[name], -1), read[name][1]) for name in MODALITIES]
    assert torch.allclose(model(given).prediction, model.fused(torch.cat(ends, -1))[1], atol=1e-5)
    steps = model.readers["audio"](given)[0]
    highest = torch.stack([steps[0, :5].amax(0), *steps[1:].amax(1)])
    assert torch.allclose(model(given).parts["audio"], model.towers["audio"](highest)[1])


def test_sound_and_face_reach_each_other_through_the_text():
    """What a face hands to the sound moves with the words, and its values come from them: with the
    inner attention shut, the way no longer knows the text."""
    model, given = create("tetfn2023"), batch()
    other = dataclasses.replace(given, values=given.values | {"text": given.values["text"] + 1})
    reads = [read_sequences(model, clips) for clips in (given, other)]
    for way, part in model.enhanced.items():
        source, target = way.split("_to_")
        one, two = (part(read[target][0], read[source], read["text"]) for read in reads)
        assert not torch.allclose(one, two, atol=1e-4)
        with torch.no_grad():
            for layer in part.enhance.layers:
                layer.output.weight.zero_()
        one, two = (part(read[target][0], read[source], read["text"]) for read in reads)
        assert torch.equal(one, two)


def test_more_layers_are_a_class_attribute_away():
    deep = type("Deep", (models.find("tetfn2023"),), {"LAYERS": 2})
    count = sum(p.numel() for p in deep(**SIZES).parameters())
    assert count > 1.3 * sum(p.numel() for p in create("tetfn2023").parameters())


# --- beside the weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = run(tmp_path_factory.mktemp("runs") / name, name)
        return made[name]

    return get


def kept(run):
    return torch.load(run.folder / "last" / "optimizer.pt", weights_only=True)["system"]


@pytest.mark.parametrize("moment", [2, 5, 8, 12])  # batches, three an epoch
@pytest.mark.parametrize("name", NAMES)
def test_a_run_killed_at_any_batch_goes_on_to_the_same_numbers(
    name, moment, whole, tmp_path, monkeypatch
):
    observe, calls = SelfSupervised.observe, []

    def counted(self, output, given):
        calls.append(1)
        if len(calls) == moment:
            raise Killed
        observe(self, output, given)

    with monkeypatch.context() as patch:
        patch.setattr(SelfSupervised, "observe", counted)
        with pytest.raises(Killed):
            run(tmp_path, name)
    assert not load_run(tmp_path).finished
    resumed = run(tmp_path, name)
    assert numbers(resumed) == numbers(whole(name))
    for which in ("best", "last"):
        assert weights(resumed, which) == weights(whole(name), which)
    assert same(kept(resumed), kept(whole(name)))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_of_all_training_clips_and_in_no_checkpoint(name, whole):
    made = whole(name)
    state = kept(made)
    assert sorted(state["clip_ids"]) == [f"clip{row:03d}" for row in range(24)]
    assert (state["seen"] == PRESET.epochs).all()
    moved = {m: (state["labels"][m] - state["given"]).abs().max() for m in MODALITIES}
    assert all(change > 0.01 for change in moved.values())
    files = {path.name for path in (made.folder / "best").iterdir()}
    assert files == {"model.safetensors", "config.json", "README.md"}
    again = made.model()
    assert again.training_state() == {} and set(again.state_dict()) == {
        key for key, _ in again.named_parameters()
    }


def test_a_system_that_keeps_nothing_writes_nothing(tmp_path):
    made = run(tmp_path, "taemi", dataclasses.replace(PRESET, epochs=1))
    state = torch.load(made.folder / "last" / "optimizer.pt", weights_only=True)
    assert set(state) == {"optimizer"} and made.model().training_state() == {}
    with pytest.raises(ValueError, match="taemi keeps nothing beside its weights"):
        made.model().load_training_state({"clip_ids": []})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda state: state.pop("system"), "no labels of single modalities"),
        (lambda state: state["system"].pop("seen"), "seen is None"),
        (lambda state: state["system"]["clip_ids"].pop(), "seen is"),
        (lambda state: state["system"]["clip_ids"].__setitem__(0, "clip001"), "two rows"),
        (lambda state: state["system"]["clip_ids"].__setitem__(0, 7), "no labels"),
        (lambda state: state["system"].update(vectors=[1]), "vectors is missing"),
        (lambda state: state["system"]["vectors"].update(text=torch.zeros(24, 3)), r"\(24, 3\)"),
        (lambda state: state["system"].update(known=torch.zeros(24, 6)), "float32; expected"),
    ],
)
def test_a_run_is_not_resumed_from_a_state_of_another_kind(spoil, said, tmp_path, monkeypatch):
    calls = []

    def counted(self, output, given):
        calls.append(1)
        if len(calls) == 5:
            raise Killed
        self.pseudo_labels.observe(output, given)

    with monkeypatch.context() as patch:
        patch.setattr(SelfSupervised, "observe", counted)
        with pytest.raises(Killed):
            run(tmp_path, "self_mm2021")
    place = tmp_path / "last" / "optimizer.pt"
    state = torch.load(place, weights_only=True)
    spoil(state)
    torch.save(state, place)
    with pytest.raises(RunError, match=rf"optimizer\.pt is damaged .*{said}"):
        run(tmp_path, "self_mm2021")
