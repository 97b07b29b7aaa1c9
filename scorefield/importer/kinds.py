"""What a file that is no pickle seems to be, for an error that helps."""

from scorefield.importer.errors import ImportRefused
from scorefield.importer.source import Source

STARTS = {
    b"PK\x03\x04": "it is a zip archive, perhaps a torch.save file; the official .pkl itself is needed",
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46": "it is a torch.save file (a training state?); the official .pkl is needed",
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"version https://git-lfs": "it is a Git LFS pointer and not the file itself; run git lfs pull",
    b"\x89HDF": "it is an HDF5 file",
    b"GGUF": "it is a GGUF file",
    b"\x93NUMPY": "it is a numpy array file",
}


def check_start(source: Source) -> None:
    """ImportRefused that names what the file is, unless it begins like a pickle of a binary protocol."""
    start = source.read(0, min(source.size, 512))
    for first, meaning in STARTS.items():
        if start.startswith(first):
            raise ImportRefused(meaning)
    if start[:1] == b"\x80":
        return
    if start.lstrip()[:1] == b"<":
        raise ImportRefused("it is a web page (a failed download?) and not a network file")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < source.size:
        raise ImportRefused(
            "it is a safetensors file without settings; give the official .pkl, or the folder that "
            "scorefield import wrote"
        )
    if start[257:262] == b"ustar":
        raise ImportRefused("it is a tar archive; unpack it first")
    raise ImportRefused("it is no pickle (of protocol 2 or later), so no official network file")
