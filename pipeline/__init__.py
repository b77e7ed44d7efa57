"""Jobs that make data and models: simulate, import, preprocess, retrain.

May import every layer below.
"""
