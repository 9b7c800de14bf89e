"""Vision encoders: pictures are prepared as each model's own processor does, every kind of model
gives what a direct call of transformers gives, and what cannot be done right is refused by name."""

import json
import re

import numpy as np
import pytest
import torch
import transformers
from inputs import vision_folder
from transformers import AutoImageProcessor

from taemi_lib.data.media import Frames
from taemi_lib.errors import EncoderError
from taemi_lib.features.pixels import noise
from taemi_lib.features.vision import VisionEncoder, _own_order

SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
VIT = dict(SMALL, image_size=32, patch_size=8, initializer_range=0.3)
WORDS = dict(SMALL, vocab_size=50)
STAGES = dict(hidden_sizes=[8, 16], depths=[1, 1])
WINDOWS = dict(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2])
TO_32 = {"size": {"height": 32, "width": 32}}
SHORTEST = {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": 32}
# name -> (class, its sizes, processor, its settings, CLS token, tokens before the patches)
MODELS = {
    "vit": ("ViT", VIT, "ViT", TO_32, True, 1),
    "deit": ("DeiT", VIT, "DeiT", dict(TO_32, crop_size=32), True, 2),
    "beit": ("Beit", VIT, "Beit", TO_32, True, 1),
    "dinov2": ("Dinov2", dict(VIT, patch_size=14), "Bit", SHORTEST, True, 1),
    "registers": ("Dinov2WithRegisters", dict(VIT, patch_size=14), "Bit", SHORTEST, True, 5),
    "clip": ("CLIP", dict(vision_config=VIT, text_config=WORDS), "CLIP", SHORTEST, True, 1),
    "siglip": ("Siglip", dict(vision_config=VIT, text_config=WORDS), "Siglip", TO_32, False, 0),
    "mae": ("ViTMAE", VIT, "ViT", TO_32, True, 1),
    "swin": ("Swin", dict(WINDOWS, window_size=4), "ViT", TO_32, False, 0),
    "convnext": (
        "ConvNext",
        dict(STAGES, num_stages=2),
        "ConvNext",
        {"size": {"shortest_edge": 32}},
        False,
        0,
    ),
}


def pictures(count=40, side=32):
    """Frames of noise, 10 a second; side: pixels, or (height, width)."""
    size = side if isinstance(side, tuple) else (side, side)
    return Frames(noise(count, size), np.arange(count, dtype=np.float32) / 10)


def folder(path, kind, size_of_model=None, processor=None, **settings):
    """A random model of this kind with its preprocessor_config.json."""
    prefix, sizes, named, own, *_ = MODELS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{prefix}Config")(**sizes, **(size_of_model or {}))
    getattr(transformers, f"{prefix}Model")(config).save_pretrained(path)
    about = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3], "resample": 3}
    about |= {"image_processor_type": processor or f"{named}ImageProcessor"} | own | settings
    (path / "preprocessor_config.json").write_text(json.dumps(about))
    return path


def change(path, file="preprocessor_config.json", **settings):
    known = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(known | settings))


def refused(path, pooling="mean"):
    """The message with which the encoder is refused when it is loaded."""
    with pytest.raises(EncoderError) as caught:
        VisionEncoder(str(path), pooling=pooling)
    assert str(caught.value).startswith(f"vision encoder {str(path)!r}")
    return str(caught.value)


def test_frames_become_one_vector_each(tmp_path):
    folder = str(vision_folder(tmp_path / "v"))
    frames = pictures()
    for pooling in ("cls", "mean"):
        encoder = VisionEncoder(folder, pooling=pooling)
        sequence = encoder.encode(frames)
        assert sequence.values.shape == (40, 16) == (40, encoder.dim)
        np.testing.assert_array_equal(sequence.times, frames.times)
        one = encoder.encode(Frames(frames.images[35:36], frames.times[35:36]))
        np.testing.assert_allclose(one.values[0], sequence.values[35], atol=1e-5)
    with pytest.raises(ValueError, match="expected 'cls' or 'mean'"):
        VisionEncoder(folder, pooling="max")


# --- pictures ---

QUICK = {  # where only a size is reached: in torch, PIL's rounding apart
    "all that a ViT says": {},
    "a size as one number": {"size": 32},
    "a crop of nothing": {"do_center_crop": True, "crop_size": 32},
}
EXACT = {
    "nearest": {"resample": 0},
    "bicubic": {"resample": 3},
    "Lanczos": {"resample": 1},
    "no normalisation": {"do_normalize": False},
    "no rescaling": {"do_rescale": False},
    "centre crop": {"size": 40, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
    "crop of a smaller picture": {"size": 20, "do_center_crop": True, "crop_size": 32},
    "padding": {"size": 24, "do_pad": True, "pad_size": {"height": 32, "width": 32}},
    "shortest edge": {"size": {"shortest_edge": 32}, "do_center_crop": True, "crop_size": 32},
}


def theirs(path, images):
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    return torch.from_numpy(processor(list(images), return_tensors="np")["pixel_values"])


@pytest.mark.parametrize("side", [(48, 64), (30, 21)])
@pytest.mark.parametrize("settings", QUICK.values(), ids=QUICK)
def test_plain_resizing_differs_from_the_models_own_processor_by_one_grey_level(
    tmp_path, settings, side
):
    path = folder(tmp_path / "v", "vit", resample=2, **settings)
    images = noise(3, side, seed=1)
    prepare = VisionEncoder(str(path))._prepare
    std = min(prepare.processor.image_std)
    difference = (prepare(images) - theirs(path, images)).abs().max()
    assert prepare._quick and difference <= 1.05 / 255 / std
    own_size = noise(3, (32, 32), seed=1)
    torch.testing.assert_close(prepare(own_size), theirs(path, own_size), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [(48, 64), (30, 21), (3, 40)])
@pytest.mark.parametrize("settings", EXACT.values(), ids=EXACT)
def test_every_other_setting_is_followed_to_the_letter(tmp_path, settings, side):
    path = folder(tmp_path / "v", "vit", **settings)
    images = noise(3, side, seed=1)
    encoder = VisionEncoder(str(path))
    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    given = processor(list(images), return_tensors="np", input_data_format="channels_last")
    pixels = torch.from_numpy(np.asarray(given["pixel_values"], np.float32))
    assert pixels.shape == (3, 3, 32, 32)
    assert torch.equal(encoder._prepare(images), pixels)
    with torch.inference_mode():
        right = encoder.model(pixels).last_hidden_state[:, 0].numpy()
    got = encoder.encode(Frames(images, np.arange(3, dtype=np.float32))).values
    np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("name", ["ViTFeatureExtractor", "ViTImageProcessorFast", None])
def test_older_names_of_a_processor_mean_the_same(tmp_path, name):
    path = folder(tmp_path / "v", "vit")
    before = VisionEncoder(str(path)).encode(pictures(2)).values
    change(path, image_processor_type=name)
    np.testing.assert_array_equal(VisionEncoder(str(path)).encode(pictures(2)).values, before)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"do_thumbnail": True}, "do_thumbnail = True, which ViTImageProcessor"),
        ({"resample": "bicubic"}, "resample = 'bicubic', expected a number"),
        ({"image_processor_type": "NoSuchImageProcessor"}, "'NoSuchImageProcessor'"),
        ({"do_resize": False}, "do_resize"),
        ({"size": {"height": 64, "width": 64}}, r"\(2, 3, 64, 64\)"),
        ({"size": {"shortest_edge": 32}}, "do_center_crop"),
        ({"size": {"wide": 3}}, "size"),
        ({"do_center_crop": True}, "crop_size"),
        ({"size": {"height": 32, "width": 10**6}}, "size = .*1000000.*more than 4096"),
        ({"image_mean": [0.5, 0.5]}, "mean"),
        ({"image_mean": None}, "image_mean"),
        ({"size": 24, "do_pad": True, "pad_size": {"height": 8, "width": 8}}, "pad_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_that_cannot_be_followed_is_named_when_loading(tmp_path, settings, named):
    path = folder(tmp_path / "v", "vit")
    VisionEncoder(str(path))
    change(path, **settings)
    assert re.search(named, refused(path))


def test_a_model_without_a_processor_is_refused(tmp_path):
    path = folder(tmp_path / "v", "vit")
    (path / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in refused(path)


def test_a_processor_that_gives_more_than_pictures_is_refused(tmp_path):
    path = folder(tmp_path / "v", "vit", processor="VideoMAEImageProcessor")
    assert "'pixel_values': (1, 2, 3, 224, 224)" in refused(path)
    change(path, image_processor_type="Siglip2ImageProcessor", size=None)
    assert "pixel_attention_mask" in refused(path)


# --- models ---


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_gives_what_a_direct_call_gives(tmp_path, kind):
    *_, has_cls, before = MODELS[kind]
    path = folder(tmp_path / "v", kind)
    frames = pictures(3, (30, 50))
    encoder = VisionEncoder(str(path), pooling="mean")
    whole = getattr(transformers, f"{MODELS[kind][0]}Model").from_pretrained(path).eval()
    picture_half = getattr(whole, "vision_model", whole)
    if kind == "mae":
        picture_half.config.mask_ratio = 0.0
    with torch.inference_mode():
        hidden = picture_half(pixel_values=encoder._prepare(frames.images)).last_hidden_state
    mean = hidden[:, before:].mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)
    values = encoder.encode(frames).values
    np.testing.assert_allclose(values, mean, atol=1e-5)
    assert values.shape == (3, encoder.dim) == (3, 16) and np.ptp(values, axis=0).max() > 1e-3
    if has_cls:
        got = VisionEncoder(str(path), pooling="cls").encode(frames).values
        np.testing.assert_allclose(got, hidden[:, 0], atol=1e-5)
    else:
        assert "no CLS token" in refused(path, "cls")
        assert "--set encoders.vision_pooling=mean" in refused(path, "cls")


def test_a_masked_autoencoder_sees_all_patches_in_their_own_order(tmp_path):
    path = folder(tmp_path / "v", "mae")
    frames = pictures(3)
    for pooling in ("cls", "mean"):
        encoder = VisionEncoder(str(path), pooling=pooling)
        first, again = encoder.encode(frames).values, encoder.encode(frames).values
        np.testing.assert_array_equal(first, again)
        other = VisionEncoder(str(path), pooling=pooling).encode(frames).values
        np.testing.assert_array_equal(first, other)
    hidden = encoder._hidden(encoder._prepare(frames.images))
    assert hidden.shape == (3, 1 + 16, 16)
    pixels = encoder._prepare(frames.images)
    moved = pixels.clone()
    moved[:, :, -8:, -8:] += 1  # in the last patch alone
    embedded, order = encoder.model.embeddings, _own_order(encoder.model, 3)
    with torch.inference_mode():
        difference = (embedded(moved, **order)[0] - embedded(pixels, **order)[0]).abs()
    assert difference.amax(dim=(0, 2)).nonzero().flatten().tolist() == [16]


def test_a_model_that_answers_at_random_is_refused(tmp_path, monkeypatch):
    path = folder(tmp_path / "v", "vit")
    forward = transformers.ViTModel.forward

    def restless(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        keep = torch.rand(output.last_hidden_state.shape[:2]) > 0.2
        output.last_hidden_state = output.last_hidden_state * keep[..., None]
        return output

    monkeypatch.setattr(transformers.ViTModel, "forward", restless)
    with pytest.raises(EncoderError, match=rf"encoders\.vision = '{path}': .*answers randomly"):
        VisionEncoder(str(path))


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    path = folder(tmp_path / "v", "vit")
    tensors = load_file(path / "model.safetensors")
    tensors["layernorm.bias"][0] = torch.nan
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(EncoderError, match=rf"encoders\.vision = '{path}': .*not finite"):
        VisionEncoder(str(path))


def test_tokens_of_unknown_meaning_are_refused(tmp_path, monkeypatch):
    path = folder(tmp_path / "v", "vit")
    forward = transformers.ViTModel.forward

    def longer(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        tokens = output.last_hidden_state
        output.last_hidden_state = torch.cat([tokens, tokens[:, :1]], dim=1)
        return output

    monkeypatch.setattr(transformers.ViTModel, "forward", longer)
    assert "gives 18 tokens for 32 x 32 pixels" in refused(path)


def test_a_model_that_takes_no_pictures_is_refused(tmp_path):
    path = folder(tmp_path / "v", "vit")
    config = transformers.BertConfig(**WORDS)
    transformers.BertModel(config).save_pretrained(path)
    assert "does not take" in refused(path)
    blip = transformers.BlipConfig(
        vision_config=VIT, text_config=WORDS | {"encoder_hidden_size": 16}
    )
    transformers.BlipModel(blip).save_pretrained(path)
    assert "blip_vision_model" in refused(path)


def test_trying_an_encoder_leaves_the_random_state_alone(tmp_path):
    path = folder(tmp_path / "v", "mae")
    before = torch.random.get_rng_state()
    VisionEncoder(str(path)).encode(pictures(2))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_packages_own_vision_encoder_prepares_frames_as_it_always_did():
    """Its features are stored: the arithmetic, too, has to stay as it is."""
    encoder = VisionEncoder("micro:vision", pooling="mean")
    images = noise(4, (96, 96))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    small = torch.nn.functional.interpolate(pixels, (72, 72), mode="bilinear", antialias=True)
    expected = (small.round().clamp(0, 255) * 0.00392156862745098 - 0.5) / 0.25
    assert torch.equal(encoder._prepare(images), expected)
