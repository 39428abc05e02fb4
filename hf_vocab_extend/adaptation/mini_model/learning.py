"""Learn the token table of a new language through a frozen body: a mini-model's, or that of the full model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..._logging import get_logger
from ...describing import extension_lines, short_repr
from ...errors import BaseModelMismatchError, InvalidOptionError, TokenizerMismatchError, UnsupportedModelError
from ...evaluation.scoring import modes_kept
from ...modeling.masked_positions import masked_positions_only
from ...modeling.slots import alias_clone
from ...origin import LEARNED_ON, Origin
from ...prepare import find_source_tokenizer
from ...resources.corpus import open_corpus
from ...result import VocabExtension
from ...surgery.config_tree import main_config
from ...surgery.sites import scan_sites
from ..cost import CostMeter
from ..objectives import choose_objective
from ..option_checks import given_options
from ..tables import vocabulary_tables
from ..training import train_language_model
from ..training_options import TrainingOptions
from .given import check_model_given, check_tokenizer_of, warn_if_same_vocabulary
from .options import changed_training
from .random_state import random_state_kept
from .record import (
    MiniRecord,
    first_rows_hashes,
    float16_note,
    read_record,
    table_hashes,
    warn_if_bottom_moved,
    write_record,
)
from .trained_part import Apart

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from ...methods.base import InitMethod, MethodConfig
    from ...plan import Mode
    from ...resources.corpus import Corpus, CorpusLike
    from ..cost import Cost
    from ..training import TrainingRun

logger = get_logger(__name__)

DEFAULTS = TrainingOptions(learning_rate=7e-4, warmup=0.08, evaluations=0)
"""Rate and share of warm-up with which Chen et al. 2023 (arXiv 2307.01163) learn a table under a frozen body.

Nothing is written while training goes on; the measures at its start and end are made all the same.
"""
_STAGES = {"replace": "embeddings", "extend": "new_rows"}
"""What trains: all rows of a vocabulary that was replaced, the new rows of one that has grown."""


@dataclass(repr=False)
class LearnedEmbeddings:
    """A token table learned under a frozen body, with all that belongs to it.

    Attributes:
        extension: The model that the table was learned on, with its tokenizer, mapping and report.
        run: The training.
        cost: Floating-point operations, seconds and peak memory of the training.
        source: The model that was given, whose own table is that of the source language; None for an extension.
    """

    extension: VocabExtension
    run: TrainingRun
    cost: Cost
    source: PreTrainedModel | None = None

    def __repr__(self) -> str:
        """Six lines: the model, how the rows began, on what they were learned, and the cost."""
        record = read_record(self.model)
        origin = Origin.of_record(record.to_dict() if record is not None else None)
        return short_repr(self, [*extension_lines(self.extension), f"learned on {origin}", f"cost: {self.cost}"])

    @property
    def model(self) -> PreTrainedModel:
        """The model that the table was learned on: the mini-model's body with the new table."""
        return self.extension.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the table."""
        return self.extension.tokenizer

    @property
    def measures(self) -> list[dict[str, Any]]:
        """What was measured on the way, see :class:`~hf_vocab_extend.adaptation.measures.MeasuresPart`."""
        return self.run.measures

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write a folder that plain ``from_pretrained`` and ``transplant_embeddings`` read; in the main process only.

        Args:
            save_directory: Where to write.
            options: Options of :meth:`VocabExtension.save_pretrained`, such as ``overwrite=True``.

        Raises:
            OutputFolderError: If the folder cannot be written to.
            VerificationError: If it does not load back equal. Nothing is left of it.
        """
        if self.run.is_main:
            self.extension.save_pretrained(save_directory, **options)


def learn_embeddings(
    mini: PreTrainedModel | VocabExtension,
    new_tokenizer: PreTrainedTokenizerBase | None,
    corpus: CorpusLike,
    work_folder: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    *,
    method: str | MethodConfig | InitMethod = "auto",
    mode: Mode = "replace",
    tokenizer: PreTrainedTokenizerBase | None = None,
    parallel: Any = None,
    dictionary: Any = None,
    word_vectors: Any = None,
    token_vectors: Any = None,
    helper_model: Any = None,
    fallback: str = "subword",
    languages: str | Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
    **changes: Any,
) -> LearnedEmbeddings:
    """Learn the token table of a new language; nothing but the table and its bias trains.

    The step that is done for each language in Marchisio et al. 2023 (arXiv 2212.10503). The rows start by any method
    of :func:`~hf_vocab_extend.extend.extend_vocabulary`, then train on text with the objective of the model's class;
    masked models compute logits at masked positions only. The body stays bitwise as it is and no gradient of its
    weights is computed; the one given and the one returned share its storage. Bottom layers of a mini-model that are
    not those of the cut any more are told in a warning.

    Args:
        mini: A mini-model, or a full model for the paper's standard route; it is left as it was and serves any number
            of languages. Or what ``extend_vocabulary`` made of one, of which the rows are trained in place.
        new_tokenizer: Tokenizer of the new language; None with an extension, which has its own.
        corpus: Text of the new language: anything that :func:`~hf_vocab_extend.resources.corpus.open_corpus` reads.
            The method uses it too, if it can.
        work_folder: Where the Trainer writes; checkpoints only with ``evaluations``.
        options: How to train; by default a learning rate of 7e-4 and no evaluations on the way.
        method: How rows start. This and the arguments up to ``languages`` are those of ``extend_vocabulary``.
        mode: ``replace`` takes the tokenizer as it is and trains the whole table; ``extend`` adds it to the source
            vocabulary and trains the new rows.
        tokenizer: Tokenizer of the model; by default that of ``config._name_or_path``.
        parallel: Pairs of source and target text.
        dictionary: Pairs of source and target word.
        word_vectors: Vectors of words of both languages.
        token_vectors: Vectors of target tokens.
        helper_model: A model that speaks the target vocabulary.
        fallback: Method for tokens that ``method`` does not cover.
        languages: Language code or codes for the card.
        callbacks: More callbacks for the Trainer.
        changes: Options that differ from ``options``.

    Returns:
        The table in its model, with run and cost; :func:`~.transplanting.transplant_embeddings` puts it into the full
        model.

    Raises:
        InvalidOptionError: If an option is out of range, says what trains, or goes with a tokenizer and an extension
            was given.
        BaseModelMismatchError: If the tables of a mini-model are not those with which it was cut; of an extension,
            the rows that it kept.
        TokenizerMismatchError: If an extension started from more or less rows than its mini-model was cut with.
        UnsupportedModelError: If the model's class is not trained on plain text, or it is an encoder with a decoder.
        VocabExtendError: As of ``extend_vocabulary`` and ``train_language_model``.

    Example:
        >>> learned = learn_embeddings(mini, sw_tokenizer, "sw.txt", "work", tokenizer=tokenizer, parallel="en-sw.tsv")
        >>> full = transplant_embeddings(learned, model)
    """
    given = given_options(options, DEFAULTS, "learn_embeddings")
    chosen = changed_training(given, changes, "learn_embeddings", "the token tables")
    _check_kind(mini)
    text = open_corpus(corpus)
    begin: dict[str, Any] = {
        "tokenizer": tokenizer,
        "parallel": parallel,
        "dictionary": dictionary,
        "word_vectors": word_vectors,
        "token_vectors": token_vectors,
        "helper_model": helper_model,
    }
    if isinstance(mini, VocabExtension):
        begin |= {"method": None if method == "auto" else method, "languages": languages or None}
        _check_started(mini, new_tokenizer, [name for name, value in begin.items() if value is not None])
        _check_source_kept(mini)
        objective, extension, source = choose_objective(mini.model, chosen.objective), mini, None
    else:
        objective, source = choose_objective(mini, chosen.objective), mini
        begin |= {"method": method, "mode": mode, "fallback": fallback, "languages": languages, "seed": chosen.seed}
        extension = _start(mini, new_tokenizer, text, begin)
    if (record := read_record(extension.model)) is not None:
        warn_if_bottom_moved(extension.model, record, stacklevel=2)
    chosen = replace(chosen, objective=objective, stages=_STAGES[extension.report.mode])
    ours: list[Any] = [meter := CostMeter()]
    if chosen.resume:
        ours.append(_BodyApart(extension.model))
    with random_state_kept(), _only_tables_train(extension.model), head_at_labels(extension.model, objective):
        run = train_language_model(extension, text, work_folder, chosen, callbacks=[*ours, *callbacks])
    assert run.extension is not None
    cost = meter.cost
    facts: dict[str, Any] = {"frozen": "all but the token tables and their bias", "cost": cost.to_dict()}
    origin = Origin.of_record(record.to_dict() if record is not None else None)
    if origin.is_mini:
        facts[LEARNED_ON] = origin.to_dict()
    run.extension.report = run.extension.report.with_training({**(run.extension.report.training or {}), **facts})
    return LearnedEmbeddings(run.extension, run, cost, source)


def _check_kind(mini: Any) -> None:
    """Raise if there is no loaded model, or one with an encoder and a decoder.

    Raises:
        InvalidOptionError: If it is a name.
        UnsupportedModelError: If it has two stacks of layers.
    """
    model = mini.model if isinstance(mini, VocabExtension) else mini
    check_model_given(model, "mini")
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"A {type(model).__name__} is an encoder with a decoder, and both read the table that would be learned: "
            "mini-models are cut from models with one stack of layers. Take an encoder (BERT, XLM-R) or a decoder "
            "(Llama, GPT-2), or train this one with extend_vocabulary and train_language_model."
        )


def _check_started(extension: VocabExtension, new_tokenizer: Any, given: list[str]) -> None:
    """Raise if an extension comes with what only a start needs.

    Raises:
        InvalidOptionError: It names the argument.
    """
    if given:
        raise InvalidOptionError(
            f"The rows of an extension have started already, and {', '.join(given)} says how they shall. Leave it "
            "out, or give the model and the tokenizer instead of the extension."
        )
    if new_tokenizer is not None and new_tokenizer.get_vocab() != extension.tokenizer.get_vocab():
        raise InvalidOptionError(
            "new_tokenizer has another vocabulary than the extension's tokenizer. Give None with an extension."
        )


def _check_source_kept(extension: VocabExtension) -> None:
    """Raise if an extension did not start from the tables of its mini-model's cut, as far as that still shows.

    A vocabulary that was replaced leaves nothing of them but their number.

    Raises:
        TokenizerMismatchError: If they were more rows, or less.
        BaseModelMismatchError: If the rows that an extended vocabulary keeps are others.
    """
    record, model = read_record(extension.model), extension.model
    if record is None:
        return
    wanted, found = record.source_vocab_size, extension.report.sizes["source_rows"]
    if extension.report.mode == "replace" and found != wanted:
        raise TokenizerMismatchError(
            f"The extension started from {found} rows, and its mini-model was cut with {wanted}: the rows would not "
            "fit the full model. Extend the mini-model as it was cut."
        )
    if extension.report.mode != "extend" or len(extension.mapping.source_tokens) < wanted:
        return  # rows without a token are given to new ones
    now = first_rows_hashes(model, wanted)
    moved = [role for role, value in record.source_tables.items() if now.get(role, value) != value]
    if moved:
        raise BaseModelMismatchError(
            f"The first {wanted} rows of this extension ({', '.join(moved)}) are not those with which its mini-model "
            "was cut: they were trained or replaced since. Cut it again from the model as it is, and extend that."
            f"{float16_note(model.parameters())}"
        )


def _start(mini: PreTrainedModel, new_tokenizer: Any, text: Corpus, begin: dict[str, Any]) -> VocabExtension:
    """Extend a copy that shares the storage of the body, and note which table the source language has.

    Raises:
        InvalidOptionError: If there is no tokenizer.
        BaseModelMismatchError: If the tables of a mini-model are not those with which it was cut.
    """
    from ...extend import extend_vocabulary

    if new_tokenizer is None:
        raise InvalidOptionError("There is no tokenizer of the new language. Give new_tokenizer.")
    tokenizer = find_source_tokenizer(mini, begin["tokenizer"])
    check_tokenizer_of(mini, tokenizer, stacklevel=3)
    warn_if_same_vocabulary(tokenizer, new_tokenizer, stacklevel=3)
    record = read_record(mini)
    if record is None:
        layers = getattr(main_config(mini.config), "num_hidden_layers", None)
        record = MiniRecord.of(mini, "full", layers if isinstance(layers, int) else 0)
    elif moved := [role for role, value in table_hashes(mini).items() if record.source_tables.get(role) != value]:
        raise BaseModelMismatchError(
            f"The tables of this mini-model ({', '.join(moved)}) are not those with which it was cut: they were "
            "trained or replaced since. Cut it again from the model as it is, or load it as it was saved."
            f"{float16_note(mini.parameters())}"
        )
    clone = alias_clone(mini)
    masked_positions_only(clone, False)
    write_record(clone, record)
    extension = extend_vocabulary(clone, new_tokenizer, corpus=text, **{**begin, "tokenizer": tokenizer})
    _own_tables(extension.model, mini)
    extension.model.requires_grad_(False)  # its body is the given model's
    for table in vocabulary_tables(extension.model):
        table.parameter.requires_grad_(True)
    return extension


def _own_tables(model: PreTrainedModel, source: PreTrainedModel) -> None:
    """Give a clone storage of its own for tables that the extension has left as they were."""
    shared = {site.tensor.untyped_storage().data_ptr() for site in scan_sites(source)}
    for site in scan_sites(model):
        if site.tensor.untyped_storage().data_ptr() in shared:
            own = site.tensor.detach().clone()
            for alias in site.aliases:
                alias.tensor.data = own


class _BodyApart(TrainerCallback):
    """Keeps what a resumed run loads, which goes into the model's storage, away from models that share its body."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Give the body of a model storage of its own."""
        tables = {id(item) for table in vocabulary_tables(model) for item in (table.parameter, *table.projections)}
        self._apart = Apart({name: item for name, item in model.named_parameters() if id(item) not in tables})

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Share it again.

        Raises:
            BaseModelMismatchError: If the checkpoint had other values.
        """
        self._apart.check_back()


@contextmanager
def _only_tables_train(model: PreTrainedModel) -> Iterator[None]:
    """Let nothing but tables and biases over the vocabulary train; give every flag and mode back afterwards."""
    trained = {id(item) for table in vocabulary_tables(model) for item in (table.parameter, *table.projections)}
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with modes_kept(model):
        try:
            for parameter, _ in before:
                parameter.requires_grad_(id(parameter) in trained)
            yield
        finally:
            for parameter, flag in before:
                parameter.grad = None
                parameter.requires_grad_(flag)


@contextmanager
def head_at_labels(model: PreTrainedModel, objective: str) -> Iterator[None]:
    """Compute logits of a masked model at masked positions only while it trains."""
    was_on = "_masked_position_hooks" in vars(model)
    wanted = objective == "masked" and not was_on
    if wanted:
        try:
            masked_positions_only(model)
        except UnsupportedModelError as error:
            logger.info("Logits are computed at every position: %s", error)
            wanted = False
    try:
        yield
    finally:
        if wanted:
            masked_positions_only(model, False)


__all__ = ["DEFAULTS", "LearnedEmbeddings", "head_at_labels", "learn_embeddings"]
