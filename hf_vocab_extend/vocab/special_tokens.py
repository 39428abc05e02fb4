"""Special tokens by role: which control token of one tokenizer is which of another.

Two control tokens belong together when they play the same role (beginning, end, padding, mask, a chat marker), or when
they are spelled the same. They never match through the text that their names happen to spell.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from ..errors import InvalidOptionError
from .pipeline import backend_of, unknown_id

ROLES = ("eos", "bos", "cls", "sep", "mask", "unk", "pad")
"""Named roles; a target token with several of them takes the first that the source has."""

SPELLINGS: dict[str, tuple[str, ...]] = {
    "bos": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"),
    "eos": ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>", "<｜end▁of▁sentence｜>"),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
    "mask": ("<mask>", "[MASK]", "<|mask|>"),
    "cls": ("[CLS]", "<cls>"),
    "sep": ("[SEP]", "<sep>"),
    "turn_start": ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|start_of_role|>", "<|header_start|>"),
    "turn_end": ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|eot|>", "<|end|>", "<|end_of_turn|>"),
    "header_end": ("<|end_header_id|>", "<|end_of_role|>", "<|header_end|>", "<|im_sep|>"),
    "system": ("<|system|>",),
    "user": ("<|user|>",),
    "assistant": ("<|assistant|>",),
}
"""Spellings of a role's token, most usual first; they count only for control tokens, and after a registered name."""

FALLBACKS = {"bos": "cls", "cls": "bos", "eos": "sep", "sep": "eos"}
"""Role that may stand in: taken only if the source lacks the role and no other target token has the stand-in's."""

BORROWED = ("unk", "pad")
"""Roles that a tokenizer without such a token gives to another's (pad = eos): the token is then not one of these."""

_WORD = r"[a-z_▁ -]*"
_UNUSED = re.compile(
    rf"[<\[>]+[|｜]?{_WORD}(?:unused|reserved|dummy|place[_▁ -]?holder|not[_▁ -]?used){_WORD}\d+[|｜]?[>\]<]+"
    r"|<special_\d+>|\[control_\d+\]|madeupword\d+|<\w+>notused",
    re.IGNORECASE,
)


def is_unused_name(token: str) -> bool:
    """Whether a token's name says that its place is kept free (``[unused7]``, ``<|reserved_special_token_7|>``)."""
    return token[:1] in "<[>mM" and _UNUSED.fullmatch(token) is not None


def _named(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the registered roles, in the order of :data:`ROLES`; the model's own unknown token counts as one."""
    backend = backend_of(tokenizer)
    names = {role: getattr(tokenizer, f"{role}_token", None) for role in ROLES}
    ids = {role: backend.token_to_id(str(name)) for role, name in names.items() if name is not None}
    if ids.get("unk") is None:
        ids["unk"] = unknown_id(backend)
    return {role: index for role in ROLES if (index := ids.get(role)) is not None}


def special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[set[int], set[int]]:
    """Return the ids of all control tokens, and among them those with a registered name (bos, eos, pad, ...)."""
    named = set(_named(tokenizer).values())
    flagged = {index for index, token in backend_of(tokenizer).get_added_tokens_decoder().items() if token.special}
    return flagged | named | {index for index in tokenizer.all_special_ids if index is not None}, named


def special_roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the roles that a tokenizer's control tokens play.

    Args:
        tokenizer: A tokenizer with a ``tokenizer.json`` behind it.

    Returns:
        Role (bos eos pad unk mask cls sep turn_start turn_end header_end system user assistant) -> id. One id may have
        several roles; roles that no token plays are left out.

    Raises:
        UnsupportedTokenizerError: If it has no ``tokenizer.json`` behind it.
    """
    roles = _named(tokenizer)
    backend = backend_of(tokenizer)
    specials, _ = special_ids(tokenizer)
    for role, spellings in SPELLINGS.items():
        ids = (backend.token_to_id(name) for name in spellings)
        found = next((index for index in ids if index in specials), None)
        if found is not None:
            roles.setdefault(role, found)
    return roles


def _own_roles(roles: Mapping[str, int]) -> dict[str, int]:
    """Drop roles that a token of another role was lent to."""
    own = {index for role, index in roles.items() if role not in BORROWED}
    return {role: index for role, index in roles.items() if role not in BORROWED or index not in own}


def _by_id(roles: Mapping[str, int]) -> dict[int, list[str]]:
    """Return the roles of each id, in the order of precedence."""
    order = [*ROLES, *(role for role in SPELLINGS if role not in ROLES)]
    found: dict[int, list[str]] = {}
    for role in order:
        if role in roles:
            found.setdefault(roles[role], []).append(role)
    return found


def match_roles(
    source: PreTrainedTokenizerBase,
    target: PreTrainedTokenizerBase,
    overrides: Mapping[str | int, str | int | None] | None = None,
) -> dict[int, int]:
    """Match the control tokens of two tokenizers.

    In this order: the user's overrides; the same spelling, if the two share a role or one of them has none; the same
    role; the same spelling with another role, where the source has no token for the role; a stand-in of
    :data:`FALLBACKS`. A padding or unknown token that is really the end token (``pad == eos``) counts as the latter.

    Args:
        source: Source tokenizer.
        target: Target tokenizer.
        overrides: Role, token or id of the target -> role, token or id of the source, or None for no match.

    Returns:
        Target id -> source id, ascending by target id. Names of unused places are left to exact matching.

    Raises:
        InvalidOptionError: If an override names a role or token that its tokenizer lacks.
        UnsupportedTokenizerError: If one has no ``tokenizer.json`` behind it.
    """
    source_roles, target_roles = _own_roles(special_roles(source)), _own_roles(special_roles(target))
    forced = _resolve(overrides or {}, source, target)
    source_names, target_names = _literal_names(source), _control_names(target)
    roles_of_source = {index: set(names) for index, names in _by_id(source_roles).items()}
    roles_of_target = _by_id(target_roles)
    matches = {index: choice for index, choice in forced.items() if choice is not None}
    for index, name in sorted(target_names.items()):
        if index in forced:
            continue
        roles = roles_of_target.get(index, [])
        twin = source_names.get(name)
        twin_roles = roles_of_source.get(twin, set()) if twin is not None else set()
        by_role = [source_roles[role] for role in roles if role in source_roles]
        if twin is not None and (not roles or not twin_roles or twin_roles & set(roles) or not by_role):
            matches[index] = twin
        elif by_role:
            matches[index] = by_role[0]
    for role, stand_in in FALLBACKS.items():
        if role not in target_roles or stand_in in target_roles or stand_in not in source_roles:
            continue
        if target_roles[role] not in forced:
            matches.setdefault(target_roles[role], source_roles[stand_in])
    return dict(sorted(matches.items()))


def _control_names(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Return the control tokens by id; named ones whatever they are called, others but for unused places."""
    specials, named = special_ids(tokenizer)
    backend = backend_of(tokenizer)
    names = {index: name for index in sorted(specials) if (name := backend.id_to_token(index)) is not None}
    return {index: name for index, name in names.items() if index in named or not is_unused_name(name)}


def _literal_names(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the tokens that stand for no text of the vocabulary's own: control tokens and added ones, by name.

    A piece such as ``</s>`` that a byte-level BPE learned from web pages is text, and no end token.
    """
    backend = backend_of(tokenizer)
    names = {name: index for index, name in _control_names(tokenizer).items()}
    for index, token in backend.get_added_tokens_decoder().items():
        if backend.model.token_to_id(token.content) is None and not is_unused_name(token.content):
            names.setdefault(token.content, index)
    return names


def _resolve(
    overrides: Mapping[str | int, str | int | None],
    source: PreTrainedTokenizerBase,
    target: PreTrainedTokenizerBase,
) -> dict[int, int | None]:
    """Turn the user's names into ids."""
    return {
        _find(key, target, "target"): None if value is None else _find(value, source, "source")
        for key, value in overrides.items()
    }


def _find(name: str | int, tokenizer: PreTrainedTokenizerBase, side: str) -> int:
    """Return the id that a role, a token or an id names."""
    backend = backend_of(tokenizer)
    if isinstance(name, int):
        if name >= 0 and backend.id_to_token(name) is not None:
            return name
        raise InvalidOptionError(f"The {side} tokenizer has no token with id {name}.")
    roles = special_roles(tokenizer)
    index = roles.get(name, backend.token_to_id(name))
    if index is not None:
        return index
    close = difflib.get_close_matches(name, [*roles, *_control_names(tokenizer).values()], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InvalidOptionError(
        f"The {side} tokenizer has no role and no token {name!r}.{hint} Its roles: {', '.join(roles) or 'none'}."
    )
