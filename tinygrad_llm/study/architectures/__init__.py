"""`compare`: the transformer beside what came before it, trained, timed, and its gradients followed back in time."""
