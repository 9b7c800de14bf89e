"""Encoders are downloaded by `taemi fetch`, which shows sizes and asks, and by nothing else. The
hub here is one of this machine, which serves tiny encoders in the layout of the published ones."""

import ast
import base64
import gzip
import hashlib
import io
import json
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import whisper
from huggingface_hub import constants
from inputs import SHARED, text_folder, tone, vision_folder, whisper_file, write_pictures
from PIL import Image
from skimage import data as photographs

from taemi_lib import cli
from taemi_lib.data.manifest import Clip
from taemi_lib.errors import EncoderError
from taemi_lib.features import fetching, identity, load_encoders, missing, sources
from taemi_lib.features.clip import extract_clip
from taemi_lib.profiles import PACKAGE, PROFILES, load

REAL = PROFILES["real"].encoders
COMMIT = "a" * 40


class Hub:
    """{repository: {file: bytes}} over HTTP, as huggingface.co answers, and openai's files."""

    def __init__(self):
        self.repositories, self.files = {}, {}
        self.asked: list[tuple[str, str, str]] = []  # method, path, range
        self.broken: dict[str, str] = {}  # files of which half arrives: "once", or "for good"
        hub = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def downloaded(self) -> list[str]:
        return [
            path
            for method, path, _ in self.asked
            if method == "GET" and not path.startswith("api/")
        ]

    def answer(self, request, body):
        path = request.path.partition("?")[0].strip("/")
        self.asked.append((request.command, path, request.headers.get("Range", "")))
        if path.startswith("api/models/"):
            name, _, rest = path.removeprefix("api/models/").partition("/revision/")
            name, _, tree = name.partition("/tree/")
            if name not in self.repositories:
                return self.send(request, 404, b"{}", body)
            if not tree:
                return self.send(
                    request, 200, json.dumps({"id": name, "sha": COMMIT}).encode(), body
                )
            listed = [
                {"type": "file", "path": file, "size": len(content), "oid": _hash(content)}
                for file, content in self.repositories[name].items()
            ]
            return self.send(request, 200, json.dumps(listed).encode(), body)
        if path in self.files:
            return self.send(request, 200, self.files[path], body)
        name, _, rest = path.partition("/resolve/")
        file = rest.partition("/")[2]
        content = self.repositories.get(name, {}).get(file)
        if content is None:
            return self.send(request, 404, b"", body, {"X-Error-Code": "EntryNotFound"})
        about = {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if body and file in self.broken:
            if self.broken[file] == "once":
                del self.broken[file]
            elif request.headers.get("Range"):
                return self.send(request, 403, b"", body)
            return self.send(request, 200, content, body, about, only=len(content) // 2)
        self.send(request, 200, content, body, about)

    @staticmethod
    def send(request, code, content, body, headers=(), only=None):
        start = request.headers.get("Range", "")
        if start and code == 200 and body:
            first = int(start.removeprefix("bytes=").partition("-")[0])
            size, content, code = len(content), content[first:], 206
            headers = dict(headers) | {"Content-Range": f"bytes {first}-{size - 1}/{size}"}
        request.send_response(code)
        for name, value in dict(headers).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        if only is not None:
            request.send_header("Connection", "close")
        request.end_headers()
        if body:
            request.wfile.write(content[:only])
        if only is not None:
            request.close_connection = True


def _hash(content):
    return hashlib.sha1(content).hexdigest()


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wav2vec2_files(folder):
    """As facebook/wav2vec2-base-960h: letters on top, a feature extractor that is not named."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = Wav2Vec2Config(
        conv_dim=(8,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, **sizes
    )
    Wav2Vec2ForCTC(config).save_pretrained(folder)
    settings = {
        "do_normalize": True,
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": 16000,
    }
    for name in ("preprocessor_config.json", "feature_extractor_config.json"):
        (folder / name).write_text(json.dumps(settings))
    return _files(folder) | {"pytorch_model.bin": b"not asked for", "tf_model.h5": b"nor this"}


def vit_files(folder):
    """As trpakov/vit-face-expression: seven classes on top, the settings of an old version."""
    from transformers import ViTConfig, ViTForImageClassification

    vision_folder(folder)
    config = ViTConfig.from_pretrained(folder)
    config.num_labels = 7
    torch.manual_seed(0)
    ViTForImageClassification(config).save_pretrained(folder)
    settings = {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 2,
        "size": 24,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return _files(folder) | {"pytorch_model.bin": b"not asked for", "onnx/model.onnx": b"nor this"}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The files of the real profile's encoders, tiny."""
    folder = tmp_path_factory.mktemp("published")
    names = {
        REAL.audio: wav2vec2_files(folder / "audio"),
        REAL.vision: vit_files(folder / "vision"),
        REAL.text: _files(text_folder(folder / "text")) | {"README.md": b"MiniLM"},
    }
    return names, whisper_file(folder / "base.pt", multilingual=True).read_bytes()


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """The hub and openai's address, and empty caches."""
    found = Hub()
    found.repositories = {name: dict(files) for name, files in published[0].items()}
    content = published[1]
    file = f"models/{hashlib.sha256(content).hexdigest()}/base.pt"
    found.files[file] = content
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # the least that is kept
    monkeypatch.setattr(constants, "ENDPOINT", found.address)
    template = found.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sources, "WHISPER_CACHE", tmp_path / "whisper")
    monkeypatch.setitem(whisper._MODELS, "base", f"{found.address}/{file}")
    heads = base64.b85encode(gzip.compress(np.array([[False, True]]).tobytes()))
    monkeypatch.setitem(whisper._ALIGNMENT_HEADS, "base", heads)
    yield found
    found.server.shutdown()
    found.server.server_close()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def reached(monkeypatch):
    """Every address that anything asks for."""
    found = []
    connect, ask = socket.socket.connect, socket.getaddrinfo
    monkeypatch.setattr(
        socket.socket, "connect", lambda self, to: found.append(to) or connect(self, to)
    )
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: found.append(a[:2]) or ask(*a, **k))
    return found


def test_the_plan_shows_what_would_be_downloaded_and_downloads_nothing(hub):
    planned = {encoder.source: encoder for encoder in fetching.plan(REAL)}
    assert list(planned) == [REAL.audio, REAL.vision, REAL.text, REAL.speech]
    for name, files in hub.repositories.items():
        left_out = {"pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "README.md"}
        wanted = set(files) - left_out - {"feature_extractor_config.json"}
        assert set(planned[name].files) == wanted and "model.safetensors" in wanted
        assert planned[name].size == sum(len(files[file]) for file in wanted)
        assert f"MB from {hub.address}/{name}" in str(planned[name])
    assert planned["base"].size == len(*hub.files.values())
    assert hub.downloaded() == [] and len(missing(REAL)) == 4


def test_sizes_come_before_the_question_and_no_means_no(hub, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert cli.main(["fetch", "--profile", "real"]) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["audio", "vision", "text", "speech"]
    assert all(" MB from " in line and "127.0.0.1" in line for line in lines[:4])
    assert "download " in lines[4] and "[y/N]" in lines[4]
    assert said.err == "taemi: nothing was downloaded\n" and hub.downloaded() == []


def test_a_script_must_agree_beforehand(hub, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert cli.main(["fetch", "--profile", "real"]) == 2
    assert "add --yes" in capsys.readouterr().err and hub.downloaded() == []


def portrait_film(path):
    """1.2 s of a photograph of a face, in the public domain."""
    face = np.asarray(Image.fromarray(photographs.astronaut()).resize((256, 256)))
    times = np.arange(12) / 10
    write_pictures(path, np.stack([face] * len(times)), times)
    return path


def test_everything_is_downloaded_once_and_then_a_clip_has_features_without_a_network(
    hub, monkeypatch, capsys, tmp_path, reached
):
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert cli.main(["fetch", "--profile", "real"]) == 0
    assert "everything is here" in capsys.readouterr().out
    downloaded = hub.downloaded()
    assert len(downloaded) == len(set(downloaded))
    assert not any(name in path for path in downloaded for name in (".bin", ".h5", "onnx"))

    assert cli.main(["fetch", "--profile", "real", "--yes"]) == 0
    said = capsys.readouterr().out
    assert said.count(": here: ") == 4 and said.endswith("nothing to download\n")
    assert hub.downloaded() == downloaded

    hub.asked.clear()
    reached.clear()
    encoders = load_encoders(REAL)
    film = portrait_film(tmp_path / "film.mp4")
    features = extract_clip(Clip("a", "test", film, None, "so glad to see you"), encoders)
    assert missing(REAL) == [] and reached == [] and hub.asked == []
    assert features.vision.values.shape == (12, 16)
    assert features.pooled.shape == (16,)
    np.testing.assert_allclose(features.pooled, features.tokens.values.mean(axis=0), atol=1e-6)
    assert encoders.audio.encode(tone(1.0)[0]).values.shape == (49, 16)
    # the model's own heads, which whisper sets for a published name, place its words
    assert encoders.speech.model.alignment_heads.to_dense().tolist() == [[False, True]]
    named = identity(REAL)
    assert named["audio"] == f"{REAL.audio}@{COMMIT[:8]}, 30 s"
    assert "largest" in named["vision"] and named["text"].endswith("mean, 128 tokens")


def test_a_connection_that_breaks_is_resumed(hub):
    hub.broken = {"model.safetensors": "once"}
    assert cli.main(["fetch", "--set", f"encoders.text={REAL.text}", "--yes"]) == 0
    half = len(hub.repositories[REAL.text]["model.safetensors"]) // 2
    (part,) = [part for _, _, part in hub.asked if part]
    assert half - 1000 <= int(part.removeprefix("bytes=").removesuffix("-")) <= half
    assert missing(load("demo", {"encoders.text": REAL.text}).encoders) == []


def test_a_download_that_stops_is_said_never_used_and_what_was_whole_is_kept(hub, capsys):
    hub.broken = {"model.safetensors": "for good"}
    settings = ["--set", f"encoders.text={REAL.text}"]
    assert cli.main(["fetch", *settings, "--yes"]) == 2
    assert f"{REAL.text!r}: the download stopped" in capsys.readouterr().err
    wanted = load("demo", {"encoders.text": REAL.text}).encoders
    assert ["only a part of it is in the cache" in line for line in missing(wanted)] == [True]
    with pytest.raises(EncoderError, match="`taemi fetch --profile real`"):
        load_encoders(wanted)

    hub.broken = {}
    hub.asked.clear()
    assert cli.main(["fetch", *settings, "--yes"]) == 0
    (path,) = hub.downloaded()
    assert path.endswith("/model.safetensors") and missing(wanted) == []


def test_weights_of_several_files_are_here_when_all_of_them_are(hub):
    whole = hub.repositories[REAL.text]
    content = whole.pop("model.safetensors")
    parts = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = {"weight_map": {"a": parts[0], "b": parts[1]}}
    whole |= dict.fromkeys(parts, content)
    whole["model.safetensors.index.json"] = json.dumps(index).encode()
    wanted = load("demo", {"encoders.text": REAL.text}).encoders
    *_, text, _ = fetching.plan(wanted)
    fetching.download(text)
    assert missing(wanted) == []
    place = sources.locate(REAL.text, "text")
    (sources.Path(place.where) / parts[1]).unlink()
    assert "without 1 of the 2 files of its weights" in missing(wanted)[0]
    *_, text, _ = fetching.plan(wanted)
    assert text.files == (parts[1],)


def test_a_part_of_a_whisper_is_not_taken_for_it(hub):
    cached = sources.WHISPER_CACHE / "base.pt"
    cached.parent.mkdir()
    (content,) = hub.files.values()
    cached.write_bytes(content[: len(content) // 2])
    settings = load("demo", {"encoders.speech": "base", "encoders.audio": "base"}).encoders
    assert len(missing(settings)) == 2 and "only a part of it" in missing(settings)[0]
    planned = [encoder for encoder in fetching.plan(settings) if encoder.files]
    assert [encoder.roles for encoder in planned] == [("audio", "speech")]  # one file for both
    fetching.download(planned[0])
    assert cached.read_bytes() == content and missing(settings) == []
    assert sources.locate_audio("base").identity.startswith("openai-whisper:base@")


@pytest.mark.parametrize("off", [True, False])
def test_without_a_hub_it_says_what_to_fetch_and_how(off, tmp_path, monkeypatch, capsys):
    """Set off, or with no network (`no_network` of conftest)."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", off)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sources, "WHISPER_CACHE", tmp_path / "whisper")
    monkeypatch.setattr(fetching, "_PATIENCE", 1)
    assert cli.main(["fetch", "--profile", "real", "--yes"]) == 2
    said = capsys.readouterr().err
    for role in ("audio", "vision", "text", "speech"):
        assert f"encoders.{role} = {getattr(REAL, role)!r}: " in said
    assert said.count("not on this machine") == 4 and "Traceback" not in said
    assert "nothing was downloaded" in said and "--set encoders.text=FOLDER" in said
    assert str(tmp_path / "hub") in said and ("unset it" in said) == off
    assert not (tmp_path / "hub").exists() or not list((tmp_path / "hub").rglob("snapshots"))


@pytest.mark.parametrize("command", [["extract"], ["train", "taemi"], ["predict", "a.mp4"]])
def test_no_command_downloads_what_it_lacks(command, tmp_path, monkeypatch, capsys, reached):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(sources, "WHISPER_CACHE", tmp_path / "whisper")
    (tmp_path / "a.mp4").write_bytes(b"")
    labels = ",".join(["Admiration", "Amusement", "Determination", "Empathic Pain"])
    head = f"clip_id,video,{labels},Excitement,Joy"
    splits = ["train", "train", "train", "selection", "selection", "test", "test"]
    head += ",split"
    rows = [f"c{n},a.mp4{f',0.{n}' * 6},{split}" for n, split in enumerate(splits)]
    (tmp_path / "clips.csv").write_text("\n".join([head, *rows]) + "\n")
    given = ["--profile", "real", "--set", f"data.table={tmp_path / 'clips.csv'}"]
    code = cli.main([*command, *given, "--runs-root", str(tmp_path / "runs"), "--device", "cpu"])
    said = capsys.readouterr().err
    if command[0] == "predict":  # there is no run, which is said first
        assert code == 1 and "no finished run" in said
    else:
        assert code == 2 and said.count("`taemi fetch --profile real`") == 4, said
    assert reached == [] and not (tmp_path / "whisper").exists()


def test_a_name_that_the_hub_does_not_know_or_that_is_none(hub, capsys):
    asked = ["--set", "encoders.text=nobody/nothing", "--set", "encoders.vision=not a name"]
    assert cli.main(["fetch", *asked, "--yes"]) == 2
    said = capsys.readouterr().err
    assert "encoders.text = 'nobody/nothing'" in said and "404" in said
    assert "encoders.vision = 'not a name': neither a folder here nor a hub id" in said
    assert cli.main(["fetch", "--set", "encoders.speech=huge", "--yes"]) == 2
    assert "the published models are" in capsys.readouterr().err
    hub.repositories["some/words"] = {"config.json": b"{}", "weights.gguf": b"w"}
    assert cli.main(["fetch", "--set", "encoders.text=some/words", "--yes"]) == 2
    assert "no weights of it that are read here" in capsys.readouterr().err


def test_what_lies_in_the_package_or_in_a_folder_needs_no_hub(tmp_path, capsys, reached):
    folder = text_folder(tmp_path / "text")
    assert cli.main(["fetch", "--set", f"encoders.text={folder}"]) == 0
    said = capsys.readouterr().out
    assert f"here: {folder}" in said and "nothing to download" in said and reached == []


def test_every_loading_of_an_encoder_is_from_this_machine_only():
    """So that transformers never downloads: every `from_pretrained` of `features` says so."""
    seen = 0
    for path in sorted((PACKAGE / "features").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
            if name in ("from_pretrained", "get_config_dict", "get_image_processor_dict"):
                seen += 1
                said = ast.unparse(call) + ast.unparse(tree) * ("**asked" in ast.unparse(call))
                assert "HERE_ONLY" in said or "local_files_only=True" in said, f"{path}: {said}"
            if name in ("snapshot_download", "_download") or name == "urlopen":
                assert path.name == "fetching.py"
            if name == "load_model":  # by a published name, whisper would download it
                assert ast.unparse(call.args[0]) == "place.where"
    assert seen >= 10


def test_the_real_profile_is_as_its_encoders_cards_ask():
    assert PROFILES["real"].data.source == "csv"
    assert REAL.text_pooling == "mean" and REAL.face == "largest" and REAL.vision_pooling == "cls"
    named = (REAL.audio, REAL.vision, REAL.text)
    assert all(name.count("/") == 1 for name in named) and REAL.speech in whisper._MODELS


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="../shared is not here")
def test_the_same_profile_with_local_folders(tmp_path, published, reached):
    """Whisper's encoder for the sound, Whisper, MiniLM: real; the face's network is a tiny one."""
    (tmp_path / "vit").mkdir()
    for name, content in published[0][REAL.vision].items():
        if "/" not in name and not name.endswith(".bin"):
            (tmp_path / "vit" / name).write_bytes(content)
    heard = str(SHARED / "weights" / "whisper-tiny.en.pt")
    settings = replace(
        REAL,
        audio=heard,
        speech=heard,
        vision=str(tmp_path / "vit"),
        text=str(SHARED / "weights" / "all-MiniLM-L6-v2"),
    )
    assert missing(settings) == [] and not any(one.files for one in fetching.plan(settings))
    encoders = load_encoders(settings)
    film = portrait_film(tmp_path / "film.mp4")
    spoken = sorted((SHARED / "media").glob("*.wav"))[0]
    features = extract_clip(Clip("a", "test", film, spoken), encoders)
    assert not features.absent and len(features.transcript.split()) > 10
    assert features.audio.values.shape[1] == 384 and features.vision.values.shape == (12, 16)
    assert features.pooled.shape == (384,)
    np.testing.assert_allclose(features.pooled, features.tokens.values.mean(axis=0), atol=1e-5)
    assert reached == []
