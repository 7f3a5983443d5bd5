"""Packages of the distribution: three top folders, and the migrations mapped below the package that runs them."""

from setuptools import find_packages, setup

FOLDERS = {"spica": ".", "spica_web": "web", "spica_daemon": "daemon"}

setup(
    packages=[
        *(p for stem, folder in FOLDERS.items() for p in find_packages(folder, include=[stem, f"{stem}.*"])),
        "spica.migrations",
        "spica.migrations.versions",
    ],
    package_dir={
        "spica": "spica",
        "spica_web": "web/spica_web",
        "spica_daemon": "daemon/spica_daemon",
        "spica.migrations": "migrations",
    },
)
