"""Models of sparse linear predictors on Gaussian chains: expectations, families, and steps by quadrature."""
