from tests.models.evaluation.small_examples import examples_dir, measured  # noqa: F401
