"""What belongs together: manifest, checksums, publication, TensorFlow Serving's files."""
