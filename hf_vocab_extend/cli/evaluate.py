"""``hf-vocab-extend eval``: what a model is worth, beside what it was before its vocabulary changed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import Answer, Command, add_trust_option, load_model, load_tokenizer, option_adder, table

Result = dict[str, Any]
"""``task``, ``dataset``, ``metric``, ``value``."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add = option_adder(parser, "evaluation.bits_per_byte", "bits_per_byte")
    parser.add_argument("model", metavar="MODEL", help="a name on the Hub or a folder")
    measures = parser.add_argument_group("measures, one or more")
    measures.add_argument(
        "--bits-per-byte", nargs="+", metavar="TEXT", help="bits per byte of texts, one document a line"
    )
    measures.add_argument(
        "--source-bits-per-byte",
        nargs="+",
        metavar="TEXT",
        help="the same of texts in the source language: what the model has kept of it",
    )
    measures.add_argument(
        "--retrieval", nargs="+", metavar="TSV", help="retrieval of translations: the last two columns, source first"
    )
    measures.add_argument(
        "--topic", nargs="+", metavar="TSV", help="transfer of a topic classifier: training file, then test files"
    )
    measures.add_argument(
        "--tags", nargs="+", metavar="JSONL", help="transfer of a tagger: training file, then test files"
    )
    parser.add_argument("--before", metavar="MODEL", help="the untouched model, measured on the same data")
    parser.add_argument(
        "--record", action="store_true", help="write the results into the folder's vocab_extension.json and card"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="at most so many lines of each file")
    add("--batch-size", "texts per forward pass", type=int, metavar="N")
    add("--masking", "of masked language models", choices=("groups", "token", "word"))
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, ... (default: cpu)")
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Measure, show, and write down."""
    from ..errors import InvalidOptionError

    chosen = [name for name in _MEASURES if hasattr(args, name)]
    if not chosen:
        flags = ", ".join("--" + name.replace("_", "-") for name in _MEASURES)
        raise InvalidOptionError(f"There is nothing to measure. Give one or more of {flags}.")
    for name in ("topic", "tags"):
        if hasattr(args, name) and len(getattr(args, name)) < 2:
            raise InvalidOptionError(f"--{name} has one file. Give the training file, then one or more to test on.")
    if getattr(args, "limit", 1) < 1:
        raise InvalidOptionError(f"--limit is {args.limit}. Give a number from 1 on.")
    if getattr(args, "record", False):
        _check_folder(Path(args.model))
    data = [(name, _read(name, args)) for name in chosen]
    names = [args.model, *([args.before] if hasattr(args, "before") else [])]
    trust = getattr(args, "trust_remote_code", False)
    tokenizers = [load_tokenizer(name, trust_remote_code=trust) for name in names]  # a wrong name shows at once
    after = _measure(args.model, tokenizers[0], data, args)
    if hasattr(args, "before"):
        earlier = _measure(args.before, tokenizers[1], data, args, lenient=True)
        named = _named(args, tokenizers[1])
        before = {_key(result): {"before": result["value"]} | named for result in earlier}
        after = [result | before.get(_key(result), {}) for result in after]
    if getattr(args, "record", False):
        _record(Path(args.model), after)
    return Answer({"model": args.model, "evaluations": after}, _text(after))


def _measure(
    name: str, tokenizer: Any, data: list[tuple[str, Any]], args: Namespace, *, lenient: bool = False
) -> list[Result]:
    """Load a model and measure it; of the model before, what cannot be measured is left out with a warning."""
    import warnings

    from ..errors import UnsupportedModelError, VocabExtendWarning

    trust = getattr(args, "trust_remote_code", False)
    model = load_model(name, trust_remote_code=trust).to(getattr(args, "device", "cpu")).eval()  # type: ignore[arg-type]
    results: list[Result] = []
    for measure, files in data:
        try:
            results += _MEASURES[measure][1](model, tokenizer, files, args)
        except UnsupportedModelError as error:
            if not lenient:
                raise
            warnings.warn(f"The model before is not measured by {measure}: {error}", VocabExtendWarning, stacklevel=2)
    return results


def _read(name: str, args: Namespace) -> list[tuple[str, Any]]:
    """Read the files of a measure: name and content of each; the name says if only its first lines are meant."""
    limit = getattr(args, "limit", None)
    part = f" (first {limit:,})" if limit else ""
    return [(_stem(path) + part, _MEASURES[name][0](path, limit)) for path in getattr(args, name)]


def _documents(path: str, limit: int | None) -> Any:
    """Read documents."""
    from ..evaluation.readers import read_documents

    return read_documents(path, limit)


def _pairs(path: str, limit: int | None) -> Any:
    """Read translations."""
    from ..evaluation.readers import read_pairs

    return read_pairs(path, limit)


def _labelled(path: str, limit: int | None) -> Any:
    """Read labels and texts."""
    from ..evaluation.readers import read_labelled

    return read_labelled(path, limit)


def _tagged(path: str, limit: int | None) -> Any:
    """Read words and tags."""
    from ..evaluation.readers import read_tagged

    return read_tagged(path, limit)


def _source_bits(model: Any, tokenizer: Any, files: list[tuple[str, Any]], args: Namespace) -> list[Result]:
    """Measure bits per byte of text in the source language."""
    from ..report import RETENTION

    return [result | {"task": RETENTION} for result in _bits(model, tokenizer, files, args)]


def _bits(model: Any, tokenizer: Any, files: list[tuple[str, Any]], args: Namespace) -> list[Result]:
    """Measure bits per byte."""
    from ..evaluation.bits_per_byte import bits_per_byte
    from .common import given

    options = given(args, ("batch_size", "masking"))
    return [
        _result(
            "language modelling",
            name,
            "bits per byte",
            bits_per_byte(model, tokenizer, texts, **options).bits_per_byte,
        )
        for name, texts in files
    ]


def _retrieval(model: Any, tokenizer: Any, files: list[tuple[str, Any]], args: Namespace) -> list[Result]:
    """Measure retrieval."""
    from ..evaluation.retrieval import embed_sentences, retrieval_scores
    from ..evaluation.vectors import body_of

    results = []
    for name, pairs in files:
        sides = [embed_sentences(body_of(model), tokenizer, [pair[side] for pair in pairs]) for side in (0, 1)]
        scores = retrieval_scores(*sides)
        results += [
            _result("retrieval of translations", name, "R@1 target to source", scores["r1_target_to_source"]),
            _result("retrieval of translations", name, "R@1 source to target", scores["r1_source_to_target"]),
            _result("retrieval of translations", name, "MRR", scores["mrr"]),
        ]
    return results


def _topic(model: Any, tokenizer: Any, files: list[tuple[str, Any]], args: Namespace) -> list[Result]:
    """Measure the transfer of topics."""
    from ..evaluation.topics import topic_transfer

    (_, train), *tests = files
    found = [(name, topic_transfer(model, tokenizer, train, test)) for name, test in tests]
    return [result for name, scores in found for result in _classification("topic transfer", name, scores)]


def _tags(model: Any, tokenizer: Any, files: list[tuple[str, Any]], args: Namespace) -> list[Result]:
    """Measure the transfer of tags."""
    from ..evaluation.tagging import tag_transfer

    (_, train), *tests = files
    found = [(name, tag_transfer(model, tokenizer, train, test)) for name, test in tests]
    return [result for name, scores in found for result in _classification("tag transfer", name, scores)]


def _classification(task: str, name: str, scores: dict[str, float]) -> list[Result]:
    """Return accuracy and macro F1 as results."""
    return [
        _result(task, name, "accuracy", scores["accuracy"]),
        _result(task, name, "macro F1", scores["macro_f1"]),
    ]


_MEASURES: dict[str, tuple[Callable[..., Any], Callable[..., list[Result]]]] = {
    "bits_per_byte": (_documents, _bits),
    "source_bits_per_byte": (_documents, _source_bits),
    "retrieval": (_pairs, _retrieval),
    "topic": (_labelled, _topic),
    "tags": (_tagged, _tags),
}
"""Name of an option to how its files are read and what is measured on them."""


def _result(task: str, dataset: str, metric: str, value: float) -> Result:
    """Return one result in the form of a report's evaluation."""
    return {"task": task, "dataset": dataset, "metric": metric, "value": value}


def _key(result: Result) -> tuple[str, str, str]:
    """Return what a result is of."""
    return result["task"], result["dataset"], result["metric"]


def _named(args: Namespace, tokenizer: Any) -> dict[str, str]:
    """Return of which model ``before`` is: the untouched one where that is known, else its name, but no path."""
    from ..prepare import hub_name
    from ..report import REPORT_FILE, UNTOUCHED, ExtensionReport
    from ..scrub import public_model_id

    path, given = Path(args.model) / REPORT_FILE, Path(args.before)
    name = hub_name(args.before)
    shown = name or public_model_id(given.resolve().name)
    other = {"before_model": shown} if shown else {}
    if not path.is_file() or (given / REPORT_FILE).is_file():
        return other
    report = ExtensionReport.from_json(path.read_text("utf-8"))
    base = hub_name(report.base_model)
    known = name == base if name and base else len(tokenizer) == report.sizes["source_tokens"]
    return {"before_model": UNTOUCHED} if known else other


def _stem(path: str) -> str:
    """Return a file's name without the endings that say its format."""
    name = Path(path).name or path
    for ending in (".gz", ".tsv", ".jsonl", ".json", ".txt", ".csv", ".parquet"):
        name = name.removesuffix(ending)
    return name


def _check_folder(folder: Path) -> None:
    """Raise if results cannot be written there.

    Raises:
        InvalidOptionError: If it is no folder that ``save_pretrained`` wrote, or its card cannot be read.
    """
    from ..errors import InvalidOptionError
    from ..hub.card import card_of_folder, read_card
    from ..report import REPORT_FILE
    from ..saving import CARD_FILE

    if not (folder / REPORT_FILE).is_file():
        raise InvalidOptionError(
            f"--record needs a folder with {REPORT_FILE}, and '{folder}' has none. Give the folder of an extension."
        )
    card_of_folder(folder, existing=read_card(folder / CARD_FILE))


def _record(folder: Path, results: list[Result]) -> None:
    """Write results into the report and the card of a folder."""
    from ..hub.card import card_of_folder, read_card
    from ..report import REPORT_FILE, ExtensionReport
    from ..saving import CARD_FILE

    report = ExtensionReport.from_json((folder / REPORT_FILE).read_text("utf-8")).with_evaluations(results)
    _replace(folder / REPORT_FILE, report.to_json())
    name = folder.resolve().name
    options = {"model_name": name, "load_name": name, "existing": read_card(folder / CARD_FILE)}
    _replace(folder / CARD_FILE, card_of_folder(folder, **options))


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(text.encode("utf-8"))
    part.replace(path)


def _text(results: list[Result]) -> str:
    """Return results as a table."""
    compared = any("before" in result for result in results)
    rows = [["task", "data", "metric", *(["before"] if compared else []), "value"]]
    for result in results:
        before = [f"{result['before']:.4f}" if "before" in result else ""] if compared else []
        rows.append([result["task"], result["dataset"], result["metric"], *before, f"{result['value']:.4f}"])
    return table(rows, left=3)


COMMAND = Command(
    name="eval",
    summary="Measure bits per byte, retrieval, topic and tag transfer, before and after; write them into the card.",
    examples=(
        "hf-vocab-extend eval ./model-sw --bits-per-byte held-out.txt --before base/model --record",
        "hf-vocab-extend eval ./model-sw --source-bits-per-byte english.txt --before base/model --record",
        "hf-vocab-extend eval ./model-sw --retrieval eng-swh.test.tsv.gz --topic eng.train.tsv swh.test.tsv",
        "hf-vocab-extend eval ./model-hi --tags eng.train.jsonl.gz hin.test.jsonl.gz --format json",
    ),
    add_arguments=add_arguments,
    run=run,
)
