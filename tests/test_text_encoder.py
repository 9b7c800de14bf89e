"""Text features by any model of transformers: encoders, encoder-decoders, decoder-only language
models; equal to what transformers gives, refused by name where something does not fit."""

import numpy as np
import pytest
import torch
import transformers
from inputs import SHARED, text_folder
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional

from taemi_lib.data.media import Unreadable
from taemi_lib.errors import EncoderError
from taemi_lib.features.text import TextEncoder

VOCABULARY = ["<pad>", "</s>", "<s>", "<unk>", "so", "glad", "to", "see", "you", "sad"]
SENTENCE = "so glad to see you"
SIZES = dict(
    vocab_size=len(VOCABULARY),
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=1,
)
LEARNED = dict(
    vocab_size=len(VOCABULARY),
    n_embd=16,
    n_layer=2,
    n_head=2,
    n_positions=128,
    bos_token_id=2,
    eos_token_id=1,
)
T5 = dict(
    vocab_size=len(VOCABULARY),
    d_model=16,
    d_kv=8,
    d_ff=32,
    num_layers=2,
    num_heads=2,
    decoder_start_token_id=0,
)
BART = dict(
    vocab_size=len(VOCABULARY),
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=16,
    decoder_ffn_dim=16,
    max_position_embeddings=128,
    pad_token_id=0,
    bos_token_id=2,
    eos_token_id=1,
    decoder_start_token_id=1,
)
ENDED = {"single": "$A </s>", "special_tokens": [("</s>", 1)]}
BEGUN = {"single": "<s> $A", "special_tokens": [("<s>", 2)]}
BOTH = {"single": "<s> $A </s>", "special_tokens": [("<s>", 2), ("</s>", 1)]}


def model_folder(path, config, template=None, model="Model", **special):
    """A random model of a class named like its configuration, and a tokenizer of VOCABULARY.

    template: which special tokens are added; special: named ones, as pad_token.
    """
    torch.manual_seed(0)
    name = type(config).__name__.removesuffix("Config")
    getattr(transformers, f"{name}{model}")(config).save_pretrained(path)
    words = {word: i for i, word in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(**template)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(
        path
    )
    return str(path)


CASES = {  # {what: (configuration, head, added tokens, how many there are of SENTENCE)}
    "GPT-2, no special token": (transformers.GPT2Config(**LEARNED), "LMHeadModel", None, 5),
    "Llama, begins": (transformers.LlamaConfig(**SIZES), "ForCausalLM", BEGUN, 6),
    "Mistral, ends": (
        transformers.MistralConfig(**SIZES, num_key_value_heads=1),
        "Model",
        ENDED,
        6,
    ),
    "T5, ends": (transformers.T5Config(**T5), "ForConditionalGeneration", ENDED, 6),
    "T5's encoder alone": (transformers.T5Config(**T5), "EncoderModel", ENDED, 6),
    "BART": (transformers.BartConfig(**BART), "Model", BOTH, 7),
}
CAUSAL = ("GPT-2, no special token", "Llama, begins", "Mistral, ends")


def direct(folder, text):
    """What transformers gives, without this project: the last hidden states (T, D)."""
    ids = transformers.AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
    model = transformers.AutoModelForTextEncoding if "t5" in folder else transformers.AutoModel
    model = model.from_pretrained(folder).eval()
    with torch.inference_mode():
        if "bart" in folder:
            return model.encoder(ids).last_hidden_state[0].numpy()
        return model(input_ids=ids).last_hidden_state[0].numpy()


@pytest.mark.parametrize("what", CASES)
def test_tokens_and_their_summary_are_those_of_transformers(tmp_path, what):
    config, head, template, count = CASES[what]
    folder = model_folder(tmp_path / config.model_type, config, template, head)
    expected = direct(folder, SENTENCE)
    for pooling, summary in (("last", expected[-1]), ("mean", expected.mean(axis=0))):
        encoder = TextEncoder(folder, pooling=pooling)
        tokens, pooled = encoder.encode(SENTENCE)
        assert tokens.values.shape == (count, 16) == (count, encoder.dim)
        np.testing.assert_allclose(tokens.values, expected, atol=1e-4)
        np.testing.assert_allclose(pooled, summary, atol=1e-4)
        assert len(TextEncoder(folder, pooling=pooling, max_tokens=3).encode(SENTENCE)[0]) == 3


@pytest.mark.parametrize("pad_token", [None, "<pad>"])
def test_a_tokenizer_without_padding_token_is_as_good(tmp_path, pad_token):
    special = {} if pad_token is None else {"pad_token": pad_token}
    folder = model_folder(tmp_path / "gpt2", transformers.GPT2Config(**LEARNED), **special)
    assert transformers.AutoTokenizer.from_pretrained(folder).pad_token == pad_token
    values = TextEncoder(folder, pooling="last").encode(SENTENCE)[0].values
    np.testing.assert_allclose(values, direct(folder, SENTENCE), atol=1e-4)


@pytest.mark.parametrize("what", CAUSAL)
def test_the_first_token_of_a_decoder_is_refused_as_summary(tmp_path, what):
    config, head, template, _ = CASES[what]
    folder = model_folder(tmp_path / config.model_type, config, template, head)
    with pytest.raises(EncoderError, match=r"encoders\.text_pooling = 'cls'.*last or mean"):
        TextEncoder(folder, pooling="cls")


def test_an_encoder_may_be_summed_up_in_any_way(tmp_path):
    folder = str(text_folder(tmp_path / "bert"))
    for pooling, index in (("cls", 0), ("last", -1)):
        tokens, pooled = TextEncoder(folder, pooling=pooling).encode(SENTENCE)
        np.testing.assert_array_equal(pooled, tokens.values[index])
    with pytest.raises(ValueError, match="expected 'cls', 'mean' or 'last'"):
        TextEncoder(folder, pooling="max")


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (transformers.GPT2Config(**LEARNED | {"n_positions": 64}), 64),
        (transformers.LlamaConfig(**SIZES, max_position_embeddings=64), 64),
        (transformers.BertConfig(**SIZES, max_position_embeddings=64), 64),
        # RoBERTa counts from behind its padding token: 66 rows are 65 positions here
        (transformers.RobertaConfig(**SIZES, max_position_embeddings=66), 65),
        (transformers.BartConfig(**BART | {"max_position_embeddings": 64}), 64),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_more_tokens_than_positions_are_refused_when_loading(tmp_path, config, positions):
    folder = model_folder(tmp_path / config.model_type, config)
    with pytest.raises(EncoderError) as caught:
        TextEncoder(folder, pooling="mean", max_tokens=positions + 1)
    said = str(caught.value)
    assert said.startswith(f"encoders.max_tokens = {positions + 1}: ")
    assert f"--set encoders.max_tokens={positions}" in said
    encoder = TextEncoder(folder, pooling="mean", max_tokens=positions)
    assert len(encoder.encode("so glad " * 100)[0]) == positions  # and so many do work


def test_relative_positions_have_no_end(tmp_path):
    folder = model_folder(tmp_path / "t5", transformers.T5Config(**T5), ENDED)
    encoder = TextEncoder(folder, pooling="mean", max_tokens=1000)
    assert len(encoder.encode("so glad " * 600)[0]) == 1000


@pytest.mark.parametrize("text", ["...", " . . .", "♪ ♪", "?!", "--"])
def test_punctuation_alone_is_no_text(tmp_path, text):
    encoder = TextEncoder(str(text_folder(tmp_path / "bert")))
    with pytest.raises(Unreadable, match="no words in the transcript"):
        encoder.encode(text)
    for words in ("да.", "你好", "7", "so!"):
        assert len(encoder.encode(words)[0]) > 2


def test_a_text_without_a_single_token_is_absent(tmp_path):
    folder = model_folder(tmp_path / "gpt2", transformers.GPT2Config(**LEARNED))
    words = {word: i for i, word in enumerate(VOCABULARY)}
    deaf = Tokenizer(models.WordLevel(words, unk_token="nothing stands for the unknown"))
    deaf.pre_tokenizer = pre_tokenizers.Split("x", behavior="removed")
    transformers.PreTrainedTokenizerFast(tokenizer_object=deaf).save_pretrained(folder)
    with pytest.raises(Unreadable, match="no word of the transcript is known"):
        TextEncoder(folder, pooling="last").encode("xxx")


def test_a_text_model_that_answers_randomly_is_refused(tmp_path, monkeypatch):
    folders = [
        str(text_folder(tmp_path / "bert")),
        model_folder(tmp_path / "t5", transformers.T5Config(**T5), ENDED),
        model_folder(tmp_path / "gpt2", transformers.GPT2Config(**LEARNED)),
    ]
    for folder in folders:
        TextEncoder(folder, pooling="mean")
    monkeypatch.setattr(  # as of a model that never learned to switch it off
        torch.nn.Dropout, "forward", lambda self, x: functional.dropout(x, 0.1, training=True)
    )
    for folder in folders:
        with pytest.raises(EncoderError, match=r"encoders\.text = .*answers randomly"):
            TextEncoder(folder, pooling="mean")


def test_weights_with_gaps_are_refused_but_a_decoder_is_not_needed(tmp_path):
    from safetensors.torch import load_file, save_file

    config = transformers.T5Config(**T5)
    folder = model_folder(tmp_path / "t5", config, ENDED, "ForConditionalGeneration")
    file = tmp_path / "t5" / "model.safetensors"
    tensors = load_file(file)
    tensors = {name: tensor for name, tensor in tensors.items() if "decoder." not in name}
    save_file(tensors, file, {"format": "pt"})
    assert len(TextEncoder(folder, pooling="mean").encode(SENTENCE)[0]) == 6
    del tensors["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(EncoderError, match=r"missing or of another shape: encoder\.block\.1"):
        TextEncoder(folder, pooling="mean")


MINILM = SHARED / "weights" / "all-MiniLM-L6-v2"


@pytest.mark.slow
@pytest.mark.skipif(not MINILM.is_dir(), reason="the real weights of ../shared are not here")
def test_real_minilm_is_equal_to_transformers():
    text = "The boy is very happy about the present."
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    model = transformers.AutoModel.from_pretrained(MINILM, dtype=torch.float32).eval()
    with torch.inference_mode():
        given = tokenizer(text, return_tensors="pt", padding=False)
        expected = model(**given).last_hidden_state[0].numpy()
    tokens, pooled = TextEncoder(str(MINILM), pooling="mean").encode(text)
    np.testing.assert_allclose(tokens.values, expected, atol=1e-4)
    np.testing.assert_allclose(pooled, expected.mean(axis=0), atol=1e-4)
