"""Safe import of official network pickles (StyleGAN2, EDM, EDM2): read as data, never run.

>>> imported = load("edm-cifar10-32x32-uncond-vp.pkl")  # doctest: +SKIP
>>> imported.class_name, imported.modules["model"].class_name  # doctest: +SKIP
('EDMPrecond', 'SongUNet')
"""

from scorefield.importer.errors import ImportRefused
from scorefield.importer.imported import Imported, Provenance
from scorefield.importer.load import load
from scorefield.importer.structure import Module

__all__ = ["ImportRefused", "Imported", "Module", "Provenance", "load"]
