"""The card of one language, and of a model with several: what it is, what it needs, how it is used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCardData

if TYPE_CHECKING:
    from .language import Language
    from .language_files import BaseModel

_UNTRAINED = re.compile(
    r";\s+the model was not trained afterwards(?=\.)|^- The model was not trained after .*\n?", re.M
)
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,8})*")


def language_card(language: Language, base: BaseModel, load_name: str, existing: str | None, **card_data: Any) -> str:
    """Render the README.md of one language.

    Args:
        language: The language.
        base: The base model.
        load_name: What the snippet loads: a Hub id or a relative folder.
        existing: A README.md whose own text and front matter to keep.
        card_data: Keys of ``huggingface_hub.ModelCardData`` that go before ours, for example ``license``.

    Raises:
        InvalidOptionError: If a card has no such key.
    """
    from ..hub.card import BEGIN, END, check_keys, render_card

    check_keys(card_data)
    shapes = "\n".join(
        f"| `{name}` | {' x '.join(map(str, tensor.shape))} |" for name, tensor in language.tensors.named().items()
    )
    parts = [
        f"A vocabulary for **{language.name}**: tokenizer, input table and output head for {_link(base.name)}, beside "
        f"the model's own ({base.language}). It is no model by itself: it needs the body that "
        "it was saved with, and loading it on a body with other values is an error.",
        "## How to load it",
        f"```python\n{_snippet(language, base, load_name)}\n```",
        "## Tensors",
        f"| tensor | shape |\n|---|---|\n{shapes}",
    ]
    if language.report is not None:
        told = render_card(language.report, model_name=language.name)
        block = told[told.index(BEGIN) + len(BEGIN) : told.index(END)].strip()
        # The report tells how the rows began; whether they were trained since is not known here.
        block = _UNTRAINED.sub("", block)
        parts += ["## How the rows were made", block.replace("\n## ", "\n### ")]
    return _assemble(parts, language.name, [language.name], base, load_name, existing, "adapter", card_data)


def heads_card(languages: Sequence[Language], base: BaseModel, load_name: str, existing: str | None) -> str:
    """Render the README.md of a model with several languages."""
    names = [language.name for language in languages]
    rows = "\n".join(f"| {item.name} | {len(item.tokenizer):,} |" for item in languages)
    code = "\n".join(
        [
            "from hf_vocab_extend import LanguageHeads",
            "",
            f'heads = LanguageHeads.from_pretrained("{load_name}")',
            f'heads.set_language(input="{names[0]}", output="{names[-1]}")',
        ]
    )
    parts = [
        f"{_link(base.name)} with {len(names)} vocabularies on one body. Loaded with `AutoModel` classes it is the "
        f"base model in {base.language}.",
        f"```python\n{code}\n```",
        f"| language | tokens |\n|---|---:|\n{rows}",
    ]
    return _assemble(parts, ", ".join(names), names, base, load_name, existing, "finetune", {})


def _link(name: str | None) -> str:
    return f"[{name}](https://huggingface.co/{name})" if name else "its base model"


def _snippet(language: Language, base: BaseModel, load_name: str) -> str:
    """Return code that loads the base model and this language."""
    from ..auto_class import find_auto_class

    auto = find_auto_class(base.model_type, base.architecture)
    loader = auto.name if auto is not None else base.architecture
    name = base.name or "path/to/base-model"
    return "\n".join(
        [
            f"from transformers import {', '.join(sorted(['AutoTokenizer', loader]))}",
            "",
            "from hf_vocab_extend import LanguageHeads",
            "",
            f'model = {loader}.from_pretrained("{name}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            f'heads = LanguageHeads.from_model(model, tokenizer, language="{base.language}")',
            f'heads.load_language("{load_name}")',
            f'heads.set_language(input="{base.language}", output="{language.name}")',
        ]
    )


def _assemble(
    parts: list[str],
    title: str,
    languages: list[str],
    base: BaseModel,
    load_name: str,
    existing: str | None,
    relation: str,
    card_data: dict[str, Any],
) -> str:
    """Put front matter and text together with what an existing card holds besides them."""
    from ..hub.card import BEGIN, END, merge_card

    data: dict[str, Any] = {"tags": ["hf_vocab_extend", "language-heads"], "library_name": "hf_vocab_extend"}
    codes = [name for name in languages if _LANGUAGE_CODE.fullmatch(name)]
    data |= {"language": codes} if codes else {}
    data |= {"base_model": base.name, "base_model_relation": relation} if base.name else {}
    front = ModelCardData(**(data | card_data)).to_dict()
    name = load_name.rpartition("/")[2] or title
    explicit = {"language", "base_model", "base_model_relation", "library_name", *card_data}
    return merge_card(existing, front, explicit, name, "\n\n".join([BEGIN, *parts, END]))
