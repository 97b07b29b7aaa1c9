"""Optional terms around any generator: a discriminator on real pictures, an anchor to what it was, f-divergences."""

from .build import build_terms
from .wrapper import Term, WithTerms, plain

__all__ = ["Term", "WithTerms", "build_terms", "plain"]
