"""Token-level fastText and the cache: spelling, seed, cache key, files that are cut off."""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pytest
from tokenizers import AddedToken

from hf_vocab_extend.errors import CorpusError, MissingDependencyError, OutputFolderError
from hf_vocab_extend.resources import cache
from hf_vocab_extend.resources import fasttext as module
from hf_vocab_extend.resources.fasttext import FastTextOptions, spell_tokens, train_token_vectors
from hf_vocab_extend.resources.token_vectors import TokenVectors

from .factories import TOKENIZERS, bert_cased_like, gpt2_like, swahili, tokenizer

QUICK = FastTextOptions(dim=12, buckets=1000, min_count=3)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.ENVIRONMENT, str(tmp_path / "cache"))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_are_words_of_their_own(name: str) -> None:
    words = [word for word in spell_tokens(tokenizer(name)) if word is not None]
    assert len(set(words)) == len(words) == len(tokenizer(name).get_vocab())
    assert not any(char in word for word in words for char in " \t\n\v\f\r\0")
    assert "</s>" not in words
    assert "" not in words


def test_odd_tokens_are_spelled_apart() -> None:
    grown = gpt2_like()
    odd = ["a b", "a\nb", "a\u2420b", "</s>", "__label__x", " ", "\t"]
    grown.add_tokens([AddedToken(token, normalized=False) for token in odd])
    words = spell_tokens(grown)
    spelled = [words[grown.convert_tokens_to_ids(token)] for token in odd]
    assert len(set(spelled)) == len(odd)
    assert not any(word.startswith("__label__") or word == "</s>" or " " in word for word in spelled)
    assert words[grown.convert_tokens_to_ids("e")] == "e"


def test_vectors_are_fasttexts_own(tmp_path) -> None:
    """The same file through the library's public function, with its default seed, gives the same vectors."""
    import fasttext

    own = bert_cased_like(400, swahili())
    found = train_token_vectors(own, swahili(), QUICK, seed=0)
    path = tmp_path / "text.txt"
    lines = [" ".join(own.tokenize(line)) for line in swahili()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    buckets = module.bucket_count(QUICK, len(found.ids))
    model = fasttext.train_unsupervised(
        str(path), model="cbow", dim=12, epoch=3, minCount=3, neg=10, bucket=buckets, thread=1, verbose=0
    )
    tokens = own.convert_ids_to_tokens(found.ids.tolist())
    assert set(tokens) == set(model.get_words()) - {"</s>"}
    for token, vector in zip(tokens, found.vectors, strict=True):
        assert np.array_equal(vector, model.get_word_vector(token))
    assert found.vectors.dtype == np.float32


def test_the_same_call_gives_the_same_vectors_and_another_seed_others() -> None:
    first = train_token_vectors(tokenizer("gpt2"), swahili(), QUICK, seed=5, use_cache=False)
    second = train_token_vectors(tokenizer("gpt2"), swahili(), QUICK, seed=5, use_cache=False)
    other = train_token_vectors(tokenizer("gpt2"), swahili(), QUICK, seed=6, use_cache=False)
    assert np.array_equal(first.vectors, second.vectors)
    assert np.array_equal(first.ids, other.ids)
    assert not np.array_equal(first.vectors, other.vectors)


@pytest.mark.parametrize("max_ngram", [0, 6])
def test_vectors_start_from_random_values_and_not_from_old_memory(max_ngram: int) -> None:
    """A tenth of the input matrix is filled by fastText; whatever lay in the rest must not show."""
    options = FastTextOptions(dim=4, buckets=1, min_count=1, max_ngram=max_ngram)
    runs = []
    for _ in range(3):
        waste = [np.full(size, 1e30, np.float32) for size in (1000, 20_000, 300_000)]
        del waste
        runs.append(train_token_vectors(tokenizer("gpt2"), swahili(40), options, use_cache=False).vectors)
    assert all(np.array_equal(run, runs[0]) for run in runs)
    assert np.abs(runs[0]).max() < 10
    assert runs[0].any(1).all()


def test_truncation_and_padding_of_the_tokenizer_change_nothing() -> None:
    own = gpt2_like()
    expected = train_token_vectors(own, swahili(50), QUICK, use_cache=False)
    own.pad_token = own.eos_token
    own(swahili(3), truncation=True, max_length=4, padding="max_length")
    found = train_token_vectors(own, swahili(50), QUICK, use_cache=False)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.vectors, expected.vectors)


def test_the_cache_is_keyed_by_content(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    train = module._train
    monkeypatch.setattr(module, "_train", lambda *given: calls.append(1) or train(*given))
    text = tmp_path / "text.txt"
    text.write_text("\n".join(swahili(60)), encoding="utf-8")
    own = gpt2_like()

    def run(options: FastTextOptions = QUICK, **more) -> TokenVectors:
        return train_token_vectors(own, more.pop("corpus", text), options, **more)

    first = run()
    assert np.array_equal(run().vectors, first.vectors)
    assert np.array_equal(run(corpus=swahili(60)).vectors, first.vectors)  # the same lines from elsewhere
    own(swahili(2), truncation=True, max_length=4)
    run()
    assert len(calls) == 1
    run(seed=1)
    run(FastTextOptions(dim=13, buckets=1000, min_count=3))
    text.write_text("\n".join(swahili(61)), encoding="utf-8")  # the same path, other text
    run()
    assert len(calls) == 4
    own.add_tokens(["zzz"])
    run()
    assert len(calls) == 5
    run(use_cache=False)
    assert len(calls) == 6


def test_a_cut_off_cache_file_is_made_anew() -> None:
    first = train_token_vectors(gpt2_like(), swahili(60), QUICK)
    (path,) = cache.cache_folder().rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-7])
    second = train_token_vectors(gpt2_like(), swahili(60), QUICK)
    assert np.array_equal(first.vectors, second.vectors)
    assert cache.load("fasttext", path.stem) is not None


def test_an_interrupted_write_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache.content_key(name="x")
    arrays = {"a": np.arange(5)}
    monkeypatch.setattr(cache, "save_file", lambda arrays, path, **more: path.write_bytes(b"half") and _stop())
    with pytest.raises(KeyboardInterrupt):
        cache.store("kind", key, arrays)
    assert not [path for path in cache.cache_folder().rglob("*") if path.is_file()]
    assert cache.load("kind", key) is None


def _stop() -> None:
    raise KeyboardInterrupt


def test_an_unwritable_cache_is_one_clear_message(tmp_path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    monkeypatch.setenv(cache.ENVIRONMENT, str(blocked))
    with pytest.raises(OutputFolderError, match=cache.ENVIRONMENT):
        cache.store("kind", "key", {"a": np.zeros(1)})
    with caplog.at_level("WARNING"):
        assert len(train_token_vectors(gpt2_like(), swahili(60), QUICK).ids)
    assert cache.ENVIRONMENT in caplog.text


def test_stored_arrays_come_back_with_their_metadata() -> None:
    arrays = {"a": np.arange(6).reshape(2, 3).T, "b": np.ones(2, np.float32)}
    cache.store("kind", "key", arrays, {"note": "x"})
    loaded, metadata = cache.load("kind", "key")
    assert metadata == {"note": "x"}
    assert all(np.array_equal(loaded[name], array) for name, array in arrays.items())
    assert cache.load("kind", "other") is None


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.delenv(cache.ENVIRONMENT)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    assert cache.cache_folder() == tmp_path / "hf" / "hf_vocab_extend"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "huggingface" / "hf_vocab_extend"


def test_keys_do_not_depend_on_order() -> None:
    assert cache.content_key(a=1, b="\u00e4") == cache.content_key(b="\u00e4", a=1)
    assert cache.content_key(a=1) != cache.content_key(a=2)


def test_a_corpus_below_min_count_is_an_error_with_numbers() -> None:
    with pytest.raises(CorpusError, match="No token occurs 1000 times"):
        train_token_vectors(gpt2_like(), swahili(5), FastTextOptions(min_count=1000))


def test_without_fasttext_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name, *more):
        if name.split(".")[0] == "fasttext":
            raise ImportError("no fasttext here")
        return real(name, *more)

    for name in [name for name in sys.modules if name.split(".")[0] == "fasttext"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r"hf_vocab_extend\[focus\]"):
        train_token_vectors(gpt2_like(), swahili(5), QUICK)


def test_places_of_tokens() -> None:
    vectors = TokenVectors(np.asarray([2, 5, 9]), np.zeros((3, 2), np.float32))
    assert vectors.places(np.asarray([9, 0, 5, 10, 2])).tolist() == [2, -1, 1, -1, 0]
    assert TokenVectors(np.zeros(0, np.int64), np.zeros((0, 2))).places(np.asarray([1])).tolist() == [-1]
