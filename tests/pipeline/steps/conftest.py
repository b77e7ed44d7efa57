from tests.pipeline.steps.chains import root, site  # noqa: F401
