"""The model card: rendered from the report alone, put around or between what the user wrote."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ..auto_class import find_auto_class
from ..errors import InvalidOptionError
from ..evaluation.curves import CURVES_FILE
from ..methods import METHODS, get_method_class
from ..origin import CITATION, Origin, origin_of
from ..report import COPIED, ESTIMATED, RANDOM, REPORT_FILE, ExtensionReport, head_text
from ..scrub import public_model_id, without_private
from .front_matter import LICENSE_KEYS, as_list, assemble, merge_front_matter, split_front_matter
from .snippet import transplant_snippet, usage_snippet
from .training_section import before_notes, measures_table, run_rows, stage_rows, text_rows, training_limits

BEGIN = "<!-- hf_vocab_extend: begin (what stands up to the end mark is written anew at every save) -->"
END = "<!-- hf_vocab_extend: end -->"
_BLOCK = re.compile(r"<!-- hf_vocab_extend: begin\b.*?<!-- hf_vocab_extend: end -->", re.DOTALL)
_LOADED = re.compile(r'^(?:tokenizer|model|extension) = \w+(?:\.from_pretrained)?\("([^"]+)"', re.MULTILINE)
"""What the snippet loads."""
_OUR_KEYS = ("base_model", "base_model_relation")
"""Front-matter keys that follow the report even where the user wrote others."""

CARD_KEYS = frozenset(inspect.signature(ModelCardData).parameters) - {"kwargs", "ignore_metadata_errors"}
EXTRA_KEYS = frozenset({"base_model_relation", "thumbnail", "inference", "widget", "co2_eq_emissions", "new_version"})

_KIND_TEXT = {
    "same": "kept as it was",
    "exact": "copied from the token with the same text",
    "byte": "copied from the token of the same byte",
    "special": "copied from the special token of the same role",
    "fuzzy": "copied from a token with the same text but for case or word start",
    "hole": "padding without a token, mean of the source rows",
    "method": "mixture of source rows, found by the method",
    "predicted": "given by the method as numbers",
    "override": "mixture named by the user",
    "fallback": "mixture of the token's own source pieces (fallback)",
    "random": "random, from the distribution of the source rows",
    "new": "not initialised",
}


def render_card(
    report: ExtensionReport,
    *,
    model_name: str | None = None,
    load_name: str | None = None,
    model_type: str | None = None,
    architecture: str | None = None,
    language: str | Sequence[str] | None = None,
    library_name: str | None = None,
    base_model: str | None = None,
    pipeline_tag: str | None = None,
    tags: Sequence[str] = (),
    datasets: Sequence[str] | None = None,
    existing: str | None = None,
    stored_as_product: bool = False,
    curves: bool = False,
    config: Mapping[str, Any] | None = None,
    **card_data: Any,
) -> str:
    """Render a README.md; no network, no files but the template.

    Args:
        report: What was done.
        model_name: Title; by default the base model's name with the languages.
        load_name: What the usage snippet loads: a Hub id or a relative folder. Without it there is no snippet.
        model_type: ``model_type`` of ``config.json``.
        architecture: Class of the model, the first of ``architectures`` in ``config.json``.
        language: Language codes; by default those of the report.
        library_name: Library that loads the model; by default ``transformers``.
        base_model: Hub id of the base model; by default that of the report, if it can be one.
        pipeline_tag: Task on the Hub; by default from the architecture, where that tells.
        tags: More tags.
        datasets: Hub ids of the data used.
        existing: A README.md to keep: all text outside our marks stays, and so do its front-matter keys, but for those
            that are given here.
        stored_as_product: Whether the files hold factorised tables as two matrices, so that loading needs
            ``trust_remote_code=True``.
        curves: Whether ``training_curves.png`` lies beside the card.
        config: ``config.json`` of the model: it tells a mini-model whose report does not.
        card_data: More keys of ``huggingface_hub.ModelCardData``, for example ``license``.

    Returns:
        The text, with line breaks as in ``existing``.

    Raises:
        InvalidOptionError: If a key is unknown, or the front matter of ``existing`` is no YAML mapping.
    """
    check_keys(card_data)
    clean = ExtensionReport.from_dict(without_private(report.to_dict()))
    auto = find_auto_class(model_type, architecture) if model_type and architecture else None
    languages = as_list(language) if language is not None else list(clean.languages)
    name = model_name or _default_name(clean, languages)
    origin = origin_of(clean.training, config)
    if origin is not None and report.base_model is None:
        base_model = base_model or origin.full_model
    own_tags = ["mini-model"] if origin is not None and origin.is_table_only else []
    data = ModelCardData(
        base_model=_base_model(report, base_model, existing),
        language=languages or None,
        library_name=library_name or "transformers",
        pipeline_tag=pipeline_tag or (auto.pipeline_tag if auto else None),
        tags=["hf_vocab_extend", "vocabulary-extension", clean.method, *own_tags, *tags],
        datasets=list(datasets) if datasets else None,
        eval_results=[_eval_result(item) for item in clean.evaluations] or None,
        model_name=name,
        **card_data,
    )
    if data.base_model is not None and "base_model_relation" not in card_data:
        data["base_model_relation"] = "finetune"
    snippet = None
    if load_name and origin is not None and origin.is_table_only:
        snippet = transplant_snippet(load_name, auto, architecture, origin.full_model)
    elif load_name:
        snippet = usage_snippet(load_name, auto, architecture, data.library_name, trust_remote_code=stored_as_product)
    picture = CURVES_FILE if curves else None
    block = _render_block(clean, data, name, snippet, stored_as_product, picture, origin, load_name)
    given = card_data | {"pipeline_tag": pipeline_tag, "library_name": library_name}
    explicit = {key for key, value in given.items() if value is not None} | set(_OUR_KEYS)
    return merge_card(existing, _front_matter(data), explicit, name, block)


def card_of_folder(folder: Path, **options: Any) -> str:
    """Render the card of a saved folder from its ``vocab_extension.json`` and ``config.json``.

    Args:
        folder: The folder.
        options: Options of :func:`render_card`.

    Raises:
        InvalidOptionError: If one of the two files is missing.
    """
    for name in (REPORT_FILE, "config.json"):
        if not (folder / name).is_file():
            raise InvalidOptionError(f"'{folder.name}' holds no {name}. Give a folder that save_pretrained wrote.")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    stock_type = config.get("base_model_type")  # what a factorised model is without its product
    found = {
        "model_type": stock_type or config.get("model_type"),
        "architecture": (config.get("architectures") or [None])[0],
        "stored_as_product": stock_type is not None,
        "curves": (folder / CURVES_FILE).is_file(),
        "config": config,
    }
    if (folder / "modules.json").is_file():
        found["library_name"] = "sentence-transformers"
    report = ExtensionReport.from_json((folder / REPORT_FILE).read_text("utf-8"))
    return render_card(report, **(found | options))


def read_card(readme: Path) -> str | None:
    """Return a README.md with its line breaks as they are, or None if there is none.

    Raises:
        InvalidOptionError: If it is not UTF-8.
    """
    if not readme.is_file():
        return None
    try:
        return readme.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidOptionError(
            f"README.md is not UTF-8 (byte {error.start}). Convert it, then save again."
        ) from error


def stated_license(readme: Path) -> dict[str, str]:
    """Return the licence keys in the front matter of a README.md; empty if there are none."""
    front, _ = split_front_matter(read_card(readme) or "")
    return {key: front[key] for key in LICENSE_KEYS if isinstance(front.get(key), str)}


def has_own_prose(text: str) -> bool:
    """Whether a card holds text of the user's own besides a title."""
    _, body = split_front_matter(text)
    rest = _BLOCK.sub("", body).strip()
    return bool(re.sub(r"\A# [^\n]*", "", rest).strip())


def fill_front_matter(text: str, other: str) -> str:
    """Return a card with the front-matter keys that only another card has."""
    own, body = split_front_matter(text)
    missing = {key: value for key, value in split_front_matter(other)[0].items() if key not in own}
    return assemble(own | missing, body.lstrip("\r\n")) if missing else text


def check_keys(card_data: Mapping[str, Any]) -> None:
    """Refuse keys that no card has: the Hub would ignore a misspelt one silently.

    Raises:
        InvalidOptionError: It names the key and those that a card has.
    """
    unknown = sorted(set(card_data) - CARD_KEYS - EXTRA_KEYS)
    if unknown:
        known = ", ".join(sorted(CARD_KEYS | EXTRA_KEYS))
        raise InvalidOptionError(f"A model card has no key '{unknown[0]}'. Its keys: {known}.")


def _default_name(report: ExtensionReport, languages: list[str]) -> str:
    """Return the base model's name with the languages."""
    base = (public_model_id(report.base_model) or "model").rpartition("/")[2]
    return "-".join([base, *languages]) if languages else f"{base}-extended"


def _base_model(report: ExtensionReport, given: str | None, existing: str | None) -> str | None:
    """Return the base model's id: as given, as reported, or, where the report has a bare folder name, as was there."""
    found = public_model_id(given or report.base_model)
    if given or (found and "/" in found) or existing is None:
        return found
    own = split_front_matter(existing)[0].get("base_model")
    return own if isinstance(own, str) else found


def _eval_result(evaluation: Mapping[str, Any]) -> EvalResult:
    """Return one evaluation in the form of the front matter's model index."""
    return EvalResult(
        task_type=_slug(evaluation["task"]),
        task_name=evaluation["task"],
        dataset_type=_slug(evaluation["dataset"], keep="/"),
        dataset_name=evaluation["dataset"],
        metric_type=_slug(evaluation["metric"], keep="@_"),
        metric_name=evaluation["metric"],
        metric_value=round(evaluation["value"], 6),
    )


def _slug(text: str, keep: str = "") -> str:
    """Return an identifier: lower case, other characters than letters and digits as hyphens."""
    return re.sub(rf"[^a-z0-9{re.escape(keep)}]+", "-", text.lower()).strip("-") or "unnamed"


def _render_block(
    report: ExtensionReport,
    data: ModelCardData,
    name: str,
    snippet: str | None,
    stored_as_product: bool,
    curves: str | None,
    origin: Origin | None,
    load_name: str | None,
) -> str:
    """Render the part between the marks."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
    )
    environment.filters["cell"] = _cell
    environment.filters["number"] = _number
    template = environment.from_string(files(__package__).joinpath("card_template.md").read_text("ascii"))
    adapter = data.library_name == "peft"
    method = get_method_class(report.method) if report.method in METHODS else None
    body = template.render(
        report=report,
        name=name,
        load_name=load_name or "FOLDER",
        base_model=data.base_model,
        languages=data.language or [],
        snippet=snippet,
        stored_as_product=stored_as_product,
        kinds=_kind_rows(report),
        head=head_text(report),
        copied=report.count(COPIED),
        estimated=report.count(ESTIMATED),
        fertility=_fertility_rows(report),
        method=method,
        method_config=json.dumps(report.method_config, ensure_ascii=False, sort_keys=True),
        training=run_rows(report.training or {}),
        stages=stage_rows(report.training or {}),
        texts=text_rows(report.training or {}, report.evaluations),
        befores=before_notes(report.training or {}, report.evaluations),
        measures=measures_table(report.training or {}),
        curves=curves,
        distillations=_distillation_rows(report),
        distilled=_is_distilled(report),
        adapter=adapter,
        limits=_limits(report, bool(data.language), adapter, origin),
        origin=origin,
        citations=[
            text.strip()
            for text in (method and method.citation, origin is not None and origin.is_mini and CITATION)
            if text
        ],
    )
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    return f"{BEGIN}\n\n{body}\n\n{END}"


def _kind_rows(report: ExtensionReport) -> list[tuple[str, int, str]]:
    """Return for each kind of row: what it means, how many there are, its share of the corpus."""
    order = [kind for kind in _KIND_TEXT if kind in report.counts_by_kind]
    order += sorted(set(report.counts_by_kind) - set(order))
    shares = report.coverage
    return [
        (
            _KIND_TEXT.get(kind, kind),
            report.counts_by_kind[kind],
            "" if shares is None else f"{100 * shares.get(kind, 0.0):.1f} %",
        )
        for kind in order
    ]


_FERTILITY = (
    ("tokens_per_word", "tokens per word", "{:.3f}"),
    ("bytes_per_token", "bytes per token", "{:.3f}"),
    ("unknown_rate", "unknown tokens", "{:.2%}"),
    ("byte_fallback_rate", "tokens that are single bytes", "{:.2%}"),
    ("round_trip_rate", "lines that decode to themselves", "{:.2%}"),
    ("pre_tokens_per_word", "lower limit of tokens per word (pre-tokenizer)", "{:.3f}"),
    ("new_token_rate", "share of new tokens in the text", "{:.2%}"),
)


def _fertility_rows(report: ExtensionReport) -> list[tuple[str, str, str]]:
    """Return label, before and after of each measure; empty without a corpus."""
    before, after = report.fertility_before or {}, report.fertility_after or {}
    rows = []
    for key, label, form in _FERTILITY:
        values = [form.format(item[key]) if item.get(key) is not None else "" for item in (before, after)]
        if any(values):
            rows.append((label, values[0], values[1]))
    return rows


def _distillation_rows(report: ExtensionReport) -> list[tuple[str, Any]]:
    """Return what each distillation says of itself, nested figures on lines of their own."""
    rows: list[tuple[str, Any]] = []
    for item in report.distillations:
        for key, value in item.items():
            name = key.replace("_", " ")
            if isinstance(value, Mapping):
                rows += [(f"{name}, {part}", number) for part, number in value.items()]
            else:
                rows.append((name, value))
    return rows


def _is_distilled(report: ExtensionReport) -> bool:
    """Whether a distillation has changed a row; its guard may have kept the start."""
    return any(item.get("rows", True) for item in report.distillations)


def _limits(report: ExtensionReport, language_known: bool, adapter: bool, origin: Origin | None) -> list[str]:
    """Return what a user of the model must know, from the report alone, without repetition."""
    random = report.count(RANDOM)
    limits = [
        (
            origin is not None and origin.is_table_only,
            "The model in these files is the mini-model, which serves to learn the table: use the full model with it.",
        ),
        (
            adapter and not report.training,
            "What the adapter was trained on was not recorded.",
        ),
        (
            not report.training and not adapter,
            "The model was not trained after its vocabulary changed"
            + (", its new rows aside" if _is_distilled(report) else "")
            + ". The new rows are estimates; train on text of the new language before relying on them.",
        ),
        (bool(random), f"{random} rows are random: nothing covered their tokens."),
        (not language_known, "The language of the new tokens was not stated."),
        (not report.evaluations, "No evaluation was recorded."),
        (
            report.mode == "replace",
            "Text in the languages of the base model may need more tokens than before, or lose characters: its "
            "vocabulary was replaced.",
        ),
    ]
    told = [text for holds, text in limits if holds] + training_limits(report.training, report.evaluations)
    return list(dict.fromkeys(told + list(report.notes)))


def _cell(value: Any) -> str:
    """Return text that cannot break a table or open a tag."""
    text = str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(text.split())


def _number(value: float | None) -> str:
    """Return a number with four significant digits, integers with thousands separators."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _front_matter(data: ModelCardData) -> dict[str, Any]:
    """Return the front matter as the Hub reads it: without empty keys, the name only inside the model index."""
    front = data.to_dict()
    first = {key: front.pop(key) for key in _OUR_KEYS if key in front}
    front.pop("model_name", None)
    return {key: value for key, value in (first | front).items() if value not in (None, [], "")}


def merge_card(existing: str | None, front: dict[str, Any], explicit: set[str], name: str, block: str) -> str:
    """Put front matter and block together with what an existing card holds besides them.

    Args:
        existing: The card that is there, None if there is none.
        front: Front matter.
        explicit: Keys of it that go before what the existing card says.
        name: Title of a new card.
        block: Text between our marks, with the marks.
    """
    if existing is None:
        return assemble(front, f"# {name}\n\n{block}\n")
    windows = "\r\n" in existing
    own, body = split_front_matter(existing.replace("\r\n", "\n"))
    former = _former_names(own, body)
    if _BLOCK.search(body):
        body = _BLOCK.sub(lambda _: block, body, count=1)
    else:
        body = body.rstrip("\n") + f"\n\n{block}\n"
    body = _titled(body.lstrip("\n"), name, former)
    text = assemble(merge_front_matter(own, front, explicit), body)
    return text.replace("\n", "\r\n") if windows else text


def _former_names(front: Mapping[str, Any], body: str) -> set[str]:
    """Return the names that a card of ours has for its model: in the model index, and in what its snippet loads."""
    block = _BLOCK.search(body)
    found = _LOADED.findall(block.group()) if block else []
    index = front.get("model-index")
    entries = index if block and isinstance(index, list) else []
    found += [str(entry["name"]) for entry in entries if isinstance(entry, Mapping) and entry.get("name")]
    return {name.rpartition("/")[2] for name in found}


def _titled(body: str, name: str, former: set[str]) -> str:
    """Return the text of a card with its new name as title where the title was the old name."""
    title, line, rest = body.partition("\n")
    ours = title.startswith("# ") and title[2:].strip() in former
    return f"# {name}{line}{rest}" if ours else body
