"""What a CUDA extension that is built on first use needs of the machine, and which of it is not there."""

import os
import shutil
from pathlib import Path

HEADER = "cublas_v2.h"  # torch's own headers ask for it; a bare toolkit comes without


def reason(error: Exception) -> str:
    """Why a build failed with ``error``, in a phrase: what is missing, else what the build itself said first."""
    if missing := lacking():
        return f"missing: {', '.join(missing)}"
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    # a build that was cut off leaves a folder that later ones take for a finished one
    if "cannot open shared object" in said:
        return f"an earlier build was cut off: remove the folder of {said.partition(':')[0]}"
    return f"nothing is missing, the build said: {said}"


def lacking() -> list[str]:
    """Phrases that name what is absent, and how to get it; empty where everything was found.

    torch builds with the nvcc under CUDA_HOME (CUDA_PATH, else above the nvcc on PATH), ninja and a C++ compiler.
    """
    import torch

    if torch.version.cuda is None:
        return ["a torch that is built for CUDA"]
    found = []
    told = next((name for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)), None)
    on_path = shutil.which("nvcc")
    home = Path(os.environ[told]) if told else Path(on_path).parents[1] if on_path else None
    if not on_path:
        found.append(f"nvcc on PATH (of the CUDA toolkit {torch.version.cuda}, as torch)")
    if told and home is not None and not (home / "bin" / "nvcc").exists():
        found.append(f"a CUDA toolkit at {told}={home} (there is no bin/nvcc in it)")
    elif home is not None and not headers(home):
        found.append(f"{HEADER} under {home}/include or on CPATH (torch's nvidia packages bring it)")
    if not shutil.which("ninja"):
        found.append("ninja (pip install ninja)")
    if not shutil.which(os.environ.get("CXX", "c++")):
        found.append(f"the C++ compiler {os.environ.get('CXX', 'c++')}")
    return found


def headers(home: Path) -> bool:
    """Whether the compiler would find the toolkit's library headers."""
    listed = [os.environ.get(name, "").split(os.pathsep) for name in ("CPATH", "CPLUS_INCLUDE_PATH")]
    places = [home / "include", *home.glob("targets/*/include"), *(Path(one) for two in listed for one in two if one)]
    return any((place / HEADER).exists() for place in places)
