"""Training past one process: ranks that share out batches, layers, matrices and memory, over MPI."""
