"""Retrieval scores and sentence vectors against a plain computation."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from hf_vocab_extend.errors import InvalidTableError
from hf_vocab_extend.evaluation import retrieval
from hf_vocab_extend.evaluation.retrieval import embed_sentences, retrieval_scores

from .factories import swahili, tokenizer


def _naive(queries: torch.Tensor, candidates: torch.Tensor) -> tuple[float, float]:
    """R@1 and MRR of one direction, one pair at a time; a tie puts the partner last among equals."""
    hits, reciprocal = 0, 0.0
    for index, query in enumerate(queries):
        similarities = [torch.cosine_similarity(query, other, dim=0).item() for other in candidates]
        rank = 1 + sum(
            value >= similarities[index] - 1e-9 for place, value in enumerate(similarities) if place != index
        )
        hits += rank == 1
        reciprocal += 1 / rank
    return hits / len(queries), reciprocal / len(queries)


@pytest.mark.parametrize("block", [1, 7, 1024])
@pytest.mark.parametrize("noise", [0.0, 0.8, 3.0])
def test_scores_equal_a_plain_computation(monkeypatch: pytest.MonkeyPatch, noise: float, block: int) -> None:
    monkeypatch.setattr(retrieval, "BLOCK", block)
    generator = torch.Generator().manual_seed(3)
    source = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    target = 5 * source + noise * torch.randn(40, 6, generator=generator, dtype=torch.float64)
    target[11] = target[10]  # an exact tie
    scores = retrieval_scores(source, target)
    forward, backward = _naive(source, target), _naive(target, source)
    assert scores["r1_source_to_target"] == pytest.approx(forward[0])
    assert scores["mrr_source_to_target"] == pytest.approx(forward[1])
    assert scores["r1_target_to_source"] == pytest.approx(backward[0])
    assert scores["mrr_target_to_source"] == pytest.approx(backward[1])
    assert scores["mrr"] == pytest.approx((forward[1] + backward[1]) / 2)
    assert scores["pairs"] == 40


def test_vectors_that_are_all_alike_find_nothing() -> None:
    scores = retrieval_scores(torch.ones(50, 4), torch.ones(50, 4))
    assert scores["r1_source_to_target"] == scores["r1_target_to_source"] == 0
    assert scores["mrr"] == pytest.approx(1 / 50)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (torch.ones(3, 4), torch.ones(2, 4), "same shape"),
        (torch.ones(0, 4), torch.ones(0, 4), "n > 0"),
        (torch.ones(4), torch.ones(4), "same shape"),
        (torch.ones(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]]), "1 target vectors are zero.*row 1"),
        (torch.tensor([[float("nan"), 1.0]]), torch.ones(1, 2), "1 source vectors"),
    ],
)
def test_bad_vectors_are_one_clear_error(source: torch.Tensor, target: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidTableError, match=message):
        retrieval_scores(source, target)


def test_sentence_vectors_equal_the_mean_of_each_text_alone() -> None:
    own = tokenizer("bert-uncased")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(own), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = BertModel(config).train()
    texts = [*swahili(9), "maji"]
    vectors = embed_sentences(model, own, texts, batch_size=4, max_length=32)
    assert model.training  # as it was
    model.eval()
    for text, vector in zip(texts, vectors, strict=True):
        ids = torch.tensor([own(text)["input_ids"][:31] + [own.sep_token_id]])
        if ids.shape[1] > len(own(text)["input_ids"]):
            ids = torch.tensor([own(text)["input_ids"]])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-5)
    assert torch.equal(vectors, embed_sentences(model, own, texts, batch_size=4, max_length=32))
