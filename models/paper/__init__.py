"""The experiments of the paper again: Table 1, Figures 4 to 6, and the choices behind them."""
