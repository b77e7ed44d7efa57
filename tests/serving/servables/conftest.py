from tests.serving.servables.stub_server import model, saved_model, server  # noqa: F401
