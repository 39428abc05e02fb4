"""Reading texts of several languages, and writing one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InvalidOptionError
from .language_set import LanguageSet
from .reading import IGNORED, IdSpace, narrowed, reading_mixed, widened_logits
from .segments import Prompt, Segment, as_batch, as_segments, decode_rows, encode_segments, languages_of, pad_rows
from .slots import Slot

if TYPE_CHECKING:
    from transformers import BatchEncoding


class MixedText(LanguageSet):
    """What :class:`~hf_vocab_extend.modeling.language_heads.LanguageHeads` does with text."""

    accepts_loss_kwargs = False
    """For ``Trainer``: the number of labels is only known here, after those of other languages are masked."""

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        special_tokens: bool = True,
        padding_side: str | None = None,
        labels: bool = False,
    ) -> BatchEncoding:
        """Cut prompts into ids, each segment by its own language's tokenizer.

        Args:
            prompts: One prompt or a list of them: a string of the input language, or a list of
                ``(language, text)`` segments in reading order.
            special_tokens: Put special tokens before the first and after the last segment, as their tokenizers do.
            padding_side: ``left`` or ``right``; by default left for a model that continues its prompt, so that
                ``generate`` works on batches, else right.
            labels: Add ``labels``: the ids themselves, padding masked.

        Returns:
            ``input_ids``, ``language_ids`` and ``attention_mask`` (and ``labels``), each of shape `(batch, length)`,
            on the model's device.

        Raises:
            InvalidOptionError: If a segment is of a language that is not here, or no pair, or a prompt gives no ids.
        """
        rows: list[dict[str, Any]] = []
        for prompt in as_batch(prompts, self.languages):
            segments = as_segments(prompt, self.input_language, self.tokenizers)
            row = encode_segments(segments, self.tokenizers, self.languages, special_tokens=special_tokens)
            rows.append(row | {"labels": row["input_ids"]} if labels else row)
        return self.collate(rows, padding_side=padding_side).to(self.device)

    def collate(self, rows: Sequence[Mapping[str, Any]], *, padding_side: str | None = None) -> BatchEncoding:
        """Pad rows to one batch; pass it to ``Trainer`` as ``data_collator``.

        Args:
            rows: Each with ``input_ids``, and ``language_ids``, ``attention_mask`` or ``labels`` where it has them.
            padding_side: As in :meth:`encode`.

        Returns:
            Tensors on the CPU, so that a data loader can pin them; ``Trainer`` moves them.

        Raises:
            InvalidOptionError: If there are no rows, or they do not have the same columns.
        """
        if not rows:
            raise InvalidOptionError("There is nothing to encode. Give at least one prompt.")
        side = padding_side or ("left" if self._continues else "right")
        # Ids without language_ids are read as the input language's, their padding too.
        reader = self.output_language if "language_ids" in rows[0] else self.input_language
        pad = self.tokenizers[reader].pad_token_id or 0
        return pad_rows(rows, pad_id=pad, pad_language=self.languages.index(reader), side=side)

    def decode(
        self,
        sequences: torch.Tensor,
        language_ids: torch.Tensor | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        skip_special_tokens: bool = True,
    ) -> list[list[Segment]]:
        """Return each sequence as ``(language, text)`` segments, the form that :meth:`encode` takes.

        Args:
            sequences: Ids, shape `(batch, length)`, such as :meth:`generate` gives.
            language_ids: Those of the prompt, shape `(batch, prompt length)`, or of fewer rows if several sequences
                were generated for each; ids beyond are of the output language. Of a model with an encoder and a
                decoder, sequences are what it wrote, without the prompt: this and ``attention_mask`` are ignored.
            attention_mask: That of the prompt; what it masks is left out.
            skip_special_tokens: Leave special tokens out.

        Raises:
            InvalidOptionError: If shapes or language ids do not fit.
        """
        if self.model.config.is_encoder_decoder:
            language_ids = attention_mask = None
        found = languages_of(sequences, language_ids, attention_mask, self.languages, self.output_language)
        return decode_rows(sequences, found, self.tokenizers, self.languages, skip_special_tokens=skip_special_tokens)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        language_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run the model: read ``input_ids``, give the logits of the output language.

        Args:
            input_ids: Ids of their own tokenizers, shape `(batch, length)`.
            attention_mask: As the model takes it.
            language_ids: Index in ``languages`` of each id's language; by default all are of the input language.
            token_type_ids: As the model takes it; so are the others that are not named here.
            position_ids: As the model takes it.
            inputs_embeds: As the model takes it.
            decoder_input_ids: Ids of the output language, for a model with an encoder and a decoder.
            decoder_attention_mask: As the model takes it.
            labels: Ids. With an encoder and a decoder, of the output language. Else each of the language that
                ``input_ids`` has at its place; those of other languages than the output are masked. A batch without
                any of the output language has the loss 0.
            kwargs: More arguments of the model.

        Returns:
            What the model returns, ``loss`` and ``logits`` among it.

        Raises:
            InvalidOptionError: If ids and languages do not belong together.
            UnsupportedModelError: If several languages are read by a model with tables for each layer.
        """
        masked, nothing_left = self._mask_labels(labels, input_ids, language_ids)
        own = {
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "labels": masked,
        }
        given = {name: value for name, value in own.items() if value is not None} | kwargs
        with self._reading(input_ids, language_ids, attention_mask) as (inputs, _):
            output = self.model(**inputs, **given)
        if nothing_left:
            if isinstance(output, tuple):  # of return_dict=False: loss and logits come first
                return output[1].sum() * 0.0, *output[1:]
            output["loss"] = output.logits.sum() * 0.0
        return output

    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        language_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Read a prompt and write the output language.

        Args:
            input_ids: The prompt, ids of their own tokenizers, shape `(batch, length)`.
            attention_mask: As the model takes it.
            language_ids: Index in ``languages`` of each id's language; by default all are of the input language.
            kwargs: More arguments of the model's ``generate``. Ids among them are of the output language.

        Returns:
            What the model's ``generate`` returns. Sequences of a model that continues its prompt begin with
            ``input_ids`` as given; what follows are ids of the output language.

        Raises:
            InvalidOptionError: If ids and languages do not belong together.
            UnsupportedModelError: If several languages are read by a model with tables for each layer.
        """
        with ExitStack() as stack:
            inputs, space = stack.enter_context(self._reading(input_ids, language_ids, attention_mask))
            if space is not None:
                stack.enter_context(widened_logits(self.model, space.extra))
            result = self.model.generate(**inputs, **kwargs)  # type: ignore[operator]
        if space is None or input_ids is None:
            return result
        if self._continues:
            sequences = result if isinstance(result, torch.Tensor) else result.sequences
            sequences[:, : input_ids.shape[1]] = input_ids.repeat_interleave(len(sequences) // len(input_ids), 0)
        return narrowed(result, self._n_rows(self.output_language))

    @property
    def _continues(self) -> bool:
        """Whether the model writes on from what it read, instead of beside it."""
        return self.model.can_generate() and not self.model.config.is_encoder_decoder

    def _n_rows(self, language: str) -> int:
        return self._language(language).tensors.n_rows(self.slots)

    @contextmanager
    def _reading(
        self,
        input_ids: torch.Tensor | None,
        language_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> Iterator[tuple[dict[str, Any], IdSpace | None]]:
        """Give the arguments with which the model reads this text, and the space of its ids; None for a plain one."""
        self.slots.check_in_place(self.model)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        if input_ids is None or (language_ids is None and self._input == self._output):
            yield inputs, None
            return
        if language_ids is None:
            language_ids = torch.full_like(input_ids, self.languages.index(self._input))
        elif language_ids.shape != input_ids.shape:
            raise InvalidOptionError(
                f"language_ids has the shape {tuple(language_ids.shape)}, input_ids {tuple(input_ids.shape)}. "
                "Give one language for each id."
            )
        space = self._space()
        joined, present = space.join(input_ids, language_ids, attention_mask)
        if present == [self._output]:
            yield inputs, None
            return
        self.slots.check_mixable(self.model)
        tables = {name: self._language(name).tensors.by_slot() for name in present}
        with reading_mixed(self.slots.readers, tables, self._padding_idx, space, present):
            yield inputs | {"input_ids": joined}, space

    def _space(self) -> IdSpace:
        """Return where ids lie while a mixed text is read."""
        entries = [self._language(name) for name in self.languages]
        sizes = tuple(entry.tensors.n_rows(self.slots) for entry in entries)
        pads = tuple(entry.pad_id for entry in entries)
        return IdSpace(self.languages, sizes, pads, self._output, self._language(self._output).pad_id)

    def _padding_idx(self, language: str, slot: Slot) -> int | None:
        """Return the padding row of an input table, whose gradient is zero."""
        own = vars(slot.module).get("padding_idx")
        return self._settings_of(language).get(("modules", slot.path, "padding_idx"), own)

    def _mask_labels(
        self, labels: torch.Tensor | None, input_ids: torch.Tensor | None, language_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, bool]:
        """Mask labels of other languages than the output.

        Returns:
            The labels, and whether masking left none that a loss could be taken of.
        """
        is_beside = self.model.config.is_encoder_decoder or not self.slots.has_head
        if labels is None or input_ids is None or is_beside or labels.shape != input_ids.shape:
            return labels, False
        if language_ids is None:
            if self._input != self._output:
                raise InvalidOptionError(
                    f"Labels stand beside ids of '{self._input}', and the output language is '{self._output}': all "
                    "would be masked. Give language_ids, or set_language with the same input and output."
                )
            return labels, False
        masked = labels.masked_fill(language_ids != self.languages.index(self._output), IGNORED)
        counted = masked[:, 1:] if self._continues else masked
        return masked, not bool((counted != IGNORED).any())
