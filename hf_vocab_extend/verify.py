"""Load a saved folder again, as a stranger would, and compare it with what was in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ._logging import get_logger
from .auto_class import find_auto_class
from .errors import VerificationError
from .evaluation.scoring import evaluating, own_type
from .saving import ROLES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = get_logger(__name__)

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces, a\ttab, a line\nbreak,\r\n\r\nand trailing blanks   ",
    "Numbers: 0 7 42 1,234.56 1e-9 2024-02-29 ٣٤ ५६ ½",
    "don't it's we'll I'M",
    "snake_case camelCase x != y; f(x)->{y}[0] // <tag attr='1'/> https://example.org/a?b=c#d",
    "Kitabu hiki kimeandikwa kwa Kiswahili, na watoto wanakipenda sana.",
    "À l'été, naïve coöperation; Straße, Łódź, İstanbul",
    "e\u0301 o\u0323\u0300 a\u030a decomposed, \ufb01 ligature, \uff21\uff22 full width",
    "Привет, мир! Γειά σου, κόσμε. Բարև",
    "مرحبًا بِكُمْ שָׁלוֹם",
    "नमस्ते दुनिया வணக்கம் বাংলা",
    "สวัสดีชาวโลก ሰላም မြန်မာ ភាសាខ្មែរ",
    "你好，世界。こんにちは 안녕하세요",
    "🙂 👨\u200d👩\u200d👧 ❤\ufe0f \u200b zero width \u00a0 no-break \x00\x7f",
    "",
    " ",
    "a",
)
"""Scripts, spaces, numbers, code and rare characters: where pipelines differ, one of these lines shows it."""

VOCABULARY_SAMPLE = 2000
"""That many tokens, evenly spread over the ids, are decoded and cut again."""

SETTINGS = ("padding_side", "truncation_side", "model_max_length", "model_input_names", "chat_template")
STOP_ROLES = ("bos", "eos", "pad")
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_COARSE_TOLERANCE = 2e-2
"""Largest difference of two outputs, relative to the largest value; the weights themselves must be bitwise equal."""


@dataclass(frozen=True)
class _Reloaded:
    """A model loaded again, and what the loader said about it."""

    model: PreTrainedModel
    loading: dict[str, Any]


def verify_folder(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Compare a saved folder with the model and the tokenizer that were saved.

    Args:
        folder: Holds ``config.json``, the weights and the tokenizer.
        model: The model in memory.
        tokenizer: The tokenizer in memory.

    Returns:
        What could not be compared, in words; usually nothing.

    Raises:
        VerificationError: It names the file and the field at fault.
    """
    verify_tokenizer(folder, tokenizer)
    notes = verify_model(folder, model, tokenizer)
    return notes + verify_token_ids(folder, model, tokenizer)


def verify_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Load the tokenizer with ``AutoTokenizer`` beside ``config.json`` and compare what it does to text.

    Raises:
        VerificationError: If the vocabulary, the ids of a text or a setting differ.
    """
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise VerificationError(
            f"tokenizer.json does not load beside config.json ({type(error).__name__}: {error}). {_remedy(folder)}"
        ) from error
    _compare_vocabulary(tokenizer, loaded, folder)
    texts = [*TEXTS, *_special_texts(tokenizer), *_vocabulary_texts(tokenizer)]
    for special in (False, True):
        before, after = (_encode(item, texts, special) for item in (tokenizer, loaded))
        for text, own, other in zip(texts, before, after, strict=True):
            if own != other:
                raise VerificationError(
                    "tokenizer.json loads as another tokenizer beside config.json: "
                    f"{_field_at_fault(tokenizer, loaded)} differs, so {text!r} has the ids {own[:12]} before and "
                    f"{other[:12]} after. {_remedy(folder)}"
                )
    for name in SETTINGS + tuple(f"{role}_token" for role in ROLES):
        own, other = getattr(tokenizer, name), getattr(loaded, name)
        if own != other:
            raise VerificationError(
                f"tokenizer_config.json: {name} was {own!r:.80} and loads as {other!r:.80}. "
                "Set it on the tokenizer again and save once more."
            )


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool) -> list[list[int]]:
    """Return the ids of each text, never truncated."""
    return tokenizer(texts, add_special_tokens=special, truncation=False, verbose=False)["input_ids"]


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return texts with added tokens inside, with and without spaces around them."""
    added = [str(token) for token in list(tokenizer.added_tokens_decoder.values())[:64]]
    return [f"word{token}word" for token in added] + [f"word {token} word" for token in added]


def _vocabulary_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts of tokens evenly spread over the ids, the last ones included."""
    ids = sorted(tokenizer.get_vocab().values())
    step = max(1, len(ids) // VOCABULARY_SAMPLE)
    return [str(tokenizer.decode([index])) for index in ids[::-step]]


def _compare_vocabulary(own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, folder: Path) -> None:
    """Raise unless both have the same token at each id."""
    before, after = own.get_vocab(), other.get_vocab()
    if before == after:
        return
    moved = [token for token in sorted(before, key=lambda token: before[token]) if before[token] != after.get(token)]
    added = sorted(set(after) - set(before))
    detail = f"{moved[0]!r} has id {before[moved[0]]} before and {after.get(moved[0])} after" if moved else ""
    extra = f"{len(added)} tokens appear, the first {added[0]!r}" if added else ""
    raise VerificationError(
        f"tokenizer.json loads with another vocabulary beside config.json: {detail or extra}. {_remedy(folder)}"
    )


def _field_at_fault(own: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str:
    """Name the first part of two pipelines that differs."""
    before, after = (json.loads(item.backend_tokenizer.to_str()) for item in (own, other))
    for part in ("normalizer", "pre_tokenizer", "post_processor", "added_tokens"):
        if before[part] != after[part]:
            return f"'{part}'"
    options = [name for name in before["model"] if before["model"][name] != after["model"].get(name)]
    return f"'model.{options[0]}'" if options else "a part outside tokenizer.json"


def _remedy(folder: Path) -> str:
    """Say what can be done when ``AutoTokenizer`` builds another tokenizer than the saved one."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return (
        f"For model_type '{config.get('model_type')}' AutoTokenizer may build its own class whatever "
        "tokenizer_config.json says, with a normalizer and a pre-tokenizer of its own. Extend the model's own "
        "tokenizer and leave its pipeline as it is; or save with verify=False and have every user load it with "
        "PreTrainedTokenizerFast.from_pretrained."
    )


def verify_model(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Load the model again and compare its tensors, its ties and its outputs.

    Raises:
        VerificationError: If a weight is missing, unexpected or another one, a tie is lost, or the outputs differ.
    """
    reloaded = _reload(folder, model)
    problems = {
        name: sorted(str(key) for key in reloaded.loading.get(name) or ())
        for name in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    for name, keys in problems.items():
        if keys:
            raise VerificationError(
                f"model.safetensors: {name.replace('_', ' ')} when it is loaded again: {', '.join(keys[:3])}. "
                "The config and the weights do not describe the same model; report this with the model's class."
            )
    _compare_tensors(model, reloaded.model)
    highest = max(tokenizer.get_vocab().values())
    rows = reloaded.model.get_input_embeddings().state_dict()["weight"].shape[0]
    if highest >= rows:
        raise VerificationError(
            f"tokenizer.json has the id {highest} and the input table of model.safetensors has {rows} rows. "
            "Extend the model with this tokenizer before saving."
        )
    return _compare_outputs(model, reloaded.model, tokenizer)


def _reload(folder: Path, model: PreTrainedModel) -> _Reloaded:
    """Load with the Auto class that a reader of the card would use, or with the model's own class if there is none."""
    import transformers

    auto = find_auto_class(model.config.model_type, type(model).__name__)
    loader = getattr(transformers, auto.name) if auto is not None else type(model)
    try:
        loaded, loading = loader.from_pretrained(  # type: ignore[misc]
            folder,
            local_files_only=True,
            output_loading_info=True,
            dtype=_common_dtype(model),
            attn_implementation=model.config._attn_implementation,
        )
    except Exception as error:
        raise VerificationError(
            f"config.json and model.safetensors do not load with {loader.__name__} ({type(error).__name__}: {error}). "
            "Report this with the model's class; verify=False saves without this check."
        ) from error
    if type(loaded).__name__ != type(model).__name__:
        raise VerificationError(
            f"config.json loads as {type(loaded).__name__} and the saved model is a {type(model).__name__}. "
            "Save the class that config.json names."
        )
    live = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, tensor in [*loaded.named_parameters(), *loaded.named_buffers()]:
        if name in live:  # a model may hold tensors of several types, the loader knows one: back, without loss
            tensor.data = tensor.data.to(live[name].dtype)
    return _Reloaded(loaded.to(model.device), loading)


def _common_dtype(model: PreTrainedModel) -> torch.dtype:
    """Return the type of the model's float tensors; float32, which holds them all, if there are several."""
    types = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    return model.dtype if len(types) <= 1 else torch.float64 if torch.float64 in types else torch.float32


def _compare_tensors(own: PreTrainedModel, other: PreTrainedModel) -> None:
    """Raise unless both hold the same tensors, bitwise, and share storage in the same places."""
    before, after = own.state_dict(), other.state_dict()
    for name, tensor in before.items():
        found = after.get(name)
        if found is None or found.shape != tensor.shape or not torch.equal(found, tensor):
            what = "is missing" if found is None else f"{tuple(tensor.shape)} loads as another {tuple(found.shape)}"
            raise VerificationError(
                f"model.safetensors: {name} {what}. If the head is tied, check tie_word_embeddings in config.json."
            )
    shared = _shared(before), _shared(after)
    if shared[0] != shared[1]:
        names = sorted({name for group in shared[0] ^ shared[1] for name in group})
        raise VerificationError(
            f"config.json: {', '.join(names)} share their storage before and not after, or the other way round. "
            "Set tie_word_embeddings in the config to what the model does."
        )


def _shared(tensors: dict[str, torch.Tensor]) -> set[frozenset[str]]:
    """Return the groups of names whose tensors share storage."""
    groups: dict[int, set[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel():
            groups.setdefault(tensor.data_ptr(), set()).add(name)
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def _compare_outputs(own: PreTrainedModel, other: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Run three sequences through both models."""
    ids = _sequences(tokenizer).to(own.device)
    with evaluating(own), evaluating(other), own_type(own):
        try:
            expected = _forward(own, ids)
        except Exception as error:  # a model that needs images or sound has no output on token ids alone
            return [
                f"Outputs were not compared: {type(own).__name__} does not run on these token ids ({error!r:.120})."
            ]
        found = _forward(other, ids)
    limit = _TOLERANCE.get(own.dtype, _COARSE_TOLERANCE) * max(1.0, float(expected.abs().max()))
    difference = float((expected - found).abs().max())
    if not difference <= limit:
        raise VerificationError(
            f"config.json: all weights load equal, but the outputs differ by {difference:.3g}. A setting of the "
            "config did not survive; compare model.config with the saved config.json."
        )
    return []


def _sequences(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return three sequences of eight ids: a text, the highest ids, and ids spread over the vocabulary."""
    present = sorted(set(tokenizer.get_vocab().values()))
    text = tokenizer(TEXTS[0] + " " + TEXTS[5], truncation=False)["input_ids"]
    rows = (text, present[-8:], present[:: max(1, len(present) // 8)])
    return torch.tensor([(list(row) + present)[:8] for row in rows])


def _forward(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the first output of each sequence, `(3, 8, n)` or `(3, n)`, in float32."""
    rows = []
    for row in ids.split(1):  # one by one: a classifier without a padding id takes no more at once
        arguments = {"decoder_input_ids": row} if model.config.is_encoder_decoder else {}
        rows.append(model(input_ids=row, attention_mask=torch.ones_like(row), **arguments)[0].float())
    return torch.cat(rows)


def verify_token_ids(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Compare bos, eos and pad of ``config.json`` and ``generation_config.json`` with the model and the tokenizer.

    A role that only one side names is left alone; a list of eos ids must hold that of the tokenizer.

    Returns:
        Where model and tokenizer disagreed in memory already, as some published models do: to be known, not refused.

    Raises:
        VerificationError: If a file disagrees with the tokenizer and the model in memory does not. It names the file,
            the field and both ids.
    """
    notes = []
    generation = getattr(model, "generation_config", None)
    for file, live in (("config.json", model.config), ("generation_config.json", generation)):
        if not (folder / file).is_file():
            continue
        settings = json.loads((folder / file).read_text("utf-8"))
        text_settings = settings | (settings.get("text_config") or {})
        live_settings = model.config.get_text_config() if live is model.config else live
        for role in STOP_ROLES:
            name = f"{role}_token_id"
            declared, own = text_settings.get(name), getattr(tokenizer, name)
            if declared is None or own is None or own in (declared if isinstance(declared, list) else [declared]):
                continue
            token = getattr(tokenizer, f"{role}_token")
            message = (
                f"{file}: {name} is {declared} and the tokenizer's {role}_token {token!r} has id {own}. "
                f"Set model.config.{name} and model.generation_config.{name}, or the tokenizer's {role}_token."
            )
            if declared != getattr(live_settings, name, None):
                raise VerificationError(message)
            notes.append(message)
    return notes
