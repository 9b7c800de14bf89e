"""The store: what goes in comes out, whoever made it is remembered, and nothing is ever half
there."""

import json
import os

import numpy as np
import pytest

from taemi_lib.errors import StoreError
from taemi_lib.features import ClipFeatures, Sequence, Store

MADE_BY = {"audio": "micro:audio@11111111, 12 s", "text": "micro:text@22222222, cls, 128 tokens"}


def features(clip_id="a", **changes):
    generator = np.random.default_rng(0)
    given = (
        dict(
            audio=Sequence(
                generator.normal(size=(7, 5)).astype(np.float32),
                np.arange(7, dtype=np.float32) / 50,
            ),
            vision=None,
            tokens=Sequence(
                generator.normal(size=(3, 4)).astype(np.float32), np.arange(3, dtype=np.float32)
            ),
            pooled=np.ones(4, np.float32),
            transcript="so glad",
            absent={"vision": "no video track"},
            damaged={"audio": "truncated: 1.0 of 2.0 s decode"},
        )
        | changes
    )
    return ClipFeatures(clip_id, **given)


def test_what_goes_in_comes_out_in_half_precision(tmp_path):
    store = Store(tmp_path, MADE_BY)
    assert "a" not in store
    store.write(features())
    there, given = Store(tmp_path).read("a"), features()
    assert there.audio.values.dtype == np.float16 and there.audio.times.dtype == np.float32
    np.testing.assert_array_equal(there.audio.values, given.audio.values.astype(np.float16))
    np.testing.assert_array_equal(there.tokens.times, given.tokens.times)
    np.testing.assert_array_equal(there.pooled, np.ones(4))
    assert there.vision is None and there.transcript == "so glad"
    assert there.absent == given.absent and there.damaged == given.damaged
    assert (
        "a" in store
        and store.clip_ids() == ["a"]
        and store.shapes("a") == {"audio": (7, 5), "text": (3, 4)}
    )
    assert store.report().values.tolist() == [["a", "vision", "no video track"]]
    assert store.report("damaged")["modality"].tolist() == ["audio"]


def test_imported_features_come_out_as_they_went_in(tmp_path):
    store, given = Store(tmp_path, MADE_BY), features(pooled=np.full(4, 1e6, np.float32))
    store.write(given, exact=True)
    there = Store(tmp_path).read("a")
    assert there.audio.values.dtype == there.pooled.dtype == np.float32
    np.testing.assert_array_equal(there.audio.values, given.audio.values)
    np.testing.assert_array_equal(there.pooled, given.pooled)


def test_a_text_vector_alone_is_the_only_token():
    clip = features(tokens=None)
    np.testing.assert_array_equal(clip.tokens.values, np.ones((1, 4)))
    with pytest.raises(ValueError, match="tokens and no pooled vector"):
        features(pooled=None)


def test_a_clip_with_nothing_keeps_its_reasons(tmp_path):
    store = Store(tmp_path, MADE_BY)
    store.write(ClipFeatures("a", absent=dict.fromkeys(("audio", "vision", "text"), "empty file")))
    assert store.read("a").absent["text"] == "empty file" and len(store.report()) == 3


def test_a_store_of_other_encoders_is_refused_with_both_names(tmp_path):
    Store(tmp_path, MADE_BY)
    with pytest.raises(
        StoreError, match="audio is 'micro:audio@11111111, 12 s' there, 'large@33333333, 12 s' now"
    ) as caught:
        Store(tmp_path, MADE_BY | {"audio": "large@33333333, 12 s"})
    assert "micro:text" not in str(caught.value)  # only what differs
    assert Store(tmp_path, MADE_BY).identity == MADE_BY


def test_a_folder_without_a_store_a_missing_clip_and_damage_are_named(tmp_path):
    with pytest.raises(StoreError, match="no feature store in this folder"):
        Store(tmp_path / "none")
    store = Store(tmp_path, MADE_BY)
    with pytest.raises(StoreError, match="no features of clip 'b'"):
        store.read("b")
    store.write(features("b"))
    file = tmp_path / "clips" / "b.safetensors"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"b\.safetensors: is damaged"):
        store.read("b")
    (tmp_path / "store.json").write_text(json.dumps({"layout": 99, "identity": MADE_BY}))
    with pytest.raises(StoreError, match="layout 99"):
        Store(tmp_path)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged"):
        Store(tmp_path, MADE_BY)


def test_an_older_layout_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "store.json").write_text(json.dumps({"layout": 1, "identity": MADE_BY}))
    with pytest.raises(StoreError, match="layout 1, this version reads 3: delete the folder"):
        Store(tmp_path, MADE_BY)


def test_a_fingerprint_tells_what_clips_were_made_from(tmp_path):
    store = Store(tmp_path, MADE_BY)
    for clip_id in "ab":
        store.write(features(clip_id), {"video": clip_id})
    one, both = store.fingerprint(["a"]), store.fingerprint(["a", "b"])
    assert one != both and Store(tmp_path).fingerprint(["a", "b"]) == both
    store.write(features("b"), {"video": "another file"})
    assert store.fingerprint(["a"]) == one and store.fingerprint(["a", "b"]) != both
    with pytest.raises(StoreError, match="no features of clip 'c'"):
        store.fingerprint(["c"])


def test_a_write_that_is_interrupted_leaves_the_old_version_or_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path, MADE_BY)
    store.write(features("a"))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for clip_id in ("a", "b"):
        with pytest.raises(KeyboardInterrupt):
            store.write(features(clip_id, transcript="new"))
    assert (
        store.read("a").transcript == "so glad" and "b" not in store and store.clip_ids() == ["a"]
    )


def test_cleaning_removes_what_killed_processes_left_and_nothing_else(tmp_path):
    store = Store(tmp_path, MADE_BY)
    store.write(features("a"))
    (tmp_path / "clips" / ".b.safetensors.123.tmp").write_bytes(b"half")
    assert store.clip_ids() == ["a"]
    store.clean()
    assert [file.name for file in (tmp_path / "clips").iterdir()] == ["a.safetensors"]


def test_numbers_that_half_precision_cannot_hold_are_refused(tmp_path):
    store = Store(tmp_path, MADE_BY)
    for value in (np.nan, 1e6):
        with pytest.raises(ValueError, match="clip a: pooled features are not finite"):
            store.write(features(pooled=np.full(4, value, np.float32)))
    assert "a" not in store


def test_features_without_values_need_a_reason():
    with pytest.raises(ValueError, match="vision has no values and no reason"):
        features(absent={})
    with pytest.raises(ValueError, match="audio has both values and a reason"):
        features(absent={"vision": "x", "audio": "y"})
    with pytest.raises(ValueError, match="expected"):
        Sequence(np.zeros((3, 2)), np.zeros(2))
