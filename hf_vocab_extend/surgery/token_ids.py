"""Move every token id that a model's configs hold to the target vocabulary.

A stale id is silent: generation stops at an ordinary word, or padding is attended to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import TokenizerMismatchError
from ..plan import MatchKind, VocabPlan
from .config_tree import all_configs, main_config
from .journal import Journal
from .registry import LEGACY_EOS, LEGACY_EOS_TYPES

ID_FIELD = re.compile(
    r"(^|_)(token_ids?|token_index|token_indices|token_ids_list)$|^(pad|bos|eos|unk|mask|sep|cls)_(index|id|idx)$"
)
"""Names of fields that hold one id or a list of ids."""
ID_LISTS = ("suppress_tokens", "begin_suppress_tokens")
ID_SEQUENCES = ("bad_words_ids", "force_words_ids")
MODULE_FIELD = re.compile(r"(^|_)token_id$|^(padding_idx|pad_index|pad_idx|(pad|bos|eos|unk|mask)_(index|idx))$")
_ROLE = re.compile(r"(?:^|_)(pad|bos|eos|unk|mask|sep|cls)_(?:token_id|token_ids|index|id|idx)$")
_VANISHED = object()


class IdMap:
    """Where each source id of a plan went.

    One source id may have several targets (a source with one end-of-text token, a target with bos, eos and pad): the
    target's own token of the asked role wins, then a match by role, then the lowest id.
    """

    def __init__(self, plan: VocabPlan, roles: dict[str, int] | None = None) -> None:
        """Take a plan and the target ids of the special roles, if known."""
        self.is_identity = plan.mode == "extend"
        self.n_source = plan.n_source
        self.roles = roles or {}
        self._source_ids = plan.source_ids
        targets = plan.copied_ids
        order = np.lexsort((targets, plan.kinds[targets] != MatchKind.SPECIAL, plan.source_ids[targets]))
        sources, first = np.unique(plan.source_ids[targets][order], return_index=True)
        self._targets = np.full(plan.n_source, -1, np.int64)
        self._targets[sources] = targets[order][first]

    def find(self, source_id: int, role: str | None = None) -> int | None:
        """Return the target id of a source id, None if its token is not in the target.

        Negative ids are markers, not tokens, and stay.
        """
        if self.is_identity or source_id < 0:
            return source_id
        own = self.roles.get(role or "")
        if own is not None and self._source_ids[own] == source_id:
            return own
        target = int(self._targets[source_id]) if source_id < self.n_source else -1
        return target if target >= 0 else None


@dataclass(frozen=True)
class _Change:
    owner: Any
    name: str
    value: Any


def remap_token_ids(
    model: PreTrainedModel,
    plan: VocabPlan,
    target_tokenizer: PreTrainedTokenizerBase,
    *,
    journal: Journal | None = None,
) -> list[str]:
    """Apply one old-to-new map to every id in the configs, nested configs, generation config and modules.

    Scalars, lists, lists of lists (``bad_words_ids``, ``forced_decoder_ids``) and keys (``sequence_bias``) are mapped.
    An id whose token is not in the target takes the target tokenizer's id of the same role if it has one (for
    ``decoder_start_token_id`` the role that its old id had), else None; from a list it is dropped. In mode ``extend``
    nothing moves, but for CLIP's old ``eos_token_id=2``, which stands for the highest id and becomes the real one.

    Args:
        model: The model; rows are not touched.
        plan: Which target id is which source id.
        target_tokenizer: Tokenizer of the target ids.
        journal: Where to note the writes, for a caller whose own later failure must take them back too.

    Returns:
        One line for each field that held an id whose token vanished, or, in mode ``extend``, an id outside the source
        vocabulary that a new token now claims.

    Raises:
        TokenizerMismatchError: If an id field of the target tokenizer lies outside the plan.
    """
    roles = _tokenizer_roles(target_tokenizer)
    outside = {name: value for name, value in roles.items() if value >= plan.n_target}
    if outside:
        raise TokenizerMismatchError(
            f"The tokenizer's special ids {outside} lie outside the plan's {plan.n_target} target ids. "
            "Pass the tokenizer that the plan was made with."
        )
    remapper = _Remapper(model, plan, target_tokenizer, roles)
    changes = list(remapper.changes())
    with journal or Journal() as journal:
        for change in changes:
            journal.set_attribute(change.owner, change.name, change.value)
    return list(dict.fromkeys(remapper.notes))


def _tokenizer_roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of the special tokens that a tokenizer names, by role."""
    values = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad", "unk", "mask")}
    values |= {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("cls", "sep")}
    return {role: value for role, value in values.items() if isinstance(value, int)}


class _Remapper:
    """Collects changes and notes; writes nothing."""

    def __init__(
        self, model: PreTrainedModel, plan: VocabPlan, tokenizer: PreTrainedTokenizerBase, roles: dict[str, int]
    ) -> None:
        self.model = model
        self.plan = plan
        self.tokenizer = tokenizer
        self.map = IdMap(plan, roles)
        self.notes: list[str] = []
        self.old_roles = self._old_roles()

    def _old_roles(self) -> dict[int, str]:
        """Return which role each source id has in the configs; the first of a fixed order wins."""
        found: dict[int, str] = {}
        for role in ("pad", "eos", "bos", "unk", "mask", "sep", "cls"):
            for config in (self.model.config, getattr(self.model, "generation_config", None)):
                value = getattr(config, f"{role}_token_id", None)
                for item in value if isinstance(value, list) else [value]:
                    if isinstance(item, int):
                        found.setdefault(item, role)
        return found

    def changes(self) -> Iterator[_Change]:
        """Give every attribute that must change, with its new value."""
        vocab_size = getattr(main_config(self.model.config), "vocab_size", None)
        owners: list[tuple[str, Any]] = [
            (path, config)
            for path, config in all_configs(self.model)
            if getattr(config, "vocab_size", None) in (None, vocab_size)
        ]
        generation = getattr(self.model, "generation_config", None)
        if generation is not None:
            owners.append(("generation_config", generation))
        for path, owner in owners:
            for name, value in list(vars(owner).items()):
                yield from self._field(path, owner, name, value)
        for path, module in self.model.named_modules():
            for name, value in list(vars(module).items()):
                if type(value) is int and MODULE_FIELD.search(name) and name != "padding_idx":
                    yield from self._field(path or "model", module, name, value)

    def _field(self, path: str, owner: Any, name: str, value: Any) -> Iterator[_Change]:
        """Give the change of one attribute, if it holds ids and any of them moves."""
        if self._is_legacy_eos(owner, name, value):
            yield _Change(owner, name, self.tokenizer.eos_token_id)
            return
        convert = next((function for matches, function in _CONVERTERS if matches(name, value)), None)
        if convert is None or value is None:
            return
        new = convert(self, f"{path}.{name}", name, value)
        if new != value:
            yield _Change(owner, name, new)

    def _is_legacy_eos(self, owner: Any, name: str, value: Any) -> bool:
        """Whether an eos id is the marker that makes CLIP pool at the highest id, which new tokens would take over."""
        config = getattr(owner, "config", owner)
        is_marker = name == "eos_token_id" and value == LEGACY_EOS and self.tokenizer.eos_token_id is not None
        return is_marker and getattr(config, "model_type", None) in LEGACY_EOS_TYPES

    def one(self, where: str, name: str, value: int, *, role_fallback: bool = True) -> Any:
        """Map one id; a vanished one is noted and takes its role's id, or the marker of a vanished one."""
        if value >= self.plan.n_source:
            return self._beyond(where, name, value, role_fallback)
        match = _ROLE.search(name)
        role = match.group(1) if match else self.old_roles.get(value)
        new = self.map.find(value, role)
        if new is not None:
            return new
        return self._vanished(where, name, value, role, role_fallback)

    def _beyond(self, where: str, name: str, value: int, role_fallback: bool) -> Any:
        """Handle an id that the source tokenizer does not have."""
        if self.plan.mode == "extend":
            if value < self.plan.n_target and self.plan.kinds[value] == MatchKind.NEW:
                token = self.plan.target.tokens[value]
                self.notes.append(
                    f"{where} is {value}, which the source tokenizer did not have and the new token {token!r} now has."
                )
            return value
        match = _ROLE.search(name)
        return self._vanished(where, name, value, match.group(1) if match else None, role_fallback)

    def _vanished(self, where: str, name: str, value: int, role: str | None, role_fallback: bool) -> Any:
        """Note an id without a counterpart and return its replacement."""
        token = self.plan.source.tokens[value] if value < self.plan.n_source else None
        new = getattr(self.tokenizer, name, None)
        if not isinstance(new, int):
            new = self.map.roles.get(role or "")
        if not role_fallback or new is None:
            self.notes.append(f"{where} was {value} ({token!r}), which the new tokenizer does not have: removed.")
            return _VANISHED
        self.notes.append(f"{where} was {value} ({token!r}), which the new tokenizer does not have: set to {new}.")
        return new

    def scalar_or_list(self, where: str, name: str, value: Any) -> Any:
        """Map an id, or a list of ids without repeats; what vanished is dropped."""
        if isinstance(value, int):
            new = self.one(where, name, value)
            return None if new is _VANISHED else new
        if any(isinstance(item, (list, tuple)) for item in value):
            return self.sequences(where, name, value)
        mapped = [self.one(where, name, item) for item in value]
        kept = list(dict.fromkeys(item for item in mapped if item is not _VANISHED))
        return kept or None

    def plain_list(self, where: str, name: str, value: list[int]) -> list[int] | None:
        """Map a list of ids that have no role."""
        mapped = [self.one(where, name, item, role_fallback=False) for item in value]
        return [item for item in mapped if item is not _VANISHED] or None

    def sequences(self, where: str, name: str, value: list[Any]) -> list[Any] | None:
        """Map lists of ids at any depth; a sequence that lost a token is dropped as a whole."""
        return [new for item in value if (new := self._sequence(where, name, item)) is not None] or None

    def _sequence(self, where: str, name: str, item: Any) -> list[Any] | None:
        if all(isinstance(part, int) for part in item):
            mapped = [self.one(where, name, part, role_fallback=False) for part in item]
            return None if any(part is _VANISHED for part in mapped) else mapped
        return [new for part in item if (new := self._sequence(where, name, part)) is not None] or None

    def forced_pairs(self, where: str, name: str, value: list[Any]) -> list[Any] | None:
        """Map ``[[position, id], ...]``."""
        mapped = [(pair[0], self._optional(where, name, pair[1])) for pair in value]
        return [[position, new] for position, new in mapped if new is not _VANISHED] or None

    def _optional(self, where: str, name: str, value: int | None) -> Any:
        return value if value is None else self.one(where, name, value, role_fallback=False)

    def sequence_bias(self, where: str, name: str, value: Any) -> Any:
        """Map the keys of ``{(ids): bias}``, or of ``[[ids, bias], ...]``."""
        pairs = value.items() if isinstance(value, dict) else value
        mapped = [(self._sequence(where, name, list(ids)), bias) for ids, bias in pairs]
        kept = [(ids, bias) for ids, bias in mapped if ids is not None]
        if not kept:
            return None
        return {tuple(ids): bias for ids, bias in kept} if isinstance(value, dict) else [list(pair) for pair in kept]

    def by_name(self, where: str, name: str, value: dict[str, int]) -> dict[str, int] | None:
        """Map the values of ``{name: id}``; entries whose token vanished are dropped."""
        mapped = {key: self.one(f"{where}[{key}]", name, item, role_fallback=False) for key, item in value.items()}
        return {key: new for key, new in mapped.items() if new is not _VANISHED} or None


def _holds_ids(value: Any) -> bool:
    return (type(value) is int) or (
        isinstance(value, (list, tuple)) and len(value) > 0 and type(value[0]) in (int, list)
    )


_CONVERTERS: tuple[tuple[Any, Any], ...] = (
    (lambda name, value: name == "forced_decoder_ids", _Remapper.forced_pairs),
    (lambda name, value: name == "sequence_bias", _Remapper.sequence_bias),
    (lambda name, value: name in ("lang_to_id", "task_to_id") and isinstance(value, dict), _Remapper.by_name),
    (lambda name, value: name in ID_LISTS and isinstance(value, (list, tuple)), _Remapper.plain_list),
    (lambda name, value: name in ID_SEQUENCES, _Remapper.sequences),
    (lambda name, value: bool(ID_FIELD.search(name)) and _holds_ids(value), _Remapper.scalar_or_list),
)
"""Which fields hold ids, and how each is mapped; the first match wins."""
