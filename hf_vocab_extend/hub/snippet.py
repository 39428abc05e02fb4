"""Python code for the card that loads a model and uses it; a test runs it."""

from __future__ import annotations

from ..auto_class import AutoClass

_TEXT = "Write a sentence in the new language here."
_GENERATE = (
    "output = model.generate(**inputs, max_new_tokens=20)",
    "print(tokenizer.decode(output[0], skip_special_tokens=True))",
)
_LOGITS = ("print(model(**inputs).logits.shape)",)
_HIDDEN = ("print(model(**inputs).last_hidden_state.shape)",)

_USES = {
    "AutoModelForCausalLM": _GENERATE,
    "AutoModelForSeq2SeqLM": _GENERATE,
    "AutoModelForMaskedLM": _LOGITS,
    "AutoModelForSequenceClassification": _LOGITS,
    "AutoModelForTokenClassification": _LOGITS,
    "AutoModelForQuestionAnswering": ("print(model(**inputs).start_logits.shape)",),
    "AutoModel": _HIDDEN,
}
"""Auto class to what follows after loading; for a class without an entry the snippet only loads."""


_SENTENCE_TRANSFORMERS = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{load_name}"{trust})
print(model.encode(["{text}"]).shape)"""


_TRANSPLANT = """from hf_vocab_extend import transplant_embeddings
from transformers import {loader}

full = {loader}.from_pretrained("{full_model}")
extension = transplant_embeddings("{load_name}", full)
extension.save_pretrained("{folder}")"""


def transplant_snippet(
    load_name: str, auto: AutoClass | None, architecture: str | None, full_model: str | None
) -> str:
    """Return code that puts a table, learned on a mini-model, into the full model.

    Args:
        load_name: Hub id or relative folder of the table.
        auto: The Auto class that loads the full model, if there is one.
        architecture: The class itself; named if there is no Auto class and transformers exports it.
        full_model: Hub id of the full model, None if it is not known.
    """
    loader = auto.name if auto is not None else _exported(architecture) or "AutoModelForMaskedLM"
    folder = load_name.rstrip("/").rpartition("/")[2] + "-full"
    return _TRANSPLANT.format(loader=loader, full_model=full_model or "FULL_MODEL", load_name=load_name, folder=folder)


def usage_snippet(
    load_name: str,
    auto: AutoClass | None,
    architecture: str | None,
    library: str | None = None,
    *,
    trust_remote_code: bool = False,
) -> str | None:
    """Return code that loads a model and runs it once, or None if nothing is known about its class.

    Args:
        load_name: Hub id or relative folder.
        auto: The Auto class that loads it, if there is one.
        architecture: The class itself; named if there is no Auto class and transformers exports it.
        library: Library that loads the model, if it is not transformers alone.
        trust_remote_code: Whether the folder brings code of its own that must run.
    """
    trust = ", trust_remote_code=True" if trust_remote_code else ""
    if library == "sentence-transformers":
        return _SENTENCE_TRANSFORMERS.format(load_name=load_name, text=_TEXT, trust=trust)
    loader = auto.name if auto is not None else _exported(architecture)
    if loader is None:
        return None
    uses = _USES.get(auto.name, ()) if auto is not None else ()
    lines = [
        f"from transformers import {', '.join(sorted(['AutoTokenizer', loader]))}",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{load_name}"{trust})',  # it reads the config, too
        f'model = {loader}.from_pretrained("{load_name}"{trust})',
    ]
    if uses:
        lines += ["", f'inputs = tokenizer("{_TEXT}", return_tensors="pt")', *uses]
    return "\n".join(lines)


def _exported(architecture: str | None) -> str | None:
    """Return the name of a class if transformers exports it."""
    import transformers

    return architecture if architecture and hasattr(transformers, architecture) else None
