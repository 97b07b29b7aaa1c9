"""``scorefield import FILE``: an official network pickle as safetensors and JSON, without running its code."""

import argparse
from collections import Counter
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own flags."""
    parser.add_argument("file", type=Path, help="official .pkl of StyleGAN2 (ADA or stylegan3's), EDM or EDM2")
    parser.add_argument("--network", help="G_ema, G, D, ema …; the first of G_ema, ema, G if left out")
    parser.add_argument("--out", type=Path, help="folder to write; FILE's name and the network's, here, if left out")


def execute(arguments: argparse.Namespace) -> int:
    """Convert and say what was found."""
    from scorefield.importer import ImportRefused, folder, load

    if arguments.file.is_dir():
        raise ImportRefused(f"cannot import {arguments.file}: it is a folder; give an official .pkl file")
    imported = load(arguments.file, arguments.network)
    out = folder.write(imported, arguments.out or Path(f"{arguments.file.stem}-{imported.provenance.network}"))
    for name, value in rows(imported):
        print(f"{name:11} {value}")
    print(f"wrote {out}: {folder.WEIGHTS}, {folder.RECORD}")
    return 0


def rows(imported) -> list[tuple[str, str]]:
    """The table that ends an import."""
    provenance, state = imported.provenance, imported.state
    parameters = [tensor for name, tensor in state.items() if name not in imported.buffers]
    inner = next((imported.modules[n].class_name for n in ("model", "unet") if n in imported.modules), None)
    dtypes = Counter(str(tensor.dtype)[6:] for tensor in state.values())
    kwargs = imported.kwargs
    return [
        ("network", f"{provenance.network}: {imported.class_name}{f' with {inner}' if inner else ''}"),
        ("conventions", provenance.dialect),
        ("pictures", f"{kwargs.get('img_channels', '?')} x {kwargs.get('img_resolution', '?')}²"),
        ("parameters", f"{sum(t.numel() for t in parameters):,} in {len(parameters)} tensors"),
        ("buffers", str(len(state) - len(parameters))),
        ("stored as", ", ".join(f"{dtype} ({count})" for dtype, count in dtypes.items())),
        ("file", f"{provenance.file}, {provenance.size:,} bytes"),
        ("sha256", provenance.sha256),
        ("code in it", f"{len(provenance.sources)} source texts, not run; hashes in network.json"),
    ]
