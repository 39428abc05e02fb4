"""Every error and warning of the package, each also the builtin that it refines.

A message states the measured fact first and the remedy second, so that the one line is enough to go on.
"""

from __future__ import annotations


class VocabExtendError(Exception):
    """Base of all errors that the package raises on purpose."""


class UnknownMethodError(VocabExtendError, ValueError):
    """Raised when no initialisation method has the given name."""


class InvalidOptionError(VocabExtendError, ValueError):
    """Raised when an option is unknown or its value lies outside its range."""


class MissingResourceError(VocabExtendError, ValueError):
    """Raised when a method needs a resource (corpus, parallel text, word vectors, ...) that was not given."""


class MissingDependencyError(VocabExtendError, ImportError):
    """Raised when an optional package is needed; the message names the extra that installs it."""


class CorpusError(VocabExtendError, ValueError):
    """Raised when a corpus is empty, unreadable or in another encoding than UTF-8."""


class AlignmentError(VocabExtendError, ValueError):
    """Raised when an alignment, a table of counts or an aligner's output does not fit its text."""


class UnsupportedTokenizerError(VocabExtendError, TypeError):
    """Raised when a tokenizer has no ``tokenizer.json`` behind it or belongs to no known family."""


class TokenizerMismatchError(VocabExtendError, ValueError):
    """Raised when a model and a tokenizer, or two tokenizers, do not belong together."""


class BaseModelMismatchError(VocabExtendError, ValueError):
    """Raised when a language was made for another base model than the one that it is given to."""


class UnsupportedModelError(VocabExtendError, TypeError):
    """Raised when a model holds a vocabulary-sized tensor that cannot be handled (quantised, sharded, unknown)."""


class InvalidTableError(VocabExtendError, ValueError):
    """Raised when a table holds NaN or infinite values, or has another shape than expected."""


class OutputFolderError(VocabExtendError, OSError):
    """Raised when an output folder is not empty, not writable or full."""


class VerificationError(VocabExtendError, RuntimeError):
    """Raised when what was saved does not load back equal; the message names the file and the field at fault."""


class HubError(VocabExtendError, RuntimeError):
    """Raised when the Hub refuses a request; the message says what to do about it."""


class VocabExtendWarning(UserWarning):
    """Category of the warnings that call for a user's attention but not for a stop."""
