"""Files of installed packages that are data to us: read as they lie there, nothing of the package is run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def package_file(wanted: str, package: str, version: str, place: str, needs: str = "") -> Path:
    """Where the file or folder `place` of an installed package is.

    FileNotFoundError for a package that is missing says how to install the version that is known to hold it, for what
    is `wanted`, and what else it `needs` to be read.
    """
    try:
        found = Path(str(distribution(package).locate_file(place)))
    except PackageNotFoundError:
        found = None
    if found is None or not found.exists():
        also = f" && pip install {needs}" if needs else ""
        raise FileNotFoundError(
            f"{wanted}: the package {package} is not installed. To have it:\n"
            f"  pip install --no-deps {package}=={version}{also}"
        )
    return found
