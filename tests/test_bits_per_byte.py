"""Bits per byte: against a naive computation, across tokenizers, over long texts, in and out of training mode."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertLMHeadModel, PreTrainedTokenizerFast

from hf_vocab_extend import bits_per_byte
from hf_vocab_extend.errors import (
    CorpusError,
    InvalidOptionError,
    UnsupportedModelError,
    UnsupportedTokenizerError,
    VocabExtendWarning,
)
from hf_vocab_extend.evaluation import scoring
from hf_vocab_extend.evaluation.masking import deal_units, unit_ends, units_of_tokens

from .factories import english, swahili, tokenizer
from .models import build
from .stub_extension import make_bert
from .tiny_models import make_llama, make_t5

READS_AHEAD = ("xlnet",)
HEADS = ("gpt2", "llama", "gemma2", "cohere", "bloom", "opt", "mamba", "xlnet", "gemma3_multimodal", "mllama")
"""Scaled, capped and biased heads, bodies with and without positions, and one that reads ahead."""
MASKED = ("bert", "roberta", "distilbert", "albert", "deberta_v2", "modernbert", "mpnet", "xlm")


def naive_causal(model, own, text):
    """Token by token, each in a forward pass of its own."""
    ids = own(text, add_special_tokens=False)["input_ids"] + [own.eos_token_id]
    context, bits = [own.bos_token_id], 0.0
    for token in ids:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([context])).logits[0, -1].double()
        bits -= float(torch.log_softmax(logits, 0)[token]) / math.log(2)
        context.append(token)
    return bits, len(ids)


def test_a_causal_model_agrees_with_a_pass_per_token():
    own = tokenizer("llama3")
    model = make_llama(own)
    texts = ["A short text.", "Another one, a little longer than the first.", "x"]
    expected = [naive_causal(model, own, text) for text in texts]
    measured = bits_per_byte(model, own, texts, batch_size=2)
    assert measured.bits == pytest.approx(sum(bits for bits, _ in expected), rel=1e-5)
    assert measured.tokens == sum(count for _, count in expected)
    assert measured.bytes == sum(len(text.encode()) for text in texts)
    assert measured.bits_per_byte == measured.bits / measured.bytes
    assert (measured.end_tokens, measured.texts, measured.measure) == (3, 3, "causal")


@pytest.mark.parametrize("name", HEADS)
def test_small_chunks_of_logits_change_nothing(name, monkeypatch):
    own = tokenizer("llama3")
    model = build(name, vocab_size=len(own))
    if name in READS_AHEAD:
        with pytest.raises(UnsupportedModelError, match="depends on the tokens after it"):
            bits_per_byte(model, own, english(4))
        return
    whole = bits_per_byte(model, own, english(4), max_length=24)
    monkeypatch.setattr(scoring, "LOGIT_BUDGET", 5 * len(own))
    chunked = bits_per_byte(model, own, english(4), max_length=24)
    assert chunked.bits == pytest.approx(whole.bits, rel=1e-5)
    own_way = scoring.Scorer(model, 0)
    own_way.body = None
    rows = [scoring.Row(list(range(4, 14)), list(range(9)), list(range(5, 14)))]
    short_way = scoring.Scorer(model, 0)
    with torch.no_grad():
        (_, one), (_, other) = next(own_way.bits(rows, 1)), next(short_way.bits(rows, 1))
    assert torch.allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("masking", ["groups", "token", "word"])
@pytest.mark.parametrize("name", MASKED)
def test_every_token_counts_once_under_masked_models(name, masking):
    own = tokenizer("bert-uncased")
    measured = bits_per_byte(build(name, vocab_size=len(own)), own, english(3), masking=masking)
    assert measured.tokens == sum(len(ids) for ids in own(english(3), add_special_tokens=False)["input_ids"])
    assert measured.bytes == sum(len(text.encode()) for text in english(3))
    assert measured.end_tokens == 0
    assert measured.measure.startswith("masked")


@pytest.mark.parametrize(
    ("masking", "hides"), [("token", lambda word, i, j: i == j), ("word", lambda w, i, j: j >= i)]
)
def test_a_masked_model_agrees_with_a_pass_per_token(masking, hides):
    own, model = tokenizer("bert-uncased"), make_bert()
    text = "The virus spreads between people."
    encoded = own(text)
    words = encoded.word_ids()
    bits = 0.0
    for place, word in enumerate(words):
        if word is None:
            continue
        ids = torch.tensor([encoded["input_ids"]])
        for other, other_word in enumerate(words):
            if other_word == word and hides(word, place, other):
                ids[0, other] = own.mask_token_id
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, place].double()
        bits -= float(torch.log_softmax(logits, 0)[encoded["input_ids"][place]]) / math.log(2)
    assert bits_per_byte(model, own, [text], masking=masking).bits == pytest.approx(bits, rel=1e-5)


def test_groups_are_words_whatever_the_tokenizer():
    text = "Watoto wa shule wanapenda kusoma vitabu, na walimu pia; ng'ombe hula nyasi."
    ends = unit_ends(text)
    units = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert "".join(units) == text
    assert " ng'ombe" in units
    assert units[-1] == "."
    groups = deal_units(text, len(ends), 7, seed=0)
    assert all(len(set(groups[start : start + 7])) == len(groups[start : start + 7]) for start in range(0, 20, 7))
    assert (groups == deal_units(text, len(ends), 7, seed=0)).all()
    assert (groups != deal_units(text, len(ends), 7, seed=1)).any()
    for name in ("bert-cased", "xlmr", "gpt2"):
        encoded = tokenizer(name)(text, add_special_tokens=False, return_offsets_mapping=True)
        found = units_of_tokens(ends, encoded["offset_mapping"])
        assert found == sorted(found), name
        assert set(found) == set(range(len(ends))), name


def test_units_of_texts_without_spaces_and_without_words():
    assert unit_ends("") == []
    assert unit_ends("  ") == [2]
    assert unit_ends("\u4f60\u597d\u4e16\u754c\u4f60 a ") == [4, 5, 8]
    assert unit_ends("\u0939\u093f\u0928\u094d\u0926\u0940 \u0939\u0948\u0964") == [
        6,
        9,
        10,
    ]  # marks stay with letters


def test_some_of_the_passes_count_their_own_bytes_only():
    own, model = tokenizer("bert-uncased"), make_bert()
    whole = bits_per_byte(model, own, swahili(20))
    some = bits_per_byte(model, own, swahili(20), passes=1)
    assert 0 < some.bytes < whole.bytes / 4
    assert some.tokens < whole.tokens / 4
    assert some.bits_per_byte == pytest.approx(whole.bits_per_byte, rel=0.1)
    assert some.measure == "masked, words in 7 groups, 1 measured"
    assert some == bits_per_byte(model, own, swahili(20), passes=1)


class ByteModel(torch.nn.Module):
    """Predicts every token with 2 ** -(its bytes x rate), whatever stands before: a likelihood of the text alone."""

    def __init__(self, own, rate=1.5):
        super().__init__()
        self.config = SimpleNamespace(is_encoder_decoder=False, get_text_config=lambda: SimpleNamespace())
        self.device = torch.device("cpu")
        backend = own.get_vocab()
        bits = torch.full((len(backend) + 1,), math.inf)
        for token, index in backend.items():
            bits[index] = rate * (4 if token == "<end>" else len(token))
        bits[-1] = -math.log2(1 - float((2.0 ** -bits[:-1]).sum()))  # what is left, for a token that no text has
        self.head = torch.nn.Parameter(-bits * math.log(2))

    @property
    def base_model(self):
        """The model itself: it has no body of its own."""
        return self

    def get_output_embeddings(self):
        """Something that is a head."""
        return self.head

    def forward(self, input_ids, attention_mask=None):
        """The same logits everywhere."""
        return SimpleNamespace(logits=self.head.expand(*input_ids.shape, -1))


def letters_tokenizer(*pieces):
    """Letters a to d, and merged pieces, with an end token."""
    vocab = {token: index for index, token in enumerate(["<end>", *"abcd", *pieces])}
    merges = [(piece[:-1], piece[-1]) for piece in pieces]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def test_two_tokenizers_with_the_same_likelihood_have_the_same_number():
    texts = ["abcdabcdcba", "ab", "dddd"]
    fine, coarse = letters_tokenizer(), letters_tokenizer("ab", "abc", "abcd", "dd", "cb")
    rate = 3.0
    one, other = (bits_per_byte(ByteModel(own, rate), own, texts) for own in (fine, coarse))
    assert one.tokens > other.tokens
    assert one.bits_per_byte == pytest.approx(other.bits_per_byte, rel=1e-5)
    n_bytes = sum(len(text) for text in texts)
    assert one.bits_per_byte == pytest.approx(rate * (n_bytes + 4 * len(texts)) / n_bytes, rel=1e-5)
    assert one.bits / one.tokens != pytest.approx(other.bits / other.tokens, rel=0.05)  # per token they differ


def test_windows_of_a_long_text_count_each_token_once():
    own = tokenizer("llama3")
    model = make_llama(own)
    text = " ".join(english(6))
    n_tokens = len(own(text, add_special_tokens=False)["input_ids"])
    whole = bits_per_byte(model, own, [text], max_length=200)
    assert n_tokens < 200
    for length in (8, 9, 32, 33):
        cut = bits_per_byte(model, own, [text], max_length=length)
        assert cut.tokens == whole.tokens == n_tokens + 1
        assert cut.bits == pytest.approx(whole.bits, rel=0.02)
    masked = bits_per_byte(make_bert(), tokenizer("bert-uncased"), [text], max_length=16)
    assert masked.tokens == len(tokenizer("bert-uncased")(text, add_special_tokens=False)["input_ids"])


def test_new_and_old_tokens_add_up():
    own = tokenizer("llama3")
    new_ids = torch.arange(300, 400)
    measured = bits_per_byte(make_llama(own), own, english(10), new_ids=new_ids)
    ids = torch.cat([torch.tensor(each) for each in own(english(10), add_special_tokens=False)["input_ids"]])
    assert measured.new_tokens == int(torch.isin(ids, new_ids).sum()) > 0
    assert measured.old_tokens == measured.tokens - measured.new_tokens
    assert measured.new_bits + measured.old_bits == pytest.approx(measured.bits)
    assert measured.new_token_bits == pytest.approx(measured.new_bits / measured.new_tokens)
    assert bits_per_byte(make_llama(own), own, english(2)).new_token_bits is None


def test_order_and_batch_size_change_nothing():
    own = tokenizer("llama2")
    model = make_llama(own)
    one = bits_per_byte(model, own, english(9), batch_size=1)
    other = bits_per_byte(model, own, list(reversed(english(9))), batch_size=7)
    assert one.bits == pytest.approx(other.bits, rel=1e-6)


def test_without_a_token_before_the_text_the_first_one_is_reported():
    own = copy.deepcopy(tokenizer("llama3"))
    own.bos_token = own.eos_token = None
    measured = bits_per_byte(make_llama(tokenizer("llama3")), own, english(5))
    assert (measured.uncounted_tokens, measured.end_tokens) == (5, 0)
    assert measured.tokens == sum(len(ids) - 1 for ids in own(english(5), add_special_tokens=False)["input_ids"])


def test_the_end_token_can_be_left_out():
    own = tokenizer("llama3")
    model = make_llama(own)
    with_end = bits_per_byte(model, own, english(5))
    without = bits_per_byte(model, own, english(5), end_token=False)
    assert with_end.tokens - without.tokens == with_end.end_tokens == 5
    assert without.bits < with_end.bits


def test_mode_and_random_state_are_left_alone():
    own = tokenizer("bert-uncased")
    model = make_bert().train()
    model.cls.eval()
    state = torch.random.get_rng_state()
    bits_per_byte(model, own, english(3), passes=1)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.training
    assert model.bert.training
    assert not model.cls.training
    assert "forward" not in vars(model.bert)


def test_a_forward_that_another_library_has_put_on_the_body_stays():
    own = tokenizer("llama3")
    model = make_llama(own)
    hooked = model.model.forward
    model.model.forward = hooked
    bits_per_byte(model, own, english(2))
    assert vars(model.model)["forward"] is hooked


def test_half_precision_counts_in_single():
    own = tokenizer("llama3")
    model = make_llama(own)
    full = bits_per_byte(model, own, english(5)).bits_per_byte
    assert bits_per_byte(model.bfloat16(), own, english(5)).bits_per_byte == pytest.approx(full, rel=1e-2)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_wrapped_models_are_looked_through():
    from peft import LoraConfig, get_peft_model

    own = tokenizer("llama3")
    model = make_llama(own)
    expected = bits_per_byte(model, own, english(2)).bits
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for wrapped in (adapted, torch.nn.DataParallel(model), SimpleNamespace(_orig_mod=model)):
        assert bits_per_byte(wrapped, own, english(2)).bits == pytest.approx(expected, rel=1e-6)


def test_an_end_token_that_is_also_the_unknown_one_hides_nothing():
    own = copy.deepcopy(tokenizer("gpt2"))
    own.unk_token = own.eos_token
    measured = bits_per_byte(build("gpt2", vocab_size=len(own)), own, ["One.", "Two."])
    assert (measured.end_tokens, measured.unknown_tokens) == (2, 0)


def test_unknown_tokens_are_counted_and_warned_of():
    own = tokenizer("bert-uncased")
    with pytest.warns(VocabExtendWarning, match="unknown token, which hides bytes"):
        measured = bits_per_byte(make_bert(), own, ["The \u4f60 virus"])
    assert measured.unknown_tokens == 1


def test_bad_input_is_refused():
    own, model = tokenizer("llama3"), make_llama(tokenizer("llama3"))
    for texts in ([], ["", ""]):
        with pytest.raises(CorpusError, match="every text is empty"):
            bits_per_byte(model, own, texts)
    with pytest.raises(UnsupportedModelError, match="an encoder and a decoder"):
        bits_per_byte(make_t5(tokenizer("t5")), tokenizer("t5"), ["a"])
    with pytest.raises(UnsupportedModelError, match="no head"):
        bits_per_byte(make_bert().bert, tokenizer("bert-uncased"), ["a"])
    for options in ({"masking": "all"}, {"share": 0.0}, {"passes": 8}, {"max_length": 4}, {"max_length": 4096}):
        with pytest.raises(InvalidOptionError):
            bits_per_byte(make_bert(), tokenizer("bert-uncased"), ["a"], **options)
    no_mask = copy.deepcopy(tokenizer("bert-uncased"))
    no_mask.mask_token = None
    with pytest.raises(UnsupportedTokenizerError, match="no mask token"):
        bits_per_byte(make_bert(), no_mask, ["a"])


def test_an_encoder_taken_for_a_causal_model_is_refused():
    with pytest.raises(UnsupportedModelError, match="is_decoder"):
        bits_per_byte(BertLMHeadModel(make_bert().config), tokenizer("bert-uncased"), english(2))
