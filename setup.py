"""Build the package; everything that can change is read from settings.ini."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
STATUS = {"3": "3 - Alpha", "4": "4 - Beta", "5": "5 - Production/Stable"}


def read_settings() -> dict[str, str]:
    """Return the one section of settings.ini, with its `%(name)s` references filled in."""
    parser = ConfigParser(delimiters=["="])
    with open(HERE / "settings.ini", encoding="utf-8") as file:
        parser.read_file(file)
    return dict(parser["DEFAULT"])


settings = read_settings()
suffix = "_requirements"
extras = {key.removesuffix(suffix): value.split() for key, value in settings.items() if key.endswith(suffix)}


def read_readme() -> str:
    """Return README.md with its pictures as full addresses, so that they show outside the repository too."""
    path = HERE / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else settings["description"]
    return text.replace("](index_files/", f"]({settings['git_url']}/raw/{settings['branch']}/index_files/")


setup(
    version=settings["version"],
    description=settings["description"],
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    author=settings["author"],
    url=settings["git_url"],
    project_urls={"Documentation": settings["doc_host"] + settings["doc_baseurl"], "Source": settings["git_url"]},
    keywords=settings["keywords"].split(),
    classifiers=[
        f"Development Status :: {STATUS[settings['status']]}",
        f"Intended Audience :: {settings['audience']}",
        f"Natural Language :: {settings['language']}",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Bio-Informatics",
        "Typing :: Typed",
    ],
    packages=find_packages(include=[settings["lib_name"], settings["lib_name"] + ".*"]),
    package_data={settings["lib_name"]: ["py.typed"]},
    install_requires=settings["requirements"].split(),
    extras_require=extras,
    zip_safe=False,
)
