"""What goes wrong in score distillation, each as a figure with a line that it may not cross.

A monitor is one file here: a class registered in ``MONITORS`` (or an installed package's). ``watch.Watch`` asks all
of them at every look and keeps the warnings.
"""

from scorefield.monitors.base import MONITORS, Monitor, Probe

__all__ = ["MONITORS", "Monitor", "Probe"]
