"""Features that others made: what is in the file is in the store, to the last bit, and what is
wrong with a file is told at once, before anything is written."""

import io
import json
import pickle
import re
import tomllib

import made_features as made
import numpy as np
import pandas as pd
import pytest

from taemi_lib import cli
from taemi_lib.data import readers
from taemi_lib.data.readers import Options
from taemi_lib.errors import ChoiceError, ManifestError, StoreError
from taemi_lib.features import Store
from taemi_lib.features.importing import import_features, usable_id
from taemi_lib.features.text import TextEncoder
from taemi_lib.features.token_ids import TokenIds
from taemi_lib.profiles import ROOT
from taemi_lib.support import memory


def brought(source, folder, format=None, encoder=None, **options):
    return import_features(source, folder, format, Options(**options), encoder, progress=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.mark.parametrize("name", made.FORMATS)
def test_every_format_comes_back_as_it_was(name, folder, tmp_path):
    expected, source = made.FORMATS[name](folder)
    report = brought(source, tmp_path / "store")
    assert report.format == {"mmsa_aligned": "mmsa", "sims": "mmsa"}.get(name, name)
    store = Store(tmp_path / "store")
    assert store.clip_ids() == sorted(expected)
    for clip_id, arrays in expected.items():
        clip = store.read(clip_id)
        sequences = {"audio": clip.audio, "vision": clip.vision, "text": clip.tokens}
        for modality, sequence in sequences.items():
            if modality not in arrays:
                assert sequence is None and clip.absent[modality]
                continue
            assert sequence.values.dtype == np.float32
            np.testing.assert_array_equal(sequence.values, arrays[modality])
        if "text" in arrays:
            first = name in ("mmsa", "mmsa_aligned", "sims")
            wanted = arrays["text"][0] if first else arrays["text"].mean(axis=0)
            np.testing.assert_array_equal(clip.pooled, wanted)
    table = pd.read_csv(tmp_path / "store" / "clips.csv", dtype={"clip_id": str})
    task = tomllib.loads((tmp_path / "store" / "task.toml").read_text())
    assert sorted(table["clip_id"]) == sorted(expected)
    assert set(table["split"]) >= {"train", "selection", "test"}
    labels = table.loc[table["split"] != "predict", task["targets"]].to_numpy()
    assert np.isfinite(labels).all() and (labels >= task["low"]).all()
    assert (labels <= task["high"]).all()
    assert (tmp_path / "store" / "import.txt").read_text().strip() == str(report)


def test_labels_and_ranges_are_those_of_the_field(folder, tmp_path):
    made.mmsa(folder / "mosi.pkl")
    made.mmsa(folder / "sims.pkl", sims=True)
    made.vidmimic2(folder / "official")
    ranges = {}
    for name in ("mosi.pkl", "sims.pkl", "official"):
        brought(folder / name, tmp_path / name)
        task = tomllib.loads((tmp_path / name / "task.toml").read_text())
        ranges[name] = (task["low"], task["high"], task["metrics"], len(task["targets"]))
    assert ranges == {
        "mosi.pkl": (-3, 3, "sentiment", 1),
        "sims.pkl": (-1, 1, "sims", 1),
        "official": (0, 1, "intensity", 6),
    }
    given = pickle.loads((folder / "mosi.pkl").read_bytes())["valid"]
    table = pd.read_csv(tmp_path / "mosi.pkl" / "clips.csv").set_index("source_id")
    assert (table.loc[given["id"], "split"] == "selection").all()
    found = table.loc[given["id"], "Sentiment"].to_numpy().astype(np.float32)
    np.testing.assert_array_equal(found, given["regression_labels"])
    assert table.loc[given["id"], "transcript"].tolist() == given["raw_text"].tolist()
    assert table.loc[given["id"], "group"].tolist() == [i.split("$_$")[0] for i in given["id"]]


def test_the_labels_of_single_modalities_of_sims_are_targets_when_asked_for(folder, tmp_path):
    made.mmsa(folder / "sims.pkl", sims=True)
    names = ("Sentiment", "Sentiment_T", "Sentiment_A", "Sentiment_V")
    report = brought(folder / "sims.pkl", tmp_path / "store", targets=names)
    table = pd.read_csv(tmp_path / "store" / "clips.csv")
    assert report.targets == names
    np.testing.assert_allclose(table["Sentiment_T"], table["Sentiment"] / 2, rtol=1e-6)


def test_minus_infinity_in_the_sound_becomes_zero_and_is_told(folder, tmp_path):
    def change(whole):
        whole["train"]["audio"][0, 0, 1] = -np.inf

    made.mmsa(folder / "mosi.pkl", change=change)
    report = brought(folder / "mosi.pkl", tmp_path / "store")
    assert Store(tmp_path / "store").read("vidt0__0").audio.values[0, 1] == 0
    assert any("-inf becomes 0 (1 clips, such as vidt0$_$0)" in line for line in report.assumed)


def test_the_report_says_how_padding_was_recognised(folder, tmp_path):
    made.mmsa(folder / "a.pkl")
    made.mmsa(folder / "b.pkl", "aligned")
    made.mult(folder / "c.pkl")
    made.mult(folder / "d.pkl", front=True)
    said = {}
    for name in "abcd":
        said[name] = str(brought(folder / f"{name}.pkl", tmp_path / name))
    assert "audio: padding is what lies behind audio_lengths" in said["a"]
    assert "text: padding is what the mask in text_bert says" in said["a"]
    assert "vision: aligned to the text, so its padding is the text's" in said["b"]
    assert "audio: rows of zeros at the end are taken for padding" in said["c"]
    assert "audio: rows of zeros at the start are taken for padding" in said["d"]
    for clip_id, arrays in made.mult(folder / "d.pkl", front=True).items():
        clip = Store(tmp_path / "d").read(clip_id)
        np.testing.assert_array_equal(clip.audio.values, arrays["audio"])


def test_a_row_of_zeros_inside_the_lengths_is_a_step(folder, tmp_path):
    def change(whole):
        part = whole["train"]
        part["vision"][0, part["vision_lengths"][0] - 1] = 0

    expected = made.mmsa(folder / "mosi.pkl", change=change)
    brought(folder / "mosi.pkl", tmp_path / "store")
    clip = Store(tmp_path / "store").read("vidt0__0")
    assert (
        len(clip.vision) == len(expected["vidt0__0"]["vision"]) and not clip.vision.values[-1].any()
    )


def test_sound_as_long_as_the_text_but_not_aligned_to_it_keeps_its_own_steps(folder, tmp_path):
    def change(whole):
        for part in whole.values():
            part["audio"][:, -1] = 1

    made.mmsa(folder / "mosi.pkl", "aligned", change=change)
    report = brought(folder / "mosi.pkl", tmp_path / "store")
    assert len(Store(tmp_path / "store").read("vidt0__0").audio) == 6
    assert any("audio: is as long as the text, but has values" in line for line in report.assumed)


def test_times_follow_the_rate_or_the_length_of_a_clip(folder, tmp_path):
    expected = made.mmsa(folder / "mosi.pkl")
    brought(folder / "mosi.pkl", tmp_path / "store", rates={"audio": 20.0}, seconds=6.0)
    clip, steps = Store(tmp_path / "store").read("vidt0__0"), len(expected["vidt0__0"]["vision"])
    np.testing.assert_allclose(clip.audio.times, np.arange(len(clip.audio)) / 20)
    np.testing.assert_allclose(clip.vision.times, np.arange(steps) * 6 / steps, rtol=1e-6)
    np.testing.assert_array_equal(clip.tokens.times, np.arange(len(clip.tokens)))


@pytest.mark.parametrize("pooled", ["cls", "mean"])
def test_the_pooled_text_vector_is_a_choice(pooled, folder, tmp_path):
    expected = made.mmsa(folder / "mosi.pkl")["vidt0__0"]["text"]
    brought(folder / "mosi.pkl", tmp_path / "store", pooled=pooled)
    wanted = expected[0] if pooled == "cls" else expected.mean(axis=0)
    np.testing.assert_array_equal(Store(tmp_path / "store").read("vidt0__0").pooled, wanted)


def test_a_text_vector_without_tokens_is_one_token(folder, tmp_path):
    made.own(folder)
    (folder / "text").rename(folder / "pooled")
    for file in (folder / "pooled").iterdir():
        np.save(file, np.load(file)[0])
    brought(folder, tmp_path / "store")
    clip = Store(tmp_path / "store").read("vidt0-0")
    np.testing.assert_array_equal(clip.tokens.values, clip.pooled[None])
    np.testing.assert_array_equal(clip.pooled, np.load(folder / "pooled" / "vidt0-0.npy"))


# --------------------------------------------------------------------------------------------------
# token ids alone


def with_ids(encoder):
    """Puts the ids of real words in place of the made ones."""

    def change(whole):
        for part in whole.values():
            part["raw_text"] = np.array(["so glad to see you"] * len(part["id"]))
            ids = encoder.tokenizer("so glad to see you")["input_ids"]
            part["text_bert"] = np.zeros((len(part["id"]), 3, 12), np.float32)
            part["text_bert"][:, 0, : len(ids)] = ids
            part["text_bert"][:, 1, : len(ids)] = 1

    return change


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder("micro:text", "cpu", "cls")


def test_token_ids_are_encoded_where_they_are_of_the_encoders_vocabulary(encoder, folder, tmp_path):
    made.mmsa(folder / "mosi.pkl", ids_only=True, change=with_ids(encoder))
    brought(folder / "mosi.pkl", tmp_path / "store", encoder=lambda: TokenIds(encoder))
    clip, (tokens, pooled) = (
        Store(tmp_path / "store").read("vidt0__0"),
        encoder.encode("so glad to see you"),
    )
    np.testing.assert_allclose(clip.tokens.values, tokens.values, atol=1e-6)
    np.testing.assert_allclose(clip.pooled, pooled, atol=1e-6)


def test_token_ids_of_another_vocabulary_are_refused_with_what_to_do(encoder, folder, tmp_path):
    made.mmsa(folder / "mosi.pkl", ids_only=True)
    with pytest.raises(
        ManifestError, match="token ids only, and they are not of the vocabulary"
    ) as e:
        brought(folder / "mosi.pkl", tmp_path / "store", encoder=lambda: TokenIds(encoder))
    assert "--set encoders.text=" in str(e.value) and "--without text" in str(e.value)
    report = brought(folder / "mosi.pkl", tmp_path / "store", leave_out=("text",))
    assert report.absent["text"] == {"left out of the import": 16}
    assert Store(tmp_path / "store").read("vidt0__0").tokens is None


# --------------------------------------------------------------------------------------------------
# stopping, repeating, other folders


def test_an_import_that_was_stopped_continues_and_repeats_nothing(folder, tmp_path, monkeypatch):
    expected = made.mmsa(folder / "mosi.pkl")
    write, written = Store.write, []

    def stopping(self, features, *arguments, **options):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(features.clip_id)
        write(self, features, *arguments, **options)

    monkeypatch.setattr(Store, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        brought(folder / "mosi.pkl", tmp_path / "store")
    assert not (tmp_path / "store" / "clips.csv").exists()
    monkeypatch.setattr(Store, "write", write)
    report = brought(folder / "mosi.pkl", tmp_path / "store")
    assert (report.done, report.found) == (len(expected) - 5, 5)
    report = brought(folder / "mosi.pkl", tmp_path / "store")
    assert (report.done, report.found) == (0, len(expected))


def test_a_damaged_clip_is_written_anew(folder, tmp_path):
    expected = made.mmsa(folder / "mosi.pkl")
    brought(folder / "mosi.pkl", tmp_path / "store")
    file = tmp_path / "store" / "clips" / "vidt0__0.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    assert brought(folder / "mosi.pkl", tmp_path / "store").done == 1
    audio = Store(tmp_path / "store").read("vidt0__0").audio
    np.testing.assert_array_equal(audio.values, expected["vidt0__0"]["audio"])


def test_other_features_or_settings_never_mix_with_those_of_a_folder(folder, tmp_path):
    made.mmsa(folder / "mosi.pkl")
    made.mmsa(folder / "other.pkl", seed=1)
    brought(folder / "mosi.pkl", tmp_path / "store")
    for name, options in (
        ("other.pkl", {}),
        ("mosi.pkl", {"pooled": "mean"}),
        ("mosi.pkl", {"seconds": 5.0}),
    ):
        with pytest.raises(StoreError, match="another folder"):
            brought(folder / name, tmp_path / "store", **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="letter.txt"):
        brought(folder / "mosi.pkl", tmp_path / "mine")


def test_a_source_without_validation_gets_a_seeded_selection_split(folder, tmp_path):
    made.vidmimic2(folder)
    reports = [brought(folder, tmp_path / name) for name in "ab"]
    tables = [(tmp_path / name / "clips.csv").read_text() for name in "ab"]
    assert tables[0] == tables[1] and reports[0].splits["selection"] == 3
    assert reports[0].splits == {"train": 27, "selection": 3, "test": 8, "predict": 2}
    assert any("there is no validation split: 3 of 30" in line for line in reports[0].assumed)


def test_a_table_without_splits_gets_seeded_ones(folder, tmp_path):
    made.own(folder, splits=False)
    assert brought(folder, tmp_path / "store").splits == {"train": 12, "selection": 1, "test": 3}


@pytest.mark.parametrize(
    ("name", "stored"),
    [("-3g5$_$10", "id-3g5__10"), ("a/b", "a_b"), ("x.7", "x.7"), ("../e", "id.._e")],
)
def test_an_id_becomes_a_name_of_a_file(name, stored):
    assert usable_id(name) == stored


# --------------------------------------------------------------------------------------------------
# what is wrong


def refused(source, folder, *parts, **options):
    with pytest.raises(ManifestError) as caught:
        brought(source, folder, **options)
    for part in parts:
        assert re.search(part, str(caught.value)), str(caught.value)
    assert not folder.exists()


def nan(whole):
    whole["test"]["vision"][1, 0, 0] = np.nan


def infinite(whole):
    whole["test"]["audio"][1, 0, 0] = np.inf


def too_long(whole):
    whole["train"]["audio_lengths"][2] = 99


def leak(whole):
    whole["test"]["id"][1] = whole["train"]["id"][3]


def twice(whole):
    whole["test"]["id"][1] = whole["test"]["id"][3]


def empty(whole):
    whole["valid"] = {key: value[:0] for key, value in whole["valid"].items()}


def outside(whole):
    whole["train"]["regression_labels"][0] = 3.5


def narrow(whole):
    whole["valid"]["vision"] = whole["valid"]["vision"][..., :3]


def unlabelled(whole):
    whole["valid"]["regression_labels"][0] = np.nan


def ragged(whole):
    whole["train"]["audio"] = whole["train"]["audio"][:-1]


FAULTS = {
    nan: r"vision has NaN: 1 clip \(vidx0\$_\$1\)",
    infinite: r"audio has infinite values: 1 clip",
    too_long: r"audio_lengths outside 0 to 9, .* 1 clips: vidt1\$_\$2 \(99\)",
    leak: r"1 clips stand in two splits.*vidt1\$_\$3 \(test and train\)",
    twice: r"ids that several clips have: 1 clip",
    empty: "split 'valid' has no clips",
    outside: r"label Sentiment outside -3 to 3: 1 clip \(vidt0\$_\$0 \(3.5\)\)",
    narrow: "vision has several widths: 4 wide: .*; 3 wide: 4 clips",
    unlabelled: "no label in a split that needs one: 1 clip",
    ragged: r"audio has shape \(7, 9, 5\), expected \(8 clips",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_is_wrong_is_named_and_nothing_is_written(fault, folder, tmp_path):
    made.mmsa(folder / "mosi.pkl", change=fault)
    refused(
        folder / "mosi.pkl",
        tmp_path / "store",
        FAULTS[fault],
    )


def test_all_that_is_wrong_is_told_in_one_message(folder, tmp_path):
    faults = (nan, infinite, too_long, leak, outside, narrow, unlabelled)

    def change(whole):
        for fault in faults:
            fault(whole)

    made.mmsa(folder / "mosi.pkl", change=change)
    patterns = [FAULTS[fault].replace("vidx0\\$_\\$1\\)", "vidt1\\$_\\$3\\)") for fault in faults]
    refused(folder / "mosi.pkl", tmp_path / "store", *patterns)


def test_formats_that_nobody_knows_and_places_that_are_not_there_are_named(folder, tmp_path):
    (folder / "x.pkl").write_bytes(pickle.dumps({"a": [1, 2]}))
    with pytest.raises(ChoiceError, match=r"none of the known formats(.|\n)*mmsa: a pickle"):
        brought(folder / "x.pkl", tmp_path / "store")
    with pytest.raises(ChoiceError, match="unknown format 'mosi'; the formats are: hf, merbench"):
        brought(folder / "x.pkl", tmp_path / "store", "mosi")
    with pytest.raises(ChoiceError, match="no such file or folder"):
        brought(folder / "y.pkl", tmp_path / "store")
    with pytest.raises(ManifestError, match="is it of MMSA"):
        brought(folder / "x.pkl", tmp_path / "store", "mmsa")


def test_a_pickle_without_an_ending_is_recognised_and_a_text_is_not(folder, tmp_path):
    made.mmsa(folder / "mosi.pkl")
    (folder / "mosi.pkl").rename(folder / "mosi")
    assert brought(folder / "mosi", tmp_path / "store").format == "mmsa"
    (folder / "notes.txt").write_text("no features")
    with pytest.raises(ChoiceError, match="none of the known formats"):
        brought(folder / "notes.txt", tmp_path / "other")


def test_a_file_larger_than_the_memory_is_refused_with_what_it_would_need(
    folder, tmp_path, monkeypatch
):
    with (folder / "mosei.pkl").open("wb") as file:
        file.truncate(10_000_000_000)  # sparse: takes no room
    monkeypatch.setattr(memory, "available", lambda: 8_000_000_000)
    refused(
        folder / "mosei.pkl",
        tmp_path / "store",
        r"10\.0 GB, .*up to 20\.0 GB of memory; this machine has 8\.0 GB left",
    )


def test_folders_of_features_say_what_is_missing_or_unclear(folder, tmp_path):
    made.merbench(folder)
    made.save(folder / "features/wav2vec-base-UTT/x.npy", np.zeros(3))
    refused(folder, tmp_path / "store", "--column audio=FOLDER", "wav2vec-base-UTT")
    report = brought(folder, tmp_path / "store", columns={"audio": "chinese-hubert-large-UTT"})
    assert (report.low, report.high) == (-4, 4) and report.absent["vision"] == {
        "no file in the source": 1
    }
    assert any(
        "wav2vec-base-UTT" in line or "range of the labels" in line for line in report.assumed
    )


def test_a_table_of_ones_own_with_faults_is_refused(folder, tmp_path):
    def change(table):
        table["Calm"] = table["Calm"].astype(object)
        table.loc[0, "Calm"] = "much"
        table.loc[1, "split"] = "training"
        return table

    made.own(folder, change=change)
    np.save(folder / "vision" / "vidt0-0.npy", np.array(["a", "b"]))
    np.save(folder / "text" / "vidt0-0.npy", np.zeros((2, 2, 2)))
    (folder / "audio" / "vidt0-0.npy").write_bytes(b"no numpy at all")
    refused(
        folder,
        tmp_path / "store",
        "row 2, column Calm: 'much' is not a number",
        "row 3: split 'training' is none of train",
        "text/vidt0-0: shape",
        "audio/vidt0-0.npy: no array",
    )


@pytest.mark.parametrize("cell", ["0.2_5", "nan"])
def test_a_label_is_read_as_in_a_table_of_clips(cell, folder, tmp_path):
    """Python would read 0.2_5 as 0.25, and a label called nan as one that is missing."""

    def change(table):
        return table.astype({"Calm": object}).replace({"Calm": {table["Calm"][0]: cell}})

    made.own(folder, change=change)
    refused(folder, tmp_path / "store", f"row 2, column Calm: {cell!r} is not a number")
    official = tmp_path / "official"
    made.vidmimic2(official)
    table = pd.read_csv(official / "train_split.csv", dtype=str)
    table.loc[0, "Joy"] = cell
    table.to_csv(official / "train_split.csv", index=False)
    refused(official, tmp_path / "store", f"train_split.csv, row 2: {cell!r} is not a number")


def test_an_archive_of_arrays_that_is_damaged_or_encrypted_is_named():
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.arange(1000))
    content = packed.getvalue()
    flags = content.index(b"PK\x01\x02") + 8
    encrypted = content[:flags] + b"\x01" + content[flags + 1 :]
    torn = content[:60] + bytes(40) + content[100:]
    for broken in (content[:-30], torn, encrypted):
        with pytest.raises(ValueError, match=r"a damaged \.npz"):
            readers.base.npz(broken)


def test_a_header_that_claims_more_than_the_file_holds_takes_no_memory():
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    content = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head
    with pytest.raises(ValueError, match="its content has 0 bytes"):
        readers.base.npy(content)


def test_parquet_with_ragged_steps_or_without_ids_is_refused(folder, tmp_path):
    made.hf(folder)
    file = folder / "data" / "train-00000-of-00001.parquet"
    table = made.pq.read_table(file)
    ragged = made.pa.array(
        [[[1.0, 2.0], [1.0]]] * 8, made.pa.list_(made.pa.list_(made.pa.float32()))
    )
    spoiled = table.set_column(table.schema.get_field_index("audio"), "audio", ragged)
    made.pq.write_table(spoiled, file)
    refused(
        folder, tmp_path / "store", "column audio: its steps are missing or of different widths"
    )
    made.pq.write_table(table.drop_columns(["id"]), file)
    refused(folder, tmp_path / "store", "no column of ids; name it: --column clip_id=COLUMN")
    file.write_bytes(b"PAR1 no parquet")
    refused(folder, tmp_path / "store", "is no parquet file, or damaged")


# --------------------------------------------------------------------------------------------------
# from the command line, and formats of one's own


def test_the_command_line_imports_and_says_what_was_assumed(folder, tmp_path, capsys):
    made.mmsa(folder / "mosi.pkl")
    options = ["--rate", "audio=20", "--rate", "vision=15", "--pooled", "mean"]
    asked = ["import", str(folder / "mosi.pkl"), "--to", str(tmp_path / "store"), *options]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert "16 clips (8 train, 4 selection, 4 test)" in said and "index / 20 s" in said
    assert "16 clips written now" in said and "Sentiment (-3 to 3, sentiment)" in said
    assert cli.main(asked) == 0
    assert "0 clips written now, 16 found" in capsys.readouterr().out
    identity = json.loads((tmp_path / "store" / "store.json").read_text())["identity"]
    assert re.fullmatch(r"mmsa, sha256 [0-9a-f]{64}", identity["source"])


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 2, "vision has NaN"),
        (["--rate", "audio"], 2, "write --rate MODALITY=STEPS"),
        (["--rate", "audio=x"], 2, "write --rate audio=20"),
        (["--rate", "sound=20"], 2, "they are: audio, vision, text"),
        (["--rate", "audio=-1"], 2, "above 0"),
        (["--pooled", "last"], 2, "--pooled"),
        (["--targets", "Joy"], 2, "no labels called Joy; there are Sentiment"),
        (["--import", "gone.py"], 2, "no such file"),
    ],
)
def test_a_mistake_is_one_message_with_the_right_form(
    options, code, said, folder, tmp_path, capsys
):
    made.mmsa(folder / "mosi.pkl", change=nan)
    asked = ["import", str(folder / "mosi.pkl"), "--to", str(tmp_path / "store"), *options]
    assert cli.main(asked) == code
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message and not (tmp_path / "store").exists()


def test_the_importer_in_contributing_is_ten_lines_and_works(folder, tmp_path, capsys):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = page.partition("## Features of another format")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "radio.py").write_text(code)
    rng, arrays = np.random.default_rng(0), {}
    lines = ["name,part,warmth"]
    for number in range(12):
        arrays[f"c{number}"] = rng.normal(size=(number + 2, 3)).astype(np.float32)
        made.save(folder / f"c{number}.npy", arrays[f"c{number}"])
        lines.append(f"c{number},{['train', 'dev', 'test'][number % 3]},{number}")
    (folder / "shows.csv").write_text("\n".join(lines))
    asked = ["import", str(folder), "--to", str(tmp_path / "store"), "--format", "radio"]
    assert cli.main(asked) == 2  # nobody knows it yet
    assert "unknown format 'radio'" in capsys.readouterr().err
    try:
        assert cli.main([*asked, "--import", str(tmp_path / "radio.py")]) == 0
    finally:
        readers.READERS.pop("radio", None)
    assert "12 clips (4 train, 4 selection, 4 test)" in capsys.readouterr().out
    for clip_id, array in arrays.items():
        stored = Store(tmp_path / "store").read(clip_id)
        np.testing.assert_array_equal(stored.audio.values, array)
