"""The steps of a retraining: which, in which order, resumed and locked how."""
