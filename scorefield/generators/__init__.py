"""Things that make pictures differentiably; the trainer knows only the protocol in base.py."""
