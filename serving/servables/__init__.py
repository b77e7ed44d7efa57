"""SavedModels, written and run: export, warm-up, embedded models, TensorFlow Serving."""
