"""Build hook: packs conf/ and experiments/ as tunetrail/conf and tunetrail/experiments.

pyproject.toml can't join a search for packages with packages that live elsewhere; everything else
is said there. A new folder below conf/ needs no entry here.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(
            "src", include=["tunetrail", "tunetrail.*"], exclude=["*__pycache__*"]
        ),
        "tunetrail.conf",
        "tunetrail.experiments",
    ],
    package_dir={"": "src", "tunetrail.conf": "conf", "tunetrail.experiments": "experiments"},
    package_data={
        "tunetrail": ["py.typed", "**/*.mako", "**/*.html", "**/*.css"],
        "tunetrail.conf": ["**/*.yaml"],
        "tunetrail.experiments": ["*.yaml"],
    },
    include_package_data=False,
)
