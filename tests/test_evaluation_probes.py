"""The classifier against scikit-learn, topics and tags, and the files that they are read from."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from hf_vocab_extend.errors import CorpusError, InvalidOptionError, InvalidTableError
from hf_vocab_extend.evaluation.probe import classification_scores, fit_probe
from hf_vocab_extend.evaluation.readers import read_documents, read_labelled, read_pairs, read_tagged
from hf_vocab_extend.evaluation.tagging import first_tokens, tag_transfer
from hf_vocab_extend.evaluation.topics import topic_transfer

from .factories import tokenizer
from .stub_extension import make_bert
from .tiny_models import make_llama, make_t5


def clouds(n=90, d=6, k=3):
    generator = torch.Generator().manual_seed(0)
    labels = [f"label {index % k}" for index in range(n)]
    centres = torch.randn(k, d, generator=generator)
    return torch.randn(n, d, generator=generator) + centres[[index % k for index in range(n)]], labels


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_the_probe_is_that_of_scikit_learn(penalty):
    vectors, labels = clouds()
    expected = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=5000).fit(vectors.double().numpy(), labels)
    probe = fit_probe(vectors, labels, penalty=penalty, standardise=False)
    assert list(probe.labels) == list(expected.classes_)
    assert torch.allclose(probe.weight, torch.from_numpy(expected.coef_), atol=1e-4)
    assert probe.predict(vectors) == list(expected.predict(vectors.double().numpy()))
    again = fit_probe(vectors, labels, penalty=penalty, standardise=False)
    assert torch.equal(again.weight, probe.weight)


def test_standardised_features_may_have_any_scale_and_may_be_constant():
    vectors, labels = clouds()
    other = torch.cat([vectors * torch.tensor([1e4, 1e-4, 1.0, 1.0, 1.0, 1.0]), torch.ones(len(vectors), 1)], 1)
    assert fit_probe(vectors, labels).predict(vectors) == fit_probe(other, labels).predict(other)


def test_scores_are_those_of_scikit_learn():
    expected = ["a", "a", "b", "b", "c"]
    predicted = ["a", "b", "b", "b", "d"]
    scores = classification_scores(predicted, expected)
    assert scores["macro_f1"] == pytest.approx(f1_score(expected, predicted, average="macro", zero_division=0))
    assert (scores["accuracy"], scores["count"]) == (0.6, 5)


def test_bad_input_of_a_probe_is_refused():
    vectors, labels = clouds()
    with pytest.raises(InvalidTableError, match="n labels"):
        fit_probe(vectors, labels[:-1])
    with pytest.raises(InvalidTableError, match="finite"):
        fit_probe(vectors.clone().fill_(float("nan")), labels)
    with pytest.raises(InvalidOptionError, match="two labels"):
        fit_probe(vectors, ["same"] * len(labels))
    with pytest.raises(InvalidTableError, match="expected"):
        classification_scores([], [])


MODELS = {
    "masked": (lambda: make_bert(), "bert-uncased"),
    "causal, no padding token": (lambda: make_llama(tokenizer("llama3")), "llama3"),
    "encoder-decoder": (lambda: make_t5(tokenizer("t5")), "t5"),
}


@pytest.mark.parametrize("name", MODELS)
def test_topics_and_tags_that_words_tell_are_learned(name):
    make, family = MODELS[name]
    model, own = make().train(), tokenizer(family)
    topics = [("health", "the virus and the people"), ("water", "wash your hands with soap")] * 8
    scores = topic_transfer(model, own, topics, topics[:4])
    assert scores == {"accuracy": 1.0, "macro_f1": 1.0, "count": 4.0}
    tagged = [(["the", "virus", "spreads"], ["DET", "NOUN", "VERB"])] * 4
    scores = tag_transfer(model, own, tagged, tagged[:2])
    assert (scores["accuracy"], scores["count"], scores["unread"]) == (1.0, 6.0, 0.0)
    assert model.training


def test_words_that_are_cut_off_count_as_wrong():
    tagged = [(["the", "virus", "spreads"], ["DET", "NOUN", "VERB"])] * 4
    own = tokenizer("bert-uncased")
    long = [(["virus"] * 40, ["NOUN"] * 40)]
    scores = tag_transfer(make_bert(), own, tagged, long, max_length=20)
    assert scores["unread"] > 0
    assert scores["count"] == 40
    assert scores["accuracy"] <= 1 - scores["unread"] / 40
    with pytest.raises(InvalidTableError, match="3 words and 2 tags"):
        tag_transfer(make_bert(), own, tagged, [(["a", "b", "c"], ["X", "Y"])])


@pytest.mark.parametrize("family", ["gpt2", "llama2", "xlmr", "bert-uncased", "t5"])
def test_the_first_token_of_a_word_holds_its_first_character(family):
    words = ["Toleo", ",", "la", "kitabu", "(", "ng'ombe", ")"]
    encoded = tokenizer(family)(" ".join(words), return_offsets_mapping=True)
    found = dict(first_tokens(words, encoded["offset_mapping"]))
    assert set(found) == set(range(len(words)))
    text, start = " ".join(words), 0
    for index, word in enumerate(words):
        begin, end = encoded["offset_mapping"][found[index]]
        assert begin <= start + 1, word
        assert text[start] in text[begin:end], word
        start += len(word) + 1


def test_files_of_every_form_are_read(tmp_path):
    with gzip.open(tmp_path / "pairs.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("id\tcorpus\teng\tswh\n1\tx\twater\tmaji\n2\tx\tfire\tmoto\n")
    (tmp_path / "plain.tsv").write_text("water\tmaji\n", "utf-8")
    assert read_pairs(str(tmp_path / "pairs.tsv.gz")) == [("water", "maji"), ("fire", "moto")]
    assert read_pairs(str(tmp_path / "pairs.tsv.gz"), 1) == [("water", "maji")]
    assert read_pairs(str(tmp_path / "plain.tsv")) == [("water", "maji")]
    (tmp_path / "topic.tsv").write_text("id\tlabel\ttext\n9\thealth\tWash.\n", "utf-8")
    (tmp_path / "topic2.tsv").write_text("health\tWash.\n", "utf-8")
    assert read_labelled(str(tmp_path / "topic.tsv")) == read_labelled(str(tmp_path / "topic2.tsv"))
    line = {"id": "1", "text": "a b", "tokens": ["a", "b"], "upos": ["DET", "NOUN"]}
    (tmp_path / "tags.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    (tmp_path / "tags.tsv").write_text("a\tDET\nb\tNOUN\n\nc\tX\n", "utf-8")
    assert read_tagged(str(tmp_path / "tags.jsonl")) == [(["a", "b"], ["DET", "NOUN"])]
    assert read_tagged(str(tmp_path / "tags.tsv"))[1] == (["c"], ["X"])
    (tmp_path / "text.txt").write_text("one\n\ntwo\nthree\n", "utf-8")
    assert read_documents(str(tmp_path / "text.txt"), 2) == ["one", "two"]


def test_bad_files_are_named(tmp_path):
    bad = tmp_path / "bad.tsv"
    for reader, content in ((read_pairs, "alone\n"), (read_tagged, "alone\n"), (read_labelled, "")):
        bad.write_text(content, "utf-8")
        with pytest.raises(CorpusError, match="bad.tsv"):
            reader(str(bad))
    with pytest.raises(CorpusError, match="cannot be read"):
        read_pairs(str(tmp_path / "none.tsv"))
    (tmp_path / "bad.jsonl").write_text('{"tokens": []}\n', "utf-8")
    with pytest.raises(CorpusError, match="Line 1"):
        read_tagged(str(tmp_path / "bad.jsonl"))
