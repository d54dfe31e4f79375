"""The tokenizers against `transformers`', on small vocabularies."""

import io
import json
import warnings

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import CLIPTokenizer

from ditq.core.errors import UserError
from ditq.models.diffusionkit import PromptTruncated, text
from ditq.models.diffusionkit.corrections import DK
from ditq.models.diffusionkit.hub import Files
from ditq.models.diffusionkit.tokenizers import SentencePieces, byte_tokenizer
from tests.models.diffusionkit.small import CORPUS, write_clip_tokenizer

PROMPTS = [
    *CORPUS,
    "",
    "A PHOTO of   a castle,\n in\tthe snow 123!?",
    "naïve Ünïcödé, cafe\u0301 and café, 😀 emoji, 日本語 and \u00a0 spaces",
    "we'll they're i'm he'd you've it's DON'T",
    "<|endoftext|> twice <|startoftext|>",
    "snow-white & (red:1.3) #fox_ 3.14 ½ ²",
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("which", ["l", "g"])
def test_clip_tokens_equal_transformers(small, which, prompt):
    reference = CLIPTokenizer.from_pretrained(str(small.folder / f"tokenizer_{which}"))
    ids = reference(prompt, truncation=True, max_length=77)["input_ids"]
    pad = ids[-1] if which == "l" else 0
    assert text.clip_ids(small.files, which, [prompt])[0].tolist() == ids + [pad] * (77 - len(ids))


def test_words_of_the_vocabulary_are_one_token(small):
    tokenizer = byte_tokenizer(small.files, "l")
    assert [tokenizer.spell([i]) for i in tokenizer.split("the CAFÉ")] == ["the", "café"]


def test_stock_tokenizer_fails_on_what_is_not_ascii(small):
    tokenizer = byte_tokenizer(small.files, "l")
    stock = DK.tokenizer.Tokenizer(tokenizer.bpe_ranks, tokenizer.vocab)
    assert stock.tokenize("the red fox") == tokenizer.tokenize("the red fox")
    with pytest.raises(KeyError):
        stock.tokenize("日本")


def test_a_long_prompt_is_cut_with_a_warning_that_shows_the_cut(small):
    prompt = " ".join(["the red fox"] * 25 + ["in the café snow"])
    reference = CLIPTokenizer.from_pretrained(str(small.folder / "tokenizer_l"))
    with pytest.warns(
        PromptTruncated, match=r"CLIP reads 75 of the 80 tokens .* does not see 'in the café snow'"
    ):
        ids = text.clip_ids(small.files, "l", [prompt])
    assert ids[0].tolist() == reference(prompt, truncation=True, max_length=77)["input_ids"]


def test_a_prompt_that_just_fits_is_not_cut(small):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = text.clip_ids(small.files, "l", [" ".join(["fox"] * 75)])
    assert ids.shape == (1, 77)


@pytest.mark.parametrize("prompt", CORPUS)
def test_t5_tokens_equal_transformers(small, prompt):
    from transformers import T5Tokenizer

    reference = T5Tokenizer.from_pretrained(str(small.folder), extra_ids=0)
    ids = reference(prompt)["input_ids"]
    assert text.t5_ids(small.files, [prompt])[0].tolist() == ids + [0] * (77 - len(ids))


def test_t5_cut_is_shown(small):
    prompt = " ".join(["the red fox"] * 30 + ["zebra"])
    pieces = SentencePieceProcessor(model_file=str(small.folder / "spiece.model"))
    ids = pieces.encode(prompt)
    with pytest.warns(PromptTruncated, match="T5 reads 76 of") as caught:
        got = text.t5_ids(small.files, [prompt])[0].tolist()
    assert got == [*ids[:76], 1]
    message = str(caught[0].message)
    assert pieces.decode(ids[76:])[:100] in message and len(message) < 300


def test_unfit_tokenizer_files_are_named(tmp_path):
    write_clip_tokenizer(tmp_path / "tokenizer_l")
    (tmp_path / "tokenizer_l" / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(UserError, match=r"vocab\.json: got a vocabulary without '!'"):
        byte_tokenizer(Files("sd3-medium", tmp_path), "l")
    (tmp_path / "spiece.model").write_bytes(io.BytesIO(b"no model").getvalue())
    with pytest.raises(UserError, match=r"spiece\.model: got a file that cannot be read"):
        SentencePieces(tmp_path / "spiece.model")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"castle</w>": "3"}, "castle</w>: got '3'; expected a whole number"),
        ({"castle</w>": 0}, r"got \d+ numbers from 0 to \d+ for \d+ words; expected each number from 0 once"),
        ({"castle</w>": 10**6}, "got .* to 1000000 for"),
        ({"castle</w>": None}, "castle</w>: got null"),
    ],
)
def test_a_vocabulary_with_wrong_numbers_is_told(tmp_path, change, told):
    vocab = write_clip_tokenizer(tmp_path / "tokenizer_l")
    (tmp_path / "tokenizer_l" / "vocab.json").write_text(json.dumps(vocab | change))
    with pytest.raises(UserError, match=rf"vocab\.json: {told}"):
        byte_tokenizer(Files("sd3-medium", tmp_path), "l")


def test_the_end_of_text_must_be_last(tmp_path):
    vocab = write_clip_tokenizer(tmp_path / "tokenizer_l")
    swapped = {"<|endoftext|>": vocab["<|startoftext|>"], "<|startoftext|>": vocab["<|endoftext|>"]}
    (tmp_path / "tokenizer_l" / "vocab.json").write_text(json.dumps(vocab | swapped))
    with pytest.raises(
        UserError, match=r"vocab\.json: <\|endoftext\|>: got \d+; expected \d+, the last number"
    ):
        byte_tokenizer(Files("sd3-medium", tmp_path), "l")
