"""SavedModels, written and run: export, warm-up, embedded models, TensorFlow Serving.

Imports index, release and process of its package.
"""
