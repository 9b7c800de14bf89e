"""Settings: named profiles, TOML files and single changes give the same thing, and whatever is
wrong is refused with field, value, what is allowed and where it came from."""

import dataclasses
import pickle

import pytest

from taemi_lib import profiles
from taemi_lib.errors import ChoiceError
from taemi_lib.profiles import PROFILES, load, parse_settings, to_toml


@pytest.mark.parametrize("name", PROFILES)
def test_a_printed_profile_saved_and_given_back_is_the_same_profile(name, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(to_toml(PROFILES[name]))
    assert load(path) == PROFILES[name]
    assert all("#" in line for line in path.read_text().splitlines() if "=" in line)  # explained


def test_a_file_may_name_a_base_and_hold_only_what_is_other(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('profile = "demo"\nseeds = [4]\n[training]\nbatch_size = 8\n')
    found = load(path, {"model.width": 32})
    expected = PROFILES["demo"].changed(
        {"seeds": [4], "training.batch_size": 8, "model.width": 32, "name": "mine"}
    )
    assert found == expected and found.name == "mine"


def test_a_file_without_a_base_must_be_complete(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nbatch_size = 8\n")
    with pytest.raises(ChoiceError, match=r"mine\.toml: name, data\.source.*missing"):
        load(path)


def test_paths_in_a_file_may_be_meant_from_its_folder(tmp_path):
    (tmp_path / "clips.csv").write_text("clip_id,video\n")
    path = tmp_path / "mine.toml"
    path.write_text('profile = "own"\n[data]\ntable = "clips.csv"\n')
    assert load(path).data.table == str(tmp_path / "clips.csv")


def test_settings_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    pairs = [
        "training.batch_size=8",
        "training.clip_norm=none",
        "encoders.text=minilm",
        "encoders.audio=org/model",
        "model.time_features=false",
        "seeds=[3, 4]",
        "data.label_noise=0",
    ]
    found = load("demo", parse_settings(pairs), "--set")
    assert found.training.batch_size == 8 and found.training.clip_norm is None
    assert found.encoders.text == str(tmp_path / "minilm") and found.encoders.audio == "org/model"
    assert found.model.time_features is False and found.seeds == (3, 4)
    assert found.data.label_noise == 0.0


def test_a_folder_named_like_a_number_is_text():
    assert load("demo", parse_settings(["encoders.text=2024"])).encoders.text == "2024"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"training.batchsize": 8},
            "unknown setting 'training.batchsize'; nearest: training.batch_size",
        ),
        ({"batch_size": 8}, "nearest: training.batch_size"),
        ({"training.momentum": 1}, "nearest: training.learning_rate"),
        ({"training": {"batch_size": 8}}, "unknown setting 'training'"),
        ({"training.batch_size": "many"}, r"training.batch_size = 'many': .* integer"),
        ({"training.batch_size": True}, r"training.batch_size = True: .* integer"),
        ({"training.batch_size": 0}, r"training.batch_size = 0: .* greater than or equal to 1"),
        ({"training.learning_rate": float("nan")}, "training.learning_rate = nan: .* finite"),
        ({"model.dropout": 1.5}, "model.dropout = 1.5: .* less than 1"),
        ({"data.source": "tsv"}, "data.source = 'tsv': .*'synthmimic', 'vidmimic2', 'csv' or"),
        ({"encoders.transcripts": "manifest"}, "'auto', 'whisper' or 'table'"),
        ({"seeds": 3}, "seeds = 3: .* tuple"),
        ({"seeds": []}, "seeds = .*at least 1"),
        ({"model.heads": 5}, "model.width = 64 is not a multiple of model.heads = 5"),
        ({"data.table": "x.csv"}, 'data.table = .x.csv. needs data.source = "csv"'),
        ({"data.source": "csv", "data.clips": 5}, "data.clips = 5 is a setting of generated clips"),
        ({"encoders.text": "/gone/minilm"}, "encoders.text = '/gone/minilm': no such folder"),
    ],
)
def test_a_wrong_setting_is_refused_with_all_there_is_to_know(settings, said):
    with pytest.raises(ChoiceError, match=said) as refused:
        load("demo", settings, "parameter settings")
    assert str(refused.value).startswith("parameter settings: ")


def test_every_wrong_setting_is_reported_at_once():
    with pytest.raises(ChoiceError) as refused:
        load("demo", {"training.epochs": 0, "model.width": "wide"}, "--set")
    assert "training.epochs" in str(refused.value) and "model.width" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('profile = "demo"\n[training]\nbatchsize = 8', "unknown setting 'training.batchsize'"),
        ('profile = "demo"\n[training]\nbatch_size = "8"', "training.batch_size = '8'"),
        ('profile = "nope"', "it must be one of: demo, smoke, paper, own"),
        ("batch_size: 8", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_its_name(text, said, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ChoiceError, match=said) as refused:
        load(path)
    assert str(path) in str(refused.value)


def test_a_name_or_file_that_is_not_there_and_settings_of_a_wrong_form():
    with pytest.raises(ChoiceError, match="the profiles are: demo, smoke, paper, own"):
        load("dmo")
    with pytest.raises(ChoiceError, match=r"nowhere\.toml: the file cannot be read"):
        load("nowhere.toml")
    with pytest.raises(ChoiceError, match="dictionary of dotted names"):
        load("demo", ["training.batch_size=8"])
    with pytest.raises(ChoiceError, match="NAME=VALUE, as in --set training.batch_size=8"):
        parse_settings(["training.batch_size"])


def test_profiles_are_plain_dataclasses_that_travel_to_workers():
    for profile in PROFILES.values():
        assert pickle.loads(pickle.dumps(profile)) == profile
        assert dataclasses.replace(profile, seeds=(5,)) != profile and hash(profile)
        assert profiles.DESCRIPTIONS[profile.name]
    with pytest.raises(dataclasses.FrozenInstanceError):
        PROFILES["demo"].name = "other"


def test_the_choices_of_labels_are_those_of_the_generator():
    from taemi_lib.data.synthmimic.world import REGIMES

    for regime in REGIMES:
        load("demo", {"data.regime": regime})
    with pytest.raises(ChoiceError, match=", ".join(repr(name) for name in REGIMES[:-1])):
        load("demo", {"data.regime": "none of them"})
