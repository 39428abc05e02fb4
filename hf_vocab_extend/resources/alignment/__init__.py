"""Which units of two languages translate each other, counted in parallel text or read from what is ready."""

from .aligners import ALIGNERS, AlignerOptions
from .bitext import Bitext, read_bitext
from .counts import UnitCounts
from .pharaoh import PharaohAlignment
from .run import align_pairs, read_counts
from .tables import CountTable, read_dictionary
from .units import Units

__all__ = [
    "ALIGNERS",
    "AlignerOptions",
    "Bitext",
    "CountTable",
    "PharaohAlignment",
    "UnitCounts",
    "Units",
    "align_pairs",
    "read_bitext",
    "read_counts",
    "read_dictionary",
]
