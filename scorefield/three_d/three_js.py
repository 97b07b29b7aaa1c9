"""three.js and its reader of GLB files, out of the installed trimesh, whose own viewer carries both in one page."""

import re
import zipfile
from functools import cache
from pathlib import Path

from scorefield.errors import UserError
from scorefield.three_d.extra import need

TEMPLATE = "resources/templates/viewer.zip"
LAST = "THREE.GLTFLoader=GLTFLoader;})();"  # what follows in the page is trimesh's own viewer


@cache
def library() -> str:
    """The script (MIT licence, its notice inside) that defines THREE with THREE.GLTFLoader.

    Raises:
        UserError: trimesh is missing, or of a version that carries no such page.
    """
    package = Path(str(need("trimesh").__file__)).parent
    try:
        with zipfile.ZipFile(package / TEMPLATE) as archive:
            page = archive.read("viewer.html.template").decode("utf-8")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"this trimesh carries no viewer ({error}): install trimesh 5") from error
    found = re.search(r"<script>(.*?)</script>", page, re.DOTALL)
    if found is None or LAST not in found[1]:
        raise UserError("this trimesh's viewer has no GLTFLoader: install trimesh 5")
    return found[1].partition(LAST)[0] + LAST
