"""Files of foreign origin: nothing they bring is run, nothing takes memory because they say so, and
each is refused in one line that names it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from inputs import SHARED, encoder_settings, tone, whisper_file, write_wav
from safetensors.torch import load_file
from test_training import PRESET, numbers, run

from taemi_lib import cli, models, profiles, training
from taemi_lib.errors import (
    CheckpointError,
    CourseError,
    EncoderError,
    ManifestError,
    RunError,
    StoreError,
    TaemiError,
)
from taemi_lib.features import Store, identity
from taemi_lib.features.audio import AudioEncoder
from taemi_lib.features.speech import SpeechToText
from taemi_lib.features.text import TextEncoder
from taemi_lib.features.vision import VisionEncoder
from taemi_lib.prediction import Predictor
from taemi_lib.profiles import ROOT
from taemi_lib.runs import load_run
from taemi_lib.support import files

LOADERS = {
    "audio": AudioEncoder,
    "vision": VisionEncoder,
    "speech": SpeechToText,
    "text": TextEncoder,
}


class Bomb:
    """Unpickled without care, it writes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def marker(tmp_path):
    """No test of this file may end with it."""
    path = tmp_path / "it-was-run"
    yield path
    assert not path.exists(), "foreign code was run"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """One sound folder of each encoder, to be copied."""
    folder = tmp_path_factory.mktemp("encoders")
    encoder_settings(folder)
    return folder


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch):
    def asked(text=""):
        raise AssertionError(f"a question on the terminal: {text}")

    monkeypatch.setattr("builtins.input", asked)


def copied(given, tmp_path, role):
    return Path(shutil.copytree(given / role, tmp_path / role))


def refused(role, place, *said):
    """That the encoder is an EncoderError of one line with all of these words."""
    with pytest.raises(EncoderError) as caught:
        LOADERS[role](str(place))
    assert "\n" not in (message := str(caught.value)) and len(message) < 1500
    for word in (role, str(place), *said):
        assert word in message, message


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_bomb_goes_off_where_nobody_takes_care(tmp_path):
    torch.save(Bomb(tmp_path / "boom"), tmp_path / "bomb.pt")
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "boom").exists()


# --------------------------------------------------------------------------------------------------
# code


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("role", ["speech", "audio"])
def test_a_whisper_file_with_code_is_refused(tmp_path, marker, role, zipped):
    held = {"dims": Bomb(marker), "model_state_dict": {"a": Bomb(marker)}}
    torch.save(held, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    refused(role, tmp_path / "w.pt", "could run code")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("role", ["audio", "vision", "text"])
def test_weights_with_code_are_refused(given, tmp_path, marker, role, zipped):
    folder = copied(given, tmp_path, role)
    weights = load_file(folder / "model.safetensors") | {"more": Bomb(marker)}
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    refused(role, folder, "could run code")


def test_weights_as_bin_without_code_are_still_read(given, tmp_path):
    folder = copied(given, tmp_path, "text")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    tokens, _ = TextEncoder(str(folder)).encode("so glad")
    assert (tokens.values == TextEncoder(str(given / "text")).encode("so glad")[0].values).all()


@pytest.mark.parametrize(
    ("role", "file", "asked"),
    [
        ("text", "config.json", "AutoModel"),
        ("text", "tokenizer_config.json", "AutoTokenizer"),
        ("audio", "config.json", "AutoConfig"),
        ("audio", "preprocessor_config.json", "AutoFeatureExtractor"),
        ("vision", "config.json", "AutoModel"),
        ("vision", "preprocessor_config.json", "AutoImageProcessor"),
    ],
)
def test_code_of_their_own_is_refused_and_nobody_is_asked(
    given, tmp_path, marker, role, file, asked
):
    folder = copied(given, tmp_path, role)
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: ...\n")
    known = {"architectures": ["OwnModel"]} if file == "config.json" else {}
    change(folder / file, auto_map={asked: "own.Own"}, model_type="own", **known)
    refused(role, folder, file, "auto_map", "never run here")


def test_a_class_that_transformers_has_itself_is_used_instead_of_the_folders_code(
    given, tmp_path, marker
):
    folder = copied(given, tmp_path, "text")
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass BertModel: ...\n")
    change(folder / "config.json", auto_map={"AutoModel": "own.BertModel"})
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertModel"]
    assert TextEncoder(str(folder)).model.__module__.startswith("transformers.")


def test_nothing_trusts_remote_code_or_reads_pickles_with_code():
    """A later line that does is seen here."""
    for path in sorted((ROOT / "taemi_lib").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for word in ("trust_remote_code=True", '"trust_remote_code": True', "weights_only=False"):
            assert word not in text, f"{path.name}: {word}"
        for word in ("pickle.load", "joblib", "np.load(", "allow_pickle", "yaml.load"):
            assert word not in text, f"{path.name}: {word}"
        for call in text.split("torch.load(")[1:]:
            assert "weights_only=True" in call.split("\n")[0], f"{path.name}: torch.load"


# --------------------------------------------------------------------------------------------------
# claims of encoders: all under a limit of memory, in a process of its own

LIMIT = 2 << 30  # bytes beyond what the libraries take; what the files claim is far more

PROGRAM = """
import json, resource, sys
from taemi_lib.errors import TaemiError
from taemi_lib.features.audio import AudioEncoder
from taemi_lib.features.speech import SpeechToText
from taemi_lib.features.text import TextEncoder
from taemi_lib.features.vision import VisionEncoder
from taemi_lib.prediction import Predictor
loaders = dict(audio=AudioEncoder, speech=SpeechToText, text=TextEncoder, vision=VisionEncoder,
               run=Predictor)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + {limit}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for kind, place in json.loads(sys.argv[1]):
    try:
        loaders[kind](place)
        said = "loaded"
    except TaemiError as error:
        said = f"{{type(error).__name__}}: {{error}}"
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([said, taken]), flush=True)
"""


def claims(given, tmp_path):
    """{name: (role, place, what the message says)}"""
    made = {}

    def folder(name, role, said, file="config.json", **changes):
        path = Path(shutil.copytree(given / role, tmp_path / name))
        change(path / file, **changes)
        made[name] = (role, path, said)
        return path

    for role in ("audio", "text", "vision"):
        folder(f"{role}-wide", role, "config.json", hidden_size=10**9)
        folder(f"{role}-deep", role, "num_hidden_layers = 1000000000", num_hidden_layers=10**9)
        folder(f"{role}-labels", role, "num_labels", num_labels=10**9)
    folder("text-words", "text", "vocab_size", vocab_size=10**12)
    folder("text-some-words", "text", "its weights have", vocab_size=9_000_000)
    folder("text-positions", "text", "its weights have", max_position_embeddings=10**10)
    folder("vision-picture", "vision", "its weights have", image_size=10**6)
    folder("audio-kernel", "audio", "its weights have", num_conv_pos_embeddings=10**12)
    for key in ("n_vocab", "n_audio_layer", "n_text_head", "n_audio_state", "n_audio_ctx"):
        folder(f"speech-{key}", "speech", key, **{key: 10**9})
    folder("speech-word", "speech", "n_mels", n_mels="many")
    pixels = {"size": {"height": 10**6, "width": 10**6}}
    folder("vision-pixels", "vision", "4096", "preprocessor_config.json", **pixels)
    tensor = {"dtype": "F32", "shape": [10**13 // 4], "data_offsets": [0, 10**13]}
    for role in ("audio", "text", "vision", "speech"):
        path = folder(f"{role}-terabytes", role, "cannot be loaded")
        header = json.dumps({"a": tensor}).encode()
        (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        path = folder(f"{role}-header", role, "cannot be loaded")
        (path / "model.safetensors").write_bytes((10**13).to_bytes(8, "little") + b"{}")
        path = folder(f"{role}-nested", role, "config.json is refused")
        (path / "config.json").write_text("[" * 100_000)
        path = folder(f"{role}-array", role, "holds a list")
        (path / "config.json").write_text("[1, 2]")
        path = folder(f"{role}-large", role, "bytes")
        os.truncate(path / "config.json", 100_000_000)
    path = folder("text-packed", "text", "are packed")
    (path / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(40_000_000)}, tmp_path / "plain.bin")
    repack(tmp_path / "plain.bin", path / "pytorch_model.bin")
    whisper = whisper_file(tmp_path / "fine.pt", window=20)
    held = torch.load(whisper, weights_only=True)
    for key, value in (("n_vocab", 10**12), ("n_audio_state", 10**9), ("n_text_layer", 10**9)):
        torch.save(held | {"dims": held["dims"] | {key: value}}, tmp_path / f"{key}.pt")
        made[f"file-{key}"] = ("speech", tmp_path / f"{key}.pt", key)
    torch.save(held | {"dims": held["dims"] | {"n_vocab": 51_000}}, tmp_path / "near.pt")
    made["file-near"] = ("audio", tmp_path / "near.pt", "n_vocab = 51000, its weights have")
    torch.save([1], tmp_path / "list.pt")
    made["file-list"] = ("speech", tmp_path / "list.pt", "cannot be loaded")
    return made


def repack(source, target):
    """The same archive, but compressed: zeros take nothing."""
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))


def limited(places):
    """[(what was said, KiB that it took)] of (kind, place), in a process with little memory."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(limit=LIMIT), json.dumps(places)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        timeout=300,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(found) == len(places), done.stderr[-2000:]
    return found


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="../shared is not here")
@pytest.mark.slow
def test_published_weights_claim_nothing_that_is_refused():
    weights = SHARED / "weights"
    assert SpeechToText(str(weights / "whisper-tiny.en.pt")).identity
    assert TextEncoder(str(weights / "all-MiniLM-L6-v2"), pooling="mean").dim == 384


@pytest.mark.parametrize("profile", ["demo"])
def test_the_packages_own_encoders_pass(profile):
    assert identity(profiles.PROFILES[profile].encoders)


# --------------------------------------------------------------------------------------------------
# runs


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that stopped after two of its epochs."""
    folder = tmp_path_factory.mktemp("runs") / "half"
    with pytest.MonkeyPatch.context() as patch:
        keep = training._keep

        def stop(work, network, state, history, best):
            keep(work, network, state, history, best)
            if len(history) == 2:
                raise KeyboardInterrupt

        patch.setattr(training, "_keep", stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder)
    return folder


def resumed(half, tmp_path, spoil):
    folder = Path(shutil.copytree(half, tmp_path / "run"))
    spoil(folder)
    return folder


def replaced(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def other_moments(folder):
    state = torch.load(folder / "last" / "optimizer.pt", weights_only=True)
    for entry in state["optimizer"]["state"].values():
        entry["exp_avg"] = torch.zeros(3)
    torch.save(state, folder / "last" / "optimizer.pt")


def test_a_run_whose_state_holds_code_is_not_resumed(half, tmp_path, marker):
    bomb = {"optimizer": Bomb(marker)}
    folder = resumed(half, tmp_path, lambda path: torch.save(bomb, path / "last" / "optimizer.pt"))
    with pytest.raises(RunError, match=r"optimizer\.pt is damaged .*more than numbers") as caught:
        run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("optimizer.pt", lambda f: torch.save([1], f / "last" / "optimizer.pt")),
        ("optimizer.pt", lambda f: torch.save({"optimizer": {}}, f / "last" / "optimizer.pt")),
        ("optimizer.pt", replaced("last/optimizer.pt", b"")),
        ("optimizer.pt", other_moments),
        ("model.safetensors", replaced("last/model.safetensors", b"\xff" * 40)),
        ("state.json", replaced("last/state.json", b"[" * 100_000)),
        ("state.json", replaced("last/state.json", b'{"history": [1, 2]}')),
        ("state.json", replaced("last/state.json", b'{"history": [{"epoch": 7}]}')),
        ("state.json", replaced("last/state.json", b"{}")),
        ("config.json", replaced("config.json", b"[]")),
        ("config.json", replaced("config.json", b" " * 20_000_000 + b"{}")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_with_a_foreign_file_is_not_resumed(half, tmp_path, name, spoil):
    folder = resumed(half, tmp_path, spoil)
    with pytest.raises(RunError, match=name) as caught:
        run(folder)
    assert "\n" not in str(caught.value)


def test_a_run_whose_state_unpacks_to_more_than_it_has_is_not_resumed(half, tmp_path):
    def spoil(folder):
        repack(half / "last" / "optimizer.pt", folder / "last" / "optimizer.pt")

    torch_state = zipfile.ZipFile(half / "last" / "optimizer.pt").infolist()
    assert all(part.compress_type == zipfile.ZIP_STORED for part in torch_state)
    folder = resumed(half, tmp_path, spoil)
    with pytest.raises(RunError, match="are packed"):
        run(folder)


def test_an_untouched_run_is_resumed_to_the_same_numbers(half, tmp_path):
    folder = resumed(half, tmp_path, lambda folder: None)
    assert numbers(run(folder)) == numbers(run(tmp_path / "whole"))
    assert PRESET.epochs == len(load_run(folder).history)


@pytest.mark.parametrize("name", ["config.json", "history.json", "metrics.json"])
@pytest.mark.parametrize("content", [b"7", b"[[1]]", b"{", b"[" * 100_000, b"\xff\xfe"])
def test_a_runs_json_of_another_kind_is_a_run_error(half, tmp_path, name, content):
    folder = Path(shutil.copytree(half, tmp_path / "run"))
    (folder / name).write_bytes(content)
    with pytest.raises(RunError, match=rf"{name} is damaged"):
        load_run(folder)


# --------------------------------------------------------------------------------------------------
# checkpoints that are to predict

SIZES = {"audio_dim": 19, "vision_dim": 16, "text_dim": 16, "width": 8, "heads": 2, "mlp_width": 8}


@pytest.fixture(scope="module")
def checkpoint(given, tmp_path_factory):
    """A run's folder that predicts, of random weights and the encoders of `given`."""
    folder = tmp_path_factory.mktemp("predicts") / "seed0"
    torch.manual_seed(0)
    models.create("taemi", **SIZES).save_pretrained(folder / "best")
    encoders = profiles.Encoders(
        **{role: str(given / role) for role in LOADERS}, text_pooling="cls", max_tokens=16
    )
    config = {
        "system": "taemi",
        "seed": 0,
        "sizes": SIZES,
        "encoders": asdict(encoders),
        "training": {"audio_average": 2},
        "data": {"train": {"encoders": identity(encoders)}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def spoiled(checkpoint, tmp_path, name, content):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "run"))
    if isinstance(content, dict):
        change(folder / name, **content)
    else:
        (folder / name).write_bytes(content)
    return folder


def test_the_checkpoint_of_these_tests_predicts(checkpoint, tmp_path):
    found = Predictor(checkpoint, "cpu").predict(write_wav(tmp_path / "a.wav", tone(1.0)))
    assert found.low is None and "is not calibrated" in found.interval


FOREIGN = {
    "json-list": ("config.json", b"[1]", "holds a list"),
    "json-nested": ("config.json", b'{"a":' * 100_000, "nested too deeply"),
    "json-large": ("config.json", b'{"a": "' + b"x" * 20_000_000 + b'"}', "bytes"),
    "averaging": ("config.json", {"training": {"audio_average": 0}}, "audio_average"),
    "encoders": ("config.json", {"encoders": {"color": "blue"}}, "encoders are no settings"),
    "encoder-kinds": ("config.json", {"encoders": {"audio_seconds": "x"}}, "no settings"),
    "widths": ("config.json", {"sizes": SIZES | {"audio_dim": 10**12}}, "audio_dim|audio is"),
    "best-list": ("best/config.json", b"[1]", "holds a list"),
    "best-width": ("best/config.json", {"width": 10**9}, "other sizes|damaged"),
    "best-some-width": ("best/config.json", {"width": 60_000}, "other sizes"),
    "best-text": ("best/config.json", {"text_dim": 10**12}, "other sizes|damaged"),
    "best-kinds": ("best/config.json", {"width": "wide"}, "damaged"),
    "best-system": ("best/config.json", {"system": ["taemi"]}, "holds a"),
    "weights": ("best/model.safetensors", b"\x80\x04" * 40, "damaged"),
    "weights-claim": ("best/model.safetensors", (10**13).to_bytes(8, "little"), "damaged"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_checkpoint_is_refused_in_one_line(checkpoint, tmp_path, case):
    name, content, said = FOREIGN[case]
    folder = spoiled(checkpoint, tmp_path, name, content)
    with pytest.raises((CheckpointError, TaemiError), match=said) as caught:
        Predictor(folder, "cpu")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_checkpoint_of_pickles_is_never_unpickled(checkpoint, tmp_path, marker):
    folder = Path(shutil.copytree(checkpoint, tmp_path / "run"))
    torch.save(Bomb(marker), folder / "best" / "pytorch_model.bin")
    Predictor(folder, "cpu")  # there is a model.safetensors, and nothing else is looked at
    torch.save(Bomb(marker), folder / "best" / "model.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        Predictor(folder, "cpu")


@pytest.mark.parametrize("content", [b"[1]", b"[" * 50_000, b"{}", b'{"a": "' + b"x" * 10**8])
def test_a_foreign_calibration_gives_no_intervals_and_says_why(checkpoint, tmp_path, content):
    folder = spoiled(checkpoint, tmp_path, "calibration.json", content)
    found = Predictor(folder, "cpu")
    assert found.calibration is None
    assert "calibration.json is damaged" in found.uncalibrated and "\n" not in found.uncalibrated


@pytest.mark.skipif(sys.platform != "linux", reason="the limit and what is taken are Linux's")
def test_what_files_claim_takes_no_memory_and_is_refused_by_name(given, checkpoint, tmp_path):
    made = claims(given, tmp_path)
    for case in ("best-width", "best-some-width", "best-text", "widths"):
        (tmp_path / case).mkdir()
        name, content, _ = FOREIGN[case]
        made[case] = ("run", spoiled(checkpoint, tmp_path / case, name, content), "")
    found = limited([[role, str(place)] for role, place, _ in made.values()])
    for (name, (role, place, said)), (message, taken) in zip(made.items(), found, strict=True):
        kinds = (f"EncoderError: {role} encoder ", f"EncoderError: encoders.{role} = ")
        assert message.startswith("CheckpointError: " if role == "run" else kinds), (name, message)
        assert place.name in message and said in message, (name, message)
        assert "\n" not in message, (name, message)
        assert taken < 600_000, f"{name}: {taken} KiB"


# --------------------------------------------------------------------------------------------------
# other files, and the command line


@pytest.mark.parametrize("content", [b"[1]", b"7", b"[" * 100_000, b" " * 20_000_000, b"\xff"])
def test_a_foreign_store_is_refused(tmp_path, content):
    Store(tmp_path, {"audio": "x"})
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.json: is damaged"):
        Store(tmp_path)


def test_json_is_read_up_to_a_size_and_of_the_kind_that_is_asked_for(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert files.read_json(path) == {"a": 1}
    with pytest.raises(ValueError, match="at most 7 are read"):
        files.read_json(path, largest=7)
    with pytest.raises(ValueError, match="holds a dict, expected a list"):
        files.read_json(path, kind=list)


def test_the_courses_and_the_datasets_own_json_is_checked(tmp_path):
    from taemi_lib import course
    from taemi_lib.data.synthmimic import dataset

    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(CourseError, match=r"summary\.json is damaged"):
        course.read_json(tmp_path / "summary.json")
    (tmp_path / dataset.SETTINGS).write_text("[]")
    with pytest.raises(ManifestError, match="is damaged"):
        dataset._refuse_other_settings(tmp_path, {"seed": 0})


def test_the_command_line_says_it_in_one_line_and_an_exit_code(
    given, checkpoint, tmp_path, marker, capsys
):
    sound = write_wav(tmp_path / "a.wav", tone(1.0))
    torch.save({"dims": Bomb(marker)}, tmp_path / "w.pt")
    config = json.loads((checkpoint / "config.json").read_text())
    encoders = config["encoders"] | {"speech": str(tmp_path / "w.pt")}
    found = identity(replace(profiles.Encoders(**encoders)))
    bomb = spoiled(
        checkpoint,
        tmp_path,
        "config.json",
        {"encoders": encoders, "data": {"train": {"encoders": found}}},
    )
    (tmp_path / "second").mkdir()
    damaged = spoiled(checkpoint, tmp_path / "second", "best/model.safetensors", b"\x80" * 99)
    for folder, code, said in ((bomb, 2, "could run code"), (damaged, 1, "is damaged")):
        arguments = ["predict", str(sound), "--checkpoint", str(folder), "--device", "cpu"]
        assert cli.main(arguments) == code
        lines = [line for line in capsys.readouterr().err.splitlines() if "taemi: " in line]
        assert len(lines) == 1 and said in lines[0] and "Traceback" not in lines[0]
