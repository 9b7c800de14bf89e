"""The clip table and its readers: what is accepted, and that everything wrong is reported at
once."""

import unicodedata
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from taemi_lib import profiles
from taemi_lib.data import Manifest, load, read_csv, vidmimic2
from taemi_lib.data.tables import hold_out
from taemi_lib.errors import ChoiceError, ManifestError
from taemi_lib.profiles import EMOTIONS, Data

HEADER = "clip_id,video," + ",".join(EMOTIONS)
LABELS = ".33,.33,0,0,.33,0"


@pytest.fixture
def folder(tmp_path):
    """Twenty (empty) videos v00.mp4 ... v19.mp4."""
    for i in range(20):
        (tmp_path / f"v{i:02d}.mp4").touch()
    return tmp_path


def table(folder, *rows, header=HEADER):
    path = folder / "clips.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def problems(read, *arguments):
    with pytest.raises(ManifestError) as caught:
        read(*arguments)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def test_a_csv_becomes_clips(folder):
    manifest = read_csv(
        table(
            folder,
            f'007,v00.mp4,test,"so glad, truly",{LABELS}',
            "b,v01.mp4,predict,,,,,,,",
            header="clip_id,video,split,transcript," + ",".join(EMOTIONS),
        )
    )
    first, second = manifest
    assert (first.clip_id, first.split, first.video) == ("007", "test", folder / "v00.mp4")
    assert first.transcript == "so glad, truly" and second.transcript == ""
    np.testing.assert_array_equal(first.labels, [0.33, 0.33, 0, 0, 0.33, 0])
    assert second.labels is None and second.audio is None
    assert manifest.select("test").clip_ids == ["007"]
    assert (
        manifest.targets(["007"]).shape == (1, 6) and manifest.targets(["007"]).dtype == np.float64
    )
    with pytest.raises(ValueError, match="no labels, for example b"):
        manifest.targets(["007", "b"])
    with pytest.raises(KeyError, match=r"clips\.csv has no clip 'x'"):
        manifest["x"]
    with pytest.raises(ChoiceError, match="train, selection, test, predict"):
        manifest.select("valid")


def splits(manifest):
    return {split: manifest.select(split).clip_ids for split in profiles.SPLITS}


def test_without_a_split_column_labelled_clips_get_seeded_splits(folder):
    path = table(folder, *(f"c{i},v{i:02d}.mp4,{LABELS}" for i in range(19)), "last,v19.mp4,,,,,,")
    settings = Data(source="csv", selection_share=0.2, test_share=0.3)
    found = splits(read_csv(path, settings))
    assert {split: len(ids) for split, ids in found.items()} == {
        "train": 10,
        "selection": 3,
        "test": 6,
        "predict": 1,
    }
    assert found["predict"] == ["last"]
    assert splits(read_csv(path, settings)) == found
    other = splits(read_csv(path, replace(settings, seed=1)))
    assert other["test"] != found["test"] and other["selection"] != found["selection"]


def test_with_a_split_column_only_a_missing_selection_is_drawn(folder):
    header = "clip_id,video,split," + ",".join(EMOTIONS)
    rows = [f"c{i},v{i:02d}.mp4,{'test' if i > 15 else 'train'},{LABELS}" for i in range(20)]
    found = splits(read_csv(table(folder, *rows, header=header)))
    assert found["test"] == ["c16", "c17", "c18", "c19"] and len(found["selection"]) == 2


def test_clips_of_one_group_stay_together(folder):
    header = "clip_id,video,group," + ",".join(EMOTIONS)
    rows = [f"c{i},v{i:02d}.mp4,speaker {i // 4},{LABELS}" for i in range(20)]
    for seed in range(5):
        found = splits(read_csv(table(folder, *rows, header=header), Data(source="csv", seed=seed)))
        speakers = {
            split: {(int(clip_id[1:]) // 4) for clip_id in ids} for split, ids in found.items()
        }
        assert not speakers["train"] & speakers["test"]
        assert not speakers["train"] & speakers["selection"]
        assert not speakers["selection"] & speakers["test"]
        assert all(found[split] for split in ("train", "selection", "test"))


def test_a_speaker_of_more_clips_than_the_share_is_not_held_out_while_smaller_ones_are_there():
    groups = {f"c{i:03d}": "often" if i < 80 else f"speaker {i // 5}" for i in range(100)}
    for seed in range(10):
        assert len(hold_out(groups, 0.1, seed)) == 10
        assert not any(groups[clip_id] == "often" for clip_id in hold_out(groups, 0.1, seed))
        assert len(hold_out(groups, 0.02, seed)) == 5  # a whole speaker, the smallest there is


def test_splits_that_need_labels_name_their_rows_in_a_table_without_any(folder):
    rows = [f"c{i},v{i:02d}.mp4,{'train' if i < 5 else 'predict'}" for i in range(7)]
    (said,) = problems(read_csv, table(folder, *rows, header="clip_id,video,split"))
    assert said.startswith("clips.csv, row 2, clips.csv, row 3, clips.csv, row 4 and 2 more")
    assert "the train split needs labels" in said and "Empathic Pain" in said


def test_a_column_in_other_letters_is_not_overlooked(folder):
    header = "clip_id,video,Group," + ",".join(EMOTIONS).lower()
    found = problems(read_csv, table(folder, f"a,v00.mp4,ada,{LABELS}", header=header))
    assert found[:2] == [
        "clips.csv, row 1, column Group: write it 'group'",
        "clips.csv, row 1, column admiration: write it 'Admiration'",
    ]
    assert len(found) == 7


def test_a_table_of_ids_and_videos_alone_is_one_to_predict(folder):
    manifest = read_csv(table(folder, "a,v00.mp4", "b,v01.mp4", header="clip_id,video"))
    assert splits(manifest)["predict"] == ["a", "b"] and manifest["a"].labels is None
    assert manifest["a"].transcript is None


def test_absolute_paths_may_point_anywhere(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "film.mp4"
    elsewhere.touch()
    manifest = read_csv(table(folder, f"a,{elsewhere}", header="clip_id,video"))
    assert manifest["a"].video == elsewhere


def test_missing_files_are_skipped_and_listed_when_that_is_asked_for(folder):
    path = table(folder, f"a,v00.mp4,{LABELS}", f"b,gone.mp4,{LABELS}", f"c,v01.mp4,{LABELS}")
    assert "--set data.missing_files=skip" in problems(read_csv, path)[0]
    manifest = read_csv(path, Data(source="csv", missing_files="skip"))
    assert manifest.clip_ids == ["a", "c"] and manifest.skipped == ["b: gone.mp4 is missing"]
    only = table(folder, f"b,gone.mp4,{LABELS}")
    with pytest.raises(ManifestError, match="none of its 1 clips has its file"):
        read_csv(only, Data(source="csv", missing_files="skip"))


@pytest.mark.parametrize(("separator", "spoken"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator_is_named(folder, separator, spoken):
    path = table(folder, f"a{separator}v00.mp4", header=f"clip_id{separator}video")
    (said,) = problems(read_csv, path)
    assert said == f"clips.csv, row 1: separated by {spoken}; save the table with commas"
    quoted = table(folder, f"a{separator}v00.mp4", header=f'"clip_id"{separator}"video"')
    assert problems(read_csv, quoted) == [said]


def test_hold_out_does_not_depend_on_the_order():
    ids = [f"{i:03d}" for i in range(50)]
    first, second = ({i: i for i in order} for order in (ids, ids[::-1]))
    assert hold_out(first, 0.1, 3) == hold_out(second, 0.1, 3) and len(hold_out(first, 0.1, 3)) == 5
    assert hold_out({"only": "only"}, 0.5, 0) == set() == hold_out({}, 0.5, 0)


def test_all_problems_are_listed_at_once_with_file_row_and_column(folder):
    found = problems(
        read_csv,
        table(
            folder,
            f"a,v00.mp4,{LABELS}",
            f"a,v01.mp4,{LABELS}",
            f"c,nowhere.mp4,{LABELS}",
            "d,v03.mp4,1.5,0,0,0,0,-.1",
            "e,v04.mp4,many,0,nan,0,0,0",
            f"../f,v05.mp4,{LABELS}",
            f"g,../elsewhere.mp4,{LABELS}",
            "h,v07.mp4,0,0,0,,0,0",
        ),
    )
    expected = [
        "clips.csv, row 3, column clip_id: 'a' is a duplicate of clips.csv, row 2",
        "clips.csv, row 4, column video: 'nowhere.mp4' does not exist in the data folder",
        "clips.csv, row 5, column Admiration: 1.5 is outside [0, 1]",
        "clips.csv, row 5, column Joy: -.1 is outside [0, 1]",
        "clips.csv, row 6, column Admiration: 'many' is not a number",
        "clips.csv, row 6, column Determination: 'nan' is not a number",
        "clips.csv, row 7, column clip_id: '../f' is not usable as an id",
        "clips.csv, row 8, column video: '../elsewhere.mp4' leaves the data folder",
        "clips.csv, row 9, column Empathic Pain: is empty although other labels",
    ]
    assert len(found) == len(expected)
    for line, start in zip(found, expected, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            f"a,v00.mp4,valid,{LABELS}",
            "column split: unknown split 'valid'; the splits are: train, selection",
        ),
        ("a,v00.mp4,test,,,,,,", "a clip of the test split needs labels"),
        (f"a,,train,{LABELS}", "has neither a video nor an audio file"),
        ("a,v00.mp4,train,0,0", "row 2, column 6: the row has 5 cells, the header 9"),
    ],
)
def test_other_broken_rows(folder, row, message):
    path = table(folder, row, header="clip_id,video,split," + ",".join(EMOTIONS))
    assert message in problems(read_csv, path)[0]


def test_missing_columns_are_all_named(folder):
    found = problems(read_csv, table(folder, "a,0", header="clip_id,Joy"))
    assert [line.split("column ")[1].split(":")[0] for line in found] == ["video", *EMOTIONS[:-1]]
    assert found[0].endswith("the table has: clip_id, Joy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (HEADER.encode(), "has no rows"),
        (b"", "missing column"),
    ],
)
def test_what_is_no_table_says_so(tmp_path, content, message):
    path = tmp_path / "clips.csv"
    if content is not None:
        path.write_bytes(content)
    assert message in problems(read_csv, path)[0]


def test_a_manifest_can_be_built_from_a_table_in_memory(folder):
    manifest = Manifest(pd.DataFrame({"clip_id": ["a"], "video": ["v00.mp4"]}), folder, "by hand")
    assert manifest["a"].split == "predict" and manifest["a"].labels is None


# --- names and places


def unlabelled(folder, *rows):
    return table(folder, *rows, header="clip_id,video")


def spelled(form, text):
    return unicodedata.normalize(form, text)


def test_paths_are_absolute_once_read(folder, monkeypatch):
    name = unlabelled(folder, "a,v00.mp4").name
    monkeypatch.chdir(folder)
    manifests = [read_csv(name), read_csv(name, root=".")]
    monkeypatch.chdir("/")
    for manifest in manifests:
        assert manifest["a"].video == folder / "v00.mp4" and manifest["a"].video.is_file()
        assert manifest.select("predict")["a"].video.is_absolute()


@pytest.mark.parametrize(
    "name",
    ["2024-05-01T12:30:00.mp4", "two  words.mp4", "#1%20?&.mp4", "-x.mp4", "n" * 251 + ".mp4"],
)
def test_odd_names_are_names(folder, name):
    (folder / name).touch()
    assert read_csv(unlabelled(folder, f'a,"{name}"'))["a"].video == folder / name


@pytest.mark.parametrize("disk", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("skip", ["refuse", "skip"])
def test_files_are_found_in_both_spellings(folder, disk, written, skip):
    there = folder / spelled(disk, "Zoë/één.mp4")
    there.parent.mkdir(exist_ok=True)
    there.touch()
    path = unlabelled(folder, spelled(written, "a,Zoë/één.mp4"), "b,v01.mp4")
    manifest = read_csv(path, Data(source="csv", missing_files=skip))
    assert manifest["a"].video == there and manifest.skipped == []
    (line,) = problems(read_csv, unlabelled(folder, spelled(written, "a,Zoë/eén.mp4")))
    assert "row 2, column video" in line and "does not exist" in line


def test_of_two_spellings_on_disk_the_one_that_is_written_is_meant(folder):
    for form in ("NFC", "NFD"):
        (folder / spelled(form, "é.mp4")).touch()
    for form in ("NFC", "NFD"):
        cell = spelled(form, "é.mp4")
        assert read_csv(unlabelled(folder, f"a,{cell}"))["a"].video == folder / cell
    mixed = spelled("NFC", "é") + spelled("NFD", "é")
    for other in ("NFC", "NFD"):
        (folder / spelled(other, "éé.mp4")).touch()
    (line,) = problems(read_csv, unlabelled(folder, f"a,{mixed}.mp4"))  # which one?
    assert "does not exist" in line


def test_two_spellings_of_an_id_are_one_id(folder):
    composed, apart = spelled("NFC", "Zoë"), spelled("NFD", "Zoë")
    assert read_csv(unlabelled(folder, f"{apart},v00.mp4")).clip_ids == [composed]
    (line,) = problems(read_csv, unlabelled(folder, f"{composed},v00.mp4", f"{apart},v01.mp4"))
    assert "row 3, column clip_id" in line and "is a duplicate of clips.csv, row 2" in line


def test_an_id_too_long_for_a_file_name_is_refused_in_bytes(folder):
    for clip_id in ("字" * 66, "n" * 200):
        assert read_csv(unlabelled(folder, f"{clip_id},v00.mp4")).clip_ids == [clip_id]
    for clip_id, size in (("字" * 67, 201), ("字" * 100, 300), ("n" * 201, 201)):
        (line,) = problems(read_csv, unlabelled(folder, f"{clip_id},v00.mp4"))
        assert "row 2, column clip_id" in line and f"takes {size} bytes" in line
    for skip in ("refuse", "skip"):  # and a video that no disk could hold
        (line,) = problems(
            read_csv,
            unlabelled(folder, f"a,{'字' * 100}.mp4"),
            Data(source="csv", missing_files=skip),
        )
        assert "does not exist" in line or "none of its 1 clips" in line


def test_the_longest_id_fits_into_a_store(folder, tmp_path):
    from taemi_lib.features import ClipFeatures, Store

    store = Store(tmp_path / "store", {})
    for clip_id in ("字" * 66, "n" * 200):
        store.write(ClipFeatures(clip_id, absent=dict.fromkeys(profiles.MODALITIES, "none")))
        assert clip_id in store


def test_links_that_leave_the_folder_are_refused_unless_trusted(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.mp4").touch()
    (folder / "file.mp4").symlink_to(outside / "secret.mp4")
    (folder / "twice.mp4").symlink_to(folder / "file.mp4")
    (folder / "sub").symlink_to(outside)
    (folder / "near.mp4").symlink_to("v00.mp4")
    for cell in ("file.mp4", "twice.mp4", "sub/secret.mp4"):
        (line,) = problems(read_csv, unlabelled(folder, f"a,{cell}"))
        assert "row 2, column video" in line and "data.links=follow" in line
        trusting = read_csv(unlabelled(folder, f"a,{cell}"), Data(source="csv", links="follow"))
        assert trusting["a"].video == folder / cell
        named = read_csv(unlabelled(folder, f"a,{folder / cell}"))  # whoever wrote it means it
        assert named["a"].video == folder / cell
    assert len(read_csv(unlabelled(folder, "a,near.mp4"))) == 1
    (outside / "home").symlink_to(folder)  # the folder itself may be reached by a link
    assert len(read_csv(unlabelled(outside / "home", "a,v00.mp4"))) == 1


def test_the_line_that_tells_excel_the_separator_is_passed_over(folder):
    path = table(folder, "clip_id,video", "a,v00.mp4", "b,gone.mp4", header="sep=,")
    (line,) = problems(read_csv, path)
    assert line.startswith("clips.csv, row 4, column video")  # as the file's lines count
    path = table(folder, "clip_id,video", "a,v00.mp4", header="SEP=,")
    assert read_csv(path).clip_ids == ["a"]
    for separator, spoken in ((";", "semicolons"), ("\t", "tabs"), ("^", "'^'")):
        path = table(folder, f"clip_id{separator}video", header=f"sep={separator}")
        (line,) = problems(read_csv, path)
        assert line == f"clips.csv, row 1: separated by {spoken}; save the table with commas"


def test_a_decimal_comma_is_named(folder):
    (line,) = problems(read_csv, table(folder, 'a,v00.mp4,"0,33",.33,0,0,.33,0'))
    assert line.endswith("column Admiration: '0,33' is not a number, write a decimal point")


@pytest.mark.parametrize("front", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_as_spreadsheets_write_them(folder, front, end):
    (folder / "Ünï code.mp4").touch()
    rows = ['"007","Ünï code.mp4"', "1e3,v00.mp4", '"a b",v01.mp4']
    path = folder / "clips.csv"
    path.write_bytes((front + end.join(["clip_id,video", *rows, ""])).encode())
    manifest = read_csv(path)
    assert manifest.clip_ids == ["007", "1e3", "a b"]  # no id is a number
    assert manifest["007"].video.name == "Ünï code.mp4"


def test_a_column_that_appears_twice_is_named(folder):
    (line,) = problems(read_csv, table(folder, f"a,v00.mp4,{LABELS},.9", header=f"{HEADER},Joy"))
    assert line == "clips.csv, row 1, column Joy: appears twice"


@pytest.mark.parametrize(
    ("label", "said"), [("10%", "'10%' is"), ("NaN", "'NaN' is"), ("-", "'-'")]
)
def test_a_label_that_is_no_number_is_named(folder, label, said):
    (line,) = problems(read_csv, table(folder, f"a,v00.mp4,{label},.33,0,0,.33,0"))
    assert line.startswith(f"clips.csv, row 2, column Admiration: {said}")


@pytest.fixture
def official(tmp_path):
    (tmp_path / "raw").mkdir()
    for i in range(25):
        (tmp_path / "raw" / f"{i:05d}.mp4").touch()
    header = "Filename," + ",".join(EMOTIONS)
    for name, ids in (("train", range(20)), ("valid", range(20, 23))):
        rows = [f"{i:05d}{'.mp4' * (i % 2)},{LABELS}" for i in ids]
        (tmp_path / f"{name}_split.csv").write_text("\n".join([header, *rows]))
    return tmp_path


def test_the_official_layout_knows_both_spellings_of_a_name(official):
    header = "Filename," + ",".join(EMOTIONS)
    (official / "valid_split.csv").write_text(f"{header}\n{spelled('NFC', 'Zoë')},{LABELS}\n")
    (official / "raw" / spelled("NFD", "Zoë.mp4")).touch()
    manifest = vidmimic2.read(official)
    assert manifest.select("test").clip_ids == [spelled("NFC", "Zoë")]  # and not to predict, too
    assert manifest[spelled("NFC", "Zoë")].video.is_file()
    (official / "raw" / spelled("NFC", "Anaïs.mp4")).touch()
    (official / "raw" / spelled("NFD", "Anaïs.mp4")).touch()
    (line,) = problems(vidmimic2.read, official)
    assert "is a duplicate of raw/" in line


def test_the_official_layout_mends_ids_whose_zeros_a_spreadsheet_dropped(official):
    whole = vidmimic2.read(official)
    for name in ("train", "valid"):
        path = official / f"{name}_split.csv"
        head, *rows = path.read_text().splitlines()
        path.write_text("\n".join([head, *(row[:4].lstrip("0") + row[4:] for row in rows)]))
    assert vidmimic2.read(official).table.equals(whole.table)


def test_the_official_layout_selects_from_train_tests_on_valid_and_predicts_the_rest(official):
    manifest = vidmimic2.read(official)
    sizes = {split: len(manifest.select(split)) for split in profiles.SPLITS}
    assert sizes == {"train": 18, "selection": 2, "test": 3, "predict": 2}
    assert manifest.select("predict").clip_ids == ["00023", "00024"]
    assert manifest["00001"].video == official / "raw" / "00001.mp4"
    assert load(Data(source="vidmimic2"), official).table.equals(manifest.table)


def test_the_official_layout_reports_its_own_files_and_columns(official):
    (official / "raw" / "00021.mp4").unlink()
    (official / "train_split.csv").write_text(
        (official / "train_split.csv").read_text().replace("00000,.33", "00000,7", 1)
    )
    found = problems(vidmimic2.read, official)
    assert found[0].startswith("train_split.csv, row 2, column Admiration: 7 is outside")
    assert found[1].startswith(
        "valid_split.csv, row 3, column Filename: 'raw/00021.mp4' does not exist"
    )
    (official / "valid_split.csv").unlink()
    assert "valid_split.csv: cannot be read" in problems(vidmimic2.read, official)[0]
    assert "missing folder" in problems(vidmimic2.read, official / "raw")[0]


def test_the_official_layout_skips_missing_files_when_asked(official):
    (official / "raw" / "00021.mp4").unlink()
    manifest = vidmimic2.read(official, Data(source="vidmimic2", missing_files="skip"))
    assert manifest.skipped == ["00021: raw/00021.mp4 is missing"]
    assert manifest.select("test").clip_ids == ["00020", "00022"]


def test_own_clips_without_a_table_say_how_to_name_one(tmp_path):
    with pytest.raises(ChoiceError, match=r"--set data\.table=clips\.csv"):
        load(Data(source="csv"), tmp_path)
