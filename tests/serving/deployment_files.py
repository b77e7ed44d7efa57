"""The deployment files, and every text of the repository."""

import configparser
import pathlib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]


DEPLOYMENT = ROOT / "serving" / "deployment"


def compose():
    return yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())


def kubernetes_documents():
    for path in sorted((DEPLOYMENT / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def pod_of(document):
    spec = document["spec"]
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec["template"]["spec"] if "template" in spec else None


def units():
    directory = DEPLOYMENT / "systemd"
    for path in sorted([*directory.glob("*.service"), *directory.glob("*.timer")]):
        parser = configparser.ConfigParser(strict=True, interpolation=None)
        parser.optionxform = str
        parser.read_string(path.read_text().replace("\\\n", " "))
        yield path.name, parser


def texts_of_the_repository():
    """Every text that people read or run, with its name."""
    folders = ("features", "models", "serving", "pipeline", "tests", "docs", ".ci")
    for path in [*ROOT.glob("*"), *(p for f in folders for p in (ROOT / f).rglob("*"))]:
        is_binary = path.suffix in {".png", ".webp", ".gz"} or path.parent.name == "__pycache__"
        is_search = path.name.startswith("test_deployment")  # It names what it looks for.
        if path.is_file() and not is_binary and not is_search:
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def dockerfile():
    return (DEPLOYMENT / "Dockerfile").read_text()
