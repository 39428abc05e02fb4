"""Options for parallel text, dictionaries and word vectors, shared by the commands that take them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

COUNTS_SUFFIX = ".safetensors"


def add_parallel_options(parser: ArgumentParser, *, required: bool) -> None:
    """Add ``--parallel`` and what belongs to it."""
    parser.add_argument(
        "--parallel",
        required=required,
        metavar="PATH",
        help="sentence pairs, the model's language first: a TSV file of two columns (plain or compressed), a dataset "
        "on the Hub, the source side of two files of as many lines (see --parallel-target), a TSV file of three "
        "columns with counts of translations, or what hf-vocab-extend align wrote",
    )
    parser.add_argument("--parallel-target", metavar="PATH", help="the target side, line by line")
    parser.add_argument(
        "--pair-columns", nargs=2, metavar=("SOURCE", "TARGET"), help="columns of a TSV file with a header"
    )


def parallel_of(args: Namespace) -> Any:
    """Open the pairs that the arguments name, if any; ready counts are left for the method to read.

    Raises:
        CorpusError: If there is no such file, or it does not start with a pair.
        InvalidOptionError: If options do not go together.
    """
    from ..errors import CorpusError, InvalidOptionError
    from ..resources.alignment.tables import is_count_file
    from ..resources.parallel import open_pairs

    columns = tuple(args.pair_columns) if hasattr(args, "pair_columns") else None
    if not hasattr(args, "parallel"):
        if columns or hasattr(args, "parallel_target"):
            raise InvalidOptionError("--parallel-target and --pair-columns go with --parallel. Give that too.")
        return None
    if columns and (hasattr(args, "parallel_target") or Path(args.parallel).suffix == COUNTS_SUFFIX):
        raise InvalidOptionError("--pair-columns names columns of a TSV file or a dataset. Leave it out here.")
    if hasattr(args, "parallel_target"):
        sides = (args.parallel, args.parallel_target)
        missing = [side for side in sides if not Path(side).is_file()]
        if missing:
            raise CorpusError(f"There is no file '{missing[0]}'. --parallel-target takes two files.")
        return open_pairs(sides)
    path = Path(args.parallel)
    if path.suffix == COUNTS_SUFFIX and not path.is_file():
        raise CorpusError(f"There is no file '{args.parallel}'. hf-vocab-extend align makes one.")
    if path.suffix == COUNTS_SUFFIX or (columns is None and path.is_file() and is_count_file(path)):
        return args.parallel
    return open_pairs(args.parallel, columns=columns)


def add_lexical_options(parser: ArgumentParser) -> None:
    """Add ``--dictionary`` and ``--word-vectors``."""
    parser.add_argument("--dictionary", metavar="PATH", help="word pairs: a TSV file, the model's language first")
    parser.add_argument(
        "--word-vectors",
        metavar="PATH",
        help="file, or folder of one file per language, of vectors in one space; or the vectors of the model's "
        "language (see --target-word-vectors)",
    )
    parser.add_argument("--target-word-vectors", metavar="PATH", help="vectors of the new language, in another space")


def lexical_resources(args: Namespace) -> dict[str, Any]:
    """Return what ``--dictionary`` and the options of word vectors name, by the name of the Python argument.

    Raises:
        CorpusError: If the dictionary cannot be read.
        InvalidOptionError: If options do not go together.
    """
    from ..errors import InvalidOptionError
    from ..resources.parallel import open_pairs

    found: dict[str, Any] = {}
    if hasattr(args, "dictionary"):
        found["dictionary"] = open_pairs(args.dictionary)
    if hasattr(args, "word_vectors"):
        found["word_vectors"] = args.word_vectors
    if hasattr(args, "target_word_vectors"):
        if "word_vectors" not in found:
            raise InvalidOptionError("--target-word-vectors goes with --word-vectors. Give that too.")
        found["word_vectors"] = (args.word_vectors, args.target_word_vectors)
    return found
