"""What belongs together: manifest, checksums, publication, TensorFlow Serving's files.

Imports nothing of serving but its errors.
"""
