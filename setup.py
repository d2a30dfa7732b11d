"""Build hook: packs conf/ and experiments/ as tunetrail/conf and tunetrail/experiments.

pyproject.toml can't join a search for packages with packages that live elsewhere; everything else
is said there. A new folder below conf/ needs no entry here.
"""

import sys

from setuptools import find_namespace_packages, setup

packages = find_namespace_packages(
    "src", include=["tunetrail", "tunetrail.*"], exclude=["*__pycache__*"]
)
package_dir = {"": "src"}

# An editable install finds both folders in the checkout. With src/ alone, it is a line in a .pth
# file, which mypy and Pyright follow, instead of an import hook, which they don't.
if "editable_wheel" not in sys.argv:
    packages += ["tunetrail.conf", "tunetrail.experiments"]
    package_dir |= {"tunetrail.conf": "conf", "tunetrail.experiments": "experiments"}

setup(
    packages=packages,
    package_dir=package_dir,
    package_data={
        "tunetrail": ["py.typed", "**/*.mako", "**/*.html", "**/*.css"],
        "tunetrail.conf": ["**/*.yaml"],
        "tunetrail.experiments": ["*.yaml"],
    },
    include_package_data=False,
)
